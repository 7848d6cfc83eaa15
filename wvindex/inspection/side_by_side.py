"""One pass over the values of two tensors together, decoded by tiles that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.kernels import threads
from wvindex.formats.workers import share
from wvindex.inspection import difference_kernels as kernels
from wvindex.inspection.exact_difference import exact_difference, exact_values, is_long
from wvindex.inspection.gap import Gap
from wvindex.inspection.scan import is_wide, widened
from wvindex.query.lazy import Tensor
from wvindex.query.pieces import Pieces
from wvindex.query.stream import Values

_STATES: Final = 1 << 14
"""Rows whose sums are held before they are added up: 1.2 MB."""

_SUMS: Final = slice(kernels.CHANGED, kernels.MOST)

Difference = Callable[[NDArray[Any], NDArray[Any], int, NDArray[np.float64], float], int]
"""What `wvindex.inspection.difference_kernels.difference_kernel` gives."""

Block = tuple[int, int, Any, Any]
"""Rows [start, stop), and both sides of them."""


@dataclass(frozen=True)
class Peak:
    """The first of the largest differences.

    Attributes
    ----------
    row, column : int
        Rows of all dimensions but the last, flattened.
    size : float
        |a - b|.
    a, b : float or int
        What stands there; of 64-bit integers, themselves.
    """

    row: int
    column: int
    size: float
    a: float | int
    b: float | int


@dataclass(frozen=True)
class Seen:
    """What a pass over two tensors found.

    Attributes
    ----------
    matrices : tuple of Gap
        Of each matrix of a stack; of anything else, one.
    peak : Peak or None
        None where no finite values differ.
    rows : tuple of (int, Gap)
        The rows that suffered most, by relative error: of all dimensions but the last, flattened.
    """

    matrices: tuple[Gap, ...]
    peak: Peak | None
    rows: tuple[tuple[int, Gap], ...]


class _Part:
    """What one run of rows adds: sums by matrix, its peak, its worst rows."""

    def __init__(self, width: int, matrix_rows: int, n_worst: int, difference: Difference) -> None:
        self.difference = difference
        self.width = width
        self.matrix_rows = matrix_rows
        self.n_worst = n_worst
        self.matrices: dict[int, NDArray[np.float64]] = {}
        self.peak: Peak | None = None
        self.rows: list[tuple[int, NDArray[np.float64]]] = []
        self._states = np.empty((_STATES, kernels.STATE))
        self._held = (0, 0)

    def add(self, first_row: int, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Take rows, which follow those before."""
        for start in range(0, len(a), _STATES):
            self._add(first_row + start, a[start : start + _STATES], b[start : start + _STATES])

    def _add(self, first_row: int, a: NDArray[Any], b: NDArray[Any]) -> None:
        first, held = self._held
        if held + len(a) > _STATES:
            self.flush()
            first, held = first_row, 0
        self._held = (first_row if not held else first, held + len(a))
        states = self._states[held : held + len(a)]
        least = self.peak.size if self.peak else 0.0
        at = self.difference(a.reshape(-1), b.reshape(-1), self.width, states, least)
        if at >= 0:
            row, column = divmod(at, self.width)
            size = float(states[row, kernels.MOST])
            self.peak = Peak(first_row + row, column, size, a[row, column].item(), b[row, column].item())

    def flush(self) -> None:
        """Add up the rows that are held."""
        first, held = self._held
        states, row = self._states[:held], first
        while row < first + held:
            matrix = row // self.matrix_rows
            stop = min((matrix + 1) * self.matrix_rows, first + held)
            some = states[row - first : stop - first]
            into = self.matrices.setdefault(matrix, np.zeros(kernels.STATE))
            into[_SUMS] += some[:, _SUMS].sum(axis=0)
            into[kernels.MOST] = max(into[kernels.MOST], some[:, kernels.MOST].max())
            row = stop
        if self.n_worst:
            self.rows += [(first + int(i), states[i].copy()) for i in worst_rows(states, self.n_worst)]
        self._held = (0, 0)


