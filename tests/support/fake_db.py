"""A weight database of arrays in memory, that remembers what was read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.errors import KeyNotFound
from wvindex.formats.arrays import RowScale
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.matmul import EncodedMatrix

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

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def read(self, *, dtype: Any = None) -> Array:
        self.db.reads.append(self.label)
        return self.array.astype(dtype or self.array.dtype)

    def encoded(self) -> EncodedMatrix:
        self.db.reads.append(self.label)
        encoding = next(e for e in ENCODINGS.values() if e.dtype == self.array.dtype)
        return EncodedMatrix(np.ascontiguousarray(self.array).view(np.uint8), encoding)

    def matmul(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        self.db.reads.append(f"{self.label}, streamed")
        return np.asarray(x @ self.array.astype(np.float32).T, np.float32)

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
