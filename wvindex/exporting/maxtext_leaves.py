"""Leaves of MaxText's tree made of a store's arrays, a chunk at a time.

What `wvindex.sources.maxtext_tensors` does to a leaf is undone: rows and columns of each layer's matrix
become the leaf's axes; queries are divided by the root of the head's width, heads of Llama 3.1 interleaved, 1
added to Gemma's norms and its embedding multiplied, in float32 and back, as MaxText's own conversion does
(``checkpoint_conversion/utils/param_mapping.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.converting.orbax_values import Region
from wvindex.errors import UnsupportedError
from wvindex.exporting.tensors import OutTensor
from wvindex.formats.encodings import F16, F32, Encoding
from wvindex.sources.maxtext_names import Layout
from wvindex.store.layout import near_divisor
from wvindex.transform.rows import byte_view

STEP: Final = "0"
ITEMS: Final = f"{STEP}/items"
"""Where the tree is: the item of the step that MaxText's conversions write."""

SCAN_AXIS: Final = 1
"""``param_scan_axis``, MaxText's default."""

_CHUNK_BYTES: Final = 8 << 20
"""What a chunk has, about, as it is decoded."""

BUFFERS: Final = 6
"""Chunks' worth of memory that making one takes: as read, as float32 and multiplied, turned, compressed."""


