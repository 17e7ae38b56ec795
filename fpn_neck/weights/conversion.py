"""From one library's state dict to another's, with an account of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fpn_neck.weights.key_maps import LIBRARIES, Layout, Library

StateDict = dict[str, Tensor]

_CLASSIFIER = "head.classifier.conv.weight"
_LATERAL = re.compile(r"lateral_convs\.\d|inner_blocks\.\d|fpn_lateral\d|decoder\.p(5|\d\.skip)")
_FPN_CONV = re.compile(r"^(neck\.)?fpn_convs\.\d+")
_PLACES = {
    "merged": "on every merged map, beside the top-down path",
    "chained": "inside the top-down path",
    "none": "nowhere",
}


@dataclass
class Conversion:
    """What became of every key.

    Attributes:
        state_dict: the target's names -> the source's tensors.
        mapped: {source's name: target's name}.
        ignored: source's names that are no backbone, neck or segmentation head.
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


def convert(state_dict: Mapping[str, Tensor], source: str, target: str) -> Conversion:
    """Rename weights; nothing is computed but the order of a concatenating classifier's inputs.

    What the weights show can't be equal is in ``unmapped`` and ``missing``; what they don't show
    (strides, normalisation, ReLU before P7, ...) is said by
    `fpn_neck.weights.conversion_notes.notes`. They don't show ``top_down=False`` either, nor one
    extra level after ``smooth='chained'``, which looks like ``'merged'``.

    Args:
        state_dict: {name: tensor}, as `fpn_neck.weights.checkpoints.find_state_dict` gives it.
        source, target: keys of `fpn_neck.weights.key_maps.LIBRARIES`.

    Raises:
        ValueError: source and target are the same, no key is one of the source's, or there are
            laterals or 3x3 too few for a pyramid.
    """
    if source == target:
        raise ValueError(f"from {source} to {target}: the same names, nothing to convert")
    theirs, ours = LIBRARIES[source], LIBRARIES[target]
    layout = _layout(state_dict, theirs)
    result = Conversion()
    names = _read(state_dict, theirs, layout, result)
    if not names:
        raise ValueError(
            f"no backbone, neck or segmentation head under {source}'s names in these weights, of "
            f"which the first is {next(iter(state_dict), None)!r}; name the library they come from"
        )
    roles = {role: state_dict[name] for role, name in names.items()}
    modules = ours.modules(replace(layout, smooth=ours.smooth or layout.smooth))
    obstacles = _obstacles(roles, layout, theirs, ours)
    for role, tensor in _reorder(roles, theirs, ours).items():
        module, _, part = role.rpartition(".")
        name = names[role]
        if ours.verbatim and module.startswith("backbone."):
            modules.setdefault(module, module)
        if role in obstacles or module not in modules:
            result.unmapped[name] = obstacles.get(role, f"{target} has no counterpart")
            continue
        result.roles[role] = tensor
        result.mapped[name] = f"{modules[module]}.{part}"
        result.state_dict[result.mapped[name]] = tensor
    for role in _expected(roles, modules, theirs, ours):
        module, _, part = role.rpartition(".")
        if role not in roles and module in modules:
            reason = _other_place(role, layout, ours) or f"these {source} weights have none"
            result.missing[f"{modules[module]}.{part}"] = reason
    return result


def _layout(state_dict: Mapping[str, Tensor], library: Library) -> Layout:
    """Count laterals and 3x3; only mm's names leave the place of the 3x3 open."""
    n = len({m[0] for m in map(_LATERAL.search, state_dict) if m})
    if library.smooth or not n:
        return Layout(n or 4, library.smooth or "merged")
    convs = len({m[0] for m in map(_FPN_CONV.search, state_dict) if m})
    if n == 1 and convs > 1:
        raise ValueError(
            f"1 lateral_conv and {convs} fpn_convs: a pyramid with laterals=False, which no other "
            "library has"
        )
    if convs < n and convs not in (0, n - 1):
        raise ValueError(
            f"{n} lateral_convs and {convs} fpn_convs make no pyramid: expected {n} or more "
            f"fpn_convs, {n - 1} (smooth='chained') or none (smooth='none')"
        )
    return Layout(n, "merged" if convs >= n else "chained" if convs else "none")


