"""Compiled passes that count values by digits of their bits, or by equal bins.

A float's bits sort as the number does, its sign taken care of: a digit of them is a bin of an exact
histogram.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np

from wvindex.formats.kernels._factory import compiled

DIGIT_BITS: Final = 16
N_BINS: Final = 1 << DIGIT_BITS


@cache
def histogram_kernel(wide: bool) -> Callable[..., None]:
    """Make ``histogram(bits, counts)``: counts the upper `DIGIT_BITS` of each value's bits, (N_BINS,).

    `bits` are unsigned: bins are in the order of the bits, not of the numbers (see `in_order`).
    """
    shift = np.uint64((64 if wide else 32) - DIGIT_BITS)

    def histogram(bits: Any, counts: Any) -> None:
        for i in range(bits.size):
            counts[np.uint64(bits[i]) >> shift] += 1

    return compiled(histogram, f"digits_{64 if wide else 32}")


@cache
def keeping_histogram_kernel() -> Callable[..., int]:
    """Make ``histogram(bits, counts, table, kept) -> n``: that of float32, and the values of some bins.

    The `n` values whose upper `DIGIT_BITS` have a 1 in `table` are stored in `kept`, which has room for all.
    """
    shift = np.uint64(32 - DIGIT_BITS)

    def histogram(bits: Any, counts: Any, table: Any, kept: Any) -> int:
        n = 0
        for i in range(bits.size):
            digit = np.uint64(bits[i]) >> shift
            counts[digit] += 1
            if table[digit]:
                kept[n] = bits[i]
                n += 1
        return n

    return compiled(histogram, "keeping_digits")


@cache
def refine_kernel(wide: bool) -> Callable[..., None]:
    """Make ``refine(bits, table, prefixes, shift, counts)``: the next digit of some values' ordered bits.

    `bits` are unsigned. `prefixes` are ascending, unsigned: ordered bits (as `ordered32`, with the sign
    inverted) shifted right by ``shift + DIGIT_BITS``; ``counts[j, digit]`` counts the values of prefix j by
    the digit at `shift`. `table`, by the upper `DIGIT_BITS` of bits as they are, holds the first prefix of
    those that values there can have, counted from 1, and 0 where there is none.
    """
    top = np.uint64((64 if wide else 32) - DIGIT_BITS)
    sign = np.uint64(1 << (63 if wide else 31))
    every = np.uint64((1 << 64) - 1 if wide else (1 << 32) - 1)
    mask = np.uint64(N_BINS - 1)

    def refine(bits: Any, table: Any, prefixes: Any, shift: Any, counts: Any) -> None:
        for i in range(bits.size):
            key = np.uint64(bits[i])
            first = table[key >> top]
            if first:
                key ^= every if key & sign else sign
                j = first - 1
                prefix = key >> (np.uint64(shift) + np.uint64(DIGIT_BITS))
                while j < prefixes.size and prefixes[j] < prefix:
                    j += 1
                if j < prefixes.size and prefixes[j] == prefix:
                    counts[j, (key >> np.uint64(shift)) & mask] += 1

    return compiled(refine, f"refine_{64 if wide else 32}")


def in_order(counts: Any) -> Any:
    """Bring bins of `histogram_kernel` into the order of numbers: negative ones backwards, then others."""
    half = N_BINS // 2
    return np.concatenate([counts[: half - 1 : -1], counts[:half]])


@cache
def bins_kernel() -> Callable[..., None]:
    """Make ``bins(values, low, high, counts)``: counts finite values within [low, high] in equal bins."""

    def bins(values: Any, low: float, high: float, counts: Any) -> None:
        n = counts.size
        per_unit = n / (high - low) if high > low else 0.0
        for i in range(values.size):
            value = np.float64(values[i])
            if low <= value <= high:
                counts[min(int((value - low) * per_unit), n - 1)] += 1

    return compiled(bins, "bins")