@dataclass(frozen=True)
class Change:
    """What is done to every value.

    Attributes
    ----------
    multiply, add : float
        1 and 0 for nothing.
    interleave : bool
        Whether the halves of each head's rows are put in turns.
    """

    multiply: float = 1.0
    add: float = 0.0
    interleave: bool = False

    @property
    def moves_only(self) -> bool:
        """Whether every value stays what it is."""
        return self.multiply == 1 and not self.add

    def applied(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Give the values changed, in float32."""
        wide = values.astype(np.float32)
        with np.errstate(all="ignore"):
            return wide * np.float32(self.multiply) + np.float32(self.add)


NOTHING: Final = Change()


@dataclass(frozen=True)
class LeafForm:
    """One leaf.

    Attributes
    ----------
    path : tuple of str
    layout : Layout
        The axes, without layers.
    sizes : tuple of int
        Along each of them.
    layers : tuple of OutTensor
        The arrays that it is of, in Hugging Face's form; one where it is not scanned.
    scanned : bool
        Whether it has an axis of layers, at `SCAN_AXIS`.
    change : Change
    """

    path: tuple[str, ...]
    layout: Layout
    sizes: tuple[int, ...]
    layers: tuple[OutTensor, ...]
    scanned: bool
    change: Change = NOTHING

    @property
    def name(self) -> str:
        """As Orbax joins the path."""
        return ".".join(self.path)

    @property
    def encoding(self) -> Encoding:
        """That of the arrays; float32 where 1 is added, which narrower types would round."""
        return F32 if self.change.add else self.layers[0].encoding

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf."""
        if not self.scanned:
            return self.sizes
        return (*self.sizes[:SCAN_AXIS], len(self.layers), *self.sizes[SCAN_AXIS:])

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return math.prod(self.shape) * self.encoding.type_size

    @property
    def is_rounded(self) -> bool:
        """Whether dividing or multiplying may leave something out."""
        exact = math.frexp(self.change.multiply)[0] == 0.5 and self.encoding != F16
        return self.change.multiply != 1 and not exact

    @property
    def _axes(self) -> tuple[int, ...]:
        """Where the layout's axes are in the leaf."""
        return tuple(axis + (self.scanned and axis >= SCAN_AXIS) for axis in range(len(self.sizes)))

    @cached_property
    def chunk_shape(self) -> tuple[int, ...]:
        """What is written at once: of large leaves one layer, one expert, some of a matrix's rows."""
        chunk = list(self.shape)
        if self.nbytes <= _CHUNK_BYTES:
            return self.shape
        if self.scanned:
            chunk[SCAN_AXIS] = 1
        if self.layout.experts is not None:
            chunk[self._axes[self.layout.experts]] = 1
        if self.layout.rows:
            axis = self._axes[self.layout.rows[0]]
            row_bytes = math.prod(chunk) // max(chunk[axis], 1) * self.encoding.type_size
            chunk[axis] = near_divisor(max(chunk[axis], 1), max(_CHUNK_BYTES // max(row_bytes, 1), 1))
        return tuple(chunk)

    @property
    def chunk_nbytes(self) -> int:
        """Of one chunk, decoded."""
        return math.prod(self.chunk_shape) * self.encoding.type_size

    def read(self, region: Region) -> NDArray[Any]:
        """Make what stands in a region: ranges of layers, experts and a matrix's first axis of rows."""
        out = np.empty([axis.stop - axis.start for axis in region], self.encoding.logical_dtype)
        for index, layer, expert in self._matrices(region):
            out[index] = self._turned(layer, expert, region)
        return out

    def _matrices(self, region: Region) -> Iterator[tuple[tuple[int | slice, ...], OutTensor, int]]:
        """Give each matrix of a region: where it goes, its array, and which of the array's matrices it is."""
        layers = region[SCAN_AXIS] if self.scanned else slice(0, 1)
        at = None if self.layout.experts is None else self._axes[self.layout.experts]
        experts = slice(0, 1) if at is None else region[at]
        for position, layer in enumerate(self.layers[layers]):
            for place, expert in enumerate(range(experts.start, experts.stop)):
                index: list[int | slice] = [slice(None)] * len(region)
                if self.scanned:
                    index[SCAN_AXIS] = position
                if at is not None:
                    index[at] = place
                yield tuple(index), layer, expert

    def _turned(self, array: OutTensor, expert: int, region: Region) -> NDArray[Any]:
        """Give rows of one matrix with the axes in the leaf's order."""
        rows, columns = self.layout.rows, self.layout.columns
        widths = [self.sizes[axis] for axis in columns]
        if not rows:
            return self._changed(_rows_of(array, 0, 1).reshape(widths), array)
        inner = math.prod(
            self.sizes[axis] for axis in rows[1:]
        )  # rows of one head; 1 where rows have one axis
        first = region[self._axes[rows[0]]]
        height = math.prod(self.sizes[axis] for axis in rows)
        start = expert * height
        found = _rows_of(array, start + first.start * inner, start + first.stop * inner)
        matrix = found.reshape(first.stop - first.start, *(self.sizes[axis] for axis in rows[1:]), *widths)
        if self.change.interleave:
            matrix = _interleaved(matrix)  # (heads, head_dim, in)
        return self._changed(matrix, array).transpose(np.argsort((*rows, *columns)))

    def _changed(self, values: NDArray[Any], array: OutTensor) -> NDArray[Any]:
        """Give values changed, in the leaf's type, none of which becomes infinite by it.

        Raises
        ------
        UnsupportedError
            If a finite value is too large for the type once it is multiplied.
        """
        if self.change.moves_only:
            return values
        with np.errstate(all="ignore"):
            narrow = self.change.applied(values).astype(self.encoding.logical_dtype)
        lost = ~np.isfinite(narrow)
        if lost.any() and (lost := lost & np.isfinite(values)).any():
            raise UnsupportedError(
                f"a value is too large for {self.encoding.name} as MaxText keeps it, times "
                f"{self.change.multiply:.6g}",
                tensor=array.name,
                expected="dtype bfloat16 or float32" if self.encoding == F16 else "a smaller value",
                found=float(values[lost][0]),
            )
        return narrow


def _rows_of(array: OutTensor, start: int, stop: int) -> NDArray[Any]:
    """Read rows [start, stop), all matrices flattened, shape (stop - start, row_values)."""
    rows = array.rows
    values = np.empty((stop - start, rows.row_values), array.encoding.logical_dtype)
    rows.read_rows(start, stop, byte_view(values))
    return values


def _interleaved(heads: NDArray[Any]) -> NDArray[Any]:
    """Put first and second half of axis 1 in turns."""
    half = heads.shape[1] // 2
    turned = np.empty_like(heads)
    turned[:, 0::2], turned[:, 1::2] = heads[:, :half], heads[:, half:]
    return turned
