"""Convolution + norm + activation, and the tables that map config names to layers.

The tables are plain dictionaries, to which ``fpn_neck/mm/register.py`` adds mmcv's convolutions. A
config can also give a class instead of a name. Attribute names (``conv``, ``bn``, ``gn``, ...) are
those of mmcv's ``ConvModule``, so that published checkpoints load without conversion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

import fpn_neck.fast.cuda_operators  # noqa: F401 (what torch.compile records of a norm)
from fpn_neck.fast.cpu.conv3x3 import forget_weights, run_conv
from fpn_neck.fast.cuda_head.double import Addend, add
from fpn_neck.fast.cuda_head.norm import norm_act
from fpn_neck.fast.eligible import is_unmodified
from fpn_neck.utils.values import check_flag, check_whole

Cfg = Mapping[str, Any]

CONVS: dict[str, Callable[..., nn.Module]] = {"Conv": nn.Conv2d, "Conv2d": nn.Conv2d}
ACTS: dict[str, Callable[..., nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Swish": nn.SiLU,
    "HSwish": nn.Hardswish,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
}
# name -> (state-dict name, layer)
NORMS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "BN": ("bn", nn.BatchNorm2d),
    "BN2d": ("bn", nn.BatchNorm2d),
    "SyncBN": ("bn", nn.SyncBatchNorm),
    "GN": ("gn", nn.GroupNorm),
    "IN": ("in", nn.InstanceNorm2d),
}


_OF_BLOCK = {"stride", "padding", "dilation", "bias"}  # `ConvNormAct` sets these itself


def _look_up(argument: str, table: Mapping[str, Any], cfg: Cfg) -> tuple[Any, dict[str, Any]]:
    """Split ``dict(type=..., **options)`` into the table's entry (or the class) and options."""
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise TypeError(f"{argument}={cfg!r}: expected a dict with the key 'type', or None")
    options = dict(cfg)
    kind = options.pop("type")
    if inspect.isclass(kind) and issubclass(kind, nn.Module):
        return kind, options
    if not isinstance(kind, str):
        raise TypeError(f"{argument}: type={kind!r}: expected a name or a class of modules")
    if kind not in table:
        raise ValueError(
            f"{argument}: unknown type {kind!r}; choose one of {sorted(table)} "
            "or give the class itself as 'type'"
        )
    return table[kind], options


@contextmanager
def _named(argument: str, what: Any, options: Cfg) -> Iterator[None]:
    """Add the argument's name to an error of torch, which may have any type."""
    try:
        yield
    except Exception as e:
        kind = TypeError if isinstance(e, TypeError) else ValueError
        name, reason = getattr(what, "__name__", what), str(e).split("\n")[0]
        raise kind(f"{argument}: {name} does not accept {options}: {reason}") from e


def build_norm(channels: int, norm_cfg: Cfg) -> tuple[str, nn.Module]:
    """Look up a norm layer.

    Args:
        channels: of the map to normalise.
        norm_cfg: ``dict(type='BN' | 'SyncBN' | 'GN' | 'IN' or a class, ...)``;
            ``requires_grad=False`` freezes the affine parameters; ``eps`` is 1e-5 by default.

    Returns:
        Its attribute name in mmcv (``bn``, ``gn``, ``in``) and the module.

    Raises:
        TypeError, ValueError: ``norm_cfg`` is not a dict, the type is unknown, or the layer refuses
            the options.
    """
    entry, options = _look_up("norm_cfg", NORMS, norm_cfg)
    known = [pair for pair in NORMS.values() if entry in (pair, pair[1])]
    name, layer = known[0] if known else ("norm", entry)  # the user's own class
    requires_grad = check_flag("norm_cfg: requires_grad", options.pop("requires_grad", True))
    options.setdefault("eps", 1e-5)
    if layer is nn.GroupNorm:
        groups = check_whole("norm_cfg: num_groups", options.pop("num_groups", 32), 1)
        if channels % groups:
            raise ValueError(
                f"norm_cfg: num_groups={groups} must divide the {channels} channels it normalises"
            )
        layer = partial(layer, groups)
    with _named("norm_cfg", norm_cfg["type"], options):
        norm = layer(channels, **options)
    norm.requires_grad_(requires_grad)
    return name, norm


