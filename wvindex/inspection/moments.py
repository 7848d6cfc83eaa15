"""What a pass over values leaves: states of moments that merge exactly, and the numbers that they tell."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

NAN = math.nan

_LEAST_POWER: Final = sys.float_info.min / sys.float_info.epsilon
"""Below, mean powers of deviations are sums of denormals, which have lost digits, or of zeros."""


@dataclass(frozen=True)
class Moments:
    """Moments of values, in float64; of the finite ones, but for `nan` and `inf`.

    Attributes
    ----------
    finite : int
        Finite values.
    mean : float
        NaN without values.
    m2, m3, m4 : float
        Sums of the second to fourth powers of deviations from the mean.
    min, max : float
    zeros : int
    nan, inf : int
        Values that are NaN, and infinite.
    """

    finite: int = 0
    mean: float = NAN
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    min: float = NAN
    max: float = NAN
    zeros: int = 0
    nan: int = 0
    inf: int = 0

    @classmethod
    def of_state(cls, state: NDArray[np.float64]) -> Self:
        """Read a state of the kernels (`wvindex.inspection.kernels.STATE` numbers)."""
        finite, mean, m2, m3, m4, least, most, zeros, nan, inf = state.tolist()
        if not finite:
            return cls(nan=int(nan), inf=int(inf))
        return cls(int(finite), mean, m2, m3, m4, least, most, int(zeros), int(nan), int(inf))

    def to_state(self) -> NDArray[np.float64]:
        """Give what `of_state` reads."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.float64)

    @classmethod
    def merged(cls, parts: Iterable[Moments]) -> Self:
        """Give the moments of all values together (Chan et al. 1979; Pebay 2008, SAND2008-6212)."""
        from wvindex.inspection.kernels import STATE, merge_kernel

        states = [part.to_state() for part in parts]
        whole = np.zeros((1, STATE))
        if states:
            merge_kernel()(whole, 0, np.stack(states), len(states), 0, 1)
        return cls.of_state(whole[0])

    @property
    def count(self) -> int:
        """Values, finite or not."""
        return self.finite + self.nan + self.inf

    @property
    def variance(self) -> float:
        """Mean square of deviations (``ddof=0``); NaN without values."""
        return self.m2 / self.finite if self.finite else NAN

    @property
    def std(self) -> float:
        """Square root of the variance."""
        return math.sqrt(self.variance)

    @property
    def sum_of_squares(self) -> float:
        """Of the values themselves."""
        if math.isinf(self.m2):
            return self.m2  # the mean may be beyond float64 too
        return self.m2 + self.finite * self.mean * self.mean if self.finite else 0.0

    @property
    def rms(self) -> float:
        """Square root of the mean square."""
        return math.sqrt(self.sum_of_squares / self.finite) if self.finite else NAN

    @property
    def l2(self) -> float:
        """Euclidean (Frobenius) norm."""
        return math.sqrt(self.sum_of_squares)

    @property
    def absmax(self) -> float:
        """Largest magnitude; NaN without values."""
        return max(abs(self.min), abs(self.max))

    @property
    def skewness(self) -> float:
        """Third standardized moment, ``m3/n / (m2/n)**1.5``; NaN where all values are equal.

        Also NaN where float64 holds no cubes of deviations: beyond 1e102, or below 1e-97.
        """
        return self._standardized(self.m3, self.std)

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis, ``m4/n / (m2/n)**2 - 3``: 0 for a normal distribution; NaN where all are equal.

        Also NaN where float64 holds no fourth powers of deviations: beyond 1e77, or below 1e-73.
        """
        return self._standardized(self.m4, self.variance) - 3

    def _standardized(self, moment: float, rest: float) -> float:
        """Divide a mean power by the variance and what is left of the same power of the deviation."""
        variance = self.variance
        if not (_LEAST_POWER < variance * rest < math.inf and math.isfinite(moment)):
            return NAN
        return moment / self.finite / (variance * rest)
