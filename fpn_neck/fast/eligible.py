"""When the fast paths may run: the one setting, torch's modes, the modules, the tensors."""

from __future__ import annotations

import os
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

from fpn_neck.fast import cuda
from fpn_neck.fast.memory_format import is_channels_last

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PLAIN_TYPES = frozenset((Tensor, nn.Parameter))
_GLOBAL_HOOKS = (
    modules._global_forward_pre_hooks,
    modules._global_forward_hooks,
    modules._global_backward_pre_hooks,
    modules._global_backward_hooks,
)
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_enabled = True


class enable:  # noqa: N801 (used like torch.set_grad_enabled)
    """Turn the fast paths on or off for the process, from this line on or in a ``with`` block.

    Blocks of several threads that overlap in time undo each other: set it once, before the threads
    start.
    """

    def __init__(self, allowed: bool = True) -> None:
        global _enabled
        self.before, _enabled = _enabled, bool(allowed)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _enabled
        _enabled = self.before


def eager() -> bool:
    """Whether fast paths are on, and torch neither records, transforms nor counts the calls."""
    return (
        _enabled
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not (torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled("cpu"))
        and not has_global_hooks()
        and not in_dispatch_mode()
        and not _has_function_mode()
        and torch._C._functorch.peek_interpreter_stack() is None  # vmap, grad, jvp
        and forward_ad._current_level < 0
    )


def records_kernels(x: Tensor) -> bool:
    """Whether torch.compile records calls on a map for kernels; an export keeps torch's operators.

    `cuda.available` is not asked: Inductor itself needs Triton there.
    """
    return (
        torch.compiler.is_compiling()
        and _enabled
        and hasattr(torch.compiler, "is_exporting")  # torch 2.7
        and not torch.compiler.is_exporting()
        and may_take_triton(x)
    )


def in_dispatch_mode() -> bool:
    """Whether a mode handles torch's operators: fake tensors, FLOP counters, make_fx."""
    return torch._C._len_torch_dispatch_stack() > 0


def may_take_triton(x: Tensor) -> bool:
    """Whether Triton's kernels know a map's device and dtype; it does not depend on `enable`.

    Triton's interpreter (``TRITON_INTERPRET=1``, for tests) runs them on a CPU.
    """
    known = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and (x.is_cuda or _INTERPRETED)


def takes_triton(x: Tensor) -> bool:
    """Whether Triton's kernels serve a map: they are on and can run here."""
    return _enabled and may_take_triton(x) and x.numel() > 0 and cuda.available()


def has_global_hooks() -> bool:
    """Whether hooks are registered on every module of the process."""
    return any(_GLOBAL_HOOKS)


def takes_fast_backward(grad: Tensor) -> bool:
    """Whether this is a plain first derivative: no double, batched, traced or counted backward."""
    batched = torch._C._functorch.is_legacy_batchedtensor(grad)  # is_grads_batched=True
    return eager() and not torch.is_grad_enabled() and not batched


def _has_function_mode() -> bool:
    """Whether a mode intercepts torch's functions, other than one that sets the default device."""
    if torch._C._len_torch_function_stack() == 0:
        return False
    from torch.utils._device import DeviceContext  # torch 2.6 loads it on demand

    modes = torch.overrides._get_current_function_mode_stack()
    return any(type(mode) is not DeviceContext for mode in modes)


def is_plain_conv(module: nn.Module, kernel: int) -> bool:
    """Whether it is an nn.Conv2d of stride 1 that keeps the size, without hooks."""
    return (
        type(module) is nn.Conv2d
        and is_unmodified(module)
        and module.kernel_size == (kernel, kernel)
        and module.padding == (kernel // 2, kernel // 2)
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def is_unmodified(module: nn.Module) -> bool:
    """Whether it has neither hooks nor a replaced forward: a call does what its class does."""
    own = vars(module)
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in own
        or "_conv_forward" in own
    )


def keeps(module: nn.Module, kind: type, *methods: str) -> bool:
    """Whether a subclass or an instance of ``kind`` has not replaced these methods."""
    own, its = type(module), module.__dict__
    for name in methods:
        if name in its or getattr(own, name) is not getattr(kind, name):
            return False
    return True


def are_plain_tensors(*tensors: Tensor) -> bool:
    """Whether all are dense float tensors on the CPU, of one dtype."""
    dtype = tensors[0].dtype
    return dtype in _DTYPES and all(
        type(t) in PLAIN_TYPES
        and t.dtype == dtype
        and t.device.type == "cpu"
        and t.layout == torch.strided
        and (t.is_contiguous() or is_channels_last(t))
        for t in tensors
    )


def are_for_triton(*tensors: Tensor) -> bool:
    """Whether all are plain float tensors on one device and of one dtype.

    Under autocast, float32, float16 and bfloat16 may be mixed. `takes_triton` says whether kernels
    serve the first one.
    """
    first = tensors[0]
    dtypes = {first.dtype}
    if torch.is_autocast_enabled(first.device.type):
        dtypes = {torch.float32, torch.float16, torch.bfloat16}
    device = first.device
    for t in tensors:  # without a generator: before the first kernel, every microsecond counts
        if type(t) not in PLAIN_TYPES or t.dtype not in dtypes:
            return False
        if t.device != device or t.layout is not torch.strided:
            return False
    return True
