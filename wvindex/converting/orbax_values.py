"""Values of an Orbax checkpoint as keys with bytes: those of a leaf, copied as they are, or written anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.converting.orbax_documents import array_metadata, compact, written_shapes
from wvindex.converting.orbax_leaves import NewLeaf
from wvindex.errors import NoSpace, ShardError, StoreError, UnreadableSource
from wvindex.sources.orbax_arrays import array_spec, tensorstore
from wvindex.sources.orbax_metadata import OrbaxTree
from wvindex.sources.strict_json import parse_object

IN_FLIGHT: Final = 16 << 20
"""Bytes of values that are on their way into a database at once; one is, whatever its size."""

_OCDBT_CONFIG: Final = {
    "max_inline_value_bytes": 1024,
    "max_decoded_node_bytes": 100_000_000,
    "manifest_kind": "single",
}
"""As Orbax writes its databases: metadata of arrays stand in the tree, chunks beside it."""


Region = tuple[slice, ...]
"""A part of an array, along every axis."""


def metadata_key(name: str, *, zarr3: bool) -> str:
    """Give the key of an array's metadata."""
    return f"{name}/{'zarr.json' if zarr3 else '.zarray'}"


class SourceValues:
    """The keys of a checkpoint.

    Parameters
    ----------
    tree : OrbaxTree
    shared : tensorstore.Context
    """

    def __init__(self, tree: OrbaxTree, shared: Any) -> None:
        self._ts = tensorstore()
        self._tree = tree
        base = {"driver": "file", "path": f"{tree.directory}/"}
        self._store = _opened({"driver": "ocdbt", "base": base} if tree.ocdbt else base, shared)

    def keys(self, name: str) -> list[bytes]:
        """List the keys of a leaf, sorted."""
        first, after = f"{name}/".encode(), f"{name}0".encode()  # "0" comes after "/"
        return sorted(self._store.list(self._ts.KvStore.KeyRange(first, after)).result())

    def read(self, key: bytes) -> bytes:
        """Read a value.

        Raises
        ------
        ShardError
            If there is none.
        """
        try:
            found = self._store.read(key).result()
        except (ValueError, OSError, RuntimeError) as error:
            raise UnreadableSource(
                "a value cannot be read",
                file=self._tree.directory,
                tensor=key.decode(errors="replace"),
                found=str(error).partition(" [")[0],
            ) from error
        if found.state != "value":
            raise ShardError(
                "a value is missing", file=self._tree.directory, tensor=key.decode(errors="replace")
            )
        return bytes(found.value)

    def metadata(self, name: str) -> dict[str, Any]:
        """Read an array's metadata."""
        key = metadata_key(name, zarr3=self._tree.zarr3)
        return parse_object(self.read(key.encode()), file=self._tree.directory / key)


