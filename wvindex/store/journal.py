"""What of an unfinished build is on the disk for good: a line a chunk, each with its own checksum.

A chunk is journaled only after its file and the directories that lead to it were synced, so a resumed build
believes the journal. What a power loss leaves of the last lines fails its checksum and is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wvindex.errors import StoreError
from wvindex.store.checksum import crc32c
from wvindex.store.durable import append_to, reporting, truncate_file


@dataclass(frozen=True)
class WrittenChunk:
    """What the catalog must know of a chunk that was written.

    Attributes
    ----------
    crc32c : int
        Of the file's bytes, padding included.
    nan, inf : int or None
        Values that are not finite; None where nobody decodes the encoding.
    """

    crc32c: int
    nan: int | None
    inf: int | None


@dataclass(frozen=True)
class WrittenPrefix:
    """How much of a file that is written from its start is on the disk for good.

    Attributes
    ----------
    nbytes : int
    crc32c : int
        Of those bytes.
    """

    nbytes: int
    crc32c: int


class Journal:
    """The journal in the file `path`.

    Parameters
    ----------
    path : Path
        Read if it is there.

    Attributes
    ----------
    directory : int or None
        The inode of the directory whose files the journal names; None where nothing says so.
    chunks : dict of str to WrittenChunk
        What was journaled before this process, by the file's path below that directory.
    prefixes : dict of str to WrittenPrefix
        Likewise, of files that are written piece by piece.

    Raises
    ------
    StoreError
        If the system refuses to read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory: int | None = None
        self.chunks: dict[str, WrittenChunk] = {}
        self.prefixes: dict[str, WrittenPrefix] = {}
        if os.path.lexists(path):
            self._load()

    @property
    def files(self) -> set[str]:
        """Every file of which something is journaled."""
        return self.chunks.keys() | self.prefixes.keys()

    def start(self, directory: int) -> None:
        """Begin a journal of files in the directory of that inode."""
        self.directory = directory
        append_to(self.path, [_encoded([directory])])

    def append(self, chunks: Iterable[tuple[str, WrittenChunk]]) -> None:
        """Add chunks by their files' paths; they are on the disk when this returns."""
        lines = (_encoded([file, chunk.crc32c, chunk.nan, chunk.inf]) for file, chunk in chunks)
        append_to(self.path, [b"".join(lines)])

    def append_prefix(self, file: str, prefix: WrittenPrefix) -> None:
        """Note how much of a file is written, which is on the disk already; so is this when it returns."""
        append_to(self.path, [_encoded([file, prefix.nbytes, prefix.crc32c])])

    def _load(self) -> None:
        if self.path.is_symlink() or not self.path.is_file():
            raise StoreError("the journal of an interrupted build is no regular file", file=self.path)
        with reporting("read the journal", self.path):
            data = self.path.read_bytes()
        good = 0
        for fields, stop in _decoded(data):
            match fields:
                case [int(directory)] if good == 0:
                    self.directory = directory
                case [str(file), int(crc), int() | None as nan, int() | None as inf] if good:
                    self.chunks[file] = WrittenChunk(crc, nan, inf)
                case [str(file), int(nbytes), int(crc)] if good:
                    self.prefixes[file] = WrittenPrefix(nbytes, crc)
                case _:
                    break
            good = stop
        if good < len(data):
            truncate_file(self.path, good)


def _encoded(fields: list[Any]) -> bytes:
    text = json.dumps(fields).encode("ascii")
    return b"%08x %s\n" % (crc32c([text]), text)


def _decoded(data: bytes) -> Iterator[tuple[Any, int]]:
    """Give each line's fields and where it ends, up to the first that is not whole."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        digits, _, text = data[start:end].partition(b" ")
        if digits != b"%08x" % crc32c([text]):
            return
        start = end + 1
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return
        yield fields, start
