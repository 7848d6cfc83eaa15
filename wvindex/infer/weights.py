"""The weights of a forward pass: matrices as they are stored, multiplied without being decoded as a whole."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.formats.arrays import RowScale
from wvindex.sizes import parse_size


class Matrix(Protocol):
    """What can be multiplied by: a tensor of a store, or its encoded rows in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes of its encoded rows."""
        ...

    def matmul(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Give ``x @ W.T``, (T, out) float32, for x (T, in) float32."""
        ...


class WeightTensor(Matrix, Protocol):
    """What the forward pass needs of a lazy tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        ...

    @property
    def row_scale(self) -> RowScale | None:
        """The factor that the output of this projection is multiplied by, if there is one."""
        ...

    def read(self, *, dtype: Any = None) -> NDArray[Any]:
        """Decode all of it."""
        ...

    def encoded(self) -> Matrix:
        """Read a matrix into memory as it is stored."""
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
    """Weights by key, kept in memory as they are stored while a budget has room for them.

    What is read first is kept, and nothing is dropped for what comes later. A forward pass goes through
    all layers in the same order every time: dropping the least recently used would drop each weight just
    before it is needed again, and where a model is larger than the budget, however little, every pass
    would read all of it. This way a pass reads only what did not fit, in tiles, straight into the product.

    Parameters
    ----------
    db : WeightDatabase
    max_memory : int or str
        Bytes of weights to keep.

    Attributes
    ----------
    nbytes : int
        Bytes that are kept now.
    """

    def __init__(self, db: WeightDatabase, max_memory: int | str) -> None:
        self.db = db
        self.max_memory = parse_size(max_memory)
        self.nbytes = 0
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._matrices: dict[tuple[str, int | None], Matrix] = {}

    def __contains__(self, key: str) -> bool:
        """Whether the database has a key."""
        return key in self.db

    def row_scale(self, key: str) -> RowScale | None:
        """Give the per-token factor that a projection's output takes, if it takes one."""
        return self.db[key].row_scale

    def vector(self, key: str) -> NDArray[np.float32]:
        """Give a norm's weight, a bias: decoded, float32. Callers must not write to it."""
        if key in self._vectors:
            return self._vectors[key]
        tensor = self.db[key]
        vector = np.asarray(tensor.read(dtype=np.float32), np.float32)
        if self._has_room(4 * math.prod(tensor.shape)):
            self._vectors[key] = vector
            self.nbytes += vector.nbytes
        return vector

    def multiply(self, x: NDArray[np.float32], key: str, expert: int | None = None) -> NDArray[np.float32]:
        """Give ``x @ W.T`` for a matrix, or for one expert's of a stack, reading no other.

        Parameters
        ----------
        x : (T, in) float32
        key : str
        expert : int, optional

        Returns
        -------
        (T, out) float32
        """
        return self._matrix(key, expert).matmul(x)

    def rows(self, key: str, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give some rows, (len(indices), ...) float32, reading each that is named once."""
        unique, inverse = np.unique(indices, return_inverse=True)
        found: NDArray[np.float32] = np.asarray(self.db[key][unique]).astype(np.float32)[inverse]
        return found

    def _matrix(self, key: str, expert: int | None) -> Matrix:
        """Give a matrix in memory, or the tensor that streams it where the budget has no room."""
        name = (key, expert)
        if name in self._matrices:
            return self._matrices[name]
        tensor = self.db[key] if expert is None else self.db[key].expert(expert)
        if not self._has_room(tensor.nbytes):
            return tensor
        matrix = self._matrices[name] = tensor.encoded()
        self.nbytes += matrix.nbytes
        return matrix

    def _has_room(self, size: int) -> bool:
        return self.nbytes + size <= self.max_memory
