"""A tree's leaves written as Orbax writes from several hosts: small databases, and one that refers to them.

Each database is whole, and journaled, before the next is begun: an export that was interrupted goes on behind
the last. A chunk of a leaf is one of Zarr's, made, compressed and written at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from wvindex.converting.orbax_values import IN_FLIGHT, Region, TargetValues, merge, regions
from wvindex.converting.staged import StagedDirectory
from wvindex.errors import UsageError
from wvindex.exporting.chunks import HELD_BYTES
from wvindex.exporting.maxtext_leaves import BUFFERS, ITEMS, LeafForm
from wvindex.limits import PROCESS_BYTES
from wvindex.sizes import format_size
from wvindex.sources.orbax_arrays import RUNTIME_BYTES, context, tensorstore
from wvindex.sources.orbax_metadata import OCDBT_MANIFEST
from wvindex.store.durable import fsync_paths

_BATCH_BYTES: Final = 1 << 30
"""Values that one database has, about: what an interrupted export does again."""

_DATABASE: Final = f"{ITEMS}/ocdbt.process_"

_DATA_TYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Zarr's names."""


@dataclass(frozen=True)
class _Batch:
    """Chunks that go into one database."""

    directory: str
    chunks: tuple[tuple[LeafForm, tuple[Region, ...]], ...]
    nbytes: int


def require_means(leaves: Sequence[LeafForm], max_memory: int) -> None:
    """Refuse where leaves cannot be written: the largest chunk is held, with what it is made of.

    Raises
    ------
    UsageError
        If the memory does not suffice, or TensorStore is not installed.
    """
    if not leaves:
        return
    tensorstore()
    largest = max(leaf.chunk_nbytes for leaf in leaves)
    held = RUNTIME_BYTES + HELD_BYTES + IN_FLIGHT + BUFFERS * largest
    least = PROCESS_BYTES + held * 4 // 3  # a quarter is for the files beside the tree
    if max_memory < least:
        raise UsageError(
            "this model's chunks cannot be held in so little memory",
            field="max_memory",
            expected=f"at least {format_size(least)}",
            found=format_size(max_memory),
        )


def write_leaves(
    staged: StagedDirectory, leaves: Sequence[LeafForm], report: Callable[[str, int], None]
) -> None:
    """Write every leaf, or what is missing of them, below `ITEMS`."""
    shared = context()
    metadata = {leaf.name: zarr_metadata(leaf) for leaf in leaves}
    first = f"{_DATABASE}0"
    if not staged.is_kept(first):
        target = TargetValues(staged.begin_directory(first), ocdbt=True, zarr3=True, shared=shared)
        target.write_metadata(metadata)
        staged.keep(first)
    names = [first]
    for batch in _batches(leaves):
        _write_batch(staged, batch, metadata, shared, report)
        names.append(batch.directory)
    directory = staged.path(ITEMS)
    merge([staged.path(name) for name in names], directory, shared)
    fsync_paths([directory / OCDBT_MANIFEST, *(directory / "d").iterdir()])


def _batches(leaves: Sequence[LeafForm]) -> Iterator[_Batch]:
    number, nbytes = 1, 0
    gathered: list[tuple[LeafForm, tuple[Region, ...]]] = []
    for leaf in leaves:
        chunks: list[Region] = []
        for region in regions(leaf.shape, leaf.chunk_shape):
            chunks.append(region)
            nbytes += _nbytes(leaf, region)
            if nbytes >= _BATCH_BYTES:
                yield _Batch(f"{_DATABASE}{number}", (*gathered, (leaf, tuple(chunks))), nbytes)
                number, nbytes, gathered, chunks = number + 1, 0, [], []
        if chunks:
            gathered.append((leaf, tuple(chunks)))
    if gathered:
        yield _Batch(f"{_DATABASE}{number}", tuple(gathered), nbytes)


def _nbytes(leaf: LeafForm, region: Region) -> int:
    size = leaf.encoding.type_size
    for axis in region:
        size *= axis.stop - axis.start
    return size


def _write_batch(
    staged: StagedDirectory,
    batch: _Batch,
    metadata: Mapping[str, Mapping[str, Any]],
    shared: Any,
    report: Callable[[str, int], None],
) -> None:
    if staged.is_kept(batch.directory):
        report(batch.directory, batch.nbytes)
        return
    target = TargetValues(staged.begin_directory(batch.directory), ocdbt=True, zarr3=True, shared=shared)
    for leaf, chunks in batch.chunks:
        target.write_chunks(leaf.name, metadata[leaf.name], chunks, leaf.read, partial(report, leaf.name))
    staged.keep(batch.directory)


def zarr_metadata(leaf: LeafForm) -> dict[str, Any]:
    """Give a leaf's Zarr 3 metadata, compressed as Orbax compresses."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(leaf.shape),
        "data_type": _DATA_TYPES[leaf.encoding.name],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(leaf.chunk_shape)}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0.0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        ],
    }
