"""Chunks on their way to the disk: read by one thread, written by others, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Condition, Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UndecodableType
from wvindex.formats.arrays import RowReader
from wvindex.formats.finite import count_nonfinite
from wvindex.store.checksum import Buffer, crc32c
from wvindex.store.commits import Commits
from wvindex.store.durable import remove_file, reporting, write_file
from wvindex.store.journal import WrittenChunk
from wvindex.store.layout import ChunkGrid

WORKERS: Final = 4
"""Threads that write."""

TILES: Final = 3
"""Tiles in memory: one is filled while the others are written."""


class ChunkPipeline:
    """Writes the chunks of arrays below the directory `root` in the background.

    Parameters
    ----------
    root : Path
        Of the store.
    commits : Commits
        Told of each chunk that is written.
    done : mapping of str to WrittenChunk
        Chunks that are there already, by their files' paths below `root`.
    make_directory : callable
        Makes the directory of an array.
    """

    def __init__(
        self,
        root: Path,
        commits: Commits,
        done: Mapping[str, WrittenChunk],
        make_directory: Callable[[Path], None],
    ) -> None:
        self._root = root
        self._commits = commits
        self._done = done
        self._make_directory = make_directory
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="wvindex-write")
        self._memory = _Memory()
        self._failure: BaseException | None = None

    def write(
        self, path: str, grid: ChunkGrid, rows: RowReader, workspace: int
    ) -> list[Future[WrittenChunk]]:
        """Read an array's rows tile by tile and hand its chunks to the writers.

        Returns once all is read; the chunks may still be on their way. What a tile holds depends on the
        array alone, never on the memory or on what is already there: results of a matrix product may differ
        in their last bits with its size.

        Parameters
        ----------
        path : str
            Of the array, below the root.
        grid : ChunkGrid
        rows : RowReader
            Gives the encoded rows. An attribute ``preferred_tile_bytes`` says how many bytes it likes to
            give at once.
        workspace : int
            Bytes that tiles together may hold; a tile is held whatever its size.

        Returns
        -------
        list of Future of WrittenChunk
            By chunk index.

        Raises
        ------
        StoreError
            If the system has refused a chunk, of this array or of one before.
        """
        self._make_directory(self._root / path)
        names = [f"{path}/{grid.name(index)}" for index in range(grid.n_chunks)]
        missing = [not self._is_done(name, grid, index) for index, name in enumerate(names)]
        futures: list[Future[WrittenChunk]] = []
        step = chunks_per_tile(grid, rows)
        for first in range(0, grid.n_chunks, step):
            indices = range(first, min(first + step, grid.n_chunks))
            if any(missing[index] for index in indices):
                futures += self._write_tile(grid, rows, indices, names, missing, workspace)
            else:
                futures += [_finished(self._done[names[index]]) for index in indices]
        return futures

    def close(self) -> None:
        """Wait for the writers; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _is_done(self, name: str, grid: ChunkGrid, index: int) -> bool:
        """Whether a chunk need not be written; one that is not what was journaled is removed."""
        if name not in self._done:
            return False
        file = self._root / name
        if _is_whole(file, grid.chunk_nbytes(index), self._done[name].crc32c):
            return True
        if os.path.lexists(file):
            remove_file(file)
        return False

    def _write_tile(
        self,
        grid: ChunkGrid,
        rows: RowReader,
        indices: range,
        names: Sequence[str],
        missing: Sequence[bool],
        workspace: int,
    ) -> list[Future[WrittenChunk]]:
        if self._failure is not None:  # a disk that is full stays full: read nothing more
            raise self._failure
        row_bytes = grid.spec.row_bytes
        start, stop = grid.row_range(indices[0])[0], grid.row_range(indices[-1])[1]
        tile = _Tile(self._memory, (stop - start) * row_bytes, workspace, sum(missing[i] for i in indices))
        try:
            rows.read_rows(start, stop, tile.raw.data)
            scales = [_scales(grid, rows, index) for index in indices]
        except BaseException:
            tile.release()
            raise
        futures = []
        for index, chunk_scales in zip(indices, scales, strict=True):
            if not missing[index]:
                futures.append(_finished(self._done[names[index]]))
                continue
            a, b = grid.row_range(index)
            part = tile.raw[(a - start) * row_bytes : (b - start) * row_bytes]
            future = self._pool.submit(self._write_chunk, names[index], grid, index, part, chunk_scales)
            future.add_done_callback(self._note_failure)
            future.add_done_callback(tile.chunk_done)
            futures.append(future)
        return futures

    def _note_failure(self, chunk: Future[WrittenChunk]) -> None:
        if not chunk.cancelled() and self._failure is None:
            self._failure = chunk.exception()

    def _write_chunk(
        self, name: str, grid: ChunkGrid, index: int, raw: NDArray[np.uint8], scales: NDArray[np.uint8]
    ) -> WrittenChunk:
        """Write one chunk: its rows, its scales, its padding."""
        parts: Sequence[Buffer] = [raw.data, scales.data, bytes(grid.padding_nbytes(index))]
        write_file(self._root / name, parts)
        nan, inf = _count(grid, raw, scales)
        chunk = WrittenChunk(crc32c(parts), nan, inf)
        self._commits.add(name, raw.nbytes + scales.nbytes, chunk)
        return chunk


