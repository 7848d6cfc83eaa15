"""Outliers: weights far from the rest, and input channels whose weights are larger than the others'."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from wvindex.query.stream import Values

SIGMAS: Final = 6.0
"""A weight is an outlier where its magnitude is above this many standard deviations."""

CHANNEL_RATIO: Final = 5.0
"""A column is an outlier channel where its largest magnitude is this many times the median column's."""


@dataclass(frozen=True)
class Channels:
    """Columns by their largest magnitude, beside that of the median column.

    Attributes
    ----------
    outliers : int
        Columns at `CHANNEL_RATIO` or more.
    most : int or None
        The column with the largest magnitude; None without columns.
    ratio : float
        Its magnitude over the median; NaN where that is zero.
    """

    outliers: int
    most: int | None
    ratio: float


def channel_ratios(column_absmax: Values) -> Values:
    """Give each column's largest magnitude over that of the median column; NaN where that is zero."""
    magnitudes = np.asarray(column_absmax, np.float64)
    with np.errstate(over="ignore"):  # a ratio to a denormal may be infinite
        median = float(np.median(magnitudes)) if magnitudes.size else 0.0
        return magnitudes / median if median > 0 else np.full(magnitudes.shape, math.nan)


def channels(column_absmax: Values) -> Channels:
    """Find outlier channels."""
    if not column_absmax.size:
        return Channels(0, None, math.nan)
    ratios = channel_ratios(column_absmax)
    most = int(np.argmax(column_absmax))
    return Channels(int(np.count_nonzero(ratios >= CHANNEL_RATIO)), most, float(ratios[most]))
