"""Which rows are in the source's files already, as they would be written, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wvindex.formats.encodings import F32
from wvindex.sources.base import TensorInfo
from wvindex.transform.combine import AsVector, Concat, JoinedVectors, Slice
from wvindex.transform.rows import Rows, SourceRows


class FileRange(NamedTuple):
    """Some bytes of a file."""

    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class SourceRanges:
    """Where an array's bytes lie.

    Attributes
    ----------
    rows : tuple of FileRange
        The encoded rows, one range after another; neighbours in a file are one range.
    scales : tuple of FileRange
        The rows of float32 scales, likewise.
    """

    rows: tuple[FileRange, ...]
    scales: tuple[FileRange, ...]


def byte_ranges(rows: Rows) -> SourceRanges | None:
    """Find the bytes that `rows` would read, where it would give them unchanged and in the file's order.

    Parameters
    ----------
    rows : Rows
        Of a planned array.

    Returns
    -------
    SourceRanges or None
        None where rows are reordered, cast, or worked out, or where scales are not float32.
    """
    found = _rows(rows, 0, rows.n_rows)
    scales = _scales(rows)
    if found is None or scales is None:
        return None
    return SourceRanges(_joined(found), _joined(scales))


def _rows(rows: Rows, start: int, stop: int) -> list[FileRange] | None:
    """Give the ranges of rows [start, stop); None where they are not all in files."""
    if isinstance(rows, SourceRows):
        return (
            None
            if rows.order is not None or rows.info.rendering is not None
            else [_source_range(rows, start, stop)]
        )
    if isinstance(rows, Slice):
        return _rows(rows.rows, rows.first + start, rows.first + stop)
    if isinstance(rows, AsVector):
        return _rows(rows.rows, 0, rows.rows.n_rows)
    if isinstance(rows, JoinedVectors):
        return _together(_rows(part, 0, 1) for part in rows.parts)
    if isinstance(rows, Concat):
        return _together(_overlaps(rows, start, stop))
    return None


def _source_range(rows: SourceRows, start: int, stop: int) -> FileRange:
    row_bytes = rows.encoding.row_bytes(rows.row_values)
    return _tensor_range(rows.info, (rows.first + start) * row_bytes, (rows.first + stop) * row_bytes)


def _tensor_range(info: TensorInfo, start: int, stop: int) -> FileRange:
    return FileRange(info.file, info.offset + start, stop - start)


def _overlaps(rows: Concat, start: int, stop: int) -> Iterable[list[FileRange] | None]:
    """Give the ranges of each part that holds some of the rows [start, stop)."""
    offset = 0
    for part in rows.parts:
        first, last = max(start - offset, 0), min(stop - offset, part.n_rows)
        if first < last:
            yield _rows(part, first, last)
        offset += part.n_rows


def _scales(rows: Rows) -> list[FileRange] | None:
    """Give the ranges of all scales: none for encodings without; None where they are not as stored."""
    block = rows.encoding.scale_block
    if block is None:
        return []
    if isinstance(rows, Concat):
        return _together(_scales(part) for part in rows.parts)
    if not isinstance(rows, SourceRows) or rows.scales is None or rows.scales.encoding != F32:
        return None
    n_rows = rows.n_rows // rows.matrix_rows * -(-rows.matrix_rows // block[0]) if rows.n_rows else 0
    row_bytes = F32.row_bytes(-(-rows.row_values // block[1]))
    start = rows.scale_first * row_bytes
    return [_tensor_range(rows.scales, start, start + n_rows * row_bytes)]


def _together(parts: Iterable[list[FileRange] | None]) -> list[FileRange] | None:
    """Put ranges one after another; None where a part has none."""
    ranges: list[FileRange] = []
    for part in parts:
        if part is None:
            return None
        ranges += part
    return ranges


def _joined(ranges: Iterable[FileRange]) -> tuple[FileRange, ...]:
    """Join ranges that touch, and leave out empty ones."""
    joined: list[FileRange] = []
    for found in ranges:
        if not found.nbytes:
            continue
        last = joined[-1] if joined else None
        if last is not None and (last.file, last.offset + last.nbytes) == (found.file, found.offset):
            joined[-1] = FileRange(last.file, last.offset, last.nbytes + found.nbytes)
        else:
            joined.append(found)
    return tuple(joined)