def _read(
    state_dict: Mapping[str, Tensor], library: Library, layout: Layout, result: Conversion
) -> dict[str, str]:
    """{role's tensor: source's name}; what has no role goes to the result's other accounts."""
    modules: dict[str, list[str]] = {name: [role] for name, role in library.aliases(layout).items()}
    for role, module in library.modules(layout).items():
        modules.setdefault(module, []).append(role)
    names: dict[str, str] = {}
    for name in state_dict:
        module, _, part = name.rpartition(".")
        known = [p + module for p in library.prefixes if p + module in modules]
        if known:
            roles = modules[known[0]]  # one; or .bn and .gn, and running statistics are .bn's
            is_batch_norm = f"{module}.running_mean" in state_dict
            names[f"{roles[0 if is_batch_norm else -1]}.{part}"] = name
        elif library.verbatim and name.startswith("backbone."):
            names[name] = name
        elif name.startswith(library.ignored):
            result.ignored.append(name)
        else:
            result.unmapped[name] = "unknown"
    return names


def _concatenates(roles: Mapping[str, Tensor]) -> bool:
    classifier, tower = roles.get(_CLASSIFIER), roles.get("head.2.0.conv.weight")
    return classifier is not None and tower is not None and classifier.shape[1] > tower.shape[0]


def _reorder(roles: StateDict, theirs: Library, ours: Library) -> StateDict:
    """Turn the classifier's inputs round where the other library begins at the other end."""
    if not _concatenates(roles) or theirs.concatenates == ours.concatenates:
        return roles
    weight = roles[_CLASSIFIER]  # (K, 4 * C, 1, 1)
    return roles | {_CLASSIFIER: weight.unflatten(1, (4, -1)).flip(1).flatten(1, 2)}


def _obstacles(roles: StateDict, layout: Layout, theirs: Library, ours: Library) -> dict[str, str]:
    """{role: why the target can't hold it, or would compute something else with it}."""
    limits = dict(ours.limits)
    if {theirs.align_corners, ours.align_corners} == {True, False}:
        limits[r"head\."] = (
            f"the target's head has align_corners={ours.align_corners}, the source's "
            f"{theirs.align_corners}"
        )
    if ours.concatenates is None and _concatenates(roles):
        limits.setdefault(r"head\.", "the target's head adds levels, the source concatenates them")
    obstacles = {role: _other_place(role, layout, ours) for role in roles}
    for pattern, reason in limits.items():
        obstacles |= {role: reason for role in roles if re.match(pattern, role)}
    return {role: reason for role, reason in obstacles.items() if reason}


def _other_place(role: str, layout: Layout, ours: Library) -> str | None:
    if not role.startswith(("neck.merged", "neck.chained")) or ours.smooth in (None, layout.smooth):
        return None
    return f"the target has its 3x3 {_PLACES[ours.smooth]}, the source {_PLACES[layout.smooth]}"


def _expected(
    roles: StateDict, modules: Mapping[str, str], theirs: Library, ours: Library
) -> Iterator[str]:
    """What the target needs for the parts that are there: weights, and a bias or a norm to each."""
    parts = {role.split(".")[0] for role in roles}
    has_extra = any(role.startswith("neck.extra") for role in roles)
    for module in modules:
        base, is_conv, _ = module.partition(".conv")
        if module.startswith("backbone.") or not is_conv or module.split(".")[0] not in parts:
            continue
        if module.startswith("neck.extra") and not (has_extra and ours.smooth):
            continue  # mm may have P6 alone; the others make P6 and P7 together
        norm = next((n for n in ("bn", "gn") if f"{base}.{n}.weight" in roles), "conv")
        yield from (f"{module}.weight", f"{base}.{norm}.bias")
    if theirs.verbatim and ours.verbatim:
        return  # any backbone goes
    for role in roles:
        conv = re.fullmatch(r"(backbone\..*)conv(\d)\.weight", role)
        if conv:
            norm = f"{conv[1]}bn{conv[2]}"
            yield from (f"{norm}.{p}" for p in ("weight", "bias", "running_mean", "running_var"))
