"""Makes chunks durable in groups, in the background, and then journals them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Final

from wvindex.store.durable import fsync_paths
from wvindex.store.journal import Journal, WrittenChunk

GROUP_BYTES: Final = 128 << 20
"""Written between syncs: a disk is fastest when it is given much at once."""

GROUP_FILES: Final = 1024
"""As many small files."""


class Commits:
    """Collects written chunks; a full group is synced and journaled while the next is written.

    Parameters
    ----------
    root : Path
        The directory of the store: chunks are below it, and it and its parent have been synced.
    journal : Journal
    """

    def __init__(self, root: Path, journal: Journal) -> None:
        self._root = root
        self._journal = journal
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wvindex-commit")
        self._lock = Lock()
        self._chunks: dict[str, WrittenChunk] = {}
        self._nbytes = 0
        self._under_way: Future[None] | None = None
        self._named: set[Path] = {root}

    def add(self, file: str, nbytes: int, chunk: WrittenChunk) -> None:
        """Take in a chunk whose file, by its path below the root, was written.

        Waits while a group is full and another is synced.

        Raises
        ------
        StoreError
            If the system refused to sync the group before.
        """
        with self._lock:
            self._chunks[file] = chunk
            self._nbytes += nbytes
            if self._nbytes >= GROUP_BYTES or len(self._chunks) >= GROUP_FILES:
                self._begin()

    def flush(self) -> None:
        """Commit what was taken in, and wait until it is on the disk."""
        with self._lock:
            self._begin()
            self._wait()

    def close(self) -> None:
        """Wait for the group that is being synced; what was taken in since is not committed."""
        self._pool.shutdown(wait=True)

    def _begin(self) -> None:
        self._wait()
        chunks, self._chunks, self._nbytes = self._chunks, {}, 0
        if chunks:
            self._under_way = self._pool.submit(self._commit, chunks)

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def _commit(self, chunks: dict[str, WrittenChunk]) -> None:
        files = [self._root / file for file in chunks]
        fsync_paths(files)
        fsync_paths(self._directories(files))
        self._journal.append(chunks.items())

    def _directories(self, files: list[Path]) -> set[Path]:
        """Give the directories whose names have changed: the files', and those above one that is new."""
        changed = {file.parent for file in files}
        for directory in list(changed):
            above = directory
            while above not in self._named:
                self._named.add(above)
                above = above.parent
                changed.add(above)
        return changed
