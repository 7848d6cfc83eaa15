"""Decoded weights: fetched from a database one at a time, the last ones used kept within a budget."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.formats.arrays import RowScale
from wvindex.sizes import parse_size

_TILE_BYTES: Final = 64 << 20
_SMALLEST_TILE: Final = 1 << 20
"""Rows of a matrix that is too large to keep are read in tiles between these sizes."""


class WeightTensor(Protocol):
    """What the forward pass needs of a lazy tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        ...

    @property
    def row_scale(self) -> RowScale | None:
        """The factor that the output of this projection is multiplied by, if there is one."""
        ...

    def read(self, *, dtype: Any = None, rows: tuple[int, int] | None = None) -> NDArray[Any]:
        """Decode all of it, or rows [start, stop) of its first dimension."""
        ...

    def expert(self, index: int, /) -> WeightTensor:
        """Give one matrix of a stack."""
        ...

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Decode what an index selects."""
        ...


class WeightDatabase(Protocol):
    """What the forward pass needs of a store: a configuration and tensors by standard key."""

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        ...

    def __getitem__(self, key: str, /) -> WeightTensor:
        """Give the tensor that answers to a key."""
        ...

    def __contains__(self, key: object, /) -> bool:
        """Whether a tensor answers to a key."""
        ...


class Weights:
    """Float32 weights by key, the least recently used dropped first.

    Parameters
    ----------
    db : WeightDatabase
    max_memory : int or str
        Bytes of decoded weights to keep. Room is made before a weight is read, so the budget holds
        at any moment, unless the one in use is larger by itself: then it is read and not kept.

    Attributes
    ----------
    nbytes : int
        Bytes that are kept now.
    """

    def __init__(self, db: WeightDatabase, max_memory: int | str) -> None:
        self.db = db
        self.max_memory = parse_size(max_memory)
        self.nbytes = 0
        self._kept: OrderedDict[tuple[str, int | None], NDArray[np.float32]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        """Whether the database has a key."""
        return key in self.db

    def row_scale(self, key: str) -> RowScale | None:
        """Give the per-token factor that a projection's output takes, if it takes one."""
        return self.db[key].row_scale

    def get(self, key: str) -> NDArray[np.float32]:
        """Give a whole tensor, float32. Callers must not write to it."""
        return self._fetch((key, None), self.db[key])

    def expert(self, key: str, index: int) -> NDArray[np.float32]:
        """Give one expert's matrix of a stack, (out, in) float32, reading no other."""
        return self._fetch((key, index), self.db[key].expert(index))

    def rows(self, key: str, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give some rows, (len(indices), ...) float32, reading each that is named once."""
        unique, inverse = np.unique(indices, return_inverse=True)
        found: NDArray[np.float32] = np.asarray(self.db[key][unique]).astype(np.float32)[inverse]
        return found

    def tiles(self, key: str) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Go through a matrix by row ranges: whole and kept if the budget allows, else in tiles."""
        tensor = self.db[key]
        n_rows = tensor.shape[0]
        if _float32_bytes(tensor) <= self.max_memory:
            yield slice(0, n_rows), self.get(key)
            return
        tile_bytes = max(_SMALLEST_TILE, min(_TILE_BYTES, self.max_memory))
        step = max(1, tile_bytes // (4 * math.prod(tensor.shape[1:])))
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            self._make_room(tile_bytes)
            yield slice(start, stop), tensor.read(dtype=np.float32, rows=(start, stop))

    def _fetch(self, name: tuple[str, int | None], tensor: WeightTensor) -> NDArray[np.float32]:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        size = _float32_bytes(tensor)
        self._make_room(size)
        weight = np.asarray(tensor.read(dtype=np.float32), np.float32)
        if size <= self.max_memory:
            self._kept[name] = weight
            self.nbytes += size
        return weight

    def _make_room(self, size: int) -> None:
        while self._kept and self.nbytes + size > self.max_memory:
            _, dropped = self._kept.popitem(last=False)
            self.nbytes -= dropped.nbytes


def _float32_bytes(tensor: WeightTensor) -> int:
    return 4 * math.prod(tensor.shape)
