"""Differences of 64-bit integers, which float64 does not hold: by parts that it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection import difference_kernels as kernels
from wvindex.query.lazy import Tensor
from wvindex.query.pieces import Pieces

Floats = NDArray[np.float64]

_PART: Final = 1 << 32
"""What numbers are parted by: below, 32-bit integers and what float64 has behind the point."""

_LONG: Final = frozenset({"I64", "U64"})


def is_long(tensor: Tensor) -> bool:
    """Whether a tensor has 64-bit integers."""
    return tensor.encoding in _LONG


def exact_values(pieces: Pieces, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give rows as `Pieces.values` does, but 64-bit integers as they are."""
    encoding = pieces.spec.encoding
    if encoding.name not in _LONG or encoding.dtype is None:
        yield from pieces.values(start, stop)
        return
    for first, raw in pieces.blocks(start, stop):
        yield first, np.ascontiguousarray(raw).view(encoding.dtype.newbyteorder("<"))


def distances(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Give |a - b|, rounded once it is known, and 0 nowhere but where both are equal.

    Both sides are taken as high * 2^32 + low, truncated towards zero, each exact in float64: so neighbours of
    2^62 are 1 apart, which they are not once they are float64 themselves.

    Parameters
    ----------
    a, b : array of int64, uint64, or of floats
        Of one shape.

    Returns
    -------
    array of float64
        NaN or infinite where a side is.
    """
    (a_high, a_low), (b_high, b_low) = _parts(a), _parts(b)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs((a_high - b_high) * _PART + (a_low - b_low))


def _parts(values: NDArray[Any]) -> tuple[Floats, Floats]:
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        with np.errstate(invalid="ignore"):
            high = np.trunc(wide / _PART)
            return high, wide - high * _PART
    part = values.dtype.type(_PART)
    low = np.fmod(values, part)
    return ((values - low) // part).astype(np.float64), low.astype(np.float64)


def exact_difference(a: NDArray[Any], b: NDArray[Any], width: int, states: Floats, least: float) -> int:
    """Do what `difference_kernel` does, of integers too."""
    x, y = (side.reshape(-1, width) for side in (a, b))
    d, u, v = distances(x, y), x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(u) & np.isfinite(v)  # so d is: a difference of float64 and an integer is at most one
    same = ~finite & ((u == v) | (np.isnan(u) & np.isnan(v)))
    states[:, kernels.CHANGED] = (~same & (d != 0)).sum(axis=1)
    states[:, kernels.NONFINITE] = (~same & ~finite).sum(axis=1)
    states[:, kernels.SKIPPED] = same.sum(axis=1)
    d, u, v = (np.where(finite, side, 0.0) for side in (d, u, v))
    with np.errstate(over="ignore"):
        for column, terms in (
            (kernels.ABS, d),
            (kernels.SQUARES, d * d),
            (kernels.A_SQUARES, u * u),
            (kernels.B_SQUARES, v * v),
            (kernels.PRODUCTS, u * v),
        ):
            states[:, column] = terms.sum(axis=1)
    states[:, kernels.MOST] = d.max(axis=1, initial=0.0)
    if d.max(initial=0.0) <= least:
        return -1
    return int(d.argmax())
