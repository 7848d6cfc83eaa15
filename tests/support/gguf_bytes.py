"""GGUF files byte by byte, so that tests can write what no honest tool would."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

U8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 2, 4, 5, 6, 7, 8, 9, 10


@dataclass(frozen=True)
class Record:
    """A tensor record, in the file's own terms: dimensions innermost first, offset within the data."""

    name: str = "a"
    dims: Sequence[int] = (4,)
    ggml_type: int = 0
    offset: int = 0
    n_dims: int | None = None

    def pack(self) -> bytes:
        """Give the record's bytes; `n_dims` may lie."""
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        dims = struct.pack(f"<{len(self.dims)}Q", *self.dims)
        return string(self.name) + u32(n_dims) + dims + u32(self.ggml_type) + u64(self.offset)


def u16(value: int) -> bytes:
    """Pack an unsigned 16-bit integer."""
    return struct.pack("<H", value)


def u32(value: int) -> bytes:
    """Pack an unsigned 32-bit integer."""
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    """Pack an unsigned 64-bit integer."""
    return struct.pack("<Q", value)


def string(value: str | bytes, length: int | None = None) -> bytes:
    """Pack a string; `length` may lie."""
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data) if length is None else length) + data


def array(item_type: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    """Pack an array's value; `count` may lie."""
    return u32(item_type) + u64(len(items) if count is None else count) + b"".join(items)


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    """Pack one metadata key and value."""
    return string(key) + u32(kind) + value


def gguf(
    *,
    pairs: Sequence[bytes] = (),
    records: Sequence[Record | bytes] = (),
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """Pack a whole file; counts may lie."""
    header = magic + u32(version)
    header += u64(len(records) if n_tensors is None else n_tensors)
    header += u64(len(pairs) if n_keys is None else n_keys)
    header += b"".join(pairs)
    header += b"".join(record if isinstance(record, bytes) else record.pack() for record in records)
    return header + bytes(-len(header) % alignment) + data
