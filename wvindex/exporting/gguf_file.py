"""GGUF files: the header's bytes, and what a file is made of.

Layout, as ggml's docs/gguf.md has it: magic, version, number of tensors, number of metadata keys; the keys
with their values; one record a tensor; padding to the alignment; data, each tensor's padded likewise.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from wvindex.converting.staged import Constant, Content
from wvindex.errors import UnsupportedError
from wvindex.exporting.tensors import GGML_NUMBERS, OutTensor
from wvindex.sources.gguf_header import DEFAULT_ALIGNMENT, MAGIC, MAX_GGUF_DIMS, MAX_GGUF_NAME
from wvindex.sources.gguf_kept import TOKENIZER, TypedValue
from wvindex.sources.gguf_types import ARRAY, BOOL, SCALARS, STRING, U32, U64, VALUE_TYPES

VERSION: Final = 3

_SPLIT: Final = "split."
_TYPE: Final = {name: number for number, name in enumerate(VALUE_TYPES)}

Metadata = Mapping[str, TypedValue]


def typed(kind: str, value: Any) -> TypedValue:
    """Give a scalar of a named type: ``UINT32``, ``STRING``, ..."""
    return TypedValue(_TYPE[kind], value)


def typed_array(kind: str, values: Sequence[Any]) -> TypedValue:
    """Give an array of a named type."""
    return TypedValue(ARRAY, list(values), _TYPE[kind], len(values))


def file_contents(
    tensors: Sequence[OutTensor], metadata: Metadata, version: int = VERSION
) -> tuple[list[Content], list[int]]:
    """Give what a file is made of, and where in it each tensor begins.

    Raises
    ------
    UnsupportedError
        If a tensor's name or shape is more than GGUF has room for.
    """
    alignment = alignment_of(metadata)
    head = [MAGIC, U32.pack(version), U64.pack(len(tensors)), U64.pack(len(metadata))]
    head += [_pair(key, value) for key, value in metadata.items()]
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        head.append(_record(tensor, end))
        end += tensor.nbytes + -tensor.nbytes % alignment
    header = b"".join(head)
    header += bytes(-len(header) % alignment)
    contents: list[Content] = [Constant(header)]
    for tensor in tensors:
        contents += [tensor, Constant(bytes(-tensor.nbytes % alignment))]
    return contents, [len(header) + start for start in starts]


def alignment_of(metadata: Metadata) -> int:
    """Give what the data are aligned to."""
    stated = metadata.get("general.alignment")
    return int(stated.value) if stated is not None else DEFAULT_ALIGNMENT


def without_splits(metadata: Metadata) -> dict[str, TypedValue]:
    """Give metadata without what says which shard of several a file was."""
    return {key: value for key, value in metadata.items() if not key.startswith(_SPLIT)}


def without_tokenizer(metadata: Metadata) -> dict[str, TypedValue]:
    """Give metadata without the tokenizer's."""
    return {key: value for key, value in metadata.items() if not key.startswith(TOKENIZER)}


def shard_metadata(metadata: Metadata, number: int, count: int, n_tensors: int) -> dict[str, TypedValue]:
    """Give the metadata of one shard, as llama.cpp's gguf-split writes them: the first has everything.

    Parameters
    ----------
    metadata : mapping
    number : int
        From 0.
    count, n_tensors : int
        Of all shards together.
    """
    split = {
        "split.no": typed("UINT16", number),
        "split.count": typed("UINT16", count),
        "split.tensors.count": typed("INT32", n_tensors),
    }
    if number == 0:
        return {**metadata, **split}
    alignment = metadata.get("general.alignment")
    return {**({"general.alignment": alignment} if alignment is not None else {}), **split}


def _pair(key: str, value: TypedValue) -> bytes:
    head = _string(key) + U32.pack(value.type)
    if value.type != ARRAY:
        return head + _packed(value.type, [value.value])
    head += U32.pack(value.items) + U64.pack(value.count)
    return head + (bytes(value.value) if value.items == ARRAY else _packed(value.items, value.value))


def _packed(kind: int, values: Sequence[Any]) -> bytes:
    if kind == STRING:
        return b"".join(map(_string, values))
    if kind == BOOL:
        return bytes(values)
    try:
        return np.array(values, SCALARS[kind]).tobytes()
    except OverflowError as error:
        raise UnsupportedError(f"a metadata value is no {VALUE_TYPES[kind]}", found=error) from error


def _string(text: str) -> bytes:
    data = text.encode()
    return U64.pack(len(data)) + data


def _record(tensor: OutTensor, offset: int) -> bytes:
    name = tensor.name.encode()
    if len(name) > MAX_GGUF_NAME:
        raise UnsupportedError(
            "GGUF has no room for this name",
            tensor=tensor.name,
            expected=f"at most {MAX_GGUF_NAME} bytes",
            found=len(name),
        )
    if len(tensor.shape) > MAX_GGUF_DIMS:
        raise UnsupportedError(
            "GGUF has no room for this shape",
            tensor=tensor.name,
            expected=f"at most {MAX_GGUF_DIMS} dimensions",
            found=tensor.shape,
        )
    dims = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
    kind = GGML_NUMBERS[tensor.encoding.name]
    return _string(tensor.name) + U32.pack(len(tensor.shape)) + dims + U32.pack(kind) + U64.pack(offset)
