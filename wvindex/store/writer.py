"""Writes a store: chunks, then each array's metadata, then the catalog, then one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from wvindex.errors import CatalogError, StoreError, TargetExists, UnsafePath
from wvindex.formats.arrays import ArraySpec, Link, RowReader
from wvindex.sources.base import TokenizerData
from wvindex.store.catalog import EXTRA_FILE, ArrayEntry, Catalog
from wvindex.store.checksum import Buffer
from wvindex.store.durable import BuildLock, aside_of, empty_directory, publish, remove_file, write_file
from wvindex.store.layout import TARGET_CHUNK_BYTES, ChunkGrid, array_path, chunk_rows
from wvindex.store.metadata import (
    CATALOG_JSON,
    FORMAT,
    ZARR_JSON,
    array_metadata,
    dumps,
    group_metadata,
)
from wvindex.store.pipeline import ChunkPipeline, WrittenChunk
from wvindex.store.reader import GGUF_TOKENIZER, is_store

BUILDING_JSON: Final = "building.json"
"""Stands in a directory from which a store is being built, and in no finished store."""


class StoreWriter:
    """Writes one store; a context manager.

    Everything is written below ``<path>.building/``, under an exclusive lock. `finish` publishes it; leaving
    the context without, or by an exception, removes it. What a killed build left there is removed by
    the next.

    Parameters
    ----------
    path : path
        Where the store shall stand. Its directory must exist.
    overwrite : bool
        Replace a store that stands there. Nothing but a store is ever replaced.
    chunk_bytes : int
        About how large chunks shall be.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        chunk_bytes: int = TARGET_CHUNK_BYTES,
    ) -> None:
        self.path = Path(path).absolute()
        self.staging = self.path.parent / f"{self.path.name}.building"
        self._overwrite = overwrite
        self._chunk_bytes = chunk_bytes
        self._lock = BuildLock(self.staging)
        self._pipeline = ChunkPipeline()
        self._paths: set[str] = set()
        self._files: set[str] = set()
        self._published = False

    def __enter__(self) -> Self:
        """Take the lock and start with an empty directory.

        Raises
        ------
        TargetExists
            If `path` is taken and may not be replaced, or the building directory is not a build's.
        BuildLocked
            If another process is building this store.
        """
        self._require_target()
        self._lock.acquire()
        try:
            self._empty_staging()
            write_file(self.staging / BUILDING_JSON, [dumps({"wvindex": {"format": FORMAT}})])
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back; remove what `finish` did not publish."""
        self._pipeline.close()
        if not self._published:
            shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.release()

    def write_array(
        self,
        spec: ArraySpec,
        rows: RowReader,
        *,
        workspace: int,
        on_bytes: Callable[[int], None] | None = None,
    ) -> ArrayEntry:
        """Write an array's chunks and then its metadata.

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
        chunks = self._pipeline.write(self.staging / path, grid, rows, workspace)
        return PendingArray(self.staging / path, path, grid, chunks)

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
        """Keep a file beside the arrays, as ``tokenizer/<name>``.

        Raises
        ------
        UnsafePath
            If the path is another, or the name not a plain one.
        """
        if not EXTRA_FILE.fullmatch(relative):
            raise UnsafePath(
                "not a file that a store keeps", file=self.path, expected="tokenizer/<name>", found=relative
            )
        write_file(self.staging / relative, [data])
        self._files.add(relative)

    def add_tokenizer(self, data: TokenizerData) -> None:
        """Keep a tokenizer as it was found; `wvindex.store.reader.read_tokenizer` gives it back."""
        for name, content in sorted(data.files.items()):
            self.add_file(f"tokenizer/{name}", content)
        if data.gguf:
            self.add_file(GGUF_TOKENIZER, json.dumps(dict(data.gguf)).encode("ascii"))

    def finish(self, catalog: Catalog) -> None:
        """Write the groups and the catalog, with the files that were added, and publish the store.

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
        attributes = {"wvindex": {"format": FORMAT, "generator": catalog.generator}}
        write_file(self.staging / ZARR_JSON, [dumps(group_metadata(attributes))])
        for group in sorted(_groups(self._paths)):
            write_file(self.staging / group / ZARR_JSON, [dumps(group_metadata({}))])
        complete = replace(catalog, files=tuple(sorted(self._files)))
        write_file(self.staging / CATALOG_JSON, [dumps(complete.to_json(), indent=None)])
        remove_file(self.staging / BUILDING_JSON)
        publish(self.staging, self.path)
        self._published = True

    def _claim(self, spec: ArraySpec) -> str:
        """Give the path of an array that is not there yet."""
        path = array_path(spec.key)
        if path in self._paths:
            raise StoreError("an array is written twice", file=self.path, tensor=spec.key)
        self._paths.add(path)
        return path

    def _require_target(self) -> None:
        if not self.path.parent.is_dir():
            raise StoreError("the directory to build in does not exist", file=self.path.parent)
        aside = aside_of(self.path)
        if os.path.lexists(aside):
            raise TargetExists(
                "an overwrite was interrupted: this is the old store, to be moved back or removed",
                file=aside,
            )
        if not os.path.lexists(self.path):
            return
        if not self._overwrite:
            raise TargetExists("the output path is taken", file=self.path)
        if self.path.is_symlink() or not is_store(self.path):
            raise TargetExists("only a wvindex store is ever replaced", file=self.path)

    def _empty_staging(self) -> None:
        """Remove what a killed build left; refuse what no build made."""
        ours = (self.staging / BUILDING_JSON).is_file() or is_store(self.staging)
        if not ours and any(self.staging.iterdir()):
            raise TargetExists("the directory to build in holds something else", file=self.staging)
        empty_directory(self.staging)


class PendingArray:
    """An array whose chunks are on their way to the disk."""

    def __init__(
        self, directory: Path, path: str, grid: ChunkGrid, chunks: Sequence[Future[WrittenChunk]]
    ) -> None:
        self._directory = directory
        self._path = path
        self._grid = grid
        self._chunks = chunks

    def finish(self, on_bytes: Callable[[int], None] | None = None) -> ArrayEntry:
        """Wait for the chunks, write the array's metadata after them, and give its entry for the catalog.

        Raises
        ------
        StoreError
            If the system refused a chunk.
        """
        written = []
        for chunk in self._chunks:
            written.append(chunk.result())
            if on_bytes is not None:
                on_bytes(written[-1].nbytes)
        spec = self._grid.spec
        write_file(self._directory / ZARR_JSON, [dumps(array_metadata(spec, self._grid))])
        return ArrayEntry(
            spec=spec,
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


def _groups(paths: set[str]) -> set[str]:
    """Give every directory between the root and an array."""
    parents = {path.rpartition("/")[0] for path in paths if "/" in path}
    return parents | {parent.rpartition("/")[0] for parent in parents}
