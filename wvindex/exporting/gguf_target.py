"""A GGUF file of a model's tensors: one, or several of bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wvindex.exporting.gguf_file import (
    VERSION,
    Metadata,
    file_contents,
    shard_metadata,
    typed,
    typed_array,
    without_splits,
)
from wvindex.exporting.held import Held
from wvindex.exporting.outline import Outline
from wvindex.exporting.shards import differing, divided, numbered
from wvindex.exporting.tensors import OutTensor
from wvindex.sources.gguf_kept import TypedValue

SUFFIX: Final = ".gguf"
FILE_TYPE: Final = "general.file_type"

_FILE_TYPES: Final = {"F32": 0, "F16": 1, "BF16": 32}
"""llama.cpp's numbers (enum llama_ftype) of files whose matrices are all of one plain type."""

_ARRAY_ITEMS: Final = {"tokenizer.ggml.token_type": "INT32", "tokenizer.ggml.scores": "FLOAT32"}


def compose_gguf(
    outline: Outline,
    tensors: Sequence[OutTensor],
    metadata: Metadata,
    *,
    stem: str,
    version: int = VERSION,
    max_shard_size: int | None = None,
) -> None:
    """Add the file, or files, to an outline.

    Parameters
    ----------
    outline : Outline
    tensors : sequence of OutTensor
        Of types that GGUF has.
    metadata : mapping of str to TypedValue
    stem : str
        Of the files' names.
    version : int
        Of GGUF.
    max_shard_size : int, optional
        Bytes of tensors in a file.
    """
    files = numbered(divided(tensors, max_shard_size), stem, SUFFIX)
    for number, (name, shard) in enumerate(files.items()):
        own = metadata if len(files) == 1 else shard_metadata(metadata, number, len(files), len(tensors))
        contents, _ = file_contents(shard, own, version)
        outline.contents[name] = contents
        outline.add_tensors(shard, name)


def restored_metadata(
    held: Held, tensors: Sequence[OutTensor], outline: Outline
) -> tuple[dict[str, TypedValue], int]:
    """Give the metadata of a GGUF source again, and its version of GGUF.

    The type of the file is told anew where tensors are not of the types that they had.
    """
    kept = held.gguf()
    if kept is None:
        outline.notes.append(
            "the store was built before metadata were kept: types of values are taken for the usual ones"
        )
        metadata, version = _guessed(held), VERSION
    else:
        metadata, version = dict(kept.metadata), kept.version
    metadata = without_splits(metadata)
    changed = differing(tensors, {line.tensor: line.encoding for line in held.ledger})
    if changed:
        outline.notes.append(f"{len(changed)} tensors are not in the encoding that their source had")
        metadata = with_file_type(metadata, tensors)
    return metadata, version


def with_file_type(metadata: Metadata, tensors: Sequence[OutTensor]) -> dict[str, TypedValue]:
    """Give metadata that say of which type the matrices are, or nothing where they are of several."""
    kinds = {tensor.encoding.name for tensor in tensors if len(tensor.shape) > 1}
    number = _FILE_TYPES.get(next(iter(kinds))) if len(kinds) == 1 else None
    result = {key: value for key, value in metadata.items() if key != FILE_TYPE}
    if number is not None:
        result[FILE_TYPE] = typed("UINT32", number)
    return result


def _guessed(held: Held) -> dict[str, TypedValue]:
    """Give metadata of which the store has values without their types."""
    tokenizer = held.tokenizer.gguf if held.tokenizer is not None else {}
    values: Mapping[str, Any] = {**held.source_config, **tokenizer}
    return {key: _typed(key, value) for key, value in values.items() if value != []}


def _typed(key: str, value: Any) -> TypedValue:
    if isinstance(value, list):
        return typed_array(_ARRAY_ITEMS.get(key, _kind(value[0])), [_number(item) for item in value])
    return typed(_kind(value), _number(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, int):
        return "UINT32" if 0 <= value < 1 << 32 else "INT64" if value < 0 else "UINT64"
    return "FLOAT32" if isinstance(_number(value), float) else "STRING"


def _number(value: Any) -> Any:
    """Give floats that JSON lacks, which the catalog spells as strings."""
    return (
        {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
        if isinstance(value, str)
        else value
    )
