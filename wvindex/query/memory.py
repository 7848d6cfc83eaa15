"""Memory for what is read: asked for once the files were seen to hold what is claimed of them."""

from __future__ import annotations

import math
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wvindex.errors import LimitExceeded
from wvindex.formats.arrays import ArraySpec, RowReader

UNPROVEN_BYTES: Final = 16 << 20
"""Memory that is given to what a catalog claims before any file was looked at."""


@runtime_checkable
class Provable(Protocol):
    """A RowReader of rows that something only claims to be there."""

    def require(self, start: int, stop: int) -> None:
        """See that rows [start, stop) may be there."""
        ...


def prove(reader: RowReader, rows: tuple[int, int], nbytes: int) -> None:
    """See that rows [start, stop) may be there, where as much memory as `nbytes` depends on it.

    Raises
    ------
    CatalogError, ChunkError, SourceChanged
        If they are not.
    """
    if nbytes > UNPROVEN_BYTES and isinstance(reader, Provable):
        reader.require(*rows)


def new_array(
    shape: tuple[int, ...], dtype: DTypeLike, spec: ArraySpec, reader: RowReader, rows: tuple[int, int]
) -> NDArray[Any]:
    """Give memory for what is read of rows [start, stop) of an array.

    Raises
    ------
    LimitExceeded
        If there is not as much.
    CatalogError, ChunkError, SourceChanged
        As `prove`.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    prove(reader, rows, nbytes)
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise LimitExceeded(
            "this does not fit into memory: read a part of it",
            tensor=spec.key,
            expected="as much memory as there is",
            found=f"{nbytes} bytes",
        ) from None