def worst_rows(states: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Give which rows suffered most, by NaN and infinity that don't belong, then by relative error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = states[:, kernels.SQUARES] / states[:, kernels.A_SQUARES]
    relative[np.isnan(relative)] = math.inf
    relative[states[:, kernels.CHANGED] == 0] = -1
    odd = states[:, kernels.NONFINITE]
    least = np.partition(relative, -n)[-n] if 0 < n < len(relative) else 0.0
    some = np.flatnonzero((relative >= max(least, 0)) | (odd > 0))  # few: sorting all would take longer
    order = np.lexsort((-states[some, kernels.SQUARES], -relative[some], -odd[some]))  # the first of equals
    return some[order[:n]]


def side_by_side(a: Tensor, b: Tensor, *, n_worst: int = 0) -> Seen:
    """Compare two tensors of one shape, in float64, in one pass over both; 64-bit integers exactly.

    Parameters
    ----------
    a, b : Tensor
    n_worst : int
        Rows to be named.

    Raises
    ------
    UndecodableType
        If nobody decodes an encoding.
    """
    left, right = a.pieces(), b.pieces()
    width = a.shape[-1] if a.shape else 1
    matrix_rows = math.prod(a.shape[-2:-1])
    exact = is_long(a) or is_long(b)
    difference = exact_difference if exact else kernels.difference_kernel()
    wide = not exact and (is_wide(a) or is_wide(b))
    read = exact_values if exact else Pieces.values
    parts: list[tuple[int, _Part]] = []

    def work(runs: Iterator[tuple[int, int]]) -> None:
        for start, stop in runs:
            part = _Part(width, matrix_rows, n_worst, difference)
            for first, _, x, y in together(read(left, start, stop), read(right, start, stop)):
                part.add(first, _as(x, wide), _as(y, wide))
            part.flush()
            parts.append((start, part))

    share(_runs(left, right), work, threads())
    ordered = [part for _, part in sorted(parts, key=lambda found: found[0])]
    return _joined(ordered, math.prod(a.shape[:-2]), matrix_rows * width, width, n_worst)


def _joined(parts: list[_Part], n_matrices: int, size: int, width: int, n_worst: int) -> Seen:
    """Put parts together in the rows' order: the same sums on any number of threads."""
    sums = np.zeros((n_matrices, kernels.STATE))
    for part in parts:
        for matrix, state in part.matrices.items():
            sums[matrix, _SUMS] += state[_SUMS]
            sums[matrix, kernels.MOST] = max(sums[matrix, kernels.MOST], state[kernels.MOST])
    peaks = [part.peak for part in parts if part.peak is not None]
    rows = [found for part in parts for found in part.rows]
    states = np.array([state for _, state in rows]).reshape(len(rows), kernels.STATE)
    return Seen(
        tuple(Gap.of_state(size, state) for state in sums),
        max(peaks, key=lambda peak: peak.size, default=None),
        tuple((rows[i][0], Gap.of_state(width, states[i])) for i in worst_rows(states, n_worst)),
    )


def have_equal_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are stored alike, and in the same bytes: then their values are the same.

    Bytes are compared, not checksums; it is over at the first that differ.
    """
    if (a.shape, a.spec.encoding) != (b.shape, b.spec.encoding):
        return False
    if a.scale_block is not None and not np.array_equal(_bits(a.scales()), _bits(b.scales())):
        return False
    left, right = a.pieces(), b.pieces()
    differ: list[bool] = []

    def work(runs: Iterator[tuple[int, int]]) -> None:
        for start, stop in runs:
            for _, _, x, y in together(left.blocks(start, stop), right.blocks(start, stop)):
                if differ or not np.array_equal(x, y):
                    differ.append(True)
                    return

    share(_runs(left, right), work, threads())
    return not differ


def together(a: Iterator[tuple[int, Any]], b: Iterator[tuple[int, Any]]) -> Iterator[Block]:
    """Go through two arrays that come in pieces of rows, each its own, and give the rows that both have.

    Parameters
    ----------
    a, b : iterator of (int, array)
        First rows and pieces, one after another, of the same rows; a piece lasts until the next.
    """
    (a_first, x), (b_first, y) = _next(a), _next(b)
    while len(x) and len(y):
        start = max(a_first, b_first)
        stop = min(a_first + len(x), b_first + len(y))
        yield start, stop, x[start - a_first : stop - a_first], y[start - b_first : stop - b_first]
        if stop == a_first + len(x):
            a_first, x = _next(a)
        if stop == b_first + len(y):
            b_first, y = _next(b)


def _next(pieces: Iterator[tuple[int, Any]]) -> tuple[int, Any]:
    return next(pieces, (0, ()))


def _runs(a: Pieces, b: Pieces) -> list[tuple[int, int]]:
    """Give ranges of rows to be worked on by one thread: the longer ones, whose chunks hold the shorter."""
    left, right = a.runs, b.runs
    return left if len(left) <= len(right) else right


def _as(values: Values, wide: bool) -> Values:
    return widened(values) if wide else values


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return values.view(np.uint32)
