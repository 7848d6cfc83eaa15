"""One GGUF file's header, read and validated whole before any tensor is served.

Layout, as ggml's docs/gguf.md has it: magic, version, number of tensors, number of metadata keys;
the keys with their values; one record a tensor; padding to the alignment; data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.errors import (
    DuplicateName,
    LimitExceeded,
    MalformedHeader,
    TensorLayoutError,
    TruncatedSource,
    UnsupportedError,
)
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.limits import MAX_ELEMENTS, MAX_METADATA_KEYS, MAX_TENSORS
from wvindex.sources.base import TensorInfo
from wvindex.sources.files import OpenFiles
from wvindex.sources.gguf_cursor import HeaderCursor
from wvindex.sources.gguf_metadata import MIN_KEY_BYTES, read_metadata
from wvindex.sources.gguf_types import GGML_TYPES, REMOVED_GGML_TYPES

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_GGUF_DIMS: Final = 4
MAX_GGUF_NAME: Final = 63
"""Bytes of a tensor's name: ggml keeps 64 with the NUL at its end (GGML_MAX_NAME), and refuses more."""
DEFAULT_ALIGNMENT: Final = 32
MIN_ALIGNMENT: Final = 8
_MIN_TENSOR_BYTES: Final = 8 + 1 + 4 + 8 + 4 + 8
"""The shortest tensor record: name, one dimension, type, offset."""


@dataclass(frozen=True)
class GGUFHeader:
    """What one file's header says, found true.

    Attributes
    ----------
    metadata : mapping of str to object
        Scalars, strings, and `PackedArray`.
    tensors : tuple of TensorInfo
        By offset.
    sha256 : str
        Of every byte before the data section.
    nbytes : int
        How many those are.
    notes : tuple of str
        What is odd but does no harm: bytes that belong to no tensor.
    types : mapping of str to int
        The GGUF type of each metadata value.
    version : int
        Of GGUF.
    """

    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    sha256: str
    nbytes: int
    notes: tuple[str, ...]
    types: Mapping[str, int]
    version: int


