"""A leaf of an Orbax checkpoint, chunk by chunk put into a file from which any layer can be read alone.

The layer axis of a scanned stack is never split into chunks: to read one layer is to decode them all. A
build, which wants every layer, so decodes each chunk once and keeps what it held beside the store, layer by
layer, in a file without a name, which is gone with the process.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import NoSpace, StoreError
from wvindex.sources.files import pread_into
from wvindex.sources.orbax_arrays import Index, LeafArray


class UnstackedLeaf:
    """A leaf with its axes in another order, in a file of its own; a `maxtext_tensors.Parts`.

    Parameters
    ----------
    array : LeafArray
    order : sequence of int
        Every axis of the leaf, in the order in which the file has them: layers and experts, rows, columns.
    whole : set of int
        Axes that a block has all of, whatever the chunks are.
    directory : Path
        Where the file is made.

    Raises
    ------
    NoSpace, StoreError
        If it cannot be written.
    """

    def __init__(self, array: LeafArray, order: Sequence[int], whole: set[int], directory: Path) -> None:
        self._order = tuple(order)
        self._shape = tuple(array.shape[axis] for axis in order)
        self._dtype = array.encoding.logical_dtype
        sizes = [
            array.shape[axis] if axis in whole else min(array.chunk_shape[axis], array.shape[axis])
            for axis in order
        ]
        self._starts = [range(0, n, max(size, 1)) for n, size in zip(self._shape, sizes, strict=True)]
        self._offsets: dict[tuple[int, ...], int] = {}
        self._path = directory
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                self._descriptor = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._descriptor)  # after the last read under way
                self._fill(array, file)
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
            raise kind(
                "a stack of layers cannot be put beside the store",
                file=directory,
                tensor=array.leaf.name,
                expected=f"{array.nbytes} bytes free",
                found=error.strerror or str(error),
            ) from error

    def _fill(self, array: LeafArray, file: IO[bytes]) -> None:
        offset = 0
        for block in itertools.product(*(range(len(starts)) for starts in self._starts)):
            index: list[int | slice] = [slice(None)] * len(self._order)
            for axis, extent in zip(self._order, self._extents(block), strict=True):
                index[axis] = slice(*extent)
            values = np.ascontiguousarray(array.read(tuple(index)).transpose(self._order))
            self._offsets[block] = offset
            offset += file.write(values.reshape(-1).view(np.uint8).data)

    def _extents(self, block: tuple[int, ...]) -> list[tuple[int, int]]:
        """Give where a block begins and ends along each axis of the file."""
        return [
            (starts[number], min(starts[number] + starts.step, n))
            for starts, number, n in zip(self._starts, block, self._shape, strict=True)
        ]

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part of the leaf; `index` and the answer have the leaf's own order of axes."""
        wanted = [_bounds(index[axis], n) for axis, n in zip(self._order, self._shape, strict=True)]
        out = np.empty([stop - start for start, stop in wanted], self._dtype)
        touched = [
            range(start // starts.step, -(-stop // starts.step) if stop > start else start // starts.step)
            for (start, stop), starts in zip(wanted, self._starts, strict=True)
        ]
        for block in itertools.product(*touched):
            self._copy(block, wanted, out)
        back = np.argsort(self._order)
        dropped = tuple(axis for axis, entry in enumerate(index) if isinstance(entry, int))
        return out.transpose(back).squeeze(dropped)

    def _copy(self, block: tuple[int, ...], wanted: list[tuple[int, int]], out: NDArray[Any]) -> None:
        """Copy what a block has of a part: one run of its bytes, then a choice among them."""
        extents = self._extents(block)
        both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(wanted, extents, strict=True)]
        shape = [stop - start for start, stop in extents]
        inside = [(a - c, b - c) for (a, b), (c, _) in zip(both, extents, strict=True)]
        # Leading axes of which one place is wanted choose a run; of the next axis a range is read, and of the
        # others everything.
        split = next((axis for axis, (a, b) in enumerate(inside) if b - a != 1), len(shape) - 1)
        first = np.ravel_multi_index(
            [a for a, _ in inside[: split + 1]] + [0] * (len(shape) - split - 1), shape
        )
        rest = shape[split + 1 :]
        count = inside[split][1] - inside[split][0]
        run = np.empty([count, *rest], self._dtype)
        offset = self._offsets[block] + int(first) * self._dtype.itemsize
        pread_into(self._descriptor, self._path, offset, run.reshape(-1).view(np.uint8).data)
        chosen = run[(slice(None), *(slice(a, b) for a, b in inside[split + 1 :]))]
        place = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(both, wanted, strict=True))
        out[place] = chosen.reshape(out[place].shape)

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return math.prod(self._shape) * self._dtype.itemsize


def _bounds(entry: int | slice, n: int) -> tuple[int, int]:
    if isinstance(entry, int):
        return entry, entry + 1
    start, stop, _ = entry.indices(n)
    return start, stop
