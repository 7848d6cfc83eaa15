"""Arrays that were not copied: byte ranges of the source's files, read where they lie.

A file is served only while it is the one that the catalog describes: its size, its time of change and the
hash of its header are compared when it is opened, size and time again with every read.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from wvindex.errors import (
    SourceChanged,
    StoreClosed,
    TruncatedSource,
    UnreadableSource,
    UnsupportedError,
    UsageError,
)
from wvindex.formats.arrays import ArraySpec, ByteRange, Link
from wvindex.sources.base import FileFingerprint
from wvindex.sources.files import open_regular, pread_into
from wvindex.store.catalog import Catalog
from wvindex.store.directory import OpenFile
from wvindex.store.objects import LocalObjects, Objects, ReadStats, RecentFiles

_HASH_BLOCK: Final = 1 << 20
"""Bytes of a header that are read at once."""


_ONE_BYTE: Final = memoryview(bytearray(1))


class Piece(NamedTuple):
    """Bytes to read: of which of the source's files, from where on, and into what."""

    file: int
    offset: int
    out: memoryview


class ByteRun:
    """Byte ranges seen as one run of bytes.

    Parameters
    ----------
    ranges : sequence of ByteRange
    """

    def __init__(self, ranges: Sequence[ByteRange]) -> None:
        self._ranges = ranges
        self._ends = list(accumulate(part.nbytes for part in ranges))

    def pieces(self, start: int, out: memoryview) -> Iterator[Piece]:
        """Give what fills `out` with the run's bytes from `start` on."""
        part = bisect_right(self._ends, start)
        done = 0
        while done < len(out):
            within = start + done - (self._ends[part - 1] if part else 0)
            found = self._ranges[part]
            length = min(found.nbytes - within, len(out) - done)
            yield Piece(found.file, found.offset + within, out[done : done + length])
            done += length
            part += 1


class LinkedFiles:
    """The source's files, each opened when it is first read, and checked.

    Parameters
    ----------
    store : Path
        The store's directory.
    links : sequence of str
        Each file's path, relative to it.
    fingerprints : sequence of FileFingerprint
        What each file was when the store was built.
    stats : ReadStats, optional
        Counts what is read of the arrays; headers are not counted.
    """

    def __init__(
        self,
        store: Path,
        links: Sequence[str],
        fingerprints: Sequence[FileFingerprint],
        stats: ReadStats | None = None,
    ) -> None:
        self._store = store
        root = os.path.realpath(store) if links else ""
        self._paths = [Path(os.path.normpath(f"{root}/{link}")) for link in links]
        self._fingerprints = fingerprints
        self._stats = stats or ReadStats()
        self._open_files: RecentFiles[int] = RecentFiles()
        self._verified: dict[int, tuple[int, int]] = {}  # device and inode, by file
        self._lock = threading.Lock()
        self._closed = False

    def read(self, pieces: Iterable[Piece]) -> None:
        """Fill each piece, and see that its file has not changed meanwhile. Safe from several threads.

        Raises
        ------
        SourceChanged
            If a file is missing, or is not what it was.
        UnreadableSource
            If the system refuses.
        StoreClosed
            If the store is closed.
        """
        for index, of_file in groupby(pieces, key=attrgetter("file")):
            opened = self._opened(index)
            nbytes = 0
            try:
                for piece in of_file:
                    pread_into(opened.descriptor, self._paths[index], piece.offset, piece.out)
                    nbytes += len(piece.out)
            except TruncatedSource:
                self._require_same(index, os.fstat(opened.descriptor))
                raise
            self._require_same(index, os.fstat(opened.descriptor))
            self._stats.add(bytes_read=nbytes)

    def verify(self, index: int) -> None:
        """Open a file, if it is not open, and see that it is what it was; raises as `read`."""
        self._require_same(index, os.fstat(self._opened(index).descriptor))

    def close(self) -> None:
        """Close every file. Later reads raise StoreClosed."""
        self._closed = True
        self._open_files.clear()

    def _opened(self, index: int) -> OpenFile:
        opened = self._open_files.get(index)
        if opened is None:
            with self._lock:
                opened = self._open_files.get(index) or self._open(index)
        return opened

    def _open(self, index: int) -> OpenFile:
        if self._closed:
            raise StoreClosed("the store is closed", file=self._store)
        path, known = self._paths[index], self._fingerprints[index]
        try:
            descriptor, status = open_regular(path, path)
        except UnreadableSource as error:
            raise SourceChanged(
                "a file that arrays of the store link to is not where it was: move it together with the "
                "store, or build the store again",
                file=path,
                expected=f"{known.name}, {known.size} bytes",
                found=error.message,
            ) from error
        opened = OpenFile(descriptor)
        self._require_same(index, status)
        if self._verified.get(index) != (status.st_dev, status.st_ino):
            self._require_header(index, opened)
            self._verified[index] = (status.st_dev, status.st_ino)
        self._stats.add(files_opened=1)
        self._open_files.put(index, opened)
        return opened

    def _require_same(self, index: int, status: os.stat_result) -> None:
        known = self._fingerprints[index]
        if status.st_size != known.size:
            raise self._changed(index, "size", known.size, status.st_size)
        if status.st_mtime_ns != known.mtime_ns:
            raise self._changed(index, "mtime_ns", known.mtime_ns, status.st_mtime_ns)

    def _require_header(self, index: int, opened: OpenFile) -> None:
        known, digest = self._fingerprints[index], hashlib.sha256()
        block = memoryview(bytearray(min(known.header_nbytes, _HASH_BLOCK)))
        for start in range(0, known.header_nbytes, _HASH_BLOCK):
            part = block[: known.header_nbytes - start]
            pread_into(opened.descriptor, self._paths[index], start, part)
            digest.update(part)
        if digest.hexdigest() != known.header_sha256:
            raise self._changed(index, "header_sha256", known.header_sha256, digest.hexdigest())

    def _changed(self, index: int, field: str, expected: object, found: object) -> SourceChanged:
        return SourceChanged(
            "a file that arrays of the store link to has changed: put it back, or build the store again",
            file=self._paths[index],
            field=field,
            expected=expected,
            found=found,
        )


