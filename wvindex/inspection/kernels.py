"""Compiled passes over decoded values: moments, largest magnitudes of columns.

Values are looked at through their bits, as integers that sort as the numbers do: minima, maxima, zeros and
whatever is not finite are found without a branch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numba
import numpy as np

from wvindex.formats.kernels._factory import compiled, inline

PIECE: Final = 4096
"""Values whose mean is known before their deviations are summed: 16 KiB stay in the first-level cache."""

N, MEAN, M2, M3, M4, LEAST, MOST, ZEROS, NAN, INF = range(10)
STATE: Final = 10
"""Columns of a state: finite values, their mean, sums of the 2nd to 4th powers of deviations from it,
smallest, largest, how many are zero; then how many values are NaN, and infinite."""

# Sums may be regrouped and fused, so that they are taken several at a time.
_SUMMATION: Final = {"reassoc", "contract", "nsz"}

_options: Final[dict[str, Any]] = {"fastmath": _SUMMATION, "nogil": True, "boundscheck": False}


def _sum(values: Any) -> Any:
    found = 0.0
    for i in range(values.size):
        found += np.float64(values[i])
    return found


def _deviations(values: Any, middle: Any) -> Any:
    first = second = third = fourth = 0.0
    for i in range(values.size):
        d = np.float64(values[i]) - middle
        square = d * d
        first += d
        second += square
        third += square * d
        fourth += square * square
    return first, second, third, fourth


def _squares(values: Any) -> Any:
    found = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        found += value * value
    return found


def _products(values: Any, one: Any, two: Any, three: Any, four: Any, sums: Any) -> None:
    first = second = third = fourth = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        first += value * one[i]
        second += value * two[i]
        third += value * three[i]
        fourth += value * four[i]
    sums[0], sums[1], sums[2], sums[3] = first, second, third, fourth


# Slices, not ranges of indices: an index that might be negative keeps a loop from being vectorized.
sum_of: Final = numba.njit(**_options)(_sum)
deviations: Final = numba.njit(**_options)(_deviations)
squares: Final = numba.njit(**_options)(_squares)
products: Final = numba.njit(**_options)(_products)


@inline
def ordered32(bits: Any) -> Any:
    """Map the bits of a float32 to an integer that sorts as the number does; the map is its own inverse."""
    return np.int32(bits ^ (np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))


@inline
def ordered64(bits: Any) -> Any:
    """Map the bits of a float64 likewise."""
    return np.int64(bits ^ (np.int64(bits >> 63) & np.int64(0x7FFFFFFFFFFFFFFF)))


@inline
def twice32(bits: Any) -> Any:
    """Shift out the sign: 0 for either zero, and for nothing else."""
    return np.int32(bits << 1)


@inline
def twice64(bits: Any) -> Any:
    """Shift out the sign of a float64."""
    return np.int64(bits << 1)


@inline
def merge_state(into: Any, i: int, part: Any, j: int) -> None:
    """Merge state j of `part` into state i of `into` (Chan et al. 1979; Pebay 2008, SAND2008-6212)."""
    into[i, NAN] += part[j, NAN]
    into[i, INF] += part[j, INF]
    b = part[j, N]
    if b == 0:
        return
    a = into[i, N]
    if a == 0:
        for k in range(NAN):
            into[i, k] = part[j, k]
        return
    n = a + b
    delta = part[j, MEAN] - into[i, MEAN]
    over_n = delta / n
    second, other_second = into[i, M2], part[j, M2]
    third, other_third = into[i, M3], part[j, M3]
    product = delta * over_n * a * b
    into[i, M4] += (
        part[j, M4]
        + product * over_n * over_n * (a * a - a * b + b * b)
        + 6 * over_n * over_n * (a * a * other_second + b * b * second)
        + 4 * over_n * (a * other_third - b * third)
    )
    into[i, M3] += other_third + product * over_n * (a - b) + 3 * over_n * (a * other_second - b * second)
    into[i, M2] += other_second + product
    into[i, MEAN] += over_n * b
    into[i, N] = n
    into[i, LEAST] = min(into[i, LEAST], part[j, LEAST])
    into[i, MOST] = max(into[i, MOST], part[j, MOST])
    into[i, ZEROS] += part[j, ZEROS]


@cache
def merge_kernel() -> Callable[..., None]:
    """Make ``merge(groups, n_groups_before, parts, rows_per_group, first_row, n_segments)``.

    Part ``row * n_segments + segment`` goes to the group of its row, ``(first_row + row) // rows_per_group``
    less `n_groups_before`, and of its segment.
    """

    def merge(groups: Any, before: int, parts: Any, per_group: int, first_row: int, n_segments: int) -> None:
        for row in range(parts.shape[0] // n_segments):
            group = (first_row + row) // per_group - before
            for segment in range(n_segments):
                merge_state(groups, group * n_segments + segment, parts, row * n_segments + segment)

    return compiled(merge, "merge_moments")


@inline
def piece_state(values: Any, near: float, part: Any) -> None:
    """Fill the moments of state 0 of `part` from finite values, in one pass if their mean is about `near`.

    Powers of deviations from another number than the mean cancel when they are shifted to it; within a
    standard deviation or so no digit is lost. From further away the mean is found first. Squares that no
    float64 holds leave an infinite second moment, and none beyond it.
    """
    n = values.size
    first, second, third, fourth = deviations(values, near)
    off = first / n
    if not off * first * 4 < second:
        near = sum_of(values) / n
        first, second, third, fourth = deviations(values, near)
        off = first / n
    if not np.isfinite(second):
        for i in range(n):
            part[0, MEAN] += np.float64(values[i]) / n  # where the sum itself is infinite, too
        part[0, M2] = part[0, M3] = part[0, M4] = np.inf
        return
    square = off * off
    part[0, MEAN] = near + off
    part[0, M2] = max(second - n * square, 0.0)
    part[0, M3] = third - 3 * off * second + 2 * n * square * off
    part[0, M4] = max(fourth - 4 * off * third + 6 * square * second - 3 * n * square * square, 0.0)


@inline
def finite_state(values: Any, part: Any) -> None:
    """Fill state 0 of `part` from values of which some are not finite."""
    n = zeros = nan = 0
    mean = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        if np.isfinite(value):
            n += 1
            mean += value
            zeros += value == 0
            part[0, LEAST] = value if n == 1 else min(part[0, LEAST], value)
            part[0, MOST] = value if n == 1 else max(part[0, MOST], value)
        else:
            nan += np.isnan(value)
    part[0, N] = n
    part[0, ZEROS] = zeros
    part[0, NAN] = nan
    part[0, INF] = values.size - n - nan
    if n == 0:
        return
    mean = part[0, LEAST] if part[0, LEAST] == part[0, MOST] else mean / n
    part[0, MEAN] = mean
    for i in range(values.size):
        if np.isfinite(values[i]):
            d = np.float64(values[i]) - mean
            part[0, M2] += d * d
            part[0, M3] += d * d * d
            part[0, M4] += d * d * d * d


@cache
def moments_kernel(wide: bool) -> Callable[..., None]:
    """Make ``moments(values, bits, width, states)``: a state for each `width` values of flat arrays.

    Parameters
    ----------
    wide : bool
        Whether values are float64, and `bits` the int64 that are the same bytes; else float32 and int32.
    """
    ordered = ordered64 if wide else ordered32
    infinity = np.int64(0x7FF0000000000000) if wide else np.int32(0x7F800000)
    twice, narrow = (twice64, np.int64) if wide else (twice32, np.int32)

    def moments(values: Any, bits: Any, width: int, states: Any) -> None:
        part = np.empty((1, STATE))
        keys = np.empty(2, bits.dtype)
        ends = keys.view(values.dtype)
        for segment in range(states.shape[0]):
            states[segment] = 0
            end = (segment + 1) * width
            for start in range(segment * width, end, PIECE):
                piece = values[start : min(start + PIECE, end)]
                whole = bits[start : min(start + PIECE, end)]
                least = most = ordered(whole[0])
                zeros = narrow(0)
                for i in range(whole.size):
                    at = ordered(whole[i])
                    least = min(least, at)
                    most = max(most, at)
                    # Numba widens sums of narrow integers, and narrow ones are counted several at a time.
                    zeros = narrow(zeros + narrow(twice(whole[i]) == 0))
                part[0] = 0
                if most < infinity and least > ~infinity:
                    keys[0], keys[1] = ordered(least), ordered(most)
                    part[0, N] = piece.size
                    part[0, LEAST], part[0, MOST] = ends[0], ends[1]
                    part[0, ZEROS] = zeros
                    if ends[0] == ends[1]:
                        part[0, MEAN] = ends[0]
                    else:
                        piece_state(piece, states[segment, MEAN], part)
                else:
                    finite_state(piece, part)
                merge_state(states, segment, part, 0)

    return compiled(moments, f"moments_{64 if wide else 32}")


@cache
def magnitudes_kernel(wide: bool) -> Callable[..., None]:
    """Make ``magnitudes(bits, width, most)``: raises `most` to the largest finite magnitude of each column.

    `most` holds magnitudes' bits, as integers of the type of `bits`, which are signed.
    """
    kind = np.int64 if wide else np.int32
    mask = kind(0x7FFFFFFFFFFFFFFF if wide else 0x7FFFFFFF)
    infinity = kind(0x7FF0000000000000 if wide else 0x7F800000)

    def magnitudes(bits: Any, width: int, most: Any) -> None:
        for start in range(0, bits.size, width):
            row = bits[start : start + width]
            for i in range(row.size):
                at = kind(row[i] & mask)
                at = at if at < infinity else kind(0)
                most[i] = max(most[i], at)

    return compiled(magnitudes, f"magnitudes_{64 if wide else 32}")


@cache
def columns_kernel() -> Callable[..., None]:
    """Make ``columns(values, states)``: merges rows (n_rows, n_columns) into a state a column."""

    def columns(values: Any, states: Any) -> None:
        n_rows, n_columns = values.shape
        part = np.zeros((n_columns, STATE))
        for row in range(n_rows):
            for i in range(n_columns):
                value = np.float64(values[row, i])
                if np.isfinite(value):
                    n = part[i, N]
                    part[i, LEAST] = min(part[i, LEAST], value) if n else value
                    part[i, MOST] = max(part[i, MOST], value) if n else value
                    part[i, N] = n + 1
                    part[i, MEAN] += value
                    part[i, ZEROS] += value == 0
                elif np.isnan(value):
                    part[i, NAN] += 1
                else:
                    part[i, INF] += 1
        for i in range(n_columns):
            constant = part[i, LEAST] == part[i, MOST]
            part[i, MEAN] = part[i, LEAST] if constant else part[i, MEAN] / part[i, N]
        for row in range(n_rows):
            for i in range(n_columns):
                if np.isfinite(values[row, i]):
                    d = np.float64(values[row, i]) - part[i, MEAN]
                    square = d * d
                    part[i, M2] += square
                    part[i, M3] += square * d
                    part[i, M4] += square * square
        for i in range(n_columns):
            merge_state(states, i, part, i)

    return compiled(columns, "column_moments")


@cache
def signed_sums_kernel() -> Callable[..., None]:
    """Make ``signed_sums(values, signs, sums)``: four products of each row, with vectors of 1 and -1.

    `values` (n_rows, n_columns), `signs` (4, n_columns) float32, `sums` (n_rows, 4) float64.
    """

    def signed_sums(values: Any, signs: Any, sums: Any) -> None:
        for row in range(values.shape[0]):
            products(values[row], signs[0], signs[1], signs[2], signs[3], sums[row])

    return compiled(signed_sums, "signed_sums")


@cache
def ends_kernel(wide: bool) -> Callable[..., None]:
    """Make ``ends(values, bits, row_ends, row_squares, column_ends)``: what rows and columns lie between.

    Ends are integers that sort as the numbers do (`ordered32`): beyond the infinities' lie the NaN.

    Parameters
    ----------
    wide : bool
        Whether values (flat) are float64, and `bits` the int64 that are the same bytes; else float32, int32.
        `row_ends` (n_rows, 2) takes the least and the most of each row, `row_squares` (n_rows,) float64 the
        sums of squares; `column_ends` (2, n_columns) is widened by what the rows hold.
    """
    ordered = ordered64 if wide else ordered32

    def ends(values: Any, bits: Any, row_ends: Any, row_squares: Any, column_ends: Any) -> None:
        width = column_ends.shape[1]
        column_least, column_most = column_ends[0], column_ends[1]
        for row in range(row_ends.shape[0]):
            piece = bits[row * width : (row + 1) * width]
            least = most = ordered(piece[0])
            for i in range(piece.size):
                at = ordered(piece[i])
                least = min(least, at)
                most = max(most, at)
            for i in range(piece.size):
                at = ordered(piece[i])
                column_least[i] = min(column_least[i], at)
                column_most[i] = max(column_most[i], at)
            row_ends[row, 0] = least
            row_ends[row, 1] = most
            row_squares[row] = squares(values[row * width : (row + 1) * width])

    return compiled(ends, f"ends_{64 if wide else 32}")
