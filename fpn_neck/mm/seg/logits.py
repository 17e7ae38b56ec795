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
            self.__dict__["_data"] = self.__dict__["_compute"]()
            del self.__dict__["_compute"]
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
        if "data" not in self:
            return super().to_dict()
        others = {name: getattr(self, name) for name in self.all_keys() if name != "data"}
        found = _LazyDict(others | {"data": None})
        found.logits = self
        return found

    def __deepcopy__(self, memo: dict) -> LazyLogits:
        if "_compute" in self.__dict__:
            return LazyLogits(lambda: self.data.clone(), metainfo=self.metainfo)
        return LazyLogits(metainfo=self.metainfo, data=self.data.clone())

    def __reduce__(self) -> tuple:
        return _plain, (self.metainfo, self.data)


class _LazyDict(dict):
    """``{"data": logits, ...}``; the keys are known, the logits are computed when one is read."""

    logits: LazyLogits | None = None  # until they are computed

    def _compute(self) -> None:
        if self.logits is not None:
            if dict.get(self, "data", ...) is None:
                self["data"] = self.logits.data
            self.logits = None

    def __getitem__(self, key: str) -> Any:
        self._compute()
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:  # dict(), update() and ** read values then
        self._compute()
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        self._compute()
        return super().__eq__(other)

    def __repr__(self) -> str:
        self._compute()
        return super().__repr__()

    def get(self, key: str, default: Any = None) -> Any:
        self._compute()
        return super().get(key, default)

    def setdefault(self, *args: Any) -> Any:
        self._compute()
        return super().setdefault(*args)

    def pop(self, *args: Any) -> Any:
        self._compute()
        return super().pop(*args)

    def popitem(self) -> tuple[str, Any]:
        self._compute()
        return super().popitem()

    def items(self) -> Any:
        self._compute()
        return super().items()

    def values(self) -> Any:
        self._compute()
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self)


def _plain(metainfo: dict, data: Tensor) -> PixelData:
    return PixelData(metainfo=metainfo, data=data)
