"""A forward-only reader of a GGUF header, whose window on the file grows as it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wvindex.errors import LimitExceeded, MalformedHeader, TruncatedSource
from wvindex.limits import MAX_HEADER_BYTES, MAX_NAME_BYTES
from wvindex.sources.files import OpenFiles
from wvindex.sources.gguf_types import U32, U64

FIRST_WINDOW: Final = 1 << 20
"""Bytes of the first read: the whole header of most files without a vocabulary."""


class HeaderCursor:
    """Reads a header from its start; every step is checked against the file's size first.

    Attributes
    ----------
    file : Path
    size : int
        Of the whole file.
    position : int
        Offset of the next byte.
    nested : int
        Arrays within arrays that were met so far.
    """

    def __init__(self, files: OpenFiles, file: Path, size: int) -> None:
        self.file = file
        self.size = size
        self.position = 0
        self.nested = 0
        self._files = files
        self._window = bytearray()

    @property
    def remaining(self) -> int:
        """Bytes of the file that were not read yet."""
        return self.size - self.position

    def take(self, length: int, field: str) -> bytes:
        """Read `length` bytes."""
        start = self.skip(length, field)
        return self.slice(start, self.position)

    def skip(self, length: int, field: str) -> int:
        """Step over `length` bytes and give the offset where they start."""
        start = self.position
        self._require(start + length, field)
        self.position = start + length
        return start

    def slice(self, start: int, stop: int) -> bytes:
        """Copy bytes that were stepped over already."""
        with memoryview(self._window) as view:
            return bytes(view[start:stop])

    def u32(self, field: str) -> int:
        """Read an unsigned 32-bit integer."""
        value: int = U32.unpack_from(self._window, self.skip(4, field))[0]
        return value

    def u64(self, field: str) -> int:
        """Read an unsigned 64-bit integer."""
        value: int = U64.unpack_from(self._window, self.skip(8, field))[0]
        return value

    def name(self, field: str, most: int = MAX_NAME_BYTES) -> str:
        """Read a string that names something: not empty, without NUL, at most `most` bytes."""
        offset = self.position
        length = self.u64(field)
        if not 0 < length <= most:
            raise (LimitExceeded if length else MalformedHeader)(
                "a name is too long" if length else "a name is empty",
                file=self.file,
                field=field,
                offset=offset,
                expected=f"1 to {most} bytes",
                found=length,
            )
        name = self._decode(length, field)
        if "\0" in name:  # what comes after it, a program in C does not see
            raise MalformedHeader(
                "a name holds a NUL character",
                file=self.file,
                field=field,
                offset=offset + 8,
                expected="a name without",
                found=name,
            )
        return name

    def string(self, field: str) -> str:
        """Read a string."""
        return self._decode(self.u64(field), field)

    def skip_strings(self, count: int, field: str) -> None:
        """Step over `count` strings: the one loop whose speed a large vocabulary feels."""
        position, end, window, unpack = self.position, len(self._window), self._window, U64.unpack_from
        for _ in range(count):
            if position + 8 > end:
                self._require(position + 8, field)
                end = len(window)
            position += 8 + unpack(window, position)[0]
        self._require(position, field)
        self.position = position

    def _decode(self, length: int, field: str) -> str:
        offset = self.position
        try:
            return str(self.take(length, field), "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedHeader(
                "a string is not UTF-8",
                file=self.file,
                field=field,
                offset=offset + error.start,
                expected="UTF-8",
                found=error.object[error.start : error.start + 8],
            ) from error

    def _require(self, end: int, field: str) -> None:
        """Have the file's first `end` bytes in the window, in reads that double."""
        have = len(self._window)
        if end <= have:
            return
        if end > self.size:
            raise TruncatedSource(
                "the file ends inside its header",
                file=self.file,
                field=field,
                offset=self.position,
                expected=f"at least {end} bytes",
                found=f"{self.size} bytes",
            )
        if end > MAX_HEADER_BYTES:
            raise LimitExceeded(
                "the header is too long",
                file=self.file,
                field=field,
                offset=self.position,
                expected=f"at most {MAX_HEADER_BYTES} bytes",
                found=f"at least {end} bytes",
            )
        target = min(self.size, MAX_HEADER_BYTES, max(end, 2 * have, FIRST_WINDOW))
        self._window += self._files.read(self.file, have, target - have)
