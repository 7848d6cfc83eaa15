"""Exact quantiles of all finite weights, in bounded memory: radix selection on the ordered bits of values.

A float's bits, its sign taken care of, sort as the number does. A first pass counts their upper 16; which
of these bins hold the wanted ranks is then known, and each further pass counts the next 16 bits of what
lies in those bins. For float32 that is one pass more, and none for values that have no further bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection import digit_kernels
from wvindex.inspection.digit_kernels import DIGIT_BITS, N_BINS
from wvindex.inspection.guess import Guess
from wvindex.inspection.scan import Parts, bits_of, widened
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

PROBABILITIES: Final = {
    "p0_1": 0.001,
    "p1": 0.01,
    "p5": 0.05,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "p99": 0.99,
    "p99_9": 0.999,
}
"""Quantiles by the names that tables give them."""

_IN_16_BITS: Final = frozenset({"BF16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"})
"""Plain encodings whose values are float32 with nothing in the lower 16 bits."""


@dataclass(frozen=True)
class Selection:
    """What the passes after the first found.

    Attributes
    ----------
    quantiles : tuple of float
        In the order of the probabilities; NaN where there is no finite value.
    outside : int
        Finite values whose magnitude is above the limit.
    """

    quantiles: tuple[float, ...]
    outside: int


def rank(probability: float, n: int) -> int:
    """Give the place, from 0, of a quantile among `n` sorted values: NumPy's ``inverted_cdf``.

    It is the smallest value that at least this share of the values does not exceed: always one of them.
    """
    return max(math.ceil(n * probability - 1), 0)


def select(
    tensors: Sequence[Tensor],
    digits: NDArray[np.int64],
    probabilities: Sequence[float],
    limit: float,
    *,
    wide: bool,
    guess: Guess | None = None,
) -> Selection:
    """Find quantiles of all finite values of some tensors together, and count large magnitudes.

    Parameters
    ----------
    tensors : sequence of Tensor
    digits : array of int64, shape (N_BINS,)
        What `wvindex.inspection.scan.scan` counted in all of them.
    probabilities : sequence of float
    limit : float
        Of magnitudes; infinity or NaN to count none.
    wide : bool
        Whether values were, and are, looked at as float64.
    guess : Guess, optional
        What was set aside while float32 was counted.
    """
    finite = _finite_bins(digits, wide)
    n = int(finite.sum())
    if not n:
        return Selection((math.nan,) * len(probabilities), 0)
    search = _Search(finite, [rank(p, n) for p in probabilities])
    bounds = _Outside(limit, wide)
    bounds.count(finite[None], np.zeros(1, np.uint64), (64 if wide else 32) - DIGIT_BITS)
    if has_16_bits(tensors) and not wide:
        search.prefixes = _padded(search.prefixes)
        bounds.count_whole(finite)
        return Selection(search.values(wide), bounds.found)
    for shift in range((64 if wide else 32) - 2 * DIGIT_BITS, -1, -DIGIT_BITS):
        prefixes = np.union1d(search.prefixes, bounds.prefixes(shift + DIGIT_BITS))
        aside = guess.values(prefixes, finite) if guess is not None else None
        if aside is not None:
            counts = _count_aside(aside, prefixes)
        else:
            counts = _count_digits(tensors, prefixes, shift, wide)
        bounds.count(counts, prefixes, shift)
        search.narrow(counts[np.searchsorted(prefixes, search.prefixes)])
    return Selection(search.values(wide), bounds.found)


class _Outside:
    """Counts values beyond a limit on either side of zero, from the digits of those that begin as it does."""

    def __init__(self, limit: float, wide: bool) -> None:
        self.found = 0
        least = _rounded_down(limit, wide)
        self._keys = [] if not limit < math.inf else [(_key(least, wide), True), (_key(-least, wide), False)]

    def prefixes(self, shift: int) -> NDArray[np.uint64]:
        """Give the upper bits of the limits: what shares them is on neither side as yet."""
        return np.array([key >> shift for key, _ in self._keys], np.uint64)

    def count(self, counts: NDArray[np.int64], prefixes: NDArray[np.uint64], shift: int) -> None:
        """Take one more digit: `counts` (n_prefixes, N_BINS) are those of the digits at `shift`."""
        for key, is_upper in self._keys:
            of = counts[np.searchsorted(prefixes, np.uint64(key >> (shift + DIGIT_BITS)))]
            digit = (key >> shift) & (N_BINS - 1)
            self.found += int((of[digit + 1 :] if is_upper else of[:digit]).sum())

    def count_whole(self, bins: NDArray[np.int64]) -> None:
        """Take what begins as the limits do, where values' own bits end after 16."""
        for key, is_upper in self._keys:
            (whole,) = _padded(np.array([key >> DIGIT_BITS], np.uint64)).tolist()
            if whole > key if is_upper else whole < key:
                self.found += int(bins[key >> DIGIT_BITS])


