"""A weight database of arrays in memory, that remembers what was read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.errors import KeyNotFound
from wvindex.formats.arrays import RowScale

Array = NDArray[Any]


class FakeTensor:
    """One array; `reads` of its database grows by a line with every read."""

    def __init__(self, db: FakeDatabase, label: str, array: Array, row_scale: RowScale | None) -> None:
        self.db = db
        self.label = label
        self.array = array
        self.row_scale = row_scale

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, out: Array | None = None, dtype: Any = None, rows: tuple[int, int] | None = None) -> Array:
        assert out is None
        self.db.reads.append(self.label if rows is None else f"{self.label}[{rows[0]}:{rows[1]}]")
        return self.array[slice(*rows) if rows else ...].astype(dtype or self.array.dtype)

    def expert(self, index: int, /) -> FakeTensor:
        return FakeTensor(self.db, f"{self.label}#{index}", self.array[index], None)

    def __getitem__(self, index: Any, /) -> Array:
        self.db.reads.append(f"{self.label}[{np.asarray(index).tolist()}]")
        return np.asarray(self.array[index])


class FakeDatabase:
    """Arrays by standard key."""

    def __init__(
        self,
        config: ModelConfig,
        arrays: Mapping[str, Array],
        row_scales: Mapping[str, RowScale] | None = None,
    ) -> None:
        self.config = config
        self.arrays = dict(arrays)
        self.row_scales = dict(row_scales or {})
        self.reads: list[str] = []

    def __getitem__(self, key: str, /) -> FakeTensor:
        if key not in self.arrays:
            raise KeyNotFound("no such tensor", tensor=key)
        return FakeTensor(self, key, self.arrays[key], self.row_scales.get(key))

    def __contains__(self, key: object, /) -> bool:
        return key in self.arrays
