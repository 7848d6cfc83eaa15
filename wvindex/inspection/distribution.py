"""How numbers are spread: quantiles, a small histogram, the largest of them. For norms by the thousand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike

N_BINS: Final = 16
N_TOP: Final = 8

_BLOCKS: Final = "▁▂▃▄▅▆▇█"

_QUANTILES: Final = {"least": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "most": 1.0}

DISTRIBUTION: Final = ("numbers", *_QUANTILES, "mean", "histogram", "top", "top_values")
"""Columns of a distribution in a table."""


@dataclass(frozen=True)
class Distribution:
    """The spread of some numbers; of the finite ones alone.

    Attributes
    ----------
    numbers : int
        How many there are.
    least, p5, median, p95, most : float
        Quantiles, each one of the numbers (NumPy's ``inverted_cdf``); NaN without numbers.
    mean : float
    histogram : tuple of int
        Numbers in `N_BINS` equal bins from `least` to `most`.
    top : tuple of int
        Places of the largest, falling; the first of equal ones first.
    top_values : tuple of float
    """

    numbers: int
    least: float
    p5: float
    median: float
    p95: float
    most: float
    mean: float
    histogram: tuple[int, ...]
    top: tuple[int, ...]
    top_values: tuple[float, ...]

    @classmethod
    def of(cls, values: ArrayLike, *, n_top: int = N_TOP) -> Self:
        """Take the distribution of an array, flattened, in float64."""
        numbers = np.asarray(values, np.float64).reshape(-1)
        finite = numbers[np.isfinite(numbers)]
        if not finite.size:
            nan = math.nan
            return cls(0, nan, nan, nan, nan, nan, nan, (0,) * N_BINS, (), ())
        quantiles = np.quantile(finite, list(_QUANTILES.values()), method="inverted_cdf").tolist()
        least, p5, median, p95, most = quantiles
        places = (finite - least) / ((most - least) or 1) * N_BINS  # equal numbers are in the first bin
        bins = np.bincount(np.minimum(places.astype(np.int64), N_BINS - 1), minlength=N_BINS)
        order = np.argsort(-np.where(np.isfinite(numbers), numbers, -np.inf), kind="stable")
        top = order[: min(n_top, finite.size)]
        return cls(
            finite.size,
            least,
            p5,
            median,
            p95,
            most,
            float(finite.mean()),
            tuple(bins.tolist()),
            tuple(top.tolist()),
            tuple(numbers[top].tolist()),
        )

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_row` gave."""
        values: dict[str, Any] = {name: row[name] for name in DISTRIBUTION}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def to_row(self) -> dict[str, Any]:
        """Give the columns `DISTRIBUTION`."""
        values = {name: getattr(self, name) for name in DISTRIBUTION}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def sparkline(counts: tuple[int, ...] | list[int]) -> str:
    """Draw a histogram in a character a bin; an empty bin is a space, and no other is."""
    most = max(counts, default=0)
    if not most:
        return " " * len(counts)
    last = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(count / most * last)] if count else " " for count in counts)
