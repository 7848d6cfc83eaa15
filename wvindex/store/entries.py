"""An array's entry in the catalog: what it is, and which chunks it must have."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final

from wvindex.errors import LimitExceeded, TensorLayoutError
from wvindex.formats.arrays import ArraySpec, Exactness, Heads, Link, Part, RowScale
from wvindex.formats.encodings import ENCODINGS, Encoding, with_scale_block
from wvindex.limits import MAX_DIMS, MAX_ELEMENTS
from wvindex.store.layout import ChunkGrid, array_path
from wvindex.store.records import Mismatch, record_json


@dataclass(frozen=True, kw_only=True)
class ArrayEntry:
    """One array of a store.

    Attributes
    ----------
    spec : ArraySpec
    path : str
        Below the store's root (`wvindex.store.layout.array_path`).
    chunk_rows : int
        Rows of a full chunk.
    crc32c : tuple of int
        Of each chunk's file, in the chunks' order: they are all there. Empty for a linked array.
    nan, inf : int or None
        Values that are NaN, and infinite; None where nobody can decode the encoding, or the array is
        linked: nobody has read it.
    link : Link or None
        Where the array's bytes lie in the source; None where they were copied. A linked array has no
        files in the store: what would be its chunks is read from the source.
    """

    spec: ArraySpec
    path: str
    chunk_rows: int
    crc32c: tuple[int, ...]
    nan: int | None = 0
    inf: int | None = 0
    link: Link | None = None

    @property
    def grid(self) -> ChunkGrid:
        """How the rows are cut into chunks."""
        return ChunkGrid(self.spec, self.chunk_rows)


@dataclass(frozen=True, kw_only=True)
class ArrayRecord:
    """An array as ``catalog.json`` spells it: a member of its ``arrays``, by key."""

    path: str
    shape: tuple[int, ...]
    encoding: str
    scale_block: tuple[int, int] | None
    exactness: Exactness
    sources: tuple[str, ...]
    transforms: tuple[str, ...]
    aliases: tuple[str, ...]
    part_aliases: tuple[str, ...]
    heads: Heads | None
    row_scale: RowScale | None
    mapped: bool
    mtp: bool
    chunk_rows: int
    crc32c: tuple[int, ...]
    nan: int | None
    inf: int | None
    link: Link | None = None
    parts: tuple[Part, ...] = ()
    widths: tuple[int, ...] = ()


_OF_FUSED: Final = ("parts", "widths")
"""Fields that only fused arrays have."""

_SAME_IN_SPEC: Final = tuple(
    {field.name for field in fields(ArrayRecord)} & {field.name for field in fields(ArraySpec)} - {"encoding"}
)
"""Fields that a record and an ArraySpec share."""

_MAX_CHECKSUM: Final = (1 << 32) - 1


def array_json(entry: ArrayEntry) -> dict[str, Any]:
    """Give an entry as plain JSON values; `array_entry` reads them back, once they are a record."""
    spec = entry.spec
    record = ArrayRecord(
        **{name: getattr(spec, name) for name in _SAME_IN_SPEC},
        path=entry.path,
        encoding=spec.encoding.name,
        scale_block=spec.encoding.scale_block,
        chunk_rows=entry.chunk_rows,
        crc32c=entry.crc32c,
        nan=entry.nan,
        inf=entry.inf,
        link=entry.link,
    )
    document: dict[str, Any] = record_json(record)
    return {name: value for name, value in document.items() if value or name not in _OF_FUSED}


def array_entry(key: str, record: ArrayRecord) -> ArrayEntry:
    """Give the entry of the array `key`, whose fields agree with each other.

    Raises
    ------
    Mismatch
        Naming the field that does not.
    """
    same = {name: getattr(record, name) for name in _SAME_IN_SPEC}
    spec = ArraySpec(key=key, encoding=_encoding(record), **same)
    _check_shape(spec)
    _check_heads(spec)
    entry = ArrayEntry(
        spec=spec,
        path=record.path,
        chunk_rows=record.chunk_rows,
        crc32c=record.crc32c,
        nan=record.nan,
        inf=record.inf,
        link=record.link,
    )
    _check_path(entry)
    _check_parts(spec)
    _check_chunks(entry)
    _check_counts(entry)
    _check_link(entry)
    return entry


def _encoding(record: ArrayRecord) -> Encoding:
    encoding = ENCODINGS.get(record.encoding)
    if encoding is None:
        raise Mismatch("a known encoding", record.encoding, ("encoding",))
    if record.scale_block is None:
        return encoding
    if min(record.scale_block) < 1 or encoding.name not in {"F8_E4M3", "F8_E5M2"}:
        raise Mismatch("positive, and only for FP8", record.scale_block, ("scale_block",))
    return with_scale_block(encoding, record.scale_block)


def _check_shape(spec: ArraySpec) -> None:
    too_large = len(spec.shape) > MAX_DIMS or math.prod(max(n, 1) for n in spec.shape) > MAX_ELEMENTS
    if too_large or min(spec.shape, default=0) < 0:
        raise Mismatch(f"at most {MAX_DIMS} sizes, {MAX_ELEMENTS} values", spec.shape, ("shape",))
    try:
        spec.encoding.row_bytes(spec.row_values)
    except TensorLayoutError as error:
        raise Mismatch(str(error.expected), spec.row_values, ("shape",)) from None


def _check_heads(spec: ArraySpec) -> None:
    heads = spec.heads
    if heads is None:
        return
    if not 0 <= heads.axis < len(spec.shape):
        raise Mismatch(f"an axis of {spec.shape}", heads.axis, ("heads", "axis"))
    if heads.count < 1 or spec.shape[heads.axis] % heads.count:
        raise Mismatch(f"a divisor of {spec.shape[heads.axis]}", heads.count, ("heads", "count"))


def _check_path(entry: ArrayEntry) -> None:
    try:
        path = array_path(entry.spec.key)
    except LimitExceeded as error:
        raise Mismatch(str(error.expected), error.found, ("path",)) from None
    if entry.path != path:
        raise Mismatch(path, entry.path, ("path",))


def _check_parts(spec: ArraySpec) -> None:
    """Check that the parts of a stack have a name each, or none has; and that fused parts are all rows."""
    count = spec.shape[0] if spec.shape else 0
    if len(spec.part_aliases) not in {0, count}:
        raise Mismatch(f"none, or {count} names", len(spec.part_aliases), ("part_aliases",))
    if not spec.parts and not spec.widths:
        return
    if len(spec.shape) > 2:
        raise Mismatch("a matrix or a vector", spec.shape, ("parts",))
    ends = [0, *(part.rows[1] for part in spec.parts)]
    if [part.rows[0] for part in spec.parts] != ends[:-1] or ends[-1] != count or ends != sorted(set(ends)):
        found = [part.rows for part in spec.parts]
        raise Mismatch(f"rows 0 to {count}, one part under another", found, ("parts",))
    if min(spec.widths, default=0) < 1 or sum(spec.widths) != count:
        raise Mismatch(f"widths of {count} rows in all", spec.widths, ("widths",))


def _check_counts(entry: ArrayEntry) -> None:
    """Check that no more values are NaN or infinite than there are."""
    size = math.prod(entry.spec.shape)
    nan, inf = entry.nan or 0, entry.inf or 0
    if min(nan, inf) < 0 or nan + inf > size:
        raise Mismatch(f"counts of {size} values", (nan, inf), ("nan",))


def _check_chunks(entry: ArrayEntry) -> None:
    grid, shape = entry.grid, entry.spec.shape
    scale_rows = entry.spec.encoding.scale_block[0] if entry.spec.encoding.scale_block else 1
    unit = max(scale_rows, math.prod(shape[grid.axis + 1 : -1]))
    whole = max(grid.group_rows, 1)
    if not 0 < entry.chunk_rows <= whole or (entry.chunk_rows % unit and entry.chunk_rows != whole):
        raise Mismatch(f"a multiple of {unit}, at most {whole}", entry.chunk_rows, ("chunk_rows",))
    n_checksums = grid.n_chunks if entry.link is None else 0
    if len(entry.crc32c) != n_checksums:
        raise Mismatch(f"{n_checksums} checksums", len(entry.crc32c), ("crc32c",))
    lowest, highest = min(entry.crc32c, default=0), max(entry.crc32c, default=0)
    if lowest < 0 or highest > _MAX_CHECKSUM:
        raise Mismatch("32 bits", lowest if lowest < 0 else highest, ("crc32c",))


def _check_link(entry: ArrayEntry) -> None:
    """Check that a link's ranges hold the array's bytes, no more and no fewer."""
    if entry.link is None:
        return
    if (entry.nan, entry.inf) != (None, None):
        raise Mismatch("null for a linked array", (entry.nan, entry.inf), ("nan",))
    row_nbytes = entry.spec.n_rows * entry.spec.row_bytes
    parts = (
        ("rows", entry.link.rows, row_nbytes),
        ("scales", entry.link.scales, entry.spec.nbytes - row_nbytes),
    )
    for name, ranges, nbytes in parts:
        found = sum(part.nbytes for part in ranges)
        if found != nbytes:
            raise Mismatch(f"{nbytes} bytes in all", found, ("link", name))
