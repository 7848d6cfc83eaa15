"""RMSNorm is x over its root mean square, times the weight as its family stores it."""

from __future__ import annotations

import numpy as np
import pytest

from wvindex.infer.norm import inverse_rms, rms_norm

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 3, 16)).astype(np.float32) * 4
WEIGHT = RNG.uniform(0.5, 1.5, 16).astype(np.float32)


@pytest.mark.parametrize(("eps", "offset"), [(1e-6, 0.0), (1e-5, 1.0), (10.0, 0.0)])
def test_it_equals_the_formula_in_float64(eps: float, offset: float) -> None:
    x = X.astype(np.float64)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (WEIGHT.astype(np.float64) + offset)
    np.testing.assert_allclose(rms_norm(X, WEIGHT, eps, offset), expected, rtol=1e-6)


def test_it_stays_float32() -> None:
    assert rms_norm(X, WEIGHT, 1e-6, 1.0).dtype == np.float32
    assert inverse_rms(X, 1e-6).dtype == np.float32


def test_zeros_stay_zeros() -> None:
    np.testing.assert_array_equal(rms_norm(np.zeros_like(X), WEIGHT, 1e-6), np.zeros_like(X))


def test_the_inverse_keeps_the_axis() -> None:
    assert inverse_rms(X, 1e-6).shape == (5, 3, 1)
