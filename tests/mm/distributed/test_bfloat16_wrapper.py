"""Training in bfloat16 on a CPU: what is computed in which precision, and what stops a run."""

import pytest
import torch
from helpers.toy_run import ToyModel, toy_config, train
from torch import nn

BFLOAT16 = {"type": "fpn_neck.BFloat16OptimWrapper"}


def losses_and_weights(runner):
    return [loss for _, loss in ToyModel.seen], runner.model.net[0].weight


def test_matrix_products_are_in_bfloat16_and_weights_in_float32(tmp_path):
    seen = []

    def watch(module, inputs, output):
        seen.append((output.dtype, module.weight.dtype))

    handle = nn.modules.module.register_module_forward_hook(
        lambda m, x, y: watch(m, x, y) if isinstance(m, nn.Linear) and m.training else None
    )
    try:
        runner = train(toy_config(tmp_path, steps=2, optim_wrapper=BFLOAT16))
    finally:
        handle.remove()
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    assert not hasattr(runner.optim_wrapper, "loss_scaler")


def test_it_ends_near_float32(tmp_path):
    """Same seed, same batches: the weights differ by rounding, and they differ."""
    weights = []
    for name, change in (("a", {}), ("b", {"optim_wrapper": BFLOAT16})):
        runner = train(toy_config(tmp_path / name, steps=4, **change))
        weights.append(runner.model.net[0].weight.detach())
    moved = (weights[0] - weights[1]).abs().max()
    assert 0 < moved < 4 * 0.01  # four steps of AdamW


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    """Where a loss scaler would drop the step without a word."""
    spoilt = {f"{i}.jpg": "gradient" for i in range(10)}
    changes = {"optim_wrapper": BFLOAT16, "model": {"spoil": spoilt}}
    with pytest.raises(ValueError, match="norm of the gradient"):
        train(toy_config(tmp_path, **changes))
