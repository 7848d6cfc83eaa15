"""The spread of numbers is what NumPy says it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.inspection.distribution import N_BINS, N_TOP, Distribution, sparkline

NUMBERS = st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=60)


def test_quantiles_histogram_and_the_largest() -> None:
    values = np.random.default_rng(0).lognormal(size=1000)
    one = Distribution.of(values)
    assert one.numbers == 1000
    assert (one.least, one.most) == (values.min(), values.max())
    for name, share in (("p5", 0.05), ("median", 0.5), ("p95", 0.95)):
        assert getattr(one, name) == np.quantile(values, share, method="inverted_cdf")
    assert one.mean == pytest.approx(values.mean(), rel=1e-12)
    assert one.histogram == tuple(np.histogram(values, N_BINS)[0].tolist())
    assert one.top == tuple(np.argsort(values)[::-1][:N_TOP].tolist())
    assert one.top_values == tuple(np.sort(values)[::-1][:N_TOP].tolist())


def test_numbers_that_are_all_the_same() -> None:
    one = Distribution.of([2.5] * 7)
    assert (one.least, one.median, one.most, one.mean) == (2.5,) * 4
    assert one.histogram == (7, *[0] * (N_BINS - 1))
    assert one.top == tuple(range(7))


def test_no_numbers() -> None:
    one = Distribution.of([math.nan, math.inf])
    assert (one.numbers, one.top) == (0, ())
    assert math.isnan(one.median)


@given(NUMBERS)
def test_only_finite_numbers_count_and_a_row_reads_back(values: list[float]) -> None:
    one = Distribution.of(values)
    finite = [value for value in values if math.isfinite(value)]
    assert one.numbers == sum(one.histogram) == len(finite)
    assert [values[place] for place in one.top] == sorted(finite, reverse=True)[:N_TOP]
    if finite:
        assert Distribution.of_row(one.to_row()) == one


def test_an_empty_bin_is_the_only_one_that_is_blank() -> None:
    assert sparkline((0, 1, 500, 1000)) == " ▁▅█"
    assert sparkline((0, 0)) == "  "
