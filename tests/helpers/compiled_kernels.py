"""Compiles kernels for GPUs that are not there, and reads what they need."""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

_TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip

# Of a test with the arguments dtype and capability.
every_target = pytest.mark.parametrize(
    ("dtype", "capability"),
    [
        (torch.bfloat16, 90),
        pytest.param(torch.bfloat16, 80, marks=pytest.mark.slow),
        pytest.param(torch.float32, 90, marks=pytest.mark.slow),
        pytest.param(torch.float32, 80, marks=pytest.mark.slow),
        pytest.param(torch.float16, 90, marks=pytest.mark.slow),
    ],
)


def resources(launch, capability, **options):
    """Registers of a thread, and bytes of its stack: what did not fit into the registers.

    Args:
        launch: `fpn_neck.fast.cuda.launch.Launch`; of its tensors only the dtypes count.
        capability: 80 for sm_80.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if "constexprs" not in inspect.signature(ASTSource).parameters:
        pytest.skip("Triton 3.3 and later can be told what to compile a kernel for")
    names = launch.kernel.arg_names
    values = dict(zip(names, launch.arguments, strict=False))
    ones = {
        p.name: 1
        for p in launch.kernel.params
        if not p.do_not_specialize and isinstance(values.get(p.name), int) and values[p.name] == 1
    }  # as at a real start
    constants = launch.constants | ones
    values = {k: v for k, v in values.items() if k not in ones}
    source = ASTSource(
        fn=launch.kernel,
        signature={name: _type(values.get(name)) for name in names},
        constexprs={(names.index(k),): v for k, v in constants.items()},
        # As at a real start: the memory of tensors begins at multiples of 16 bytes.
        attrs={
            (names.index(k),): [["tt.divisibility", 16]]
            for k, v in values.items()
            if isinstance(v, torch.Tensor)
        },
    )
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return int(registers), int(stack)


def _type(value):
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, int):
        return "i32" if abs(value) < 1 << 31 else "i64"
    return "fp32" if isinstance(value, float) else "constexpr"
