"""The k best of many vectors, from scores that are known within a bound; those that matter become exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Reals = NDArray[np.float64]

Score = Callable[[Indices, Indices], Reals]
"""Gives exact scores of vectors: by the matrix that each is of, and its number in it."""

_MAX_KEPT: Final = 1 << 14
"""Vectors that are kept while their scores are not exact: more than this only where thousands are alike."""


class Hit(NamedTuple):
    """One of the best: its score, the matrix that it is of, and its number in it."""

    score: float
    place: int
    vector: int


class Candidates:
    """What may be among the k best for one query.

    Parameters
    ----------
    k : int
    score : callable
    """

    def __init__(self, k: int, score: Score) -> None:
        self._k = k
        self._score = score
        self._lows: Reals = np.empty(0)  # the k best lower bounds so far
        self._floor = -np.inf
        self._place: Indices = np.empty(0, np.int64)
        self._vector: Indices = np.empty(0, np.int64)
        self._scores: Reals = np.empty(0)
        self._slack: Reals = np.empty(0)

    def add(self, place: int, vectors: Indices, scores: Reals, slack: Reals) -> None:
        """Take in vectors of a matrix whose true scores lie within `slack` of `scores`; 0 is exact."""
        self._raise_floor(scores - slack)
        mine = np.flatnonzero(scores + slack >= self._floor)
        if not mine.size:
            return
        self._place = np.concatenate((self._place, np.full(len(mine), place, np.int64)))
        self._vector = np.concatenate((self._vector, vectors[mine]))
        self._scores = np.concatenate((self._scores, scores[mine]))
        self._slack = np.concatenate((self._slack, slack[mine]))
        self._keep(np.flatnonzero(self._scores + self._slack >= self._floor))
        if len(self._scores) > max(_MAX_KEPT, 4 * self._k):
            self._settle()

    def best(self) -> list[Hit]:
        """Give the k best, exactly scored; of equal scores, what was taken in first."""
        self._settle()
        found = zip(self._scores.tolist(), self._place.tolist(), self._vector.tolist(), strict=True)
        return [Hit(*one) for one in found]

    def _raise_floor(self, lows: Reals) -> None:
        """Learn what a vector must be able to reach: the k-th best lower bound."""
        lows = np.concatenate((self._lows, lows[lows >= self._floor]))
        if len(lows) > self._k:
            lows = np.partition(lows, len(lows) - self._k)[-self._k :]
        self._lows = lows
        if len(lows) == self._k:
            self._floor = float(lows.min())

    def _settle(self) -> None:
        """Score exactly what is not, and keep the k best."""
        rough = np.flatnonzero(self._slack > 0)
        if rough.size:
            self._scores[rough] = self._score(self._place[rough], self._vector[rough])
            self._slack[rough] = 0
        self._keep(np.lexsort((self._vector, self._place, -self._scores))[: self._k])
        if len(self._scores) == self._k:
            self._lows = self._scores.copy()
            self._floor = float(self._lows.min())

    def _keep(self, which: NDArray[np.intp]) -> None:
        self._place, self._vector = self._place[which], self._vector[which]
        self._scores, self._slack = self._scores[which], self._slack[which]
