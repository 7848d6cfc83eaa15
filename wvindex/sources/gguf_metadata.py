"""GGUF metadata: scalars decoded at once, arrays checked and kept packed until they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wvindex.errors import DuplicateName, LimitExceeded, MalformedHeader, TruncatedSource
from wvindex.limits import MAX_ARRAY_DEPTH, MAX_ARRAY_ITEMS, MAX_NESTED_ARRAYS
from wvindex.sources.gguf_cursor import HeaderCursor
from wvindex.sources.gguf_types import ARRAY, BOOL, SCALARS, STRING, U32, U64, UINT32, VALUE_TYPES

MIN_KEY_BYTES = 8 + 1 + 4 + 1
"""The shortest key and value: a length, a letter, a type, a byte."""


_MIN_ITEM_BYTES = {STRING: 8, ARRAY: 12} | {kind: dtype.itemsize for kind, dtype in SCALARS.items()}

_FIXED_TYPES = {"general.alignment": UINT32}
"""Keys that the header's own reading depends on."""


@dataclass(frozen=True)
class PackedArray:
    """A metadata array as it lies in the header, its extent already validated.

    Attributes
    ----------
    file, key : Path, str
        For messages.
    item_type : int
        A GGUF value type.
    count : int
    data : bytes
        The items.
    """

    file: Path
    key: str
    item_type: int
    count: int
    data: bytes

    def values(self) -> list[Any]:
        """Decode the items to plain Python values; arrays in arrays become lists in lists.

        Raises
        ------
        MalformedHeader
            If a string is not UTF-8.
        """
        return self._items(self.item_type, self.count, 0)[0]

    def _items(self, item_type: int, count: int, position: int) -> tuple[list[Any], int]:
        if item_type == STRING:
            return self._strings(count, position)
        if item_type == ARRAY:
            return self._arrays(count, position)
        dtype = SCALARS[item_type]
        numbers = np.frombuffer(self.data, dtype, count, position)
        end = position + count * dtype.itemsize
        return (numbers != 0 if item_type == BOOL else numbers).tolist(), end

    def _strings(self, count: int, position: int) -> tuple[list[Any], int]:
        data, unpack, strings = self.data, U64.unpack_from, []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                strings.append(str(data[start:position], "utf-8"))
        except UnicodeDecodeError as error:
            raise MalformedHeader(
                "a string in an array is not UTF-8", file=self.file, field=f"{self.key}[{len(strings)}]"
            ) from error
        return strings, position

    def _arrays(self, count: int, position: int) -> tuple[list[Any], int]:
        arrays = []
        for _ in range(count):
            (item_type,) = U32.unpack_from(self.data, position)
            (n_items,) = U64.unpack_from(self.data, position + 4)
            items, position = self._items(item_type, n_items, position + 12)
            arrays.append(items)
        return arrays, position


def read_metadata(cursor: HeaderCursor, n_keys: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Read `n_keys` keys and values: plain scalars, strings, and `PackedArray`.

    Returns
    -------
    metadata : dict of str to object
    types : dict of str to int
        Each value's GGUF type.

    Raises
    ------
    DuplicateName, LimitExceeded, MalformedHeader, TruncatedSource
    """
    metadata: dict[str, Any] = {}
    types: dict[str, int] = {}
    for index in range(n_keys):
        offset = cursor.position
        key = cursor.name(f"metadata key {index}")
        if key in metadata:
            raise DuplicateName(
                "a metadata key stands twice",
                file=cursor.file,
                field=key,
                offset=offset,
                expected="every key once",
                found=key,
            )
        types[key] = cursor.u32(key)
        metadata[key] = _read_value(cursor, key, types[key])
    return metadata, types


def unpack(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Decode every array in `metadata`."""
    return {key: v.values() if isinstance(v, PackedArray) else v for key, v in metadata.items()}


def _read_value(cursor: HeaderCursor, key: str, kind: int) -> Any:
    offset = cursor.position - U32.size
    if kind != _FIXED_TYPES.get(key, kind):
        raise MalformedHeader(
            "a metadata value of the wrong type",
            file=cursor.file,
            field=key,
            offset=offset,
            expected=_type_name(_FIXED_TYPES[key]),
            found=_type_name(kind),
        )
    if kind == STRING:
        return cursor.string(key)
    if kind == ARRAY:
        item_type, count = _array_head(cursor, key)
        start = cursor.position
        _skip_items(cursor, key, item_type, count, 1)
        return PackedArray(cursor.file, key, item_type, count, cursor.slice(start, cursor.position))
    if kind not in SCALARS:
        raise MalformedHeader(
            "an unknown metadata value type",
            file=cursor.file,
            field=key,
            offset=offset,
            expected="0 to 12",
            found=kind,
        )
    data = cursor.take(SCALARS[kind].itemsize, key)
    if kind == BOOL:
        _check_bools(cursor, key, data)
        return data != b"\0"
    return np.frombuffer(data, SCALARS[kind])[0].item()


def _type_name(kind: int) -> str:
    return VALUE_TYPES[kind] if kind < len(VALUE_TYPES) else f"type {kind}"


def _array_head(cursor: HeaderCursor, key: str) -> tuple[int, int]:
    offset = cursor.position
    item_type, count = cursor.u32(key), cursor.u64(key)
    if item_type not in _MIN_ITEM_BYTES:
        raise MalformedHeader(
            "an array of an unknown value type",
            file=cursor.file,
            field=key,
            offset=offset,
            expected="0 to 12",
            found=item_type,
        )
    if count > MAX_ARRAY_ITEMS:
        raise LimitExceeded(
            "an array has too many items",
            file=cursor.file,
            field=key,
            offset=offset,
            expected=f"at most {MAX_ARRAY_ITEMS}",
            found=count,
        )
    needed = count * _MIN_ITEM_BYTES[item_type]
    if needed > cursor.remaining:
        raise TruncatedSource(
            "an array is longer than the rest of the file",
            file=cursor.file,
            field=key,
            offset=offset,
            expected=f"at least {needed} bytes for {count} items",
            found=f"{cursor.remaining} bytes",
        )
    return item_type, count


def _skip_items(cursor: HeaderCursor, key: str, item_type: int, count: int, depth: int) -> None:
    if item_type == STRING:
        cursor.skip_strings(count, key)
    elif item_type == ARRAY:
        if depth >= MAX_ARRAY_DEPTH:
            raise LimitExceeded(
                "arrays are nested too deeply",
                file=cursor.file,
                field=key,
                offset=cursor.position,
                expected=f"at most {MAX_ARRAY_DEPTH}",
                found=f"at least {depth + 1}",
            )
        cursor.nested += count
        if cursor.nested > MAX_NESTED_ARRAYS:
            raise LimitExceeded(
                "too many arrays within arrays",
                file=cursor.file,
                field=key,
                offset=cursor.position,
                expected=f"at most {MAX_NESTED_ARRAYS}",
                found=cursor.nested,
            )
        for _ in range(count):
            _skip_items(cursor, key, *_array_head(cursor, key), depth + 1)
    else:
        start = cursor.skip(count * SCALARS[item_type].itemsize, key)
        if item_type == BOOL:
            _check_bools(cursor, key, cursor.slice(start, cursor.position))


def _check_bools(cursor: HeaderCursor, key: str, data: bytes) -> None:
    if data.count(0) + data.count(1) != len(data):
        raise MalformedHeader(
            "a bool is neither 0 nor 1",
            file=cursor.file,
            field=key,
            expected="0 or 1",
            found=next(byte for byte in data if byte > 1),
        )
