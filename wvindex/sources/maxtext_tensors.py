"""Tensors of Hugging Face's form, worked out from leaves of MaxText's as they are read.

A leaf's axes are put in order (``order_axes``), rows of rotary heads that MaxText keeps interleaved half-
split (``unpermute_rope``), and queries that it keeps divided by the root of the head's width multiplied by it
again (``scale_query``), in float32 and back, as its export does; Gemma's norms and embedding likewise lose
what its import adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.encodings import Encoding
from wvindex.sources.maxtext_names import Layout
from wvindex.sources.orbax_arrays import Index, LeafArray

ORDER_AXES: Final = "order_axes"
UNPERMUTE: Final = "unpermute_rope"
SCALE: Final = "scale_query"
UNSCALE_EMBEDDING: Final = "unscale_embedding"
SUBTRACT_ONE: Final = "subtract_one_as_stored"
SPLIT: Final = "split"


class Parts(Protocol):
    """Reads parts of a leaf."""

    def read(self, index: Index) -> NDArray[Any]:
        """Read what an index of one entry an axis selects; integers drop their axis."""
        ...


@dataclass(frozen=True)
class TensorForm:
    """One tensor of Hugging Face's form, in a leaf.

    Attributes
    ----------
    key : str
        Hugging Face's name.
    array : LeafArray
    layout : Layout
    scan_axis : int or None
        Where the leaf has its layers; None where it has none.
    position : int
        Which of them.
    part : (int, int) or None
        Rows that belong to this tensor, where the leaf holds more.
    half_split : bool
        Whether each head's rows are interleaved in the leaf.
    multiply, divide, subtract : float
        What the export does to every value; 1, 1 and 0 for nothing.
    """

    key: str
    array: LeafArray
    layout: Layout
    scan_axis: int | None = None
    position: int = 0
    part: tuple[int, int] | None = None
    half_split: bool = False
    multiply: float = 1.0
    divide: float = 1.0
    subtract: float = 0.0

    @property
    def encoding(self) -> Encoding:
        """The leaf's."""
        return self.array.encoding

    @property
    def axes(self) -> tuple[int, ...]:
        """Where the layout's axes are in the leaf, in the layout's order."""
        at = self.scan_axis
        return tuple(axis + (at is not None and axis >= at) for axis in range(self.layout.ndim))

    def _sizes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.array.shape[self.axes[axis]] for axis in axes)

    @property
    def rows(self) -> tuple[int, int]:
        """Rows [first, last) of the leaf's matrix that are this tensor's."""
        return self.part or (0, math.prod(self._sizes(self.layout.rows)))

    @property
    def n_columns(self) -> int:
        """Values in a row."""
        return math.prod(self._sizes(self.layout.columns))

    @property
    def n_matrices(self) -> int:
        """Experts, or 1."""
        return self._sizes((self.layout.experts,))[0] if self.layout.experts is not None else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """In Hugging Face's form."""
        if not self.layout.rows:
            return (self.n_columns,)
        first, last = self.rows
        experts = (self.n_matrices,) if self.layout.experts is not None else ()
        return (*experts, last - first, self.n_columns)

    @property
    def transforms(self) -> tuple[str, ...]:
        """What is done to the leaf's values, in order."""
        steps = {
            ORDER_AXES: bool(self.layout.rows) and self.layout.rows[0] > self.layout.columns[0],
            UNPERMUTE: self.half_split,
            SCALE: self.multiply != 1,
            UNSCALE_EMBEDDING: self.divide != 1,
            SUBTRACT_ONE: self.subtract != 0,
            SPLIT: self.part is not None,
        }
        return tuple(name for name, done in steps.items() if done)

    @property
    def is_exact(self) -> bool:
        """Whether every value is one of the leaf's, only moved."""
        return self.multiply == 1 and self.divide == 1 and not self.subtract

    def read_rows(self, parts: Parts, start: int, stop: int) -> NDArray[Any]:
        """Read rows [start, stop), all matrices flattened, shape (stop - start, n_columns)."""
        if not self.layout.rows:
            return self._exported(self._region(parts, 0, 0, 1))
        first, last = self.rows
        height = last - first
        pieces = []
        while start < stop:
            matrix, row = divmod(start, height)
            end = min(height, row + stop - start)
            pieces.append(self._region(parts, matrix, first + row, first + end))
            start += end - row
        if not pieces:
            return np.empty((0, self.n_columns), self.encoding.logical_dtype)
        return self._exported(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

    def _region(self, parts: Parts, matrix: int, start: int, stop: int) -> NDArray[Any]:
        """Read rows [start, stop) of one matrix as the leaf has them, but for the order of its axes."""
        layout = self.layout
        index: list[int | slice] = [slice(None)] * len(self.array.shape)
        if self.scan_axis is not None:
            index[self.scan_axis] = self.position
        if layout.experts is not None:
            index[self.axes[layout.experts]] = matrix
        inner = math.prod(self._sizes(layout.rows[1:]))  # rows of one head; 1 where rows have one axis
        first = start // inner
        if layout.rows:
            index[self.axes[layout.rows[0]]] = slice(first, -(-stop // inner))
        found = parts.read(tuple(index))
        kept = sorted((*layout.rows, *layout.columns))
        ordered = found.transpose([kept.index(axis) for axis in (*layout.rows, *layout.columns)])
        if self.half_split:
            ordered = np.concatenate([ordered[:, 0::2], ordered[:, 1::2]], axis=1)  # (heads, head_dim, in)
        rows = ordered.reshape(-1, self.n_columns)
        return rows[start - first * inner : stop - first * inner] if layout.rows else rows

    def _exported(self, values: NDArray[Any]) -> NDArray[Any]:
        """Undo what MaxText's import does to the values, in the arithmetic of its export."""
        if self.is_exact:
            return values
        wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values
        with np.errstate(all="ignore"):
            wide = wide * np.float32(self.multiply) / np.float32(self.divide) - np.float32(self.subtract)
        return wide.astype(values.dtype)
