"""Encoded rows of an array in tiles of bounded size: read over all cores, or one ahead of the other.

A tile ends where a chunk ends, so that chunks are read whole and verified. Reading and what is done with
a tile alternate on every thread, on a buffer of its own that stays in the processor's caches: while one
thread waits for the disk or the kernel copies for it, another decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import ArraySpec, RowReader
from wvindex.formats.kernels import threads
from wvindex.formats.workers import share
from wvindex.query.indexing import Positions
from wvindex.query.memory import new_array, prove
from wvindex.query.spans import BlockSpan, bytes_of, read_scales, row_in_block

TILE_BYTES: Final = 4 << 20
"""Encoded bytes of a tile: a chunk of usual size, and within the last cache."""

MAX_CHUNK_BYTES: Final = 16 << 20
"""A larger chunk than this is verified first, and then read in parts."""

MAX_THREADS: Final = 8
"""Threads that read, each with a tile of its own: they decode more than memory takes."""

PARALLEL_BYTES: Final = 1 << 20
"""Encoded bytes that are worth starting threads for: a millisecond's work."""

Run = tuple[int, int]
"""Rows [start, stop) of an array."""


@runtime_checkable
class ChunkedReader(Protocol):
    """A RowReader whose rows lie in chunks that are verified when they are read whole."""

    def chunk_range(self, row: int) -> tuple[int, int]:
        """Give the rows [start, stop) of the chunk that holds `row`."""
        ...

    def verify(self, row: int) -> None:
        """Verify the chunk that holds `row`."""
        ...


@dataclass(frozen=True)
class Tile:
    """Encoded rows in memory, until the next tile is read into their buffer.

    Attributes
    ----------
    place : slice
        Where they stand among the rows that were asked for.
    raw : array of uint8, shape (n_rows, bytes of the span)
        Contiguous within a row.
    scales : array of float32, shape (scale rows, scale columns), or None
        For FP8 with scales: of these rows and columns alone.
    first_row : int
        Where the first row stands in its scale block.
    """

    place: slice
    raw: NDArray[np.uint8]
    scales: NDArray[np.float32] | None = None
    first_row: int = 0


Consumer = Callable[[Tile, int | None], None]
"""What is done with a tile, and on how many threads: 1 where tiles are many, None (all) for the only one."""


class _Batch(NamedTuple):
    """What makes up a tile: where its rows stand among those that were asked for, and which they are."""

    position: int
    pieces: list[Run]

    @property
    def n_rows(self) -> int:
        return sum(stop - start for start, stop in self.pieces)


