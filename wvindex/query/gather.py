"""Reads and decodes rows of an array into a result: the bytes that it needs, in tiles of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.decode import decode_rows
from wvindex.query.indexing import Positions, covering, relative

TILE_BYTES: Final = 16 << 20
"""Encoded bytes that are held while they are decoded: some chunks, so that reads run at full speed."""

TILE_VALUES: Final = 8 << 20
"""Decoded values that are held where a result takes some columns of them only: 32 MiB."""


@runtime_checkable
class ChunkedReader(Protocol):
    """A RowReader whose rows lie in chunks that are verified when they are read whole."""

    def chunk_range(self, row: int) -> tuple[int, int]:
        """Give the rows [start, stop) of the chunk that holds `row`."""
        ...


@dataclass(frozen=True)
class BlockSpan:
    """The blocks of a row that cover some of its values.

    Attributes
    ----------
    values : (int, int)
        Values [start, stop) that the blocks hold.
    data : (int, int)
        Their bytes in the encoded row.
    scales : (int, int)
        Columns of the row of scales that they need; (0, 0) without scales.
    """

    values: tuple[int, int]
    data: tuple[int, int]
    scales: tuple[int, int]


def block_span(spec: ArraySpec, start: int, stop: int) -> BlockSpan:
    """Give the blocks that cover values [start, stop) of a row."""
    encoding = spec.encoding
    scale_columns = encoding.scale_block[1] if encoding.scale_block else 0
    unit = scale_columns or encoding.block_size
    first, last = start // unit * unit, min(-(-stop // unit) * unit, spec.row_values)
    data = (encoding.row_bytes(first), encoding.row_bytes(last))
    scales = (first // scale_columns, -(-last // scale_columns)) if scale_columns else (0, 0)
    return BlockSpan((first, last), data, scales)


def scale_rows(spec: ArraySpec, start: int, stop: int) -> tuple[int, int]:
    """Give the rows of the array's scales that rows [start, stop) need."""
    if spec.encoding.scale_block is None or start >= stop:
        return 0, 0
    block_rows = spec.encoding.scale_block[0]
    of_matrix = -(-spec.matrix_rows // block_rows)

    def scale_row(row: int) -> int:
        matrix, within = divmod(row, spec.matrix_rows)
        return matrix * of_matrix + within // block_rows

    return scale_row(start), scale_row(stop - 1) + 1


def read_scales(spec: ArraySpec, reader: RowReader, start: int, stop: int) -> NDArray[np.float32]:
    """Read the scales that rows [start, stop) need, all columns; shape (scale rows, scale columns)."""
    columns = spec.scale_shape[1] if spec.scale_shape else 0
    first, last = scale_rows(spec, start, stop)
    scales = np.empty((last - first, columns), np.float32)
    if scales.size:
        reader.read_scales(first, last, _bytes_of(scales))
    return scales


def read_raw(spec: ArraySpec, reader: RowReader, start: int, stop: int, span: BlockSpan) -> NDArray[np.uint8]:
    """Read the encoded blocks of rows [start, stop); shape (rows, bytes of the span)."""
    first, last = span.data
    raw = np.empty((stop - start, last - first), np.uint8)
    if raw.size:
        whole = last - first == spec.row_bytes
        reader.read_rows(start, stop, _bytes_of(raw), span=None if whole else span.data)
    return raw


def gather(
    spec: ArraySpec, reader: RowReader, rows: NDArray[np.int64], columns: Positions, out: NDArray[Any]
) -> None:
    """Decode the given rows and columns of an array into `out`.

    Parameters
    ----------
    spec : ArraySpec
    reader : RowReader
    rows : array of int64
        Strictly ascending.
    columns : range or array of int64
    out : array, shape (rows, columns)
        Filled. Of a dtype that `wvindex.formats.decode.decode_rows` gives.

    Raises
    ------
    UndecodableType
        If nobody decodes the encoding.
    """
    if out.size:
        _Gatherer(spec, reader, columns, out).run(rows)


class _Gatherer:
    """One request: which bytes of a row it needs, and where their values go."""

    def __init__(self, spec: ArraySpec, reader: RowReader, columns: Positions, out: NDArray[Any]) -> None:
        self.spec = spec
        self.reader = reader
        self.out = out
        self.span = block_span(spec, *covering(columns))
        self.width = self.span.values[1] - self.span.values[0]
        self.take = relative(columns, self.span.values[0])
        self.takes_all = isinstance(columns, range) and columns.step == 1 and len(columns) == self.width

    def run(self, rows: NDArray[np.int64]) -> None:
        encoding, span_bytes = self.spec.encoding, self.span.data[1] - self.span.data[0]
        # Less than half of each row: a short read a row is cheaper than bytes that are thrown away.
        narrow = 2 * span_bytes <= self.spec.row_bytes or len(rows) == 1
        read_bytes = span_bytes if narrow else self.spec.row_bytes
        if self._is_direct(read_bytes):
            self._read_direct(rows)
            return
        tile_rows = max(TILE_BYTES // max(read_bytes, 1), 1)
        if not self.takes_all:
            tile_rows = max(min(tile_rows, TILE_VALUES // self.width), 1)
        raw = np.empty((min(tile_rows, len(rows)), read_bytes), np.uint8)
        position = 0
        for pieces in self._batches(rows, tile_rows, alone=encoding.scale_block is not None):
            filled = 0
            for start, stop in pieces:
                part = raw[filled : filled + stop - start]
                span = self.span.data if narrow and read_bytes != self.spec.row_bytes else None
                self.reader.read_rows(start, stop, _bytes_of(part), span=span)
                filled += stop - start
            blocks = raw[:filled] if narrow else raw[:filled, self.span.data[0] : self.span.data[1]]
            self._decode(blocks, pieces[0], self.out[position : position + filled])
            position += filled

    def _is_direct(self, read_bytes: int) -> bool:
        """Whether the stored bytes are the result's own."""
        same = self.spec.encoding.is_plain and self.out.dtype == self.spec.encoding.dtype
        return (
            same
            and self.takes_all
            and read_bytes == self.out.itemsize * self.width
            and bool(self.out.flags.c_contiguous)
        )

    def _read_direct(self, rows: NDArray[np.int64]) -> None:
        span = None if self.width == self.spec.row_values else self.span.data
        position = 0
        for start, stop in _runs(rows):
            part = self.out[position : position + stop - start]
            self.reader.read_rows(start, stop, _bytes_of(part), span=span)
            position += stop - start

    def _decode(self, raw: NDArray[np.uint8], piece: tuple[int, int], out: NDArray[Any]) -> None:
        scales, first_row = self._scales(*piece)
        values = out if self.takes_all else np.empty((len(out), self.width), out.dtype)
        decode_rows(raw, self.spec.encoding, values, scales=scales, first_row=first_row)
        if values is not out:
            out[...] = values[:, self.take]

    def _scales(self, start: int, stop: int) -> tuple[NDArray[np.float32] | None, int]:
        """Give the scales of one matrix's rows, and where the first row stands in its block."""
        if self.spec.encoding.scale_block is None:
            return None, 0
        scales = read_scales(self.spec, self.reader, start, stop)
        first, last = self.span.scales
        return scales[:, first:last], start % self.spec.matrix_rows % self.spec.encoding.scale_block[0]

    def _batches(
        self, rows: NDArray[np.int64], tile_rows: int, *, alone: bool
    ) -> Iterator[list[tuple[int, int]]]:
        """Join ranges of rows to tiles; with `alone`, each is a tile of its own."""
        batch: list[tuple[int, int]] = []
        held = 0
        for start, stop in self._pieces(rows, tile_rows):
            if batch and (alone or held + stop - start > tile_rows):
                yield batch
                batch, held = [], 0
            batch.append((start, stop))
            held += stop - start
        if batch:
            yield batch

    def _pieces(self, rows: NDArray[np.int64], tile_rows: int) -> Iterator[tuple[int, int]]:
        """Cut ranges of rows to at most a tile, at the ends of chunks where there are any."""
        scaled = self.spec.encoding.scale_block is not None
        for start, stop in _runs(rows):
            at = start
            while at < stop:
                until = min(stop, at + tile_rows)
                if scaled:
                    until = min(until, (at // self.spec.matrix_rows + 1) * self.spec.matrix_rows)
                if until < stop and isinstance(self.reader, ChunkedReader):
                    begin = self.reader.chunk_range(until)[0]
                    until = begin if begin > at else until
                yield at, until
                at = until


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Join ascending rows to ranges [start, stop)."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate(([0], breaks))]
    stops = rows[np.concatenate((breaks, [len(rows)])) - 1] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Give the memory of a C-contiguous array that is not empty, as bytes."""
    return array.reshape(-1).view(np.uint8).data
