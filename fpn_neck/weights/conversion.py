"""Renames the keys of one library's state dict to another's, and reports every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

from torch import Tensor

from fpn_neck.weights.checkpoints import prefixes, without_prefix
from fpn_neck.weights.key_maps import LIBRARIES, Layout, Library

StateDict = dict[str, Tensor]

_CLASSIFIER = "head.classifier.conv.weight"
_LATERAL = re.compile(r"lateral_convs\.\d|inner_blocks\.\d|fpn_lateral\d|decoder\.p(5|\d\.skip)")
_FPN_CONV = re.compile(r"^(neck\.)?fpn_convs\.\d+")
_GROUP = re.compile(r"(neck|backbone)\.(.*\.)?gn\d?\.")
_NORMS = {  # of detectron2; why their weights have no place elsewhere
    "GN": "",
    "LN": "detectron2's LN normalizes every pixel over its channels; no other library does so here",
}
_EITHER = (
    "FPN.NORM and RESNETS.NORM are 'GN' or 'LN', whose weights look the same: say norm='GN' (tool: "
    "--norm GN) if the model had that"
)
_PLACES = {
    "merged": "on every merged map, outside the top-down path",
    "chained": "inside the top-down path",
    "none": "nowhere",
}


@dataclass
class Conversion:
    """The result, and the account of every key.

    Attributes:
        state_dict: {target's name: source's tensor}.
        mapped: {source's name: target's name}.
        ignored: source's names of other parts than backbone, neck and segmentation head.
        unmapped: {source's name: why the target has no place for it}.
        missing: {target's name: why the source has nothing for it}.
        roles: the mapped tensors under the names of `fpn_neck.weights.key_maps`.
    """

    state_dict: StateDict = field(default_factory=dict)
    mapped: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unmapped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    roles: StateDict = field(default_factory=dict)


def convert(
    state_dict: Mapping[str, Tensor], source: str, target: str, *, norm: str | None = None
) -> Conversion:
    """Rename weights. Values stay; only a concatenating classifier may get its inputs reordered.

    A key that keeps the two models from being equal is in ``unmapped`` or ``missing``. Options
    that weights do not show (strides, normalization, ReLU before P7, ...) are listed by
    `fpn_neck.weights.conversion_notes.notes`. Two more are not shown by weights:
    ``top_down=False``, and one extra level after ``smooth='chained'``, which looks like
    ``'merged'``.

    Args:
        state_dict: {name: tensor}, as `fpn_neck.weights.checkpoints.find_state_dict` gives it.
        source, target: keys of `fpn_neck.weights.key_maps.LIBRARIES`.
        norm: 'GN' or 'LN', the name in detectron2's ``FPN.NORM`` and ``RESNETS.NORM``. The weights
            of both look the same, and no other library has 'LN' there: only with 'GN' are they
            mapped.

    Raises:
        ValueError: source and target are the same; another norm; no key is one of the source's; a
            weight is not a convolution's; there are two models, such as a student and its teacher;
            or the numbers of lateral and 3x3 convolutions do not make a pyramid.
    """
    if source == target:
        raise ValueError(f"from {source} to {target}: nothing to convert; name two libraries")
    if norm not in (None, *_NORMS):
        raise ValueError(f"norm={norm!r}: expected one of {', '.join(map(repr, _NORMS))}")
    from_library, to_library = LIBRARIES[source], LIBRARIES[target]
    state_dict = _without_wrapper(state_dict, from_library)
    layout = _layout(state_dict, from_library)
    result = Conversion()
    names = _read(state_dict, from_library, layout, result)
    if not names:
        raise ValueError(
            f"no backbone, neck or segmentation head under {source}'s names in these weights; "
            f"their first key is {next(iter(state_dict), None)!r}; name the library they come from"
        )
    roles = {role: state_dict[name] for role, name in names.items()}
    _check_convolutions(roles, names)
    modules = to_library.modules(replace(layout, smooth=to_library.smooth or layout.smooth))
    obstacles = _obstacles(roles, layout, from_library, to_library)
    if source == "detectron2":
        reason = _NORMS[norm] if norm else _EITHER
        obstacles |= {role: reason for role in roles if reason and _GROUP.match(role)}
    for role, tensor in _reorder(roles, from_library, to_library).items():
        module, _, part = role.rpartition(".")
        name = names[role]
        if to_library.verbatim and module.startswith("backbone."):
            modules.setdefault(module, module)
        if role in obstacles or module not in modules:
            result.unmapped[name] = obstacles.get(role, f"{target} has no counterpart")
            continue
        result.roles[role] = tensor
        result.mapped[name] = f"{modules[module]}.{part}"
        result.state_dict[result.mapped[name]] = tensor
    for role in _expected(roles, modules, from_library, to_library):
        module, _, part = role.rpartition(".")
        if role not in roles and module in modules:
            reason = _other_place(role, layout, to_library) or f"these {source} weights have none"
            if module.startswith("neck.extra") and not module.endswith("conv"):
                reason = f"{target}'s P6 and P7 have the pyramid's norm, {source}'s have no norm"
            result.missing[f"{modules[module]}.{part}"] = reason
    return result


def _without_wrapper(state_dict: Mapping[str, Tensor], library: Library) -> Mapping[str, Tensor]:
    """Names without a wrapper's prefix (``model.``, ``module.net.``), if they are known then.

    The name of a part, such as ``backbone.``, is not a wrapper's.

    Raises:
        ValueError: two prefixes of the same length do it, such as a student's and its teacher's.
    """
    parts = {
        module.partition(".")[0]
        for one in LIBRARIES.values()
        for module in one.modules(Layout()).values()
    }
    found = {"", *(p for name in state_dict for p in prefixes(name))}
    wrappers = (p for p in found if parts.isdisjoint(p.split(".")))
    for _, same_length in groupby(sorted(wrappers, key=lambda p: (len(p), p)), key=len):
        renamed = {prefix: without_prefix(state_dict, prefix) for prefix in same_length}
        known = [
            prefix
            for prefix, names in renamed.items()
            if _read(names, library, _layout(names, library), Conversion())
        ]
        if len(known) > 1:
            raise ValueError(
                f"weights of more than one model, under {' and '.join(map(repr, known))}: keep the "
                "names of one of them"
            )
        if known:
            return renamed[known[0]]
    return state_dict


def _layout(state_dict: Mapping[str, Tensor], library: Library) -> Layout:
    """Count laterals and 3x3 convolutions; mm's names do not tell the place of the 3x3."""
    n = len({m[0] for m in map(_LATERAL.search, state_dict) if m})
    if library.smooth or not n:
        return Layout(n or 4, library.smooth or "merged")
    convs = len({m[0] for m in map(_FPN_CONV.search, state_dict) if m})
    if n == 1 and convs > 1:
        raise ValueError(
            f"1 lateral_conv and {convs} fpn_convs: no other library has a pyramid with "
            "laterals=False"
        )
    if convs < n and convs not in (0, n - 1):
        raise ValueError(
            f"{n} lateral_convs and {convs} fpn_convs are not a pyramid: expected {n} or more "
            f"fpn_convs, {n - 1} (smooth='chained') or none (smooth='none')"
        )
    return Layout(n, "merged" if convs >= n else "chained" if convs else "none")


def _read(
    state_dict: Mapping[str, Tensor], library: Library, layout: Layout, result: Conversion
) -> dict[str, str]:
    """{role's tensor: source's name}; a name without a role goes into ``result``."""
    modules: dict[str, list[str]] = {name: [role] for name, role in library.aliases(layout).items()}
    for role, module in library.modules(layout).items():
        modules.setdefault(module, []).append(role)
    names: dict[str, str] = {}
    for name in state_dict:
        module, _, part = name.rpartition(".")
        known = [p + module for p in library.prefixes if p + module in modules]
        if known:
            roles = modules[known[0]]  # one, or BN's and GN's; only BN has running statistics
            is_batch_norm = f"{module}.running_mean" in state_dict
            names[f"{roles[0 if is_batch_norm else -1]}.{part}"] = name
        elif library.verbatim and name.startswith("backbone."):
            names[name] = name
        elif name.startswith(library.ignored):
            result.ignored.append(name)
        else:
            result.unmapped[name] = "unknown"
    return names


def _check_convolutions(roles: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    for role, tensor in roles.items():
        ours = role.startswith(("neck.", "head.")) and role.endswith("conv.weight")
        if ours and tensor.dim() != 4:
            raise ValueError(
                f"{names[role]} of shape {tuple(tensor.shape)}: expected the weight of a "
                "convolution, (out, in, height, width); the file is damaged or of another model"
            )


def _concatenates(roles: Mapping[str, Tensor]) -> bool:
    classifier, tower = roles.get(_CLASSIFIER), roles.get("head.2.0.conv.weight")
    return classifier is not None and tower is not None and classifier.shape[1] > tower.shape[0]


def _reorder(roles: StateDict, from_library: Library, to_library: Library) -> StateDict:
    """Reverse the levels of the classifier's inputs if the target concatenates them reversed."""
    if not _concatenates(roles) or from_library.concatenates == to_library.concatenates:
        return roles
    weight = roles[_CLASSIFIER]  # (K, 4 * C, 1, 1)
    return roles | {_CLASSIFIER: weight.unflatten(1, (4, -1)).flip(1).flatten(1, 2)}


def _obstacles(
    roles: StateDict, layout: Layout, source: Library, target: Library
) -> dict[str, str]:
    """{role: why the target can't hold it, or would compute another result with it}."""
    limits = dict(target.limits)
    if {source.align_corners, target.align_corners} == {True, False}:
        limits[r"head\."] = (
            f"the target's head has align_corners={target.align_corners}, the source's "
            f"{source.align_corners}"
        )
    if target.concatenates is None and _concatenates(roles):
        limits.setdefault(r"head\.", "the target's head adds levels, the source concatenates them")
    obstacles = {role: _other_place(role, layout, target) for role in roles}
    if target.extra_norm and _pyramid_norm(roles):
        limits[r"neck\.extra\d\.conv\.bias"] = "P6 and P7 have a norm there, and so no bias"
    for pattern, reason in limits.items():
        obstacles |= {role: reason for role in roles if re.match(pattern, role)}
    return {role: reason for role, reason in obstacles.items() if reason}


def _other_place(role: str, layout: Layout, target: Library) -> str | None:
    is_smooth = role.startswith(("neck.merged", "neck.chained"))
    if not is_smooth or target.smooth in (None, layout.smooth):
        return None
    return f"the target has its 3x3 {_PLACES[target.smooth]}, the source {_PLACES[layout.smooth]}"


def _expected(
    roles: StateDict, modules: Mapping[str, str], from_library: Library, to_library: Library
) -> Iterator[str]:
    """Weights that the target needs for the parts in ``roles``, each with a bias or a norm."""
    parts = {role.split(".")[0] for role in roles}
    extra_norm = _pyramid_norm(roles) if to_library.extra_norm else None
    has_extra = any(role.startswith("neck.extra") for role in roles)
    for module in modules:
        base, is_conv, _ = module.partition(".conv")
        if module.startswith("backbone.") or not is_conv or module.split(".")[0] not in parts:
            continue
        is_extra = module.startswith("neck.extra")
        if is_extra and f"{module}.weight" not in roles and not (has_extra and to_library.smooth):
            continue  # mm may have P6 without P7; the others have both
        norm = next((n for n in ("bn", "gn") if f"{base}.{n}.weight" in roles), None)
        norm = norm or (extra_norm if is_extra else None)
        yield from (f"{module}.weight", *_norm_parts(f"{base}.{norm}" if norm else module))
    if from_library.verbatim and to_library.verbatim:
        return  # any backbone is accepted
    norms = {m[2] for m in (re.match(r"backbone\.(.*\.)?(bn|gn)\d\.", r) for r in roles) if m}
    backbone_norm = min(norms, default="bn")
    for role in roles:
        conv = re.fullmatch(r"(backbone\..*)conv(\d)\.weight", role)
        if conv:
            yield from _norm_parts(f"{conv[1]}{backbone_norm}{conv[2]}")


def _norm_parts(module: str) -> list[str]:
    """Weights of a norm; of a convolution without a norm, its bias."""
    kind = re.search(r"(bn|gn|conv)\d?$", module)
    parts = {"gn": ("weight", "bias"), "bn": ("weight", "bias", "running_mean", "running_var")}
    return [f"{module}.{p}" for p in parts.get(kind[1] if kind else "", ("bias",))]


def _pyramid_norm(roles: Mapping[str, Tensor]) -> str | None:
    """The norm of the pyramid's 3x3 convolutions on the merged maps."""
    found = {m[1] for m in (re.match(r"neck\.merged\d\.(bn|gn)\.", r) for r in roles) if m}
    return min(found, default=None)
