"""Arrays of an Orbax checkpoint, read through TensorStore: no JAX, chunk by chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import (
    LimitExceeded,
    MalformedHeader,
    ShardError,
    SourceError,
    TensorLayoutError,
    UnreadableSource,
    UnsupportedError,
    UsageError,
)
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.limits import MAX_CHUNK_BYTES, MAX_DIMS, MAX_ELEMENTS
from wvindex.sources.files import resolve_member
from wvindex.sources.orbax_metadata import Leaf, OrbaxTree

CACHE_BYTES: Final = 16 << 20
"""Decoded chunks that are kept, for the next read of them."""

RUNTIME_BYTES: Final = CACHE_BYTES + (80 << 20)
"""What TensorStore takes, whatever it reads: itself, its cache, and buffers that it has freed."""

_ENCODINGS: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
"""TensorStore's names of dtypes."""

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class LeafArray:
    """An array of the tree, open.

    Attributes
    ----------
    leaf : Leaf
    shape : tuple of int
    encoding : Encoding
    chunk_shape : tuple of int
        What is decoded at once; the layer axis of a scanned stack is never split.
    value_shape : tuple of int
        What stands in one value or file: a chunk, or a shard of several.
    handle : tensorstore.TensorStore
    directory : Path
        Of the checkpoint, for messages.
    """

    leaf: Leaf
    shape: tuple[int, ...]
    encoding: Encoding
    chunk_shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    handle: Any
    directory: Path

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return math.prod(self.shape) * self.encoding.type_size

    @property
    def chunk_nbytes(self) -> int:
        """Of one chunk, decoded."""
        return self._nbytes(self.chunk_shape)

    @property
    def value_nbytes(self) -> int:
        """Of one value, decoded."""
        return self._nbytes(self.value_shape)

    def _nbytes(self, chunk: tuple[int, ...]) -> int:
        inside = (min(n, size) for n, size in zip(chunk, self.shape, strict=True))
        return math.prod(inside) * self.encoding.type_size

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part; integers drop their axis.

        Raises
        ------
        ShardError
            If a chunk is missing.
        SourceError
            If a chunk cannot be decoded, or the system refuses.
        """
        try:
            return np.asarray(self.handle[index].read().result())
        except (ValueError, OSError, RuntimeError) as error:
            raise _explained(error, self.leaf, self.directory) from error


def tensorstore() -> Any:
    """Import TensorStore, or say what to install.

    Raises
    ------
    UsageError
    """
    try:
        import tensorstore as ts
    except ImportError as error:
        raise UsageError(
            "MaxText checkpoints are read and written through TensorStore",
            expected="pip install 'wvindex[maxtext]'",
            found="no module named tensorstore",
        ) from error
    return ts


def context(cache_bytes: int = CACHE_BYTES) -> Any:
    """Give what arrays share: one bounded cache of decoded chunks, few threads."""
    return tensorstore().Context(
        {
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "data_copy_concurrency": {"limit": 2},
            "file_io_concurrency": {"limit": 4},
        }
    )


def array_spec(directory: Path, name: str, *, ocdbt: bool, zarr3: bool) -> dict[str, Any]:
    """Give TensorStore's specification of a leaf, where Orbax puts it."""
    place = str(directory)
    kvstore: dict[str, Any] = {"driver": "file", "path": f"{place}/{name}/"}
    if ocdbt:
        kvstore = {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{place}/"},
            "path": f"{name}/",
        }
    return {"driver": "zarr3" if zarr3 else "zarr", "kvstore": kvstore}


def open_arrays(tree: OrbaxTree, directory: Path, shared: Any) -> tuple[LeafArray, ...]:
    """Open every array of a tree, and hold it against what the tree says of it.

    Parameters
    ----------
    tree : OrbaxTree
    directory : Path
        Absolute.
    shared : tensorstore.Context

    Raises
    ------
    ShardError
        If an array is missing.
    TensorLayoutError, LimitExceeded
        If its shape is not the tree's, or beyond a cap.
    UnsupportedError
        If its dtype is not one that wvindex stores.
    """
    ts = tensorstore()
    pending = []
    for leaf in tree.leaves:
        if not leaf.is_array:
            continue
        if not tree.ocdbt:
            resolve_member(directory, f"{leaf.name}/{'zarr.json' if tree.zarr3 else '.zarray'}")
        spec = array_spec(directory, leaf.name, ocdbt=tree.ocdbt, zarr3=tree.zarr3)
        # Without this a chunk that is not there reads as zeros.
        spec["fill_missing_data_reads"] = not tree.fill_is_stored
        pending.append((leaf, ts.open(spec, open=True, read=True, context=shared)))
    arrays = []
    for leaf, future in pending:
        try:
            handle = future.result()
        except (ValueError, OSError, RuntimeError) as error:
            raise _explained(error, leaf, directory) from error
        arrays.append(_checked(leaf, handle, directory))
    return tuple(arrays)


def _checked(leaf: Leaf, handle: Any, directory: Path) -> LeafArray:
    shape, dtype = tuple(int(n) for n in handle.shape), handle.dtype.name
    if leaf.shape is not None and leaf.shape != shape:
        raise TensorLayoutError(
            "an array has another shape than the tree says",
            file=directory,
            tensor=leaf.name,
            expected=leaf.shape,
            found=shape,
        )
    if len(shape) > MAX_DIMS or math.prod(shape) > MAX_ELEMENTS:
        raise LimitExceeded("an array is too large", file=directory, tensor=leaf.name, found=shape)
    if dtype not in _ENCODINGS:
        raise UnsupportedError(
            "a dtype that wvindex does not store", file=directory, tensor=leaf.name, found=dtype
        )
    layout = handle.chunk_layout
    chunk, value = (
        tuple(int(n) for n in one.shape or shape) for one in (layout.read_chunk, layout.write_chunk)
    )
    found = LeafArray(leaf, shape, ENCODINGS[_ENCODINGS[dtype]], chunk, value, handle, directory)
    if found.chunk_nbytes > MAX_CHUNK_BYTES:
        raise LimitExceeded(
            "a chunk is too large to be decoded at once",
            file=directory,
            tensor=leaf.name,
            expected=f"at most {MAX_CHUNK_BYTES} bytes",
            found=found.chunk_nbytes,
        )
    return found


def _explained(error: Exception, leaf: Leaf, directory: Path) -> SourceError:
    """Tell what TensorStore's message means; it begins with the code of an absl::Status."""
    message = str(error).partition(" [")[0]
    if message.startswith("NOT_FOUND"):
        return ShardError(
            "an array, or a chunk of one, is missing", file=directory, tensor=leaf.name, found=message
        )
    if message.startswith(("DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE")):
        return MalformedHeader("an array cannot be decoded", file=directory, tensor=leaf.name, found=message)
    return UnreadableSource("an array cannot be read", file=directory, tensor=leaf.name, found=message)
