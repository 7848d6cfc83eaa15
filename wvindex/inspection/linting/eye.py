"""One pass over a matrix or a stack: rows, columns, scales and a sketch, taken at once."""

from __future__ import annotations

import math
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.ggml import decode_blocks
from wvindex.inspection import kernels
from wvindex.inspection.linting.look import FEW, LARGEST_HALF, Lines, Look, height_of
from wvindex.inspection.linting.scale_fields import SCALE_FIELDS, ScaleField
from wvindex.inspection.linting.sketch import LENGTH, compact, sketch_rows
from wvindex.inspection.linting.tally import Tallies
from wvindex.inspection.scan import bits_of, is_wide, widened
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

ORDINARY, ZERO, CONSTANT, NONFINITE = range(4)
"""What a row or a column is."""

COARSE_HALF: Final = 2.0**-20
"""Below, a float16 has less than five significant bits left: its rounding is an error of 3% and more."""

_LARGEST_CODE: Final = {"F8_E4M3": 0x7E, "F8_E5M2": 0x7B}
_NAN_CODE: Final = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7D}


def look_at(tensor: Tensor) -> Look:
    """Go through a tensor once, for which `can_look` holds."""
    eye = _Eye(tensor)
    tensor.stream(eye.values, encoded=eye.encoded if eye.looks_at_blocks else None)
    eye.scales()
    return eye.look()


