"""Ways to put rows together: one part under another, cast, cut, reordered, joined; each again `Rows`."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.decode import encode_plain
from wvindex.formats.encodings import Encoding, with_scale_block
from wvindex.sources.base import Source, TensorInfo
from wvindex.transform.rope import Order
from wvindex.transform.rows import Rows, SourceRows, decoded

TILE_VALUES: Final = 1 << 20
"""Values decoded at once where rows are cast: 4 MiB of float32."""


class Alike(Sequence[Rows]):
    """Parts that differ in nothing but their place, each made anew when it is asked for.

    A model may have a hundred thousand experts, of which nobody may read one.

    Parameters
    ----------
    count : int
    make : callable
        Gives the part of an index.
    """

    def __init__(self, count: int, make: Callable[[int], Rows]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        """Give the number of parts."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rows]: ...
    def __getitem__(self, index: int | slice) -> Rows | list[Rows]:
        """Make a part, or several."""
        found = range(self._count)[index]
        return self._make(found) if isinstance(found, int) else [self._make(one) for one in found]


class Concat:
    """Rows of several parts, one part under another, all of one encoding and width.

    Parameters
    ----------
    parts : sequence of Rows
    stacked : bool
        Whether each part is a matrix of its own (experts), or all together are one.
    """

    def __init__(self, parts: Sequence[Rows], *, stacked: bool) -> None:
        first = parts[0]
        self.parts = parts if isinstance(parts, Alike) else tuple(parts)
        self.encoding = first.encoding
        self.row_values = first.row_values
        alike = isinstance(parts, Alike)
        heights = [first.n_rows] * len(parts) if alike else [part.n_rows for part in parts]
        block = self.encoding.scale_block
        self._ends = list(accumulate(heights))
        self._scale_ends = list(accumulate(-(-height // block[0]) for height in heights)) if block else []
        self.n_rows = self._ends[-1]
        self.matrix_rows = first.n_rows if stacked else self.n_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) from each part that holds some."""
        width = span[1] - span[0] if span else self.encoding.row_bytes(self.row_values)
        for part, first, last, place in _overlaps(self._ends, start, stop):
            view = out[place * width : (place + last - first) * width]
            self.parts[part].read_rows(first, last, view, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Read scale rows [start, stop) from each part that holds some."""
        block = self.encoding.scale_block
        if block is None:
            return
        width = 4 * -(-self.row_values // block[1])
        for part, first, last, place in _overlaps(self._scale_ends, start, stop):
            self.parts[part].read_scales(first, last, out[place * width : (place + last - first) * width])


def _overlaps(ends: list[int], start: int, stop: int) -> list[tuple[int, int, int, int]]:
    """Find (part, first, last, place): rows [first, last) of a part that stand from `place` in the answer."""
    found = []
    part = bisect.bisect_right(ends, start)
    while start < stop:
        offset = ends[part - 1] if part else 0
        last = min(stop, ends[part])
        if last > start:
            found.append((part, start - offset, last - offset, start))
        start, part = last, part + 1
    return [(part, first, last, begin - found[0][3]) for part, first, last, begin in found]


@dataclass(frozen=True)
class Cast:
    """Rows decoded and written in a plain encoding.

    Attributes
    ----------
    rows : Rows
    encoding : Encoding
        F32, F16 or BF16.
    subtract : float
        Taken from each value first.
    """

    rows: Rows
    encoding: Encoding
    subtract: float = 0.0

    @property
    def n_rows(self) -> int:
        """As before the cast."""
        return self.rows.n_rows

    @property
    def row_values(self) -> int:
        """As before the cast."""
        return self.rows.row_values

    @property
    def matrix_rows(self) -> int:
        """As before the cast."""
        return self.rows.matrix_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Decode rows [start, stop) tile by tile; a span is cut from whole rows."""
        n = self.row_values
        left, right = span or (0, self.encoding.row_bytes(n))
        cut = np.frombuffer(out, np.uint8).reshape(stop - start, right - left)
        tile = max(1, TILE_VALUES // max(n, 1))
        for first in range(start, stop, tile):
            last = min(first + tile, stop)
            values = decoded(self.rows, first, last)
            if self.subtract:
                values -= np.float32(self.subtract)
            encoded = np.empty((last - first, n), self.encoding.dtype)
            encode_plain(values, self.encoding, encoded)
            cut[first - start : last - start] = encoded.view(np.uint8)[:, left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""


@dataclass(frozen=True)
class Slice:
    """Rows [first, last) of plain rows."""

    rows: Rows
    first: int
    last: int

    @property
    def encoding(self) -> Encoding:
        """As before the cut."""
        return self.rows.encoding

    @property
    def n_rows(self) -> int:
        """Rows that are left."""
        return self.last - self.first

    @property
    def matrix_rows(self) -> int:
        """Rows that are left: one matrix."""
        return self.n_rows

    @property
    def row_values(self) -> int:
        """As before the cut."""
        return self.rows.row_values

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read rows [start, stop) of the part."""
        self.rows.read_rows(self.first + start, self.first + stop, out, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""


@dataclass(frozen=True)
class AsVector:
    """A column of values, one a row, read as one row: how the parts of a vector are cut and moved."""

    rows: Rows

    n_rows = 1
    matrix_rows = 1

    @property
    def encoding(self) -> Encoding:
        """The column's."""
        return self.rows.encoding

    @property
    def row_values(self) -> int:
        """The column's height."""
        return self.rows.n_rows

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read the vector, or the values within a span of its bytes."""
        size = self.encoding.type_size
        left, right = span or (0, self.row_values * size)
        if stop > start:
            self.rows.read_rows(left // size, right // size, out)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Vectors have no scales."""


@dataclass(frozen=True)
class Reordered:
    """Plain rows in another order, one read each."""

    rows: Rows
    order: Order

    @property
    def encoding(self) -> Encoding:
        """As before."""
        return self.rows.encoding

    @property
    def n_rows(self) -> int:
        """As many as the order names."""
        return self.order.size

    @property
    def matrix_rows(self) -> int:
        """All rows: one matrix."""
        return self.order.size

    @property
    def row_values(self) -> int:
        """As before."""
        return self.rows.row_values

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read the rows that belong in places [start, stop)."""
        row_bytes = self.encoding.row_bytes(self.row_values)
        width = span[1] - span[0] if span else row_bytes
        for place, row in enumerate(self.order[start:stop]):
            view = out[place * width : (place + 1) * width]
            self.rows.read_rows(int(row), int(row) + 1, view, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Plain rows have no scales."""


@dataclass(frozen=True)
class JoinedVectors:
    """Vectors one after another, as one row."""

    parts: tuple[Rows, ...]

    n_rows = 1
    matrix_rows = 1

    @property
    def encoding(self) -> Encoding:
        """The parts' own: all have the same."""
        return self.parts[0].encoding

    @property
    def row_values(self) -> int:
        """Of all parts together."""
        return sum(part.row_values for part in self.parts)

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Read the parts one after another, and cut the span."""
        whole = bytearray()
        for part in self.parts:
            piece = bytearray(part.encoding.row_bytes(part.row_values))
            part.read_rows(0, 1, memoryview(piece))
            whole += piece
        left, right = span or (0, len(whole))
        if stop > start:
            out[:] = whole[left:right]

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Vectors have no scales."""


def tensor_rows(
    source: Source,
    info: TensorInfo,
    *,
    matrix: int | None = None,
    part: tuple[int, int] | None = None,
    order: NDArray[np.int64] | None = None,
    scales: TensorInfo | None = None,
    scale_block: tuple[int, int] | None = None,
) -> Rows:
    """Give rows of a source tensor: all of them, one matrix of a stack, or a part of a matrix.

    Parameters
    ----------
    source, info
        The tensor. A vector is one row; cut or reordered, its values are rows of one.
    matrix : int, optional
        Which matrix of a stack; all where not given.
    part : (int, int), optional
        Rows [start, stop) of the matrix.
    order : array of int64, optional
        As in `SourceRows`, counted from the part's start.
    scales, scale_block : optional
        FP8 scales. `part` then begins and ends on block boundaries, or at the matrix's end.
    """
    if len(info.shape) < 2:
        return _vector_rows(source, info, part, order)
    height = info.shape[-2]
    start, stop = part or (0, height)
    whole = matrix is None and part is None
    n_rows = math.prod(info.shape[:-1]) if whole else stop - start
    encoding = info.encoding
    scale_first = 0
    if scale_block is not None:
        encoding = with_scale_block(encoding, scale_block)
        scale_first = (matrix or 0) * -(-height // scale_block[0]) + start // scale_block[0]
    first = (matrix or 0) * height + start
    return SourceRows(
        source,
        info,
        encoding,
        n_rows,
        info.shape[-1],
        stop - start,
        first=first,
        order=order,
        scales=scales,
        scale_first=scale_first,
    )


def _vector_rows(
    source: Source, info: TensorInfo, part: tuple[int, int] | None, order: NDArray[np.int64] | None
) -> Rows:
    n = info.shape[0] if info.shape else 1
    if part is None and order is None:
        return SourceRows(source, info, info.encoding, 1, n, 1)
    start, stop = part or (0, n)
    count = stop - start
    return AsVector(SourceRows(source, info, info.encoding, count, 1, count, first=start, order=order))
