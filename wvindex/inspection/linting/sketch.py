"""Which matrices may be nearly the same: a few numbers of each, from the pass that looks at all.

A sketch is a random linear map of a matrix, taken row by row: every row is multiplied by a few vectors of
signs, and the products are added, with a sign, to one of some buckets. Lengths and inner products are kept
on average (Charikar, Chen and Farach-Colton 2002), so nearly equal matrices have nearly equal sketches. A
sketch only names candidates: they are then compared value by value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection import kernels
from wvindex.inspection.scan import is_wide, read_floats, widened
from wvindex.query.lazy import Tensor

VECTORS: Final = 4
BUCKETS: Final = 64
LENGTH: Final = VECTORS * BUCKETS

CANDIDATE: Final = 0.8
"""Cosine of sketches from which two are compared: a true 0.99 is never below, by 256 numbers."""

_LEAST: Final = 2.0**-90
_MOST: Final = 2.0**120
"""Between them, the largest number of a sketch leaves room in float32 for the others."""

_COMPARED_VALUES: Final = 1 << 19
"""Values of each of two tensors that are held at once: 4 MiB of float64."""


def sketch_rows(values: NDArray[Any], first_row: int) -> NDArray[np.float64]:
    """Give what some rows of a matrix, from `first_row` on, add to its sketch; shape (LENGTH,)."""
    products = np.empty((len(values), VECTORS))
    kernels.signed_sums_kernel()(values, _signs(values.shape[1]), products)
    hashes = _mixed(np.arange(first_row, first_row + len(values), dtype=np.uint64))
    signs = 1.0 - 2.0 * (hashes >> np.uint64(63)).astype(np.float64)
    found = np.zeros((BUCKETS, VECTORS))
    with np.errstate(all="ignore"):  # what is not finite gives a sketch that is like none
        np.add.at(found, (hashes % np.uint64(BUCKETS)).astype(np.intp), products * signs[:, None])
    return found.reshape(-1)


@lru_cache(maxsize=8)
def _signs(width: int) -> NDArray[np.float32]:
    numbers = np.arange(width * VECTORS, dtype=np.uint64).reshape(VECTORS, width)
    hashes = _mixed(numbers + np.uint64(1 << 40))
    return np.asarray(1.0 - 2.0 * (hashes >> np.uint64(63)), np.float32)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of integers (SplitMix64's finalizer, Steele et al. 2014)."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def compact(sketches: NDArray[np.float64]) -> NDArray[np.floating]:
    """Give sketches (n, LENGTH) as float32; as they are where one is too large or too small for that."""
    largest = np.abs(sketches).max(axis=1, initial=0)
    beyond = (largest >= _MOST) | ((largest > 0) & (largest <= _LEAST))
    return sketches if beyond.any() else sketches.astype(np.float32)


def candidates(sketches: NDArray[np.floating]) -> list[tuple[int, int]]:
    """Give the pairs (i, j), i < j, of rows that may belong to nearly equal matrices."""
    with np.errstate(all="ignore"):
        wide = np.asarray(sketches, np.float64)
        _, exponents = np.frexp(np.abs(wide).max(axis=1, keepdims=True, initial=0))
        wide = np.ldexp(wide, -exponents)
        norms = np.linalg.norm(wide, axis=1)
        cosines = (wide @ wide.T) / np.outer(norms, norms)
        near = np.triu(cosines >= CANDIDATE, 1)
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(near), strict=True)]


def cosine(ones: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Give the cosine of two lists of tensors of the same shapes, each taken as one vector.

    Summed in float64. NaN where either is zero or not finite.
    """
    sums = np.zeros(3)
    scales = [_exponent(side) for side in (ones, others)]
    with np.errstate(all="ignore"):
        for pair in zip(ones, others, strict=True):
            for rows in _blocks(pair[0]):
                read = (widened(read_floats(tensor, rows)).reshape(-1) for tensor in pair)
                a, b = (np.ldexp(v, -e) if e else v for v, e in zip(read, scales, strict=True))
                sums += [a @ b, a @ a, b @ b]
        return float(np.clip(sums[0] / (np.sqrt(sums[1]) * np.sqrt(sums[2])), -1.0, 1.0))


def _exponent(tensors: Sequence[Tensor]) -> int:
    """Give a power of two that brings squares into float64; 0 where they are, as those of float32 are."""
    if not any(map(is_wide, tensors)):
        return 0
    parts = (read_floats(tensor, rows) for tensor in tensors for rows in _blocks(tensor))
    return max(math.frexp(float(np.abs(part).max(initial=0)))[1] for part in parts)


def are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same values."""
    return all(np.array_equal(read_floats(one, rows), read_floats(other, rows)) for rows in _blocks(one))


def _blocks(tensor: Tensor) -> list[tuple[int, int]]:
    step = max(_COMPARED_VALUES // max(tensor.size // max(len(tensor), 1), 1), 1)
    return [(start, min(start + step, len(tensor))) for start in range(0, len(tensor), step)]
