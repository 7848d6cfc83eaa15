"""A source's rows in the order and with the scales of an array, and how values are cast and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UndecodableType
from wvindex.formats.encodings import Encoding
from wvindex.verifying.formulas import Recipe, Rows
from wvindex.verifying.witness import Witness

_SCALES_HELD: Final = 8
"""Tensors whose scales stay in memory: what a projection of latent attention is made of."""

_NARROW: Final = frozenset(
    np.dtype(kind)
    for kind in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
)


class FP8Scales:
    """The scales of a source's FP8 tensors, as float32 matrices.

    Parameters
    ----------
    witness : Witness
    block : (int, int) or None
        Rows and columns of a block, as the checkpoint's configuration says.
    """

    SUFFIX = "_scale_inv"

    def __init__(self, witness: Witness, block: tuple[int, int] | None) -> None:
        self._witness = witness
        self._block = block
        self.of: Callable[[str], NDArray[np.float32] | None] = lru_cache(_SCALES_HELD)(self._of)

    def _of(self, name: str) -> NDArray[np.float32] | None:
        """Give the scales of a tensor, shape (n_matrices, row blocks, column blocks); None without."""
        tensor, scales = self._witness.tensors[name], self._witness.tensors.get(name + self.SUFFIX)
        if scales is None or not tensor.encoding.startswith("F8_") or self._block is None:
            return None
        width = scales.shape[-1]
        height = int(np.prod(scales.shape[:-1], dtype=object))
        raw = self._witness.read(scales.name, width, 0, height)
        values = self._witness.decode(scales.name, raw).astype(np.float32)
        return values.reshape(-1, scales.shape[-2], width)

    def spread(self, scales: NDArray[np.float32], height: int, rows: Rows, width: int) -> NDArray[np.float32]:
        """Give the scale of every value of some rows, counted through matrices of `height`, (n, width)."""
        block_rows, block_columns = self._block or (1, 1)
        by_row = scales[rows // height, rows % height // block_rows]
        return np.repeat(by_row, block_columns, axis=1)[:, :width]

    def block_rows(self, first_rows: Rows, scales: NDArray[np.float32], height: int) -> NDArray[np.float32]:
        """Give the scale rows of the blocks that begin at some rows, (n, column blocks)."""
        block_rows = self._block[0] if self._block else 1
        return scales[first_rows // height, first_rows % height // block_rows]


class SourceRows:
    """Rows of an array as its recipe gives them from the source.

    Parameters
    ----------
    recipe : Recipe
    witness : Witness
    fp8 : FP8Scales
    """

    def __init__(self, recipe: Recipe, witness: Witness, fp8: FP8Scales) -> None:
        self.recipe = recipe
        self._witness = witness
        self._fp8 = fp8
        self.scales = [fp8.of(tensor.name) for tensor in recipe.sources]
        heights = [tensor.nbytes // max(tensor.row_bytes(recipe.width), 1) for tensor in recipe.sources]
        self._starts = np.concatenate([[0], np.cumsum(heights, dtype=np.int64)])

    def where(self, row: int) -> tuple[int, int]:
        """Give which tensor, and which row of it, the array's row is."""
        counted = int(self.recipe.source_rows(row, row + 1)[0])
        part = int(np.searchsorted(self._starts, counted, "right")) - 1
        return part, counted - int(self._starts[part])

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice, Rows]]:
        """Cut array rows [start, stop) by source tensor: which, their places in the tile, its own rows."""
        rows = self.recipe.source_rows(start, stop)
        parts = np.searchsorted(self._starts, rows, "right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), rows.size]
        for first, last in pairwise(cuts):
            if last > first:
                part = int(parts[first])
                yield part, slice(first, last), rows[first:last] - self._starts[part]

    def raw(self, part: int, rows: Rows) -> NDArray[np.uint8]:
        """Read rows of a source tensor in the given order."""
        name, width = self.recipe.sources[part].name, self.recipe.width
        low, high = int(rows.min()), int(rows.max()) + 1
        if high - low <= 4 * rows.size:
            block = self._witness.read(name, width, low, high)
            return block if high - low == rows.size and _is_run(rows) else block[rows - low]
        return np.concatenate([self._witness.read(name, width, int(row), int(row) + 1) for row in rows])

    def decode(self, part: int, rows: Rows, raw: NDArray[np.uint8]) -> NDArray[Any]:
        """Decode rows of a source tensor, FP8 codes times their scales."""
        tensor, scales = self.recipe.sources[part], self.scales[part]
        values = comparable(self._witness.decode(tensor.name, raw))
        if scales is not None:
            with np.errstate(all="ignore"):
                values = values * self._fp8.spread(scales, tensor.shape[-2], rows, self.recipe.width)
        return values

    def block_scales(self, first_rows: Rows) -> NDArray[np.float32]:
        """Give the scale rows of the blocks that begin at some rows of the array."""
        found = []
        for row in first_rows:
            part, inside = self.where(int(row))
            scales, tensor = self.scales[part], self.recipe.sources[part]
            if scales is None:
                raise UndecodableType("FP8 without scales", tensor=tensor.name)
            found.append(self._fp8.block_rows(np.array([inside]), scales, tensor.shape[-2]))
        return np.concatenate(found)


def _is_run(rows: Rows) -> bool:
    return bool((np.diff(rows) == 1).all())


def comparable(values: NDArray[Any]) -> NDArray[Any]:
    """Widen narrow floats to float32, which is exact; leave all else."""
    return values.astype(np.float32) if values.dtype in _NARROW else values


def cast(values: NDArray[Any], encoding: Encoding, subtract: float = 0.0) -> NDArray[Any]:
    """Cast decoded values by NumPy and ml_dtypes, through float32, to nearest even."""
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
        if subtract:
            single = single - np.float32(subtract)
        return comparable(single.astype(encoding.logical_dtype))


def unequal(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell where values differ; NaN equals NaN."""
    with np.errstate(all="ignore"):
        differ: NDArray[np.bool_] = found != expected
        if found.dtype.kind == "f" and differ.any():
            differ &= ~(np.isnan(found) & np.isnan(expected))
    return differ