class _Eye:
    """Takes tiles in any order and from several threads."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._wide = is_wide(tensor)
        self._height, self._width = height_of(tensor), tensor.shape[-1]
        n_rows = math.prod(tensor.shape[:-1])
        self._n_matrices = n_rows // self._height
        kind, number = (np.int64, np.float64) if self._wide else (np.int32, np.float32)
        limits = np.iinfo(kind)
        self._infinity = int(np.array(np.inf, number).view(kind))
        self._row_kinds = np.empty(n_rows, np.uint8)
        self._row_absmax = np.empty(n_rows, number)
        self._column_ends = np.empty((self._n_matrices, 2, self._width), kind)
        self._column_ends[:, 0], self._column_ends[:, 1] = limits.max, limits.min
        self._squares = np.zeros(n_rows)
        self._sketches = np.zeros((self._n_matrices, LENGTH))
        self._fields = SCALE_FIELDS.get(tensor.encoding, ())
        self._n_scales = len(self._fields) * n_rows * (self._width // tensor.spec.encoding.block_size)
        self._tallies = Tallies()
        self._lock = Lock()

    @property
    def looks_at_blocks(self) -> bool:
        """Whether there is something to see in the stored bytes."""
        return bool(self._fields) or self._tensor.encoding in _LARGEST_CODE

    def values(self, first_row: int, values: Values) -> None:
        """Look at decoded rows."""
        values = widened(values) if self._wide else values
        start = first_row
        while start < first_row + len(values):
            stop = min((start // self._height + 1) * self._height, first_row + len(values))
            self._matrix_rows(start, values[start - first_row : stop - first_row])
            start = stop

    def _matrix_rows(self, first_row: int, values: Values) -> None:
        bits = bits_of(values)
        matrix, rows = first_row // self._height, slice(first_row, first_row + len(values))
        ends = np.empty((len(values), 2), bits.dtype)
        column_ends = np.empty((2, self._width), bits.dtype)
        column_ends[0], column_ends[1] = np.iinfo(bits.dtype).max, np.iinfo(bits.dtype).min
        kernels.ends_kernel(self._wide)(values.reshape(-1), bits, ends, self._squares[rows], column_ends)
        kinds = _kinds(ends[:, 0], ends[:, 1], self._infinity)
        self._row_kinds[rows] = kinds
        largest = np.abs(_numbers(ends)).max(axis=1)
        largest[kinds == NONFINITE] = np.nan
        self._row_absmax[rows] = largest
        self._odd_values(first_row, values, kinds, largest)
        sketch = sketch_rows(values, first_row - matrix * self._height)
        with self._lock:
            whole = self._column_ends[matrix]
            np.minimum(whole[0], column_ends[0], out=whole[0])
            np.maximum(whole[1], column_ends[1], out=whole[1])
            with np.errstate(invalid="ignore", over="ignore"):
                self._sketches[matrix] += sketch

    def _odd_values(self, first_row: int, values: Values, kinds: NDArray[Any], largest: Values) -> None:
        for row in np.flatnonzero(kinds == NONFINITE):
            for kind, odd in (("nan", np.isnan(values[row])), ("inf", np.isinf(values[row]))):
                where = np.flatnonzero(odd)
                if where.size:
                    position = (first_row + int(row), int(where[0]))
                    self._tallies.add(kind, where.size, position, float(values[row, where[0]]))
        for row in np.flatnonzero(largest == LARGEST_HALF):
            where = np.flatnonzero(np.abs(values[row]) == LARGEST_HALF)
            position = (first_row + int(row), int(where[0]))
            self._tallies.add("saturated", where.size, position, float(values[row, where[0]]))

    def encoded(self, first_row: int, raw: NDArray[np.uint8]) -> None:
        """Look at rows as they are stored."""
        if self._tensor.encoding in _LARGEST_CODE:
            self._codes(first_row, raw)
            return
        encoding = self._tensor.spec.encoding
        blocks = raw.reshape(-1, encoding.type_size)
        for field in self._fields:
            scales = field.read(blocks)
            for kind, odd in _odd_scales(scales, field):
                self._tally_blocks(f"scale-{kind}", first_row, np.flatnonzero(odd), scales)
            if field.multiplies:
                empty = np.flatnonzero(scales == 0)
                self._tally_blocks("scale-lost", first_row, self._lost(field, blocks, empty), scales)

    def _lost(
        self, field: ScaleField, blocks: NDArray[np.uint8], empty: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Of blocks whose scale is zero, give those whose codes are not all the same value."""
        if not empty.size:
            return empty
        encoding = self._tensor.spec.encoding
        ones = np.empty((len(empty), encoding.block_size), np.float32)
        decode_blocks(field.with_one(blocks[empty]), encoding, ones)
        differs: NDArray[np.bool_] = ones.min(axis=1) != ones.max(axis=1)
        return np.compress(differs, empty)

    def _tally_blocks(self, kind: str, first_row: int, where: NDArray[np.intp], scales: NDArray[Any]) -> None:
        if where.size:
            row, block = divmod(int(where[0]), self._width // self._tensor.spec.encoding.block_size)
            column = block * self._tensor.spec.encoding.block_size
            self._tallies.add(kind, where.size, (first_row + row, column), float(scales[where[0]]))

    def _codes(self, first_row: int, raw: NDArray[np.uint8]) -> None:
        name = self._tensor.encoding
        magnitudes = raw & np.uint8(0x7F)
        for kind, odd in (
            ("code-saturated", magnitudes == _LARGEST_CODE[name]),
            ("code-nan", magnitudes >= _NAN_CODE[name]),
        ):
            count = int(np.count_nonzero(odd))
            if count:
                row, column = divmod(int(np.argmax(odd)), raw.shape[1])
                self._tallies.add(kind, count, (first_row + row, column), math.nan)

    def scales(self) -> None:
        """Look at the scales of FP8, which are an array of their own."""
        block = self._tensor.scale_block
        if block is None:
            return
        scales = self._tensor.scales()
        self._n_scales = scales.size
        odd = dict(_odd_scales(scales, ScaleField(0, "<f4")))
        odd["lost"] = self._lost_codes(scales, block)
        height = self._tensor.spec.matrix_rows
        per_matrix = -(-height // block[0])
        for kind, found in odd.items():
            where = np.flatnonzero(found)
            if where.size:
                line, column = divmod(int(where[0]), scales.shape[1])
                matrix, within = divmod(line, per_matrix)
                position = (matrix * height + within * block[0], column * block[1])
                self._tallies.add(f"scale-{kind}", where.size, position, float(scales.flat[where[0]]))

    def _lost_codes(self, scales: NDArray[np.float32], block: tuple[int, int]) -> NDArray[np.bool_]:
        """Tell which scales are zero over codes that are not."""
        lost = np.zeros(scales.shape, np.bool_)
        height, outer = self._tensor.spec.matrix_rows, self._tensor.shape[:-2]
        for line in np.flatnonzero((scales == 0).any(axis=1)):
            matrix, within = divmod(int(line), -(-height // block[0]))
            part = self._tensor
            for index in np.unravel_index(matrix, outer) if outer else ():
                part = part.expert(int(index))
            raw = part.raw((within * block[0], min((within + 1) * block[0], height)))
            used = (raw & np.uint8(0x7F)).any(axis=0)  # (n_columns,)
            starts = np.arange(0, self._width, block[1])
            lost[line] = (scales[line] == 0) & np.logical_or.reduceat(used, starts)
        return lost

    def look(self) -> Look:
        """Give what was seen."""
        rows = self._row_kinds.reshape(self._n_matrices, self._height)
        columns = _kinds(self._column_ends[:, 0], self._column_ends[:, 1], self._infinity)
        dead = (rows == ZERO).all(axis=1)
        largest = np.asarray(self._row_absmax, np.float64)
        known = largest[largest > 0]
        most = int(np.argmax(np.nan_to_num(largest, nan=-1.0)))
        with np.errstate(over="ignore"):
            squares = self._squares.reshape(self._n_matrices, -1).sum(axis=1)
        return Look(
            tensor=self._tensor,
            zero_rows=_lines(rows, ZERO, dead),
            constant_rows=_lines(rows, CONSTANT, dead),
            zero_columns=_lines(columns, ZERO, dead),
            constant_columns=_lines(columns, CONSTANT, dead),
            dead=dead,
            squares=squares,
            row_absmax=float(np.median(known)) if known.size else math.nan,
            absmax=float(largest[most]),
            absmax_row=most,
            sketches=compact(self._sketches),
            tallies=self._tallies,
            n_scales=self._n_scales,
        )


def _lines(kinds: NDArray[np.uint8], kind: int, dead: NDArray[np.bool_]) -> Lines:
    """Gather the lines of a kind from (n_matrices, n_lines)."""
    found = np.argwhere((kinds == kind) & ~dead[:, None])
    return Lines(len(found), tuple((int(matrix), int(place)) for matrix, place in found[:FEW]))


def _kinds(least: NDArray[Any], most: NDArray[Any], infinity: int) -> NDArray[np.uint8]:
    """Tell what lies between two ends, which sort as the numbers do; -1 is negative zero."""
    kinds = np.where(least == most, np.uint8(CONSTANT), np.uint8(ORDINARY))
    kinds[(least >= -1) & (most <= 0)] = ZERO
    kinds[(most >= infinity) | (least <= ~infinity)] = NONFINITE
    return kinds


def _numbers(ordered: NDArray[Any]) -> Values:
    """Give the floats of integers that sort as they do (see `wvindex.inspection.kernels.ordered32`)."""
    most = np.iinfo(ordered.dtype).max
    bits = ordered ^ ((ordered >> (8 * ordered.itemsize - 1)) & most)
    numbers: Values = bits.view(np.float64 if ordered.itemsize == 8 else np.float32)
    return numbers


def _odd_scales(scales: NDArray[Any], field: ScaleField) -> list[tuple[str, NDArray[np.bool_]]]:
    magnitudes, finite = np.abs(scales), np.isfinite(scales)
    coarse = COARSE_HALF if scales.dtype == np.float16 else np.finfo(scales.dtype).smallest_normal
    return [
        ("nonfinite", ~finite),
        ("negative", finite & (scales < 0) if field.positive else np.zeros(scales.shape, np.bool_)),
        ("denormal", (magnitudes > 0) & (magnitudes < coarse)),
    ]