class LinkedReader:
    """Gives the encoded rows and scales of one linked array (a `RowReader`).

    Parameters
    ----------
    files : LinkedFiles
        The store's, shared by its arrays.
    spec : ArraySpec
    link : Link
    """

    def __init__(self, files: LinkedFiles, spec: ArraySpec, link: Link) -> None:
        self._files = files
        self._row_bytes = spec.row_bytes
        self._scale_row_bytes = 4 * spec.scale_shape[1] if spec.scale_shape else 0
        self._rows = ByteRun(link.rows)
        self._scales = ByteRun(link.scales)
        self._link = link

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Fill `out` with the encoded bytes of rows [start, stop), or bytes [span[0], span[1]) of each.

        Raises
        ------
        SourceChanged, UnreadableSource, StoreClosed
            As `LinkedFiles.read`.
        """
        first, last = span if span is not None else (0, self._row_bytes)
        width = last - first
        if width == self._row_bytes:
            self._files.read(self._rows.pieces(start * width, out))
        else:
            self._files.read(
                chain.from_iterable(
                    self._rows.pieces(row * self._row_bytes + first, out[i * width : (i + 1) * width])
                    for i, row in enumerate(range(start, stop))
                )
            )

    def verify(self) -> None:
        """See that every file that holds some of it is what it was; raises as `LinkedFiles.read`."""
        for index in sorted({part.file for part in (*self._link.rows, *self._link.scales)}):
            self._files.verify(index)

    def require(self, start: int, stop: int) -> None:
        """See that rows [start, stop) may be what the catalog claims, before there is memory for them.

        Raises
        ------
        SourceChanged, UnreadableSource, StoreClosed
            As `LinkedFiles.read`.
        """
        if start < stop and self._row_bytes:
            for row in (start, stop - 1):
                first = next(self._rows.pieces(row * self._row_bytes, _ONE_BYTE))
                self._files.verify(first.file)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Fill `out` with rows [start, stop) of the float32 scales; raises as `read_rows`."""
        self._files.read(self._scales.pieces(start * self._scale_row_bytes, out))


def linked_files(objects: Objects, catalog: Catalog) -> LinkedFiles:
    """Give the files that a store's arrays link to; none is opened yet.

    Raises
    ------
    UnsupportedError
        If arrays are linked, and the store is not in a directory.
    """
    if isinstance(objects, LocalObjects):
        return LinkedFiles(objects.root, catalog.links, catalog.sources, objects.stats)
    linked = [key for key, entry in catalog.arrays.items() if entry.link is not None]
    if linked:
        raise UnsupportedError(
            f"{len(linked)} arrays of this store are byte ranges of its source's files, which can be "
            "reached from a store in a directory alone: build it without linking",
            file=objects.location,
            tensor=linked[0],
        )
    return LinkedFiles(Path(), (), ())


def link_paths(store: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """Give the relative path that leads from a store's directory to each file, both resolved.

    Raises
    ------
    UsageError
        If a file lies in the store itself.
    UnsupportedError
        If no relative path leads to it, or it has a name that JSON cannot hold.
    """
    root = os.path.realpath(store)
    return tuple(_link_path(root, file) for file in files)


def _link_path(root: str, file: Path) -> str:
    try:
        link = Path(os.path.relpath(os.path.realpath(file), root)).as_posix()
        link.encode()
    except ValueError as error:  # another drive, or bytes that are no UTF-8
        raise UnsupportedError(f"the store cannot link to this file: {error}", file=file) from error
    if not link.startswith("../"):
        raise UsageError("the source lies in the store that is to be written", file=file, found=root)
    return link
