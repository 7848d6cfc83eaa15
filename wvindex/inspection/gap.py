"""How far two arrays are apart, as numbers: what a pass over both has summed, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from numpy.typing import NDArray

NAN: Final = math.nan

METRICS: Final = {
    "rel_l2": True,
    "max_abs": True,
    "mean_abs": True,
    "rmse": True,
    "cosine": False,
    "sqnr_db": False,
}
"""Measures by which damage is ranked, and whether more of it is worse."""

GAP: Final = ("count", "changed", "nonfinite", *METRICS)
"""Columns of every table of differences."""


@dataclass(frozen=True)
class Gap:
    """Sums over pairs of values, a and b, d = a - b.

    Attributes
    ----------
    count : int
        Pairs.
    changed : int
        Those that are not equal; the same NaN or infinity on both sides is equal.
    nonfinite : int
        Of these, those where NaN or infinity stands on one side alone, or another on each.
    skipped : int
        The same NaN or infinity on both sides. Sums are of pairs that are finite on both.
    sum_abs, squares, a_squares, b_squares, products : float
        Sums of |d|, d², a², b² and ab.
    max_abs : float
        Largest |d|.
    """

    count: int = 0
    changed: int = 0
    nonfinite: int = 0
    skipped: int = 0
    sum_abs: float = 0.0
    squares: float = 0.0
    a_squares: float = 0.0
    b_squares: float = 0.0
    products: float = 0.0
    max_abs: float = 0.0

    @classmethod
    def of_state(cls, count: int, state: NDArray[Any]) -> Self:
        """Read a state of `wvindex.inspection.difference_kernels`."""
        changed, nonfinite, skipped, *sums = state.tolist()
        return cls(count, int(changed), int(nonfinite), int(skipped), *sums)

    @classmethod
    def merged(cls, parts: Iterable[Gap]) -> Self:
        """Give the gap of all pairs together."""
        total = cls()
        for part in parts:
            sums = {f.name: getattr(total, f.name) + getattr(part, f.name) for f in fields(cls)}
            total = cls(**sums | {"max_abs": max(total.max_abs, part.max_abs)})
        return total

    @property
    def finite(self) -> int:
        """Pairs that are finite on both sides."""
        return self.count - self.nonfinite - self.skipped

    @property
    def is_unknown(self) -> bool:
        """Whether something differs, and no pair is finite: then no measure is known."""
        return self.changed > 0 and not self.finite

    @property
    def mean_abs(self) -> float:
        """Mean |d|."""
        if self.is_unknown:
            return NAN
        return self.sum_abs / self.finite if self.finite else 0.0

    @property
    def rmse(self) -> float:
        """Root of the mean d²."""
        if self.is_unknown:
            return NAN
        return math.sqrt(self.squares / self.finite) if self.finite else 0.0

    @property
    def rel_l2(self) -> float:
        """‖a - b‖ / ‖a‖: 0 where nothing differs, infinite where a is zero and b is not."""
        if self.is_unknown:
            return NAN
        if not self.squares and not self.max_abs:
            return 0.0
        return math.sqrt(self.squares / self.a_squares) if self.a_squares else math.inf

    @property
    def cosine(self) -> float:
        """a·b / (‖a‖ ‖b‖): 1 where nothing differs, NaN beside a vector that is zero."""
        if self.is_unknown:
            return NAN
        if not self.squares and not self.max_abs:
            return 1.0
        norms = math.sqrt(self.a_squares) * math.sqrt(self.b_squares)
        return min(max(self.products / norms, -1.0), 1.0) if norms else NAN

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, 10 log10(‖a‖² / ‖a - b‖²) dB: infinite where nothing differs."""
        ratio = self.rel_l2
        return math.inf if ratio == 0 else 0.0 - 20 * math.log10(ratio)  # no -0

    def to_row(self) -> dict[str, Any]:
        """Give the columns `GAP`."""
        row = {name: getattr(self, name) for name in GAP}
        return row | {"max_abs": NAN} if self.is_unknown else row


def damage(row: dict[str, Any], metric: str) -> tuple[float, float, float]:
    """Give the number that rows are ranked by, the most damaged largest.

    First come those where NaN or infinity stands on one side alone; then the worse by `metric`, whose NaN
    is the worst; then the larger difference.
    """
    value = row[metric] if METRICS[metric] else -row[metric]
    ranks = (math.inf if math.isnan(number) else number for number in (value, row["max_abs"]))
    return row["nonfinite"], *ranks


def exceeds(row: dict[str, Any], metric: str, threshold: float | None) -> bool:
    """Whether a row is beyond a threshold of a metric; without one, whether anything differs."""
    if threshold is None or row["nonfinite"]:
        return bool(row["changed"])
    value = row[metric]
    return not (value <= threshold if METRICS[metric] else value >= threshold)
