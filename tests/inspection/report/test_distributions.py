"""Histograms, tails and channels are NumPy's, whatever the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tensors import plain_tensor
from wvindex.inspection.outliers import CHANNEL_RATIO
from wvindex.inspection.report.distributions import DISTRIBUTION, N_BINS, N_CHANNELS, distribution_row


def row_of(values: NDArray[Any], low: float, high: float) -> dict[str, Any]:
    return distribution_row(plain_tensor(values), {"p0_1": low, "p99_9": high})


@pytest.fixture
def values() -> NDArray[np.float32]:
    """Multiples of 1/256, so that no value lies near an edge of a bin that it is not on."""
    found: NDArray[np.float32] = np.random.default_rng(3).integers(-900, 900, (300, 700)).astype(np.float32)
    found /= 256
    found[7, :5] = np.nan, np.inf, -np.inf, 3.25, -3.5
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_and_tails_hold_every_finite_value(dtype: type, values: NDArray[np.float32]) -> None:
    low, high = -1.5, 1.5
    finite = values[np.isfinite(values)]
    row = row_of(values.astype(dtype), low, high)
    np.testing.assert_array_equal(row["counts"], np.histogram(finite, N_BINS, (low, high))[0])
    assert (row["below"], row["above"]) == (np.sum(finite < low), np.sum(finite > high))
    assert sum(row["counts"]) + row["below"] + row["above"] == finite.size
    assert set(row) == set(DISTRIBUTION)


def test_the_furthest_channels_come_first_with_their_ratios(values: NDArray[np.float32]) -> None:
    values[3, 41], values[9, 640] = 40, -30
    row = row_of(values, -1.0, 1.0)
    magnitudes = np.where(np.isfinite(values), np.abs(values), 0).max(axis=0)
    ratios = magnitudes / np.median(magnitudes)
    assert row["channels"][:2] == [41, 640]
    assert len(row["channels"]) == N_CHANNELS
    np.testing.assert_allclose(row["channel_ratios"], np.sort(ratios)[::-1][:N_CHANNELS])
    np.testing.assert_allclose(ratios[row["channels"]], row["channel_ratios"])
    assert sum(ratio >= CHANNEL_RATIO for ratio in row["channel_ratios"]) == 2


def test_a_stack_has_the_channels_of_its_columns() -> None:
    values = np.ones((3, 4, 5), np.float32)
    values[1, 2, 3] = -7
    row = row_of(values, 1, 1)
    assert (row["channels"][0], row["channel_ratios"][0]) == (3, 7)
    assert (row["counts"], row["below"], row["above"]) == ([59], 1, 0)


def test_a_vector_has_no_channels() -> None:
    assert row_of(np.arange(8, dtype=np.float32), 0, 7)["channels"] == []


@pytest.mark.parametrize("values", [np.full((4, 4), np.nan, np.float32), np.zeros((0, 4), np.float32)])
def test_where_nothing_is_finite_there_is_no_histogram(values: NDArray[np.float32]) -> None:
    row = row_of(values, np.nan, np.nan)
    assert (row["counts"], row["below"], row["above"], row["channels"]) == ([], 0, 0, [])


def test_values_too_far_apart_for_bins_have_no_histogram() -> None:
    assert row_of(np.array([[-1.5e308, 1.5e308]]), -1.5e308, 1.5e308)["counts"] == []
