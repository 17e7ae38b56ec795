"""A neck that selects levels of a pyramid, for heads that use every level they get."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fpn_neck.utils.values import check_wholes


class SelectLevels(nn.Module):
    """Selects levels, as in ``neck=[dict(type='fpn_neck.FPN', ...), dict(type=...)]``.

    The RPN of the paper's table 1, row (f), for example, gets only P2: ``indices=[0]``.

    Args:
        indices: of the levels to keep, in the order to return; 0 is the finest level.

    Raises:
        TypeError, ValueError: ``indices`` are not whole numbers of at least 0.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__()
        self.indices = check_wholes("indices", indices, 0)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels (N, C_i, H_i, W_i), finest first -> those of ``indices``, unchanged.

        Raises:
            ValueError: an index is not below the number of levels.
        """
        if max(self.indices) >= len(inputs):
            raise ValueError(
                f"indices={self.indices}: there are {len(inputs)} levels, 0 is the finest; "
                "lower the index or raise the neck's num_outs"
            )
        return tuple(inputs[i] for i in self.indices)
