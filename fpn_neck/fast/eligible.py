"""The one setting, and what torch may be doing that needs its own operators."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

from fpn_neck.fast.memory_format import is_channels_last

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_GLOBAL_HOOKS = (
    modules._global_forward_pre_hooks,
    modules._global_forward_hooks,
    modules._global_backward_pre_hooks,
    modules._global_backward_hooks,
)
_enabled = True


class enable:  # noqa: N801 (used like torch.set_grad_enabled)
    """Allow the fast paths or not, for the process, from this line or within a ``with`` block.

    Blocks of several threads that overlap in time undo each other: set it once, before.
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
    """Whether calls run as written: enabled, and nothing records, transforms or counts them."""
    return (
        _enabled
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not any(_GLOBAL_HOOKS)
        and torch._C._len_torch_dispatch_stack() == 0  # fake tensors, FLOP counters, make_fx
        and not _watched()
        and torch._C._functorch.peek_interpreter_stack() is None  # vmap, grad, jvp
        and forward_ad._current_level < 0
    )


def takes_fast_backward(grad: Tensor) -> bool:
    """Not for a derivative of this one, for compilers and counters, nor for many at once."""
    batched = torch._C._functorch.is_legacy_batchedtensor(grad)  # is_grads_batched=True
    return eager() and not torch.is_grad_enabled() and not batched


def _watched() -> bool:
    """Whether a mode sees torch's functions; one that only sets the default device may."""
    modes = torch.overrides._get_current_function_mode_stack()
    if not modes:
        return False
    from torch.utils._device import DeviceContext  # torch 2.6 loads it when it is needed

    return any(type(mode) is not DeviceContext for mode in modes)


def plain_conv(module: nn.Module, kernel: int) -> bool:
    """An nn.Conv2d of stride 1 that keeps the size and that nobody hooked or replaced."""
    return (
        type(module) is nn.Conv2d
        and untouched(module)
        and module.kernel_size == (kernel, kernel)
        and module.padding == (kernel // 2, kernel // 2)
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def untouched(module: nn.Module) -> bool:
    """No hook and no forward of its own: what the class says is what a call would do."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or not {"forward", "_conv_forward"}.isdisjoint(vars(module))
    )


def plain_tensors(*tensors: Tensor) -> bool:
    """Dense tensors of numbers on the CPU, of one dtype."""
    dtype = tensors[0].dtype
    return dtype in _DTYPES and all(
        type(t) in (Tensor, nn.Parameter)
        and t.dtype == dtype
        and t.device.type == "cpu"
        and t.layout == torch.strided
        and (t.is_contiguous() or is_channels_last(t))
        for t in tensors
    )
