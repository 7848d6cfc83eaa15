"""One compiled pass over the values of two arrays: sums of each row, taken in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numba
import numpy as np

from wvindex.formats.kernels._factory import compiled, inline

PIECE: Final = 1024
"""Values whose differences are held: 8 KiB stay in the first-level cache."""

CHANGED, NONFINITE, SKIPPED, ABS, SQUARES, A_SQUARES, B_SQUARES, PRODUCTS, MOST = range(9)
STATE: Final = 9
"""Columns of a state: values that are not equal; of these, those where NaN or infinity stands on one side
alone, or another on each; values that are the same NaN or infinity on both. The others are finite on both
sides: sums of |d|, d², a², b² and ab, d = a - b, and the largest |d|."""

# Sums may be regrouped and fused, so that they are taken several at a time.
_SUMMATION: Final = {"reassoc", "contract", "nsz"}


def _sums(a: Any, b: Any, distances: Any) -> Any:
    absolute = squares = a_squares = b_squares = products = 0.0
    for i in range(a.size):
        x, y = np.float64(a[i]), np.float64(b[i])
        d = np.abs(x - y)
        distances[i] = d
        absolute += d
        squares += d * d
        a_squares += x * x
        b_squares += y * y
        products += x * y
    return absolute, squares, a_squares, b_squares, products


sums_of: Final = numba.njit(fastmath=_SUMMATION, nogil=True, boundscheck=False)(_sums)


@inline
def slow_state(a: Any, b: Any, state: Any) -> None:
    """Add values of which some are not finite, or too large to be squared."""
    for i in range(a.size):
        x, y = np.float64(a[i]), np.float64(b[i])
        if np.isfinite(x) and np.isfinite(y):
            d = np.abs(x - y)
            state[CHANGED] += d != 0
            state[ABS] += d
            state[SQUARES] += d * d
            state[A_SQUARES] += x * x
            state[B_SQUARES] += y * y
            state[PRODUCTS] += x * y
            state[MOST] = max(state[MOST], d)
        elif x == y or (np.isnan(x) and np.isnan(y)):
            state[SKIPPED] += 1
        else:
            state[CHANGED] += 1
            state[NONFINITE] += 1


@inline
def add_piece(a: Any, b: Any, distances: Any, keys: Any, state: Any) -> None:
    """Add at most `PIECE` values; `keys` views `distances` as integers, which sort as they do."""
    found = sums_of(a, b, distances)
    if not np.isfinite(found[2] + found[3]):
        slow_state(a, b, state)
        return
    state[A_SQUARES] += found[2]
    state[B_SQUARES] += found[3]
    state[PRODUCTS] += found[4]
    if found[0] == 0:
        return
    state[ABS] += found[0]
    state[SQUARES] += found[1]
    here = keys[: a.size]
    most = changed = np.int64(0)
    for i in range(here.size):
        most = max(most, here[i])
        changed += here[i] != 0
    state[CHANGED] += changed
    keys[0] = most
    state[MOST] = max(state[MOST], distances[0])


@inline
def find(a: Any, b: Any, most: float) -> int:
    """Give the first place where finite values are so far apart."""
    for i in range(a.size):
        if np.abs(np.float64(a[i]) - np.float64(b[i])) == most:
            return i
    return -1


@cache
def difference_kernel() -> Callable[..., int]:
    """Make ``difference(a, b, width, states, least)``: a state of `STATE` numbers for each `width` values.

    `a` and `b` are flat, both float32 or both float64. Returned is the first place of the largest finite
    difference of all rows where that is more than `least`, else -1.
    """

    def difference(a: Any, b: Any, width: int, states: Any, least: float) -> int:
        distances = np.empty(PIECE)
        keys = distances.view(np.int64)  # of numbers that are not negative
        worst = -1
        for row in range(states.shape[0]):
            state = states[row]
            state[:] = 0
            end = (row + 1) * width
            for start in range(row * width, end, PIECE):
                stop = min(start + PIECE, end)
                add_piece(a[start:stop], b[start:stop], distances, keys, state)
            if state[MOST] > least:
                least, worst = state[MOST], row
        if worst < 0:
            return -1
        start = worst * width
        return start + find(a[start : start + width], b[start : start + width], least)

    return compiled(difference, "difference")
