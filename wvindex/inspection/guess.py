"""Values set aside in the first pass because a sample says that the wanted quantiles are among them.

Quantiles take a second pass over all values: those of a few bins of the first pass's histogram, which is not
known before. A sample of rows tells where they will be, nearly always. What the sample is wrong about costs
the second pass, and nothing else: no result depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection import digit_kernels
from wvindex.inspection.digit_kernels import N_BINS
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

MIN_VALUES: Final = 1 << 20
"""Fewer are gone through twice in less time than a sample takes to pay."""

MAX_KEPT: Final = 8 << 20
"""Values that are set aside at most, 32 MiB."""

_SAMPLED: Final = 64
"""One value in so many."""

_SPANS: Final = 32
"""Places of a tensor that its sample is of: rows beside each other are alike."""

_DEVIATIONS: Final = 8
"""Standard errors of a random sample that ranks may be off by: rows are no random sample."""

_LIMITS: Final = (0.9, 1.1)
"""What the limit of outliers may be, times the sample's."""


class Guess:
    """Bins whose values are set aside, and these values.

    Parameters
    ----------
    is_kept : array of bool, shape (N_BINS,)
        Of bins in the order of numbers.

    Attributes
    ----------
    table : array of uint8, shape (N_BINS,)
        1 for these bins, by the upper 16 bits of values as they are.
    """

    def __init__(self, is_kept: NDArray[np.bool_]) -> None:
        half = N_BINS // 2
        self.table: NDArray[np.uint8] = np.concatenate([is_kept[half:], is_kept[half - 1 :: -1]]).astype(
            np.uint8
        )
        self._parts: list[NDArray[np.uint32]] = []
        self._spare: list[NDArray[np.uint32]] = []
        self._room = MAX_KEPT
        self._lock = Lock()

    def count(self, bits: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
        """Count upper digits, and set aside the values of the chosen bins while there is room."""
        if self._room < 0:
            digit_kernels.histogram_kernel(wide=False)(bits, counts)
            return
        kept = self._taken(bits.size)
        n = int(digit_kernels.keeping_histogram_kernel()(bits, counts, self.table, kept))
        with self._lock:
            self._room -= n
            if self._room < 0:
                self._parts.clear()
            elif n:
                self._parts.append(kept[:n].copy())
            self._spare.append(kept)

    def _taken(self, size: int) -> NDArray[np.uint32]:
        """Take a buffer that nobody has: the system takes long to give a new one."""
        with self._lock:
            buffer = self._spare.pop() if self._spare else np.empty(0, np.uint32)
        return buffer if buffer.size >= size else np.empty(size, np.uint32)

    def values(
        self, prefixes: NDArray[np.uint64], finite: NDArray[np.int64]
    ) -> Sequence[NDArray[np.uint32]] | None:
        """Give the bits of what was set aside.

        Parameters
        ----------
        prefixes : array of uint64
            Bins, in the order of numbers, that must be among those that were chosen.
        finite : array of int64, shape (N_BINS,)
            How many values each bin has.

        Returns
        -------
        sequence of arrays of uint32, or None
            None where one of these bins is missing, or there was no room.
        """
        digits = prefixes.astype(np.int64)
        digits = digits[finite[digits] > 0]
        half = N_BINS // 2
        places = np.where(digits >= half, digits - half, N_BINS - 1 - digits)
        if self._room < 0 or not self.table[places].all():
            return None
        return self._parts


def guess(tensors: Sequence[Tensor], probabilities: Sequence[float], sigmas: float) -> Guess | None:
    """Sample some tensors, whose values are streamed as float32, for where quantiles and outliers begin.

    Parameters
    ----------
    tensors : sequence of Tensor
    probabilities : sequence of float
    sigmas : float
        The limit of outliers, in standard deviations.

    Returns
    -------
    Guess or None
        None where it would not pay, or where too many values would have to be set aside.
    """
    size = sum(tensor.size for tensor in tensors)
    if size < MIN_VALUES:
        return None
    digits, variance = _sample(tensors)
    n = int(digits.sum())
    if not n:
        return None
    is_kept = np.zeros(N_BINS, np.bool_)
    upto = np.cumsum(digits)
    for p in probabilities:
        slack = _DEVIATIONS * math.sqrt(n * p * (1 - p)) + 1
        first, last = np.searchsorted(upto, [n * p - slack, n * p + slack], side="right")
        is_kept[first : last + 1] = True
    largest = float(np.finfo(np.float32).max)
    limits = np.array([min(sigmas * factor * math.sqrt(variance), largest) for factor in _LIMITS], np.float32)
    for below, above in (limits, -limits[::-1]):
        is_kept[_digit(below) : _digit(above) + 1] = True
    return Guess(is_kept) if digits[is_kept].sum() / n * size < MAX_KEPT else None


def _sample(tensors: Sequence[Tensor]) -> tuple[NDArray[np.int64], float]:
    """Give the first digits of a sample's finite values, and their variance."""
    counts = np.zeros(N_BINS, np.int64)
    sums = np.zeros(3)
    lock = Lock()

    def consume(first_row: int, values: Values) -> None:
        finite = values[np.isfinite(values)]
        wide = finite.astype(np.float64)
        squares = np.square(wide).sum()  # a dot product would wake BLAS's threads, span by span
        with lock:
            digit_kernels.histogram_kernel(wide=False)(finite.view(np.uint32), counts)
            sums[:] += np.array([finite.size, wide.sum(), squares])

    for tensor in tensors:
        for rows in _spans(tensor):
            tensor.stream(consume, rows=rows)
    n, total, squares = sums.tolist()
    return digit_kernels.in_order(counts), max(squares / n - (total / n) ** 2, 0.0) if n else 0.0


def _spans(tensor: Tensor) -> list[tuple[int, int]]:
    """Choose rows evenly, of all dimensions but the last: a few here and there."""
    n_rows = math.prod(tensor.shape[:-1])
    wanted = max(n_rows // _SAMPLED, min(n_rows, _SPANS))
    count = min(_SPANS, wanted)
    each = wanted // count if count else 0
    return [(at, at + each) for at in (n_rows * i // count for i in range(count)) if at + each <= n_rows]


def _digit(value: np.float32) -> int:
    """Give a value's bin in the order of numbers."""
    bits = int(value.view(np.uint32))
    return (bits ^ (0xFFFFFFFF if bits >> 31 else 1 << 31)) >> 16
