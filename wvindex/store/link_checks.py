"""What a catalog says of linked arrays, held against what it says of the source's files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from wvindex.formats.arrays import ByteRange
from wvindex.limits import MAX_HEADER_BYTES
from wvindex.sources.base import FileFingerprint
from wvindex.store.entries import ArrayEntry
from wvindex.store.records import Mismatch

_SHA256: Final = re.compile("[0-9a-f]{64}")


def check_links(
    files: Sequence[FileFingerprint], links: Sequence[str], arrays: Mapping[str, ArrayEntry]
) -> None:
    """Check that links are relative paths, and that every range lies in the data of a file.

    Parameters
    ----------
    files : sequence of FileFingerprint
    links : sequence of str
        One a file, or none.
    arrays : mapping of str to ArrayEntry

    Raises
    ------
    Mismatch
        Naming the field that contradicts another.
    """
    if len(links) not in {0, len(files)}:
        raise Mismatch(f"none, or {len(files)} paths", len(links), ("source", "links"))
    for i, link in enumerate(links):
        if not link or "\0" in link or PurePosixPath(link).is_absolute():
            raise Mismatch("a relative path", link, ("source", "links", f"[{i}]"))
        _check_fingerprint(files[i], ("source", "files", f"[{i}]"))
    for key, entry in arrays.items():
        if entry.link is None:
            continue
        for name, ranges in (("rows", entry.link.rows), ("scales", entry.link.scales)):
            for i, part in enumerate(ranges):
                _check_range(part, files[: len(links)], ("arrays", key, "link", name, f"[{i}]"))


def _check_fingerprint(file: FileFingerprint, where: tuple[str, ...]) -> None:
    """Check that a file's header can be held against its hash."""
    if not 0 < file.header_nbytes <= min(file.size, MAX_HEADER_BYTES):
        raise Mismatch(
            f"from 1 to {min(file.size, MAX_HEADER_BYTES)}", file.header_nbytes, (*where, "header_nbytes")
        )
    if not _SHA256.fullmatch(file.header_sha256):
        raise Mismatch("64 hexadecimal digits", file.header_sha256, (*where, "header_sha256"))


def _check_range(part: ByteRange, files: Sequence[FileFingerprint], where: tuple[str, ...]) -> None:
    """Check that a range is not empty and lies after the header and before the end of its file."""
    if not 0 <= part.file < len(files):
        raise Mismatch(f"one of {len(files)} linked files", part.file, (*where, "file"))
    file = files[part.file]
    if part.offset < file.header_nbytes:
        raise Mismatch(f"at least {file.header_nbytes}", part.offset, (*where, "offset"))
    if not 0 < part.nbytes <= file.size - part.offset:
        raise Mismatch(f"from 1 to {file.size - part.offset}", part.nbytes, (*where, "nbytes"))
