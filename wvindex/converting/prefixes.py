"""How much of a file there is: held against what the journal says was written."""

from __future__ import annotations

from pathlib import Path

from wvindex.store.checksum import crc32c
from wvindex.store.durable import reporting
from wvindex.store.journal import WrittenPrefix


def whole_prefix(path: Path, buffer: memoryview) -> WrittenPrefix:
    """Give the size and the checksum of a file."""
    nbytes = crc = 0
    with reporting("read a file", path), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc, nbytes = crc32c([buffer[:count]], crc), nbytes + count
    return WrittenPrefix(nbytes, crc)


def has_prefix(path: Path, prefix: WrittenPrefix, buffer: memoryview) -> bool:
    """Whether a file begins with what was journaled of it."""
    with reporting("read a file", path):
        if path.is_symlink() or not path.is_file() or path.stat().st_size < prefix.nbytes:
            return False
        crc, left = 0, prefix.nbytes
        with path.open("rb", buffering=0) as file:
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    return False
                crc, left = crc32c([buffer[:count]], crc), left - count
    return crc == prefix.crc32c
