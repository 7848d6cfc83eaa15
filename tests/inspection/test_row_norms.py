"""Rows that say nothing are counted, and norms are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.tensors import plain_tensor
from wvindex.inspection.row_norms import rows_row


def test_norms_of_a_packed_stack() -> None:
    with wv.open(EXAMPLE) as db:
        stack = db["model.layers.1.mlp.experts.up_proj.weight"]
        norms = np.linalg.norm(stack[:].astype(np.float64), axis=-1).reshape(-1)
        row = rows_row(stack)
    assert row["rows"] == norms.size == 1024
    assert row["most"] == pytest.approx(norms.max(), rel=1e-12)
    assert row["median"] == pytest.approx(np.quantile(norms, 0.5, method="inverted_cdf"), rel=1e-12)
    assert row["top"][0] == norms.argmax()
    assert (row["zero_rows"], row["constant_rows"], row["zero_columns"]) == (0, 0, 0)


def test_rows_and_columns_that_say_nothing_are_counted() -> None:
    values = np.random.default_rng(0).standard_normal((9, 7), np.float32)
    values[[2, 5]] = 0
    values[8] = -1.5
    row = rows_row(plain_tensor(values))
    assert (row["zero_rows"], row["constant_rows"], row["zero_columns"]) == (2, 1, 0)
    values[:, 3] = 0
    row = rows_row(plain_tensor(values))
    assert (row["zero_rows"], row["constant_rows"], row["zero_columns"]) == (2, 0, 1)


def test_a_row_that_is_not_finite_is_not_constant() -> None:
    values = np.ones((3, 4), np.float32)
    values[0, 0], values[1, 0] = np.nan, np.inf
    row = rows_row(plain_tensor(values))
    assert (row["zero_rows"], row["constant_rows"]) == (0, 1)


def test_a_row_of_one_value_is_a_number_and_not_constant() -> None:
    assert rows_row(plain_tensor(np.ones((3, 1), np.float32)))["constant_rows"] == 0


def test_lines_that_are_not_finite_are_not_zero() -> None:
    values = np.random.default_rng(0).standard_normal((3, 5, 4), np.float32)
    values[:, :, 1:3] = 0
    values[0, 2], values[1, :, 2] = np.nan, np.inf
    values[2, 4] = 0
    row = rows_row(plain_tensor(values))
    assert (row["zero_rows"], row["zero_columns"]) == (1, 0)
    values[0, 2], values[2, 0] = 0, np.inf
    values[2, 0, 1] = 0
    assert rows_row(plain_tensor(values))["zero_columns"] == 1


def test_rows_of_float64_that_are_too_small_for_squares_are_not_zero() -> None:
    values = np.full((3, 2), 1e-200) * [[1, 2], [0, 0], [3, -3]]
    row = rows_row(plain_tensor(values))
    assert (row["zero_rows"], row["zero_columns"]) == (1, 0)
