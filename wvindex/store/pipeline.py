"""Chunks on their way to the disk: read by one thread, written and synced by others, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Semaphore
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UndecodableType
from wvindex.formats.arrays import RowReader
from wvindex.formats.finite import count_nonfinite
from wvindex.store.checksum import Buffer, crc32c
from wvindex.store.durable import write_file
from wvindex.store.layout import ChunkGrid

WORKERS: Final = 4
"""Threads that write. More than cores: a sync waits for the disk."""

TILES: Final = 3
"""Tiles in memory: one is filled while the others are written."""


@dataclass(frozen=True)
class WrittenChunk:
    """What is known of a chunk once it is on the disk.

    Attributes
    ----------
    crc32c : int
        Of the file's bytes, padding included.
    nan, inf : int or None
        Values that are not finite; None where nobody decodes the encoding.
    nbytes : int
        Encoded bytes, without padding.
    """

    crc32c: int
    nan: int | None
    inf: int | None
    nbytes: int


class ChunkPipeline:
    """Writes chunks in the background. `close` waits for what is under way."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="wvindex-write")
        self._slots = Semaphore(TILES)
        self._free: deque[NDArray[np.uint8]] = deque()

    def write(
        self, directory: Path, grid: ChunkGrid, rows: RowReader, workspace: int
    ) -> list[Future[WrittenChunk]]:
        """Read an array's rows tile by tile and hand its chunks to the writers.

        Returns once all is read; the chunks may still be on their way.

        Parameters
        ----------
        directory : Path
            Of the array.
        grid : ChunkGrid
        rows : RowReader
            Gives the encoded rows. An attribute ``preferred_tile_bytes`` says how many bytes it likes to
            give at once.
        workspace : int
            Bytes that all tiles together may hold; each holds a chunk at least.

        Returns
        -------
        list of Future of WrittenChunk
            By chunk index.
        """
        futures: list[Future[WrittenChunk]] = []
        step = _chunks_per_tile(grid, rows, workspace // TILES)
        for first in range(0, grid.n_chunks, step):
            futures += self._write_tile(directory, grid, rows, range(first, min(first + step, grid.n_chunks)))
        return futures

    def close(self) -> None:
        """Wait for the writers; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _write_tile(
        self, directory: Path, grid: ChunkGrid, rows: RowReader, indices: range
    ) -> list[Future[WrittenChunk]]:
        row_bytes = grid.spec.row_bytes
        start, stop = grid.row_range(indices[0])[0], grid.row_range(indices[-1])[1]
        tile = _Tile(self._take((stop - start) * row_bytes), len(indices), self._give_back)
        try:
            raw = tile.buffer[: (stop - start) * row_bytes]
            rows.read_rows(start, stop, raw.data)
            scales = [_scales(grid, rows, index) for index in indices]
        except BaseException:
            self._give_back(tile.buffer)
            raise
        futures = []
        for index, chunk_scales in zip(indices, scales, strict=True):
            a, b = grid.row_range(index)
            part = raw[(a - start) * row_bytes : (b - start) * row_bytes]
            future = self._pool.submit(_write_chunk, directory, grid, index, part, chunk_scales)
            future.add_done_callback(tile.chunk_done)
            futures.append(future)
        return futures

    def _take(self, nbytes: int) -> NDArray[np.uint8]:
        """Give a buffer of at least `nbytes`, waiting until one may be had."""
        self._slots.acquire()
        buffer = self._free.popleft() if self._free else np.empty(0, np.uint8)
        return buffer if buffer.size >= nbytes else np.empty(nbytes, np.uint8)

    def _give_back(self, buffer: NDArray[np.uint8]) -> None:
        self._free.append(buffer)
        self._slots.release()


class _Tile:
    """A buffer, and how many chunks of it are still to be written; the last one gives it back."""

    def __init__(
        self, buffer: NDArray[np.uint8], chunks: int, give_back: Callable[[NDArray[np.uint8]], None]
    ) -> None:
        self.buffer = buffer
        self._left = chunks
        self._give_back = give_back
        self._lock = Lock()

    def chunk_done(self, _: Future[WrittenChunk]) -> None:
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._give_back(self.buffer)


def _scales(grid: ChunkGrid, rows: RowReader, index: int) -> NDArray[np.uint8]:
    scales = np.empty(grid.scale_nbytes(index), np.uint8)
    if scales.size:
        rows.read_scales(*grid.scale_range(index), scales.data)
    return scales


def _write_chunk(
    directory: Path, grid: ChunkGrid, index: int, raw: NDArray[np.uint8], scales: NDArray[np.uint8]
) -> WrittenChunk:
    """Write and sync one chunk: its rows, its scales, its padding."""
    parts: Sequence[Buffer] = [raw.data, scales.data, bytes(grid.padding_nbytes(index))]
    write_file(directory / grid.name(index), parts, fsync=True)
    nan, inf = _count(grid, raw, scales)
    return WrittenChunk(crc32c(parts), nan, inf, raw.nbytes + scales.nbytes)


def _count(
    grid: ChunkGrid, raw: NDArray[np.uint8], scale_bytes: NDArray[np.uint8]
) -> tuple[int, int] | tuple[None, None]:
    spec = grid.spec
    scales = None
    if spec.scale_shape is not None:
        scales = scale_bytes.view(np.float32).reshape(-1, spec.scale_shape[1])
    try:
        return count_nonfinite(raw.reshape(-1, spec.row_bytes), spec.encoding, scales)
    except UndecodableType:
        return None, None


def _chunks_per_tile(grid: ChunkGrid, rows: RowReader, tile_bytes: int) -> int:
    """Choose how many chunks are read at once: what the reader prefers, if the workspace allows."""
    chunk_bytes = max(grid.rows * grid.spec.row_bytes, 1)
    preferred = int(getattr(rows, "preferred_tile_bytes", chunk_bytes))
    return max(min(preferred, tile_bytes) // chunk_bytes, 1)
