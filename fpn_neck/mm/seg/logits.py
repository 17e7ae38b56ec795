"""Logits of a predicted sample that are computed only if somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
            if "_compute" not in self.__dict__:
                raise AttributeError("data")
            self.__dict__["_data"] = self.__dict__.pop("_compute")()
        return self.__dict__["_data"]

    @data.setter
    def data(self, value: Tensor) -> None:
        self.__dict__["_data"] = value

    @data.deleter
    def data(self) -> None:
        self.__dict__.pop("_compute", None)
        self.__dict__.pop("_data", None)

    def pop(self, *args: Any) -> Any:
        """As in ``PixelData``."""
        if args[:1] != ("data",) or "data" not in self._data_fields:
            return super().pop(*args)
        value = self.data
        del self.data
        return value

    def to_dict(self) -> dict[str, Any]:
        """As evaluators take it; ``data`` is computed when it is first read."""
        return _LazyDict(self) if "data" in self else super().to_dict()

    def __deepcopy__(self, memo: dict) -> LazyLogits:
        if "_compute" in self.__dict__:
            return LazyLogits(lambda: self.data.clone(), metainfo=self.metainfo)
        return LazyLogits(metainfo=self.metainfo, data=self.data.clone())

    def __reduce__(self) -> tuple:
        return _plain, (self.metainfo, self.data)


class _LazyDict(dict):
    """``{"data": logits}``; keys are known, and values are computed when one is read."""

    def __init__(self, logits: LazyLogits) -> None:
        super().__init__(data=None)
        self._logits: LazyLogits | None = logits

    def _computed(self) -> dict[str, Any]:
        if self._logits is not None:
            logits, self._logits = self._logits, None
            if "data" in self and super().__getitem__("data") is None:
                self["data"] = logits.data
        return self

    def __getitem__(self, key: str) -> Any:
        self._computed()
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:  # dict(), update() and ** read values then
        self._computed()
        return super().__iter__()

    def __repr__(self) -> str:
        self._computed()
        return super().__repr__()

    def get(self, key: str, default: Any = None) -> Any:
        self._computed()
        return super().get(key, default)

    def pop(self, *args: Any) -> Any:
        self._computed()
        return super().pop(*args)

    def items(self) -> Any:
        self._computed()
        return super().items()

    def values(self) -> Any:
        self._computed()
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self)


def _plain(metainfo: dict, data: Tensor) -> PixelData:
    return PixelData(metainfo=metainfo, data=data)