class ConvNormAct(nn.Module):
    """Convolution with padding that keeps ``ceil(size / stride)``, then norm, then activation.

    The convolution has a bias only if no norm follows. ``conv_cfg``, ``norm_cfg``, ``act_cfg`` are
    mmcv's dictionaries; None means ``Conv2d``, no norm, no activation.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Raises:
        TypeError, ValueError: a dictionary names no known layer, or an option that it refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg | None = None,
    ) -> None:
        super().__init__()
        conv, options = _look_up(
            "conv_cfg", CONVS, {"type": "Conv2d"} if conv_cfg is None else conv_cfg
        )
        for name in sorted(_OF_BLOCK & set(options)):
            raise TypeError(f"conv_cfg: {name}={options[name]!r}: the block sets it; leave it out")
        options.update(stride=stride, padding=kernel_size // 2, bias=norm_cfg is None)
        with _named("conv_cfg", conv, options):
            self.conv = conv(in_channels, out_channels, kernel_size, **options)
        self.norm_name: str | None = None
        if norm_cfg is not None:
            self.norm_name, norm = build_norm(out_channels, norm_cfg)
            self.add_module(self.norm_name, norm)
        self.activate = None if act_cfg is None else _build_act(act_cfg)

    def forward(self, x: Tensor, addend: Addend | None = None) -> Tensor:
        """The block's map, plus an addend."""
        x = run_conv(self.conv, x)
        if self.norm_name is not None:
            return norm_act(getattr(self, self.norm_name), self.activate, x, addend)
        x = x if self.activate is None else self.activate(x)
        return x if addend is None else add(x, addend)

    def train(self, mode: bool = True) -> ConvNormAct:
        if mode:  # what inference keeps of the weight is no longer of use
            forget_weights(self)
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> ConvNormAct:  # to(), float(), cuda(), ...
        forget_weights(self)
        return super()._apply(*args, **kwargs)


def check_dtype_of_weights(owner: str, level: int, x: Tensor, tower: nn.Module) -> None:
    """Refuse a map of another dtype than the weights; torch's own error names neither of them.

    Hooks and autocast may change either; a compiled model leaves the error to torch.

    Args:
        owner: the module that got the map, and `level` its place, for the message.
        tower: a `ConvNormAct`, or a sequence that begins with one; others are not looked at.

    Raises:
        TypeError: names the level.
    """
    if torch.compiler.is_compiling():
        return
    block = tower[0] if type(tower) is nn.Sequential else tower
    if type(block) is not ConvNormAct:
        return
    conv = block.conv
    if type(conv) is not nn.Conv2d or conv.weight.dtype == x.dtype:
        return
    if torch.is_autocast_enabled(x.device.type) or not all(map(is_unmodified, (block, conv))):
        return
    raise TypeError(
        f"{owner} level {level}: got a {x.dtype} map, and the weights are {conv.weight.dtype}: "
        f"give maps.to({conv.weight.dtype}), or run under torch.autocast"
    )


def _build_act(act_cfg: Cfg) -> nn.Module:
    act, options = _look_up("act_cfg", ACTS, act_cfg)
    if "inplace" in inspect.signature(act).parameters:  # GELU, PReLU, ... have no such option
        options.setdefault("inplace", True)
    with _named("act_cfg", act, options):
        return act(**options)


def _xavier(weight: Tensor, gain: float = 1.0, distribution: str = "normal") -> None:
    init = {"uniform": nn.init.xavier_uniform_, "normal": nn.init.xavier_normal_}
    init[_distribution(distribution)](weight, gain=gain)


def _kaiming(
    weight: Tensor,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_out",
    nonlinearity: Any = "relu",  # one of torch's names
    distribution: str = "normal",
) -> None:
    init = {"uniform": nn.init.kaiming_uniform_, "normal": nn.init.kaiming_normal_}
    init[_distribution(distribution)](weight, a=a, mode=mode, nonlinearity=nonlinearity)


def _normal(weight: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    nn.init.normal_(weight, mean, std)


def _distribution(name: str) -> str:
    if name not in ("uniform", "normal"):
        raise ValueError(f"init_cfg: distribution={name!r}; choose 'uniform' or 'normal'")
    return name


WEIGHT_INITS: dict[str, Callable[..., None]] = {
    "Xavier": _xavier,
    "Kaiming": _kaiming,
    "Normal": _normal,
    "Caffe2Xavier": partial(
        _kaiming, a=1.0, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform"
    ),
}


def init_convs(module: nn.Module, init_cfg: Cfg | None) -> None:
    """Initialise every ``nn.Conv2d`` in ``module``; biases become ``bias`` (0 by default).

    Args:
        module: changed in place.
        init_cfg: ``dict(type='Xavier' | 'Kaiming' | 'Normal' | 'Caffe2Xavier', ...)`` with
            mmengine's options and defaults (``mmengine/model/weight_init.py``); ``layer`` can only
            be ``'Conv2d'``. None keeps torch's own initialisation.

    Raises:
        TypeError, ValueError: not a dict, or an unknown type or option.
    """
    if init_cfg is None:
        return
    init, options = _look_up("init_cfg", WEIGHT_INITS, init_cfg)
    if inspect.isclass(init):
        raise TypeError(f"init_cfg: type={init!r}; choose one of {sorted(WEIGHT_INITS)}")
    layer, bias = options.pop("layer", "Conv2d"), options.pop("bias", 0.0)
    if not isinstance(layer, (str, list)) or layer not in ("Conv2d", ["Conv2d"]):
        raise ValueError(f"init_cfg: layer={layer!r}; only 'Conv2d' has weights to initialise here")
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            with _named("init_cfg", init_cfg["type"], {**options, "bias": bias}):
                init(conv.weight, **options)
                if conv.bias is not None:
                    nn.init.constant_(conv.bias, bias)
