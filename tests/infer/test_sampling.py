"""The next token is the likeliest one, or drawn from the softmax."""

from __future__ import annotations

import numpy as np
import pytest

from wvindex.errors import UsageError
from wvindex.infer.sampling import sample

LOGITS = np.array([0.0, 2.0, 1.0, -30.0], np.float32)


def test_temperature_zero_takes_the_largest() -> None:
    assert sample(LOGITS, 0.0, np.random.default_rng(0)) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount([sample(LOGITS, temperature, rng) for _ in range(8000)], minlength=4)
    p = np.exp(LOGITS.astype(np.float64) / temperature)
    np.testing.assert_allclose(counts / 8000, p / p.sum(), atol=0.02)


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert sample(LOGITS * 1000, 1e-6, np.random.default_rng(0)) == 1


@pytest.mark.parametrize("temperature", [-1.0, float("inf"), float("nan")])
def test_other_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"temperature"):
        sample(LOGITS, temperature, np.random.default_rng(0))