class Request:
    """Rows of an array, the blocks of each that `span` names, in tiles.

    Parameters
    ----------
    spec : ArraySpec
    reader : RowReader
        May be asked from several threads at once.
    rows : range or array of int64
        Strictly ascending, at least one; a range has a step of 1.
    span : BlockSpan

    Attributes
    ----------
    covered : (int, int)
        From the first row to the last.
    """

    def __init__(
        self,
        spec: ArraySpec,
        reader: RowReader,
        rows: Positions,
        span: BlockSpan,
    ) -> None:
        self.spec = spec
        self.reader = reader
        self.span = span
        # Less than half of each row: a short read a row is cheaper than bytes that are thrown away.
        self._narrow = 2 * span.nbytes <= spec.row_bytes or len(rows) == 1
        self._read_bytes = span.nbytes if self._narrow else spec.row_bytes
        self.n_rows = len(rows)
        self.covered = (int(rows[0]), int(rows[-1]) + 1)
        prove(reader, self.covered, self.nbytes)
        self._verified_first: set[int] = set()  # rows that begin a chunk which is cut
        self._batches = list(self._batch(rows))

    @property
    def nbytes(self) -> int:
        """Bytes that are read, without scales."""
        return self.n_rows * self._read_bytes

    @property
    def reads_span_only(self) -> bool:
        """Whether what is read is the span and nothing else."""
        return self._read_bytes == self.span.nbytes

    def each(self, consume: Consumer) -> None:
        """Hand every tile to `consume`, in any order and from several threads."""
        n_threads = None if len(self._batches) == 1 else 1

        def work(batches: Iterator[_Batch]) -> None:
            buffer = self._buffer()
            for batch in batches:
                consume(self._read(batch, buffer), n_threads)

        share(self._batches, work, self._n_threads)

    @property
    def runs(self) -> list[Run]:
        """Where the rows of each tile stand among those that were asked for."""
        return [(batch.position, batch.position + batch.n_rows) for batch in self._batches]

    def in_turn(self) -> Iterator[Tile]:
        """Give tiles one after another, read by this thread into one buffer."""
        buffer = self._buffer()
        return (self._read(batch, buffer) for batch in self._batches)

    def read_into(self, out: NDArray[np.uint8]) -> None:
        """Read the blocks themselves into `out`, (n_rows, bytes of the span); `reads_span_only` must hold."""

        def work(batches: Iterator[_Batch]) -> None:
            for batch in batches:
                self._fill(batch.pieces, out[batch.position :])

        share(self._batches, work, self._n_threads)

    def ahead(self) -> Iterator[Tile]:
        """Give tiles one after another; each next one is read while the caller works on the last."""
        if len(self._batches) == 1:
            yield self._read(self._batches[0], self._buffer())
            return
        buffers = (self._buffer(), self._buffer())
        with ThreadPoolExecutor(1, thread_name_prefix="wvindex-read") as pool:
            coming = _begun(pool, partial(self._read, self._batches[0], buffers[0]))
            for i, batch in enumerate(self._batches[1:], 1):
                tile = coming()
                coming = _begun(pool, partial(self._read, batch, buffers[i % 2]))
                yield tile
            yield coming()

    @property
    def _n_threads(self) -> int:
        """Threads to read with; no other where little is read."""
        return min(threads(), MAX_THREADS) if self.nbytes >= PARALLEL_BYTES else 1

    def _buffer(self) -> NDArray[np.uint8]:
        rows = max(batch.n_rows for batch in self._batches)
        return new_array((rows, self._read_bytes), np.uint8, self.spec, self.reader, self.covered)

    def _read(self, batch: _Batch, buffer: NDArray[np.uint8]) -> Tile:
        raw = self._fill(batch.pieces, buffer)
        if not self.reads_span_only:
            raw = raw[:, self.span.data[0] : self.span.data[1]]
        place = slice(batch.position, batch.position + len(raw))
        if self.spec.encoding.scale_block is None:
            return Tile(place, raw)
        ((start, stop),) = batch.pieces
        first, last = self.span.scales
        scales = read_scales(self.spec, self.reader, start, stop)[:, first:last]
        return Tile(place, raw, scales, row_in_block(self.spec, start))

    def _fill(self, pieces: list[Run], buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        span = self.span.data if self._narrow and self._read_bytes != self.spec.row_bytes else None
        filled = 0
        for start, stop in pieces:
            part = buffer[filled : filled + stop - start]
            if start in self._verified_first and isinstance(self.reader, ChunkedReader):
                self.reader.verify(start)
            if part.size:
                self.reader.read_rows(start, stop, bytes_of(part), span=span)
            filled += stop - start
        return buffer[:filled]

    def _batch(self, rows: Positions) -> Iterator[_Batch]:
        """Join ranges of rows to tiles; each comes with its position. With scales, a range is a tile."""
        tile_rows = max(TILE_BYTES // max(self._read_bytes, 1), 1)
        alone = self.spec.encoding.scale_block is not None
        position, held = 0, 0
        batch: list[Run] = []
        for start, stop in self._pieces(rows, tile_rows):
            if batch and (alone or held + stop - start > tile_rows):
                yield _Batch(position, batch)
                batch, position, held = [], position + held, 0
            batch.append((start, stop))
            held += stop - start
        yield _Batch(position, batch)

    def _pieces(self, rows: Positions, tile_rows: int) -> Iterator[Run]:
        """Cut ranges of rows to about a tile, and within a chunk only where it is too large to be held."""
        for start, stop in runs(rows):
            at = start
            while at < stop:
                until = self._cut(at, at + tile_rows, stop) if stop - at > tile_rows else stop
                if self.spec.encoding.scale_block is not None:
                    until = min(until, (at // self.spec.matrix_rows + 1) * self.spec.matrix_rows)
                yield at, until
                at = until

    def _cut(self, at: int, until: int, stop: int) -> int:
        """Move a cut to the end of a chunk; the chunk is verified first where it is cut all the same."""
        if not isinstance(self.reader, ChunkedReader):
            return until
        begin, end = self.reader.chunk_range(until)
        if begin > at:
            return begin
        if end - at <= MAX_CHUNK_BYTES // max(self._read_bytes, 1):
            return min(end, stop)
        if begin == at and end <= stop and self._read_bytes == self.spec.row_bytes:
            self._verified_first.add(at)
        return until


def _begun(pool: ThreadPoolExecutor, read: Callable[[], Tile]) -> Callable[[], Tile]:
    """Begin to read on another thread, and give what waits for it; where there is none, what reads."""
    try:
        return pool.submit(read).result
    except RuntimeError:  # The interpreter ends, or the system has no more threads.
        return read


def runs(rows: Positions) -> list[Run]:
    """Join ascending rows to ranges [start, stop)."""
    if isinstance(rows, range):
        return [(rows.start, rows.stop)]
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate(([0], breaks))]
    stops = rows[np.concatenate((breaks, [len(rows)])) - 1] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))
