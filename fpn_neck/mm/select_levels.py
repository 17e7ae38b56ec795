"""A part of a pyramid, for heads that use every level they get."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fpn_neck.mm.registry import MODELS
from fpn_neck.utils.arguments import check_wholes


@MODELS.register_module()
class SelectLevels(nn.Module):
    """The levels of these indices, for ``neck=[dict(type='fpn_neck.FPN', ...), dict(type=...)]``.

    The paper's table 1 row (f), for example, gives the RPN P2 alone: ``indices=[0]``.

    Args:
        indices: of the levels to keep, 0 the finest, in the order to return.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__()
        self.indices = check_wholes("indices", indices, 0)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels, finest first -> those of ``indices``, unchanged.

        Raises:
            ValueError: fewer levels than an index asks for.
        """
        if max(self.indices) >= len(inputs):
            raise ValueError(
                f"indices={self.indices}: there are {len(inputs)} levels, 0 the finest; "
                "lower the index or raise the neck's num_outs"
            )
        return tuple(inputs[i] for i in self.indices)
