"""GGUF metadata as a JSON document that loses nothing: every key in its order, its type, its value.

::

    {"version": 3,
     "metadata": [{"key": "general.alignment", "type": "UINT32", "value": 32},
                  {"key": "tokenizer.ggml.tokens", "type": "ARRAY", "items": "STRING"}],
     "tensors": [{"name": "rope_freqs.weight", "type": "F32", "shape": [32], "data": "AACAP..."}]}

Values of ``tokenizer.*`` stand in the store's ``tokenizer/gguf.json``, and not here again. Arrays of arrays
are kept as their bytes (``data``, base64).
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wvindex.errors import CatalogError
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.limits import MAX_ROTARY_DIM
from wvindex.sources.gguf import GGUFSource
from wvindex.sources.gguf_metadata import PackedArray
from wvindex.sources.gguf_types import ARRAY, SCALARS, STRING, VALUE_TYPES

TOKENIZER: Final = "tokenizer."

_MOST_BYTES: Final = 4 * MAX_ROTARY_DIM


@dataclass(frozen=True)
class TypedValue:
    """A metadata value.

    Attributes
    ----------
    type : int
        A GGUF value type.
    value : object
        A scalar, a string, or a list; of an array of arrays, the bytes of its items.
    items : int
        Of an array: its items' type.
    count : int
        Of an array.
    """

    type: int
    value: Any
    items: int = 0
    count: int = 0


@dataclass(frozen=True)
class KeptTensor:
    """A small tensor, whole."""

    name: str
    encoding: Encoding
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class KeptGGUF:
    """What a GGUF file said besides weights.

    Attributes
    ----------
    version : int
    metadata : mapping of str to TypedValue
        In the file's order.
    tensors : mapping of str to KeptTensor
        Those that became part of the configuration: no array holds them.
    """

    version: int
    metadata: Mapping[str, TypedValue]
    tensors: Mapping[str, KeptTensor]


def gguf_document(source: GGUFSource, in_config: Collection[str]) -> dict[str, Any]:
    """Give the document of an open file; `read_gguf_document` reads it back.

    Parameters
    ----------
    source : GGUFSource
    in_config : collection of str
        Tensors that no array holds, for they became part of the configuration: short vectors.

    Raises
    ------
    MalformedHeader
        If a string in an array is not UTF-8.
    """
    header = source.header
    return {
        "version": header.version,
        "metadata": [_entry(key, header.types[key], value) for key, value in header.metadata.items()],
        "tensors": [
            {
                "name": info.name,
                "type": info.encoding.name,
                "shape": list(info.shape),
                "data": b64encode(source.read(info, 0, info.nbytes)).decode("ascii"),
            }
            for info in source.tensors()
            if info.name in in_config and info.nbytes <= _MOST_BYTES
        ],
    }


def _entry(key: str, kind: int, value: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"key": key, "type": VALUE_TYPES[kind]}
    if isinstance(value, PackedArray):
        entry["items"] = VALUE_TYPES[value.item_type]
        if value.item_type == ARRAY:
            return entry | {"count": value.count, "data": b64encode(value.data).decode("ascii")}
    if key.startswith(TOKENIZER):
        return entry
    return entry | {"value": value.values() if isinstance(value, PackedArray) else value}


def read_gguf_document(data: bytes, tokenizer: Mapping[str, Any], *, file: str) -> KeptGGUF:
    """Read what `gguf_document` gave.

    Parameters
    ----------
    data : bytes
        JSON.
    tokenizer : mapping of str to object
        The values of ``tokenizer.*``.
    file : str
        For messages.

    Raises
    ------
    CatalogError
        If it is of another form.
    """
    try:
        document = json.loads(data)
        metadata = {entry["key"]: _typed(entry, tokenizer) for entry in document["metadata"]}
        tensors = {one["name"]: _kept_tensor(one) for one in document["tensors"]}
        version = int(document["version"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, Base64Error) as error:
        raise CatalogError(
            "not the metadata of a GGUF file", file=file, expected="what a build writes", found=repr(error)
        ) from error
    return KeptGGUF(version, metadata, tensors)


def _typed(entry: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> TypedValue:
    kind, key = VALUE_TYPES.index(entry["type"]), entry["key"]
    items = VALUE_TYPES.index(entry["items"]) if kind == ARRAY else 0
    if items == ARRAY:
        return TypedValue(kind, b64decode(entry["data"], validate=True), ARRAY, int(entry["count"]))
    value = entry["value"] if "value" in entry else tokenizer[key]
    checked = value if kind == ARRAY else [value]
    _check(checked, items if kind == ARRAY else kind)
    return TypedValue(kind, value, items, len(value) if kind == ARRAY else 0)


def _check(values: Any, kind: int) -> None:
    """Refuse values that are not of their type."""
    if not isinstance(values, list):
        raise TypeError("an array is no list")
    if kind == STRING:
        wanted: tuple[type, ...] = (str,)
    elif VALUE_TYPES[kind] == "BOOL":
        wanted = (bool,)
    else:
        wanted = (float, int) if SCALARS[kind].kind == "f" else (int,)
    for value in values:
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted != (bool,)):
            raise TypeError(f"{value!r} is no {VALUE_TYPES[kind]}")


def _kept_tensor(one: Mapping[str, Any]) -> KeptTensor:
    encoding, shape = ENCODINGS[one["type"]], tuple(int(n) for n in one["shape"])
    return KeptTensor(str(one["name"]), encoding, shape, b64decode(one["data"], validate=True))
