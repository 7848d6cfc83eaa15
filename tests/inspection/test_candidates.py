"""Candidates keep the k best exactly, however rough the first scores are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.inspection import candidates
from wvindex.inspection.candidates import Candidates, Hit


def best(exact: NDArray[np.float64], k: int, slack: float, seed: int, n_parts: int) -> list[Hit]:
    """Take in parts of an array whose scores are wrong by up to `slack`."""
    rng = np.random.default_rng(seed)
    rough = exact + rng.uniform(-slack, slack, exact.shape)
    kept = Candidates(k, lambda places, vectors: exact[vectors])
    for part in np.array_split(np.arange(len(exact)), n_parts):
        kept.add(int(part[0]) if len(part) else 0, part, rough[part], np.full(len(part), slack))
    return kept.best()


@given(
    st.lists(st.integers(-20, 20), max_size=60),
    st.integers(1, 70),
    st.sampled_from([0.0, 1e-3, 0.4, 3.0, 100.0]),
    st.integers(0, 9),
    st.integers(1, 7),
)
def test_the_best_are_those_of_a_sort(
    values: list[int], k: int, slack: float, seed: int, n_parts: int
) -> None:
    exact = np.array(values, np.float64)
    found = best(exact, k, slack, seed, n_parts)
    order = sorted(range(len(exact)), key=lambda i: (-exact[i], i))[:k]
    assert [hit.vector for hit in found] == order
    assert [hit.score for hit in found] == [exact[i] for i in order]


def test_thousands_that_are_alike_are_settled_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_MAX_KEPT", 8)
    asked: list[int] = []

    def score(places: NDArray[np.int64], vectors: NDArray[np.int64]) -> NDArray[np.float64]:
        asked.append(len(vectors))
        return np.ones(len(vectors))

    kept = Candidates(2, score)
    for start in range(0, 100, 10):
        kept.add(0, np.arange(start, start + 10), np.ones(10), np.ones(10))
    assert [hit.vector for hit in kept.best()] == [0, 1]
    assert max(asked) <= 20
