"""One pass over a tensor's values: decoded by tiles in the cache, and looked at there by every kernel."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.kernels import threads
from wvindex.formats.workers import share
from wvindex.inspection import digit_kernels, kernels
from wvindex.inspection.guess import Guess
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values, value_dtype

Part = TypeVar("Part")

_BLOCK_VALUES = 4 << 20
"""Values that are held while moments of columns are taken: 16 MiB of float32."""

_STRIP = 64
"""Columns that a thread works on at once: their states stay in its cache."""


class Parts(Generic[Part]):
    """Accumulators, one for each thread that needs one at a time."""

    def __init__(self, make: Callable[[], Part]) -> None:
        self._make = make
        self._spare: deque[Part] = deque()

    def take(self) -> Part:
        """Take one that nobody has."""
        try:
            return self._spare.pop()
        except IndexError:
            return self._make()

    def give(self, part: Part) -> None:
        """Put it back."""
        self._spare.append(part)

    def all(self) -> list[Part]:
        """Give all of them, once nobody has one."""
        return list(self._spare)


@dataclass(frozen=True)
class Scan:
    """What one pass over a tensor found.

    Attributes
    ----------
    states : array of float64, shape (n_row_groups * n_segments, STATE)
        Moments of every group (see `wvindex.inspection.kernels`), segments of a group of rows together.
    digits : array of int64, shape (N_BINS,), or None
        How often each first digit of ordered bits occurs.
    column_absmax : array, shape (n_columns,), or None
        Largest finite magnitude of each column.
    """

    states: NDArray[np.float64]
    digits: NDArray[np.int64] | None = None
    column_absmax: Values | None = None


def is_wide(tensor: Tensor) -> bool:
    """Whether a tensor's values are streamed as float64."""
    return value_dtype(tensor.spec.encoding) == np.float64


def bits_of(values: Values) -> NDArray[Any]:
    """View values as the integers that their bits are, flat."""
    return values.reshape(-1).view(np.int64 if values.dtype == np.float64 else np.int32)


def widened(values: Values) -> NDArray[np.float64]:
    """Give values as float64; a signaling NaN becomes a quiet one, and that is all."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values, np.float64)


def read_floats(tensor: Tensor, rows: tuple[int, int] | None = None) -> Values:
    """Read whole indices of axis 0, in float64 what float32 does not hold, else in float32."""
    if is_wide(tensor):
        return widened(tensor.read(rows=rows))
    values: NDArray[np.float32] = tensor.read(rows=rows, dtype=np.float32)
    return values


def scan(
    tensor: Tensor,
    *,
    rows_per_group: int | None = None,
    n_segments: int = 1,
    digits: bool = False,
    columns: bool = False,
    wide: bool | None = None,
    guess: Guess | None = None,
) -> Scan:
    """Read a tensor once.

    Parameters
    ----------
    tensor : Tensor
    rows_per_group : int, optional
        Rows (all dimensions but the last, flattened) whose moments are taken together; all by default.
    n_segments : int
        Equal parts of a row, whose moments are taken apart.
    digits, columns : bool
        Whether to count first digits, and to take the largest magnitude of each column.
    wide : bool, optional
        Whether to look at values as float64; by default where float32 does not hold them.
    guess : Guess, optional
        Sets values aside while first digits of float32 are counted.
    """
    width = tensor.shape[-1] if tensor.shape else 1
    n_rows = math.prod(tensor.shape[:-1])
    wide = is_wide(tensor) if wide is None else wide
    per_group = rows_per_group or max(n_rows, 1)
    found: list[tuple[int, int, NDArray[np.float64]]] = []
    unsigned = np.uint64 if wide else np.uint32
    counts = Parts(lambda: np.zeros(digit_kernels.N_BINS, np.int64))
    most = Parts(lambda: np.zeros(width, np.int64 if wide else np.int32))
    moments, merge = kernels.moments_kernel(wide), kernels.merge_kernel()

    def consume(first_row: int, values: Values) -> None:
        values = widened(values) if wide else values
        bits = bits_of(values)
        states = np.empty((len(values) * n_segments, kernels.STATE))
        moments(values.reshape(-1), bits, width // n_segments, states)
        first = first_row // per_group
        n_groups = (first_row + len(values) - 1) // per_group + 1 - first
        groups = np.zeros((n_groups * n_segments, kernels.STATE))
        merge(groups, first, states, per_group, first_row, n_segments)
        found.append((first_row, first, groups))
        if digits:
            part = counts.take()
            if guess is None:
                digit_kernels.histogram_kernel(wide)(bits.view(unsigned), part)
            else:
                guess.count(bits.view(np.uint32), part)
            counts.give(part)
        if columns:
            largest = most.take()
            kernels.magnitudes_kernel(wide)(bits, width, largest)
            most.give(largest)

    tensor.stream(consume)
    states = np.zeros((-(-n_rows // per_group) * n_segments, kernels.STATE))
    for _, first, groups in sorted(found, key=lambda part: part[0]):  # the same sums on any number of threads
        place = states[first * n_segments : first * n_segments + len(groups)]
        merge(place, 0, groups, 1, 0, 1)
    return Scan(
        states,
        digit_kernels.in_order(sum(counts.all(), np.zeros(digit_kernels.N_BINS, np.int64)))
        if digits
        else None,
        _largest(most.all(), width, wide) if columns else None,
    )


def _largest(parts: list[NDArray[Any]], width: int, wide: bool) -> Values:
    magnitudes = np.zeros(width, np.int64 if wide else np.int32)
    for part in parts:
        np.maximum(magnitudes, part, out=magnitudes)
    return magnitudes.view(np.float64) if wide else magnitudes.view(np.float32)


def column_states(tensor: Tensor) -> NDArray[np.float64]:
    """Take the moments of every column of a matrix or a stack.

    Returns
    -------
    array of float64, shape (n_columns, STATE)
    """
    width = tensor.shape[-1]
    states = np.zeros((width, kernels.STATE))
    merge = kernels.columns_kernel()
    strips = [slice(i, min(i + _STRIP, width)) for i in range(0, width, _STRIP)]
    for values in _blocks(tensor) if tensor.size else ():

        def work(mine: Iterator[slice], values: Values = values) -> None:
            for strip in mine:
                merge(values[:, strip], states[strip])

        share(strips, work, threads())
    return states


def _blocks(tensor: Tensor) -> Iterator[Values]:
    """Give a matrix, or the matrices of a stack, by blocks of whole rows (n_rows, n_columns)."""
    if tensor.ndim > 2:
        for i in range(len(tensor)):
            yield from _blocks(tensor.expert(i))
        return
    step = max(_BLOCK_VALUES // tensor.shape[1], 1)
    for start in range(0, len(tensor), step):
        rows = (start, min(start + step, len(tensor)))
        yield read_floats(tensor, rows)
