"""The chunks of an array of a checkpoint: under which keys they stand, and which part of the array each is.

https://zarr-specs.readthedocs.io/en/latest/v3/chunk-key-encodings/ and, of Zarr 2,
https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html#chunks
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from wvindex.converting.orbax_values import Region, regions
from wvindex.errors import ShardError, UnsupportedError
from wvindex.sources.orbax_arrays import LeafArray


def chunk_keys(array: LeafArray, metadata: Mapping[str, Any], file: Path) -> dict[str, Region]:
    """Give the key of every chunk (of every shard, where there are some), with the region that it is.

    Raises
    ------
    UnsupportedError
        If the keys are encoded in a way that is not known.
    """
    if "chunks" in metadata:
        name, separator = "v2", metadata.get("dimension_separator", ".")
    else:
        encoding = metadata.get("chunk_key_encoding", {"name": "default"})
        name = encoding.get("name")
        separator = encoding.get("configuration", {}).get("separator", "/" if name == "default" else ".")
    if name not in ("default", "v2") or separator not in ("/", "."):
        raise UnsupportedError(
            "chunks have keys of a kind that is not known",
            file=file,
            tensor=array.leaf.name,
            expected="default or v2, with / or .",
            found=f"{name} with {separator}",
        )
    counts = (range(-(-n // max(size, 1))) for n, size in zip(array.shape, array.value_shape, strict=True))
    keys = {}
    for index, region in zip(
        itertools.product(*counts), regions(array.shape, array.value_shape), strict=True
    ):
        place = separator.join(map(str, index))
        if name == "default":
            place = separator.join(part for part in ("c", place) if part)
        keys[f"{array.leaf.name}/{place or '0'}"] = region
    return keys


def require_chunks(array: LeafArray, expected: Collection[str], keys: Iterable[bytes], file: Path) -> None:
    """Refuse an array of which a chunk is missing from the keys that there are.

    Raises
    ------
    ShardError
        Naming the first.
    """
    found = {key.decode(errors="replace") for key in keys}
    missing = [key for key in expected if key not in found]
    if missing:
        raise ShardError(
            "a chunk of an array is missing",
            file=file,
            tensor=array.leaf.name,
            expected=missing[0],
            found=f"{len(expected) - len(missing)} of {len(expected)} chunks",
        )


def require_decodable(array: LeafArray, region: Region) -> None:
    """Decode what stands under one key, a chunk at a time.

    Raises
    ------
    SourceError
        If that fails, or a shard lacks a chunk.
    """
    shape = [part.stop - part.start for part in region]
    for inner in regions(shape, array.chunk_shape):
        array.read(
            tuple(
                slice(part.start + one.start, part.start + one.stop)
                for part, one in zip(region, inner, strict=True)
            )
        )
