"""Weights are read once while the budget has room, never held beyond it, and never decoded as a whole."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.arrays import memory_array, write_store
from tests.support.fake_db import FakeDatabase
from wvindex.arch.config import ModelConfig
from wvindex.errors import UsageError
from wvindex.infer.weights import Weights
from wvindex.query.database import open_store

CONFIG = ModelConfig(model_type="x", family=None)
SMALL = 4 * 10 * 4  # bytes of one (10, 4) float32 matrix
X = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)


def database() -> FakeDatabase:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((10, 4)).astype(np.float32) for name in "abcdefgh"}
    stack = rng.standard_normal((5, 10, 4)).astype(np.float32)
    half = rng.standard_normal((10, 4)).astype(ml_dtypes.bfloat16)
    norm = rng.standard_normal(4).astype(ml_dtypes.bfloat16)
    return FakeDatabase(CONFIG, arrays | {"stack": stack, "half": half, "norm": norm})


def test_a_matrix_is_read_once_while_it_is_kept() -> None:
    db = database()
    weights = Weights(db, "1MiB")
    for _ in range(2):
        np.testing.assert_allclose(weights.multiply(X, "a"), X @ db.arrays["a"].T, rtol=1e-5, atol=1e-6)
    assert db.reads == ["a"]


def test_a_vector_is_float32_whatever_is_stored_and_decoded_once() -> None:
    db = database()
    weights = Weights(db, "1MiB")
    assert weights.vector("norm").dtype == np.float32
    np.testing.assert_array_equal(weights.vector("norm"), db.arrays["norm"].astype(np.float32))
    assert weights.vector("norm") is weights.vector("norm")
    assert db.reads == ["norm"]


def test_what_is_kept_is_what_is_stored() -> None:
    weights = Weights(database(), "1MiB")
    weights.multiply(X, "half")
    assert weights.nbytes == SMALL // 2


def test_what_was_read_first_stays_and_the_rest_is_streamed_each_time() -> None:
    db = database()
    weights = Weights(db, 2 * SMALL)
    for key in "abcabc":
        weights.multiply(X, key)
    assert db.reads == ["a", "b", "c, streamed", "c, streamed"]


def test_a_smaller_one_still_finds_room() -> None:
    db = database()
    weights = Weights(db, SMALL + SMALL // 2)
    for key in ("a", "b", "half", "half"):
        weights.multiply(X, key)
    assert db.reads == ["a", "b, streamed", "half"]


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(0, 9 * SMALL))
def test_the_budget_holds_at_any_moment(keys: list[str], budget: int) -> None:
    db = database()
    weights = Weights(db, budget)
    for key in keys:
        product = weights.multiply(X, key)
        np.testing.assert_allclose(product, X @ db.arrays[key].T, rtol=1e-5, atol=1e-6)
        weights.vector("norm")
        assert weights.nbytes <= budget


def test_one_expert_is_read_and_kept_by_itself() -> None:
    db = database()
    weights = Weights(db, "1MiB")
    product = weights.multiply(X, "stack", 3)
    np.testing.assert_allclose(product, X @ db.arrays["stack"][3].T, rtol=1e-5, atol=1e-6)
    weights.multiply(X, "stack", 3)
    weights.multiply(X, "stack", 1)
    assert db.reads == ["stack#3", "stack#1"]
    assert weights.nbytes == 2 * SMALL


def test_rows_come_in_the_order_that_was_asked_for_each_read_once() -> None:
    db = database()
    found = Weights(db, 0).rows("a", np.array([7, 2, 7, 0]))
    np.testing.assert_array_equal(found, db.arrays["a"][[7, 2, 7, 0]])
    assert db.reads == ["a[[0, 2, 7]]"]


@pytest.mark.parametrize("encoding", ["Q4_K", "Q8_0", "BF16", "F32", "FP8"])
@pytest.mark.parametrize("budget", [0, "1MiB"])
def test_kept_and_streamed_rows_of_a_store_give_the_same(
    tmp_path: Path, encoding: str, budget: int | str
) -> None:
    array = memory_array("w", (3, 37, 256), encoding)
    x = np.random.default_rng(2).standard_normal((11, 256)).astype(np.float32)
    with open_store(write_store(tmp_path / "x.zarr", [array], chunk_bytes=2000)) as db:
        weights = Weights(db, budget)
        for expert in (2, 0, 2):
            expected = x.astype(np.float64) @ array.values[expert].astype(np.float64).T
            scale = np.abs(x).astype(np.float64) @ np.abs(array.values[expert]).astype(np.float64).T
            assert (np.abs(weights.multiply(x, "w", expert) - expected) <= 1e-6 * scale).all()
        assert weights.nbytes == (0 if budget == 0 else 2 * (db["w"].nbytes // 3))


def test_a_budget_that_is_no_size_is_refused() -> None:
    with pytest.raises(UsageError):
        Weights(database(), "plenty")
