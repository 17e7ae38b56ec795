"""The other tests of this folder, in Triton's interpreter, which needs no GPU.

Triton looks at TRITON_INTERPRET when a kernel's module is imported: so each file has a process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize(
    "name",
    [
        "test_double.py",
        "test_labels.py",
        "test_loss_sums.py",
        "test_merge.py",
        "test_norm.py",
        "test_kernel_operators.py",
        "test_pyramid.py",
    ],
)
def test_kernels_run_in_the_interpreter(name, request):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
    command += ["-m", request.config.option.markexpr]  # slow ones, too, if this run has them
    hidden = {"PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "CUDA_VISIBLE_DEVICES"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=HERE.parents[2], capture_output=True, text=True, timeout=600
    )
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("the interpreter of Triton 3.6 and older can't loop with numpy 2.4 and later")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
