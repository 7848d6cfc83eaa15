"""Whether a checkpoint's files are still the ones that were opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wvindex.errors import SourceChanged, SourceError
from wvindex.sources.base import FileFingerprint, Source
from wvindex.sources.files import open_regular, pread_into, real_path

_BLOCK: Final = 4 << 20
"""Bytes read at once."""


def source_files(source: Source) -> list[tuple[Path, FileFingerprint]]:
    """Give each file of a checkpoint and what it was when the checkpoint was opened.

    Paths are those of the opening, wherever the working directory is now.
    """
    place = source.place
    directory = place if place.is_dir() else place.parent
    return [(directory / known.name, known) for known in source.fingerprint()]


def require_unchanged(source: Source) -> None:
    """Compare each file's size, time of change and header with what they were.

    Raises
    ------
    SourceChanged
        If one differs, or is gone.
    """
    for path, known in source_files(source):
        try:
            descriptor, status = open_regular(path, real_path(path))
        except SourceError as error:
            raise SourceChanged("a file of the checkpoint is gone", file=path, found=error.message) from error
        try:
            found = {
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "header_sha256": _sha256(descriptor, path, min(known.header_nbytes, status.st_size)),
            }
        finally:
            os.close(descriptor)
        for field, value in found.items():
            if value != getattr(known, field):
                raise SourceChanged(
                    "a file of the checkpoint has changed while it was read",
                    file=path,
                    field=field,
                    expected=getattr(known, field),
                    found=value,
                )


def hash_files(source: Source) -> dict[str, str]:
    """Give the SHA-256 of each whole file, by its name in the checkpoint."""
    found = {}
    for path, known in source_files(source):
        descriptor, status = open_regular(path, real_path(path))
        try:
            found[known.name] = _sha256(descriptor, path, status.st_size)
        finally:
            os.close(descriptor)
    return found


def _sha256(descriptor: int, path: Path, nbytes: int) -> str:
    digest = hashlib.sha256()
    for block in _blocks(descriptor, path, nbytes):
        digest.update(block)
    return digest.hexdigest()


def _blocks(descriptor: int, path: Path, nbytes: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(nbytes, _BLOCK)))
    for start in range(0, nbytes, _BLOCK):
        block = buffer[: nbytes - start]
        pread_into(descriptor, path, start, block)
        yield block
