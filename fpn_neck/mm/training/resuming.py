"""Whether a checkpoint holds all that a resumed run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

_HUB = ("log_scalars", "runtime_info", "resumed_keys")
# Hyperparameters of many optimizers, and those that a newer torch added: they tell no type.
_COMMON = {
    *("initial_lr", "params", "lr", "weight_decay", "decoupled_weight_decay", "maximize"),
    *("foreach", "fused", "capturable", "differentiable"),
}
_SHAPED = ("exp_avg", "momentum_buffer", "square_avg", "sum")  # states of a parameter's shape


def check_resumable(runner: Runner, checkpoint: Mapping, name: str) -> None:
    """Refuse a checkpoint from which parts of the run would start from zero without a warning.

    mmengine ignores what a checkpoint does not hold: schedules then start at step 0, the
    optimizer's averages at zero.

    Raises:
        ValueError: the position, the optimizer, the schedules or the message hub are missing, or
            they are those of another run.
    """
    why = _why_no_position(checkpoint.get("meta"))
    why = why or _why_no_hub(checkpoint.get("message_hub"))
    why = why or _why_no_schedules(runner.param_schedulers, checkpoint.get("param_schedulers"))
    why = why or _why_no_optimizers(runner, checkpoint)
    if why:
        raise ValueError(
            f"checkpoint {name} {why}: start from its weights with --cfg-options load_from=FILE, "
            "without --resume"
        )


def optimizer_kinds(wrapper: Any) -> dict[str, str]:
    """{name of the optimizer: name of its type}; the name is '' if a run has one optimizer."""
    return {name: type(optimizer).__name__ for name, optimizer in _optimizers(wrapper).items()}


def _optimizers(wrapper: Any) -> dict[str, Optimizer]:
    if isinstance(wrapper, OptimWrapperDict):
        return {name: part.optimizer for name, part in wrapper.optim_wrappers.items()}
    return {"": wrapper.optimizer} if isinstance(wrapper, OptimWrapper) else {}


def _why_no_position(meta: Any) -> str:
    if not isinstance(meta, Mapping) or "iter" not in meta:
        return "doesn't say at which iteration to go on"
    for key in ("iter", "epoch"):
        value = meta.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return f"has meta.{key}={value!r}, not a whole number of at least 0"
    return ""


def _why_no_hub(hub: Any) -> str:
    if isinstance(hub, dict) and all(isinstance(hub.get(key), dict) for key in _HUB):
        return ""
    return "holds no message_hub"


def _why_no_schedules(expected: Any, given: Any) -> str:
    wanted, found = _counts(expected), _counts(given)
    if not any(wanted.values()) or wanted == found:
        return ""
    if not any(found.values()):
        return "holds no state of the schedules (param_schedulers)"
    return f"holds the state of {_text(found)} schedules, the config has {_text(wanted)}"


def _counts(schedulers: Any) -> dict[str, int]:
    """How many schedules each optimizer has."""
    parts = schedulers if isinstance(schedulers, Mapping) else {"": schedulers}
    return {k: len(v) if isinstance(v, (list, tuple)) else 0 for k, v in parts.items()}


def _text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}".strip() for name, count in counts.items())


def _why_no_optimizers(runner: Runner, checkpoint: Mapping) -> str:
    states, kinds = checkpoint.get("optimizer"), checkpoint["meta"].get("optimizers")
    for name, optimizer in _optimizers(runner.optim_wrapper).items():
        state = states.get(name) if name and isinstance(states, Mapping) else states
        state = state if isinstance(state, Mapping) else {}
        groups = state.get("param_groups")
        if not isinstance(groups, (list, tuple)) or not all(isinstance(g, dict) for g in groups):
            which = f"optimizer {name}" if name else "the optimizer"
            return f"holds no state of {which} (published, or saved with save_optimizer=False)"
        kind = kinds.get(name) if isinstance(kinds, Mapping) else None
        why = _why_another_kind(optimizer, groups, kind)
        if not why and not isinstance(runner.model, FullyShardedDataParallel):  # has other groups
            why = _why_another_shape(optimizer, groups, state.get("state"))
        if why:
            return why
    return ""


def _why_another_kind(optimizer: Optimizer, groups: Sequence[dict], kind: str | None) -> str:
    configured = type(optimizer).__name__
    back = "(restore optim_wrapper.optimizer to resume)"
    if kind:
        text = f"holds the state of another optimizer, {kind}, than {configured} {back}"
        return text if kind != configured else ""
    # A key on one side only may come from another version of torch, or from a schedule.
    given = {key for group in groups for key in group} - _COMMON
    wanted = {key for group in optimizer.param_groups for key in group} - _COMMON
    if not (given - wanted and wanted - given):
        return ""
    return (
        f"holds the state of another optimizer, with {', '.join(sorted(given - wanted))}, than "
        f"{configured}, with {', '.join(sorted(wanted - given))} {back}"
    )


def _why_another_shape(optimizer: Optimizer, groups: Sequence[dict], state: Any) -> str:
    expected = [group["params"] for group in optimizer.param_groups]
    given = [group.get("params", []) for group in groups]
    if [len(group) for group in expected] != [len(group) for group in given]:
        return (
            f"holds the optimizer's state for groups of {[len(g) for g in given]} parameters, the "
            f"model has {[len(g) for g in expected]}"
        )
    state = state if isinstance(state, Mapping) else {}
    for parameter, key in zip(sum(expected, []), sum(given, []), strict=True):
        for name in _SHAPED:
            value = (state.get(key) or {}).get(name)
            if value is not None and value.shape != parameter.shape:
                return (
                    f"holds an optimizer's state of another shape: {name} {tuple(value.shape)} for "
                    f"a parameter of {tuple(parameter.shape)}"
                )
    return ""
