"""Which arrays need not be copied: those whose bytes stand in the source as the store would have them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wvindex.formats.arrays import ByteRange, Link
from wvindex.sources.base import Source
from wvindex.sources.unchanged import source_files
from wvindex.store.links import LinkedFiles, link_paths
from wvindex.transform.links import FileRange, byte_ranges
from wvindex.transform.plan import Operation


class SourceLinks:
    """Finds the arrays that need not be copied, and where a store will look for their bytes.

    Parameters
    ----------
    source : Source
    store : Path
        Where the store will stand.
    """

    def __init__(self, source: Source, store: Path) -> None:
        self._store = store
        self._fingerprints = source.fingerprint()
        directory = source.path if source.path.is_dir() else source.path.parent
        files = [directory / file.name for file in self._fingerprints]
        self._numbers = {file: number for number, file in enumerate(files)}
        self._paths = link_paths(store, [path for path, _ in source_files(source)])
        self._used: set[int] = set()

    def links(self, operations: Iterable[Operation]) -> dict[str, Link]:
        """Give the link of each array that need not be written, by key."""
        found = {}
        for operation in operations:
            ranges = byte_ranges(operation.rows)
            if ranges is not None:
                link = Link(rows=self._numbered(ranges.rows), scales=self._numbered(ranges.scales))
                self._used |= {part.file for part in (*link.rows, *link.scales)}
                found[operation.spec.key] = link
        return found

    def _numbered(self, ranges: Iterable[FileRange]) -> tuple[ByteRange, ...]:
        return tuple(ByteRange(self._numbers[file], offset, nbytes) for file, offset, nbytes in ranges)

    def paths(self) -> tuple[str, ...]:
        """Give the paths of the source's files; none where nothing was linked.

        Raises
        ------
        SourceChanged
            If a file is no longer the one that was opened.
        """
        files = LinkedFiles(self._store, self._paths, self._fingerprints)
        try:
            for number in sorted(self._used):
                files.verify(number)
        finally:
            files.close()
        return self._paths if self._used else ()
