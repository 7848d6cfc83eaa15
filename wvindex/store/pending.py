"""An array on its way to the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from wvindex.store.entries import ArrayEntry
from wvindex.store.journal import WrittenChunk
from wvindex.store.layout import ChunkGrid


class PendingArray:
    """An array whose chunks are on their way to the disk."""

    def __init__(self, path: str, grid: ChunkGrid, chunks: Sequence[Future[WrittenChunk]]) -> None:
        self._path = path
        self._grid = grid
        self._chunks = chunks

    def finish(self, on_bytes: Callable[[int], None] | None = None) -> ArrayEntry:
        """Wait for the chunks, and give the array's entry for the catalog.

        Raises
        ------
        StoreError
            If the system refused a chunk.
        """
        grid, written = self._grid, []
        for index, chunk in enumerate(self._chunks):
            written.append(chunk.result())
            if on_bytes is not None:
                on_bytes(grid.row_nbytes(index) + grid.scale_nbytes(index))
        return ArrayEntry(
            spec=grid.spec,
            path=self._path,
            chunk_rows=self._grid.rows,
            crc32c=tuple(chunk.crc32c for chunk in written),
            nan=_total(chunk.nan for chunk in written),
            inf=_total(chunk.inf for chunk in written),
        )


def _total(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
