"""Logits of a predicted sample that are computed only if somebody reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.structures import PixelData
from torch import Tensor


class LazyLogits(PixelData):
    """``seg_logits`` of a sample; ``data``, (K, H, W), is computed when it is first read.

    ``to``, ``clone``, slices and pickles hold the computed logits.

    Args:
        compute: gives ``data``; None for a copy whose ``data`` is set.
        **kwargs: of ``PixelData``.
    """

    def __init__(self, compute: Callable[[], Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if compute is not None:
            self.__dict__["_compute"] = compute
            self._data_fields.add("data")

    @property
    def data(self) -> Tensor:
        """(K, H, W)."""
        if "_data" not in self.__dict__:
            self.__dict__["_data"] = self.__dict__.pop("_compute")()
        return self.__dict__["_data"]

    @data.setter
    def data(self, value: Tensor) -> None:
        self.__dict__["_data"] = value

    def to_dict(self) -> dict[str, Any]:
        """As evaluators take it; ``["data"]`` computes, nothing else does."""
        return _LazyDict(self)

    def __deepcopy__(self, memo: dict) -> LazyLogits:
        if "_compute" in self.__dict__:
            return LazyLogits(lambda: self.data.clone(), metainfo=self.metainfo)
        return LazyLogits(metainfo=self.metainfo, data=self.data.clone())

    def __reduce__(self) -> tuple:
        return _plain, (self.metainfo, self.data)


class _LazyDict(dict):
    def __init__(self, logits: LazyLogits) -> None:
        super().__init__()
        self.logits = logits

    def __missing__(self, key: str) -> Tensor:
        if key != "data":
            raise KeyError(key)
        return self.logits.data


def _plain(metainfo: dict, data: Tensor) -> PixelData:
    return PixelData(metainfo=metainfo, data=data)
