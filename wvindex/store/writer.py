"""Writes a store: chunks, then metadata of arrays and groups, then the catalog, then one rename."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wvindex.errors import (
    CatalogError,
    SourceError,
    StoreError,
    UnreadableSource,
    UnsafePath,
    UnsupportedError,
)
from wvindex.formats.arrays import ArraySpec, Link, RowReader
from wvindex.sources.base import TokenizerData
from wvindex.store.catalog import EXTRA_FILE, ArrayEntry, Catalog
from wvindex.store.checksum import Buffer, crc32c
from wvindex.store.commits import Commits
from wvindex.store.durable import fsync_paths, make_directory, walk, write_file
from wvindex.store.layout import TARGET_CHUNK_BYTES, ChunkGrid, array_path, chunk_rows
from wvindex.store.lock import BuildLock
from wvindex.store.metadata import (
    CATALOG_JSON,
    FORMAT,
    ZARR_JSON,
    array_metadata,
    dumps,
    group_metadata,
)
from wvindex.store.pending import PendingArray
from wvindex.store.pipeline import WORKERS, ChunkPipeline
from wvindex.store.reader import GGUF_TOKENIZER
from wvindex.store.staging import Staging
from wvindex.store.target import require_replaceable, require_target, resolved


class StoreWriter:
    """Writes one store; a context manager.

    Everything is written in ``<path>.building/``, under an exclusive lock. `finish` publishes it. Leaving the
    context by an exception keeps what was written, for the next build of the same `identity` to go on with,
    except where the source is at fault; the exception has a note that says so. Leaving it without `finish`
    removes it.

    Parameters
    ----------
    path : path
        Where the store shall stand. Its directory must exist.
    overwrite : bool
        Replace a store that stands there. Nothing but a store is ever replaced.
    chunk_bytes : int
        About how large chunks shall be.
    identity : mapping, optional
        JSON values that tell this build from others, ``sources`` among them. Without, nothing that an
        interrupted build left is used.
    restart : bool
        Discard what an interrupted build left, whatever it was of.
    what : str
        What writes the store, for messages.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        chunk_bytes: int = TARGET_CHUNK_BYTES,
        identity: Mapping[str, Any] | None = None,
        restart: bool = False,
        what: str = "build",
    ) -> None:
        self.path = resolved(path)
        self._what = what
        self._staging = Staging(self.path, what=what)
        self._overwrite = overwrite
        self._chunk_bytes = chunk_bytes
        self._identity = identity
        self._restart = restart
        self._lock = BuildLock(self._staging.path)
        self._paths: set[str] = set()
        self._sums: dict[str, int] = {}
        self._unsynced: list[Path] = []
        self._make_directory = cache(make_directory)
        self._publishing = False

    @property
    def root(self) -> Path:
        """Where the store stands until it is published."""
        return self._staging.store

    def __enter__(self) -> Self:
        """Take the lock, and go on with what an interrupted build left, or start.

        Raises
        ------
        TargetExists
            If `path` is taken and may not be replaced, or the building directory is not a build's.
        BuildLocked
            If another process is building this store.
        SourceChanged, UsageError
            If an interrupted build of another identity stands there.
        """
        require_target(self.path, overwrite=self._overwrite)
        self._lock.acquire()
        try:
            self._staging.recover()
            require_target(self.path, overwrite=self._overwrite)
            journal = self._staging.begin(self._identity, restart=self._restart)
        except BaseException:
            self._staging.remove_empty()
            self._lock.release()
            raise
        self._journaled = journal.chunks
        self._commits = Commits(self.root, journal)
        self._pipeline = ChunkPipeline(self.root, self._commits, self._journaled, self._make_directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back; keep what was written, if it can be gone on with."""
        with ExitStack() as closing:  # a second interruption ends the rest, but never keeps the lock
            closing.callback(self._lock.release)
            closing.callback(self._commits.close)
            self._pipeline.close()
            if self._identity is None or _is_at_fault(error):
                error = None  # what was written is of no use to another build
            with suppress(StoreError):
                if error is not None:
                    self._commits.flush()
            self._commits.close()
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Say what is kept for the build that will go on after an error, or remove everything."""
        with suppress(StoreError):
            if error is not None and self._staging.is_resumable():
                error.add_note(
                    f"what was written is kept in {self._staging.path}; the same {self._what} goes on with it"
                )
            elif not self._publishing:  # or who knows which of two stores the disk has under the name
                self._staging.discard()

    def nbytes_there(self) -> int:
        """Give the bytes of the chunks that an interrupted build had written."""
        files = (self.root / name for name in self._journaled)
        return sum(file.stat().st_size for file in files if file.is_file())

    def write_array(
        self,
        spec: ArraySpec,
        rows: RowReader,
        *,
        workspace: int,
        on_bytes: Callable[[int], None] | None = None,
    ) -> ArrayEntry:
        """Write an array's chunks.

        Parameters
        ----------
        spec : ArraySpec
        rows : RowReader
            Gives its encoded rows. An attribute ``preferred_tile_bytes`` says how many bytes it likes to
            give at once.
        workspace : int
            Bytes that may be held; a chunk and its scales are, whatever their size.
        on_bytes : callable, optional
            Told the encoded bytes of each chunk once it is written.

        Returns
        -------
        ArrayEntry
            For the catalog.

        Raises
        ------
        StoreError
            If the array is there already, or the system refuses.
        """
        return self.start_array(spec, rows, workspace=workspace).finish(on_bytes)

    def start_array(self, spec: ArraySpec, rows: RowReader, *, workspace: int) -> PendingArray:
        """Read an array and begin to write it; the next one may be started before this one is finished.

        Parameters and errors are those of `write_array`.
        """
        path = self._claim(spec)
        grid = ChunkGrid(spec, chunk_rows(spec, self._chunk_bytes))
        chunks = self._pipeline.write(path, grid, rows, workspace)
        return PendingArray(path, grid, chunks)

    def link_array(self, spec: ArraySpec, link: Link) -> ArrayEntry:
        """Take in an array whose bytes stay where they are; nothing of it is written.

        Not even its metadata: a Zarr reader that finds them takes the missing chunks for zeros.

        Returns
        -------
        ArrayEntry
            For the catalog, which must also say how the store's directory leads to the files (`links`).

        Raises
        ------
        StoreError
            If the array is there already.
        """
        return ArrayEntry(
            spec=spec,
            path=self._claim(spec),
            chunk_rows=chunk_rows(spec, self._chunk_bytes),
            crc32c=(),
            nan=None,
            inf=None,
            link=link,
        )

    def add_file(self, relative: str, data: Buffer) -> None:
        """Keep a file beside the arrays, as ``tokenizer/<name>`` or ``source/<name>``.

        Raises
        ------
        UnsafePath
            If the path is another, or the name not a plain one.
        """
        if not EXTRA_FILE.fullmatch(relative):
            raise UnsafePath(
                "not a file that a store keeps",
                file=self.path,
                expected="tokenizer/<name> or source/<name>",
                found=relative,
            )
        self._write(relative, data)
        self._sums[relative] = crc32c([data])

    def add_tokenizer(self, data: TokenizerData) -> None:
        """Keep a tokenizer as it was found; `wvindex.store.reader.read_tokenizer` gives it back."""
        for name, content in sorted(data.files.items()):
            self.add_file(f"tokenizer/{name}", content)
        if data.gguf:
            self.add_file(GGUF_TOKENIZER, json.dumps(dict(data.gguf)).encode("ascii"))

    def finish(self, catalog: Catalog) -> None:
        """Write the metadata of arrays and groups, and then the catalog, and publish the store.

        Raises
        ------
        CatalogError
            If the catalog's arrays are not those that were written.
        StoreError
            If the system refuses.
        """
        listed = {entry.path for entry in catalog.arrays.values()}
        if listed != self._paths:
            raise CatalogError(
                "the catalog's arrays are not those that were written",
                file=self.path,
                field="arrays",
                found=sorted(listed ^ self._paths),
            )
        complete = replace(catalog, files=tuple(sorted(self._sums)))
        document = dumps(complete.to_json(), indent=None)
        sums = {CATALOG_JSON: crc32c([document]), **dict(sorted(self._sums.items()))}
        about = {"format": FORMAT, "generator": catalog.generator, "files": sums}
        self._write_metadata(catalog.arrays.values())
        self._write(ZARR_JSON, dumps(group_metadata({"wvindex": about})))
        self._write(CATALOG_JSON, document)
        self._commits.flush()
        fsync_paths(self._unsynced)
        directories, _ = walk(self.root)
        fsync_paths(directories)
        self._publishing = True
        self._staging.publish(partial(require_replaceable, overwrite=self._overwrite))
        with suppress(StoreError):  # the store is there; what could not be removed is in nobody's way
            self._staging.discard()

    def _write_metadata(self, entries: Iterable[ArrayEntry]) -> None:
        """Write the documents of arrays and groups, several at once: small files take the disk's time."""

        def write_array(entry: ArrayEntry) -> None:
            self._write(f"{entry.path}/{ZARR_JSON}", dumps(array_metadata(entry.spec, entry.grid)))

        def write_group(path: str) -> None:
            self._write(f"{path}/{ZARR_JSON}", dumps(group_metadata({})))

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="wvindex-write") as pool:
            for _ in pool.map(write_array, (entry for entry in entries if entry.link is None)):
                pass
            for _ in pool.map(write_group, sorted(_groups(self._paths))):
                pass

    def _write(self, relative: str, data: Buffer) -> None:
        """Write a file that is no chunk; `finish` syncs it."""
        path = self.root / relative
        self._make_directory(path.parent)
        write_file(path, [data])
        self._unsynced.append(path)

    def _claim(self, spec: ArraySpec) -> str:
        """Give the path of an array that is not there yet."""
        path = array_path(spec.key)
        if path in self._paths:
            raise StoreError("an array is written twice", file=self.path, tensor=spec.key)
        self._paths.add(path)
        return path


def _is_at_fault(error: BaseException | None) -> bool:
    """Whether the source itself stands in the way, and not the system that reads it."""
    return isinstance(error, SourceError | UnsupportedError) and not isinstance(error, UnreadableSource)


def _groups(paths: set[str]) -> set[str]:
    """Give every directory between the root and an array."""
    parents = {path.rpartition("/")[0] for path in paths if "/" in path}
    return parents | {parent.rpartition("/")[0] for parent in parents}