class TargetValues:
    """A directory, or an OCDBT database, that values are written into.

    Parameters
    ----------
    directory : Path
    ocdbt, zarr3 : bool
    shared : tensorstore.Context
    """

    def __init__(self, directory: Path, *, ocdbt: bool, zarr3: bool, shared: Any) -> None:
        self._directory = directory
        self._ocdbt, self._zarr3, self._shared = ocdbt, zarr3, shared
        self._store = _opened(database(directory) if ocdbt else _file(directory), shared)

    def copy(self, source: SourceValues, keys: Sequence[bytes]) -> None:
        """Copy values as they are."""
        with _reporting(self._directory):
            futures, nbytes = [], 0
            for key in keys:
                value = source.read(key)
                futures.append(self._store.write(key, value))
                nbytes += len(value)
                if nbytes >= IN_FLIGHT:
                    _finish(futures)
                    futures, nbytes = [], 0
            _finish(futures)

    def write(self, made: NewLeaf, metadata: Mapping[str, Any], on_bytes: Callable[[int], None]) -> None:
        """Write a new leaf, chunk by chunk."""
        self.write_metadata({made.name: metadata})
        found = regions(made.shape, written_shapes(metadata)[0])
        self.write_chunks(made.name, metadata, found, partial(_gathered, made), on_bytes)

    def write_metadata(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the metadata of arrays, by their names, at once."""
        with _reporting(self._directory):
            _finish(
                [
                    self._store.write(metadata_key(name, zarr3=self._zarr3).encode(), compact(metadata))
                    for name, metadata in documents.items()
                ]
            )

    def write_chunks(
        self,
        name: str,
        metadata: Mapping[str, Any],
        chunks: Iterable[Region],
        read: Callable[[Region], NDArray[Any]],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Write chunks of an array, whose metadata may stand in another database."""
        spec = array_spec(self._directory, name, ocdbt=self._ocdbt, zarr3=self._zarr3)
        if self._ocdbt:
            spec["kvstore"] |= {"config": _OCDBT_CONFIG}
        spec["store_data_equal_to_fill_value"] = True  # a chunk that is missing is a fault
        spec["metadata"] = dict(metadata)
        mode = {"open": True, "assume_metadata": True, "read": True, "write": True}
        with _reporting(self._directory):
            array = tensorstore().open(spec, **mode, context=self._shared).result()
            futures, nbytes = [], 0
            for region in chunks:
                values = read(region)
                futures.append(array[region].write(values))
                nbytes += values.nbytes
                if nbytes >= IN_FLIGHT:
                    _finish(futures)
                    futures, nbytes = [], 0
                on_bytes(values.nbytes)
            _finish(futures)


def database(directory: Path) -> dict[str, Any]:
    """Give the specification of an OCDBT database to write into."""
    return {"driver": "ocdbt", "base": _file(directory), "config": _OCDBT_CONFIG}


def merge(databases: Sequence[Path], directory: Path, shared: Any) -> None:
    """Have one database refer to the values of several below it, as Orbax does at the end of a save."""
    ts = tensorstore()
    with _reporting(directory):
        parent = _opened(database(directory), shared)
        transaction = ts.Transaction(atomic=True)
        for one in databases:
            child = _opened({"driver": "ocdbt", "base": _file(one)}, shared)
            child.experimental_copy_range_to(parent.with_transaction(transaction)).result()
        transaction.commit_async().result()


def new_metadata(source: SourceValues, made: NewLeaf) -> dict[str, Any]:
    """Give the metadata of a new leaf."""
    return array_metadata(source.metadata(made.model.leaf.name), made)


def _finish(futures: Sequence[Any]) -> None:
    for future in futures:
        future.result()


def _file(directory: Path) -> dict[str, Any]:
    return {"driver": "file", "path": f"{directory}/"}


def _opened(spec: Mapping[str, Any], shared: Any) -> Any:
    return tensorstore().KvStore.open(dict(spec), context=shared).result()


def regions(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[Region]:
    """Give the parts of an array that are written at once: its chunks."""
    starts = [range(0, n, max(size, 1)) for n, size in zip(shape, chunk, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + axis.step, n))
            for start, axis, n in zip(corner, starts, shape, strict=True)
        )


def _gathered(made: NewLeaf, region: Region) -> NDArray[Any]:
    """Read what stands in a region of a new leaf."""
    *outer, columns = region
    parts = []
    for piece in made.pieces:
        start = max(columns.start, piece.at) - piece.at + piece.start
        stop = min(columns.stop, piece.at + piece.stop - piece.start) - piece.at + piece.start
        if stop > start:
            parts.append(piece.array.read((*outer, slice(start, stop))))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


class _reporting:
    """Tells a failure of TensorStore to write as an error of ours."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise what TensorStore said, typed."""
        if isinstance(error, ValueError | OSError | RuntimeError):
            message = str(error).partition(" [")[0]
            full = "No space left" in message or "RESOURCE_EXHAUSTED" in message
            refused = NoSpace if full else StoreError
            raise refused("the result cannot be written", file=self._directory, found=message) from error