def chunks_per_tile(grid: ChunkGrid, rows: RowReader) -> int:
    """Give how many chunks are read at once: as many as the reader prefers, one at least."""
    chunk_bytes = max(grid.rows * grid.spec.row_bytes, 1)
    preferred = int(getattr(rows, "preferred_tile_bytes", chunk_bytes))
    return max(preferred // chunk_bytes, 1)


def _is_whole(file: Path, nbytes: int, expected: int) -> bool:
    with reporting("read a file", file):
        if file.is_symlink() or not file.is_file() or file.stat().st_size != nbytes:
            return False
        return crc32c([file.read_bytes()]) == expected


def _finished(chunk: WrittenChunk) -> Future[WrittenChunk]:
    future: Future[WrittenChunk] = Future()
    future.set_result(chunk)
    return future


class _Memory:
    """Buffers for tiles, lent within bounds, and used again: fresh memory costs as much as reading a file."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lent: list[int] = []
        self._changed = Condition()

    def take(self, nbytes: int, bound: int) -> NDArray[np.uint8]:
        """Give at least `nbytes`, waiting until all that is lent stays within `bound`, or nothing is lent."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(nbytes, bound))
            fitting = [buffer for buffer in self._free if nbytes <= buffer.size <= 2 * nbytes]
            if fitting:
                buffer = min(fitting, key=len)
                self._free = [other for other in self._free if other is not buffer]
            else:
                self._free.clear()
                buffer = np.empty(nbytes, np.uint8)
            self._lent.append(buffer.size)
            return buffer

    def give_back(self, buffer: NDArray[np.uint8]) -> None:
        """Take a buffer back."""
        with self._changed:
            self._lent.remove(buffer.size)
            self._free.append(buffer)
            self._changed.notify()

    def _fits(self, nbytes: int, bound: int) -> bool:
        return not self._lent or (len(self._lent) < TILES and sum(self._lent) + nbytes <= bound)


class _Tile:
    """A buffer, and how many chunks of it are still to be written; the last one gives it back."""

    def __init__(self, memory: _Memory, nbytes: int, bound: int, chunks: int) -> None:
        self._memory = memory
        self._buffer = memory.take(nbytes, bound)
        self._left = chunks
        self._lock = Lock()
        self.raw = self._buffer[:nbytes]

    def chunk_done(self, _: Future[WrittenChunk]) -> None:
        """Count one chunk as written, or as given up."""
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self.release()

    def release(self) -> None:
        """Give the buffer back."""
        self._memory.give_back(self._buffer)


def _scales(grid: ChunkGrid, rows: RowReader, index: int) -> NDArray[np.uint8]:
    scales = np.empty(grid.scale_nbytes(index), np.uint8)
    if scales.size:
        rows.read_scales(*grid.scale_range(index), scales.data)
    return scales


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