def read_header(files: OpenFiles, file: Path, size: int) -> GGUFHeader:
    """Read and validate the header of `file`, `size` bytes long, which `files` holds open.

    Raises
    ------
    DuplicateName, LimitExceeded, MalformedHeader, TensorLayoutError, TruncatedSource
    UnsupportedError
        If the version is not 2 or 3, or the file is big-endian.
    """
    cursor = HeaderCursor(files, file, size)
    version = _read_version(cursor)
    n_tensors = _read_count(cursor, "number of tensors", MAX_TENSORS, _MIN_TENSOR_BYTES)
    n_keys = _read_count(cursor, "number of metadata keys", MAX_METADATA_KEYS, MIN_KEY_BYTES)
    metadata, types = read_metadata(cursor, n_keys)
    alignment = _alignment(cursor, metadata)
    records = [_read_tensor(cursor, index) for index in range(n_tensors)]
    _check_names(cursor, records)
    data_start = -(-cursor.position // alignment) * alignment
    cursor.skip(min(data_start, size) - cursor.position, "padding")
    digest = hashlib.sha256(cursor.slice(0, cursor.position)).hexdigest()
    tensors, notes = _lay_out(records, data_start, size, alignment)
    return GGUFHeader(metadata, tensors, digest, cursor.position, notes, types, version)


def _read_version(cursor: HeaderCursor) -> int:
    magic = cursor.take(len(MAGIC), "magic")
    if magic != MAGIC:
        raise MalformedHeader("not a GGUF file", file=cursor.file, offset=0, expected=MAGIC, found=magic)
    version = cursor.u32("version")
    if version in VERSIONS:
        return version
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if 0 < swapped <= max(VERSIONS):
        raise UnsupportedError(
            f"a big-endian GGUF file (version {swapped}) is not supported",
            file=cursor.file,
            field="version",
            offset=len(MAGIC),
            expected="little-endian",
            found=version,
        )
    raise UnsupportedError(
        f"GGUF version {version} is not supported",
        file=cursor.file,
        field="version",
        offset=len(MAGIC),
        expected=" or ".join(map(str, VERSIONS)),
        found=version,
    )


def _read_count(cursor: HeaderCursor, field: str, cap: int, min_bytes: int) -> int:
    offset = cursor.position
    count = cursor.u64(field)
    if count > cap:
        raise LimitExceeded(
            "a count is too large",
            file=cursor.file,
            field=field,
            offset=offset,
            expected=f"at most {cap}",
            found=count,
        )
    if count * min_bytes > cursor.remaining:
        raise TruncatedSource(
            "the file ends inside its header",
            file=cursor.file,
            field=field,
            offset=offset,
            expected=f"at least {count * min_bytes} bytes for {count} of them",
            found=f"{cursor.remaining} bytes",
        )
    return count


def _alignment(cursor: HeaderCursor, metadata: Mapping[str, Any]) -> int:
    alignment: int = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if alignment < MIN_ALIGNMENT or alignment.bit_count() != 1:
        raise MalformedHeader(
            "an impossible alignment",
            file=cursor.file,
            field="general.alignment",
            expected=f"a power of two, at least {MIN_ALIGNMENT}",
            found=alignment,
        )
    return alignment


def _read_tensor(cursor: HeaderCursor, index: int) -> TensorInfo:
    """Read one record; its `offset` is still counted from the data section's start."""
    name = cursor.name(f"name of tensor {index}", MAX_GGUF_NAME)
    start = cursor.position
    shape = _read_shape(cursor, name)
    encoding = _read_encoding(cursor, name)
    row = shape[-1]
    if row % encoding.block_size:
        raise TensorLayoutError(
            "a row is not a whole number of blocks",
            file=cursor.file,
            tensor=name,
            offset=start,
            expected=f"a multiple of {encoding.block_size} ({encoding.name})",
            found=row,
        )
    offset = cursor.u64(f"offset of {name}")
    nbytes = math.prod(shape[:-1]) * encoding.row_bytes(row)
    return TensorInfo(name, shape, encoding, cursor.file, offset, nbytes)


def _read_shape(cursor: HeaderCursor, name: str) -> tuple[int, ...]:
    """Read the dimensions, which the file gives innermost first."""
    start = cursor.position
    n_dims = cursor.u32(f"dimensions of {name}")
    if not 1 <= n_dims <= MAX_GGUF_DIMS:
        raise TensorLayoutError(
            "an impossible number of dimensions",
            file=cursor.file,
            tensor=name,
            offset=start,
            expected=f"1 to {MAX_GGUF_DIMS}",
            found=n_dims,
        )
    dims = tuple(cursor.u64(f"dimensions of {name}") for _ in range(n_dims))
    # Zeros left out: (0, 2**63) has no elements, but no array library can shape it.
    if math.prod(dim for dim in dims if dim) > MAX_ELEMENTS:
        raise LimitExceeded(
            "a tensor has too many elements",
            file=cursor.file,
            tensor=name,
            offset=start,
            expected=f"at most {MAX_ELEMENTS}",
            found=" x ".join(map(str, dims)),
        )
    return dims[::-1]


def _read_encoding(cursor: HeaderCursor, name: str) -> Encoding:
    offset = cursor.position
    number = cursor.u32(f"type of {name}")
    if number in GGML_TYPES:
        return ENCODINGS[GGML_TYPES[number]]
    removed = REMOVED_GGML_TYPES.get(number)
    raise TensorLayoutError(
        f"GGML type {number} ({removed}) was removed from ggml" if removed else f"unknown GGML type {number}",
        file=cursor.file,
        tensor=name,
        offset=offset,
        expected=f"a type up to {max(GGML_TYPES)}",
        found=number,
    )


def _check_names(cursor: HeaderCursor, records: Sequence[TensorInfo]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise DuplicateName(
                "a tensor name stands twice",
                file=cursor.file,
                tensor=record.name,
                expected="every name once",
                found=record.name,
            )
        seen.add(record.name)


def _lay_out(
    records: Sequence[TensorInfo], data_start: int, size: int, alignment: int
) -> tuple[tuple[TensorInfo, ...], tuple[str, ...]]:
    """Give the tensors with offsets from the file's start, and the notes.

    Their data must lie in the order of their records, as ggml demands.
    """
    tensors: list[TensorInfo] = []
    notes: list[str] = []
    end, before = data_start, "the header"
    for record in records:
        tensor = _placed(record, data_start, size, alignment)
        tensors.append(tensor)
        if tensor.nbytes == 0:
            continue
        if tensor.offset < end:
            raise TensorLayoutError(
                f"a tensor overlaps {before}, or stands before it",
                file=tensor.file,
                tensor=tensor.name,
                offset=tensor.offset,
                expected=f"an offset of at least {end}",
                found=tensor.offset,
            )
        _note_unused(notes, end, tensor.offset, alignment)
        end, before = tensor.offset + tensor.nbytes, tensor.name
    _note_unused(notes, end, size, alignment)
    return tuple(tensors), tuple(notes)


def _placed(record: TensorInfo, data_start: int, size: int, alignment: int) -> TensorInfo:
    if record.offset % alignment:
        raise TensorLayoutError(
            "a tensor is not aligned",
            file=record.file,
            tensor=record.name,
            offset=data_start + record.offset,
            expected=f"a multiple of {alignment} from the data's start",
            found=record.offset,
        )
    offset = data_start + record.offset
    end = offset + record.nbytes
    # The last padding may be missing where no data follows it.
    if end > (size if record.nbytes else size + alignment):
        raise TruncatedSource(
            "the file ends before a tensor does",
            file=record.file,
            tensor=record.name,
            offset=offset,
            expected=f"at least {end} bytes",
            found=f"{size} bytes",
        )
    return TensorInfo(record.name, record.shape, record.encoding, record.file, offset, record.nbytes)


def _note_unused(notes: list[str], start: int, stop: int, alignment: int) -> None:
    if stop - start >= alignment:
        notes.append(f"bytes {start} to {stop} belong to no tensor")