class _Search:
    """Prefixes of the wanted values' ordered bits, and the wanted ranks among the values that have them."""

    def __init__(self, counts: NDArray[np.int64], ranks: list[int]) -> None:
        self.prefixes: NDArray[np.uint64] = np.zeros(1, np.uint64)
        self._which = np.zeros(len(ranks), np.intp)
        self._ranks = np.array(ranks, np.int64)
        self.narrow(counts[None])

    def narrow(self, counts: NDArray[np.int64]) -> None:
        """Take one more digit: `counts` (n_prefixes, N_BINS) are those of the digits below each prefix."""
        upto = np.cumsum(counts, axis=1)
        digits = [
            int(np.searchsorted(upto[j], r, side="right"))
            for j, r in zip(self._which, self._ranks, strict=True)
        ]
        before = [int(upto[j, d - 1]) if d else 0 for j, d in zip(self._which, digits, strict=True)]
        prefixes = (self.prefixes[self._which] << np.uint64(DIGIT_BITS)) | np.array(digits, np.uint64)
        self.prefixes, self._which = np.unique(prefixes, return_inverse=True)
        self._ranks -= np.array(before, np.int64)

    def values(self, wide: bool) -> tuple[float, ...]:
        """Give the values whose whole bits the prefixes now are."""
        found = _values(self.prefixes, wide).astype(np.float64)[self._which] + 0.0  # no -0
        return tuple(found.tolist())


def _padded(digits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Give the ordered bits of float32 values by their upper 16, where their own lower 16 are zero."""
    keys = digits << np.uint64(DIGIT_BITS)
    return np.where(keys & np.uint64(1 << 31), keys, keys | np.uint64(N_BINS - 1))


def _values(keys: NDArray[np.uint64], wide: bool) -> Values:
    """Give the values that ordered bits, their sign inverted, stand for."""
    sign = np.uint64(1 << (63 if wide else 31))
    bits = np.where(keys & sign, keys ^ sign, ~keys)
    return bits.view(np.float64) if wide else bits.astype(np.uint32).view(np.float32)


def _finite_bins(digits: NDArray[np.int64], wide: bool) -> NDArray[np.int64]:
    """Leave out the bins of infinity and NaN, at both ends."""
    exponent = 0x7FF0 if wide else 0x7F80
    finite = digits.copy()
    finite[N_BINS // 2 + exponent :] = 0
    finite[: N_BINS // 2 - exponent] = 0
    return finite


def has_16_bits(tensors: Sequence[Tensor]) -> bool:
    """Whether all values are float32 whose lower 16 bits are zero."""
    return all(tensor.encoding in _IN_16_BITS and tensor.scale_block is None for tensor in tensors)


def _count_aside(parts: Sequence[NDArray[np.uint32]], prefixes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count the lower digits of float32 that were set aside; `prefixes` are upper ones."""
    counts = np.zeros((len(prefixes), N_BINS), np.int64)
    table = _table(prefixes, 0)
    for bits in parts:
        digit_kernels.refine_kernel(wide=False)(bits, table, prefixes, 0, counts)
    return counts


def _count_digits(
    tensors: Sequence[Tensor], prefixes: NDArray[np.uint64], shift: int, wide: bool
) -> NDArray[np.int64]:
    """Count the digits at `shift` of values with these prefixes."""
    table = _table(prefixes, (64 if wide else 32) - 2 * DIGIT_BITS - shift)
    parts = Parts(lambda: np.zeros((len(prefixes), N_BINS), np.int64))
    refine = digit_kernels.refine_kernel(wide)
    unsigned = np.uint64 if wide else np.uint32

    def consume(first_row: int, values: Values) -> None:
        values = widened(values) if wide else values
        counts = parts.take()
        refine(bits_of(values).view(unsigned), table, prefixes, shift, counts)
        parts.give(counts)

    for tensor in tensors:
        tensor.stream(consume)
    return sum(parts.all(), np.zeros((len(prefixes), N_BINS), np.int64))


def _key(value: np.float64 | np.float32, wide: bool) -> int:
    """Give a value's ordered bits, their sign inverted."""
    bits = int(value.view(np.uint64 if wide else np.uint32))
    sign, every = (1 << 63, (1 << 64) - 1) if wide else (1 << 31, (1 << 32) - 1)
    return bits ^ (every if bits & sign else sign)


def _rounded_down(limit: float, wide: bool) -> np.float64 | np.float32:
    """Give the largest value of the streamed dtype that is not above `limit`: the same ones are above it."""
    if wide:
        return np.float64(limit)
    near = np.float32(limit)
    return near if float(near) <= limit else np.nextafter(near, np.float32(-math.inf))


def _table(prefixes: NDArray[np.uint64], shift: int) -> NDArray[np.uint8]:
    """Give for each value of a float's upper 16 bits the first prefix that begins with them, from 1."""
    table = np.zeros(N_BINS, np.uint8)
    first_digits = (prefixes >> np.uint64(shift)).astype(np.int64)
    for j in range(len(prefixes) - 1, -1, -1):
        digit = int(first_digits[j])
        table[digit - N_BINS // 2 if digit >= N_BINS // 2 else N_BINS - 1 - digit] = j + 1
    return table
