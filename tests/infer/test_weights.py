"""Weights are decoded once while the budget keeps them, and never beyond it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_db import FakeDatabase
from wvindex.arch.config import ModelConfig
from wvindex.errors import UsageError
from wvindex.infer import weights as weights_module
from wvindex.infer.weights import Weights

CONFIG = ModelConfig(model_type="x", family=None)
SMALL = 4 * 10 * 4  # bytes of one (10, 4) float32 matrix


def database() -> FakeDatabase:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((10, 4)).astype(np.float32) for name in "abcdefgh"}
    stack = rng.standard_normal((5, 10, 4)).astype(np.float32)
    half = rng.standard_normal((10, 4)).astype(ml_dtypes.bfloat16)
    return FakeDatabase(CONFIG, arrays | {"stack": stack, "half": half})


def test_a_weight_is_read_once_while_it_is_kept() -> None:
    db = database()
    weights = Weights(db, "1MiB")
    np.testing.assert_array_equal(weights.get("a"), db.arrays["a"])
    assert weights.get("a") is weights.get("a")
    assert db.reads == ["a"]


def test_weights_are_float32_whatever_is_stored() -> None:
    weights = Weights(database(), "1MiB")
    assert weights.get("half").dtype == np.float32
    assert weights.rows("half", np.array([1])).dtype == np.float32


def test_the_least_recently_used_is_dropped_first() -> None:
    db = database()
    weights = Weights(db, 3 * SMALL)
    for key in "abcadabc":
        weights.get(key)
    # d drops b, which drops c, which drops d.
    assert db.reads == ["a", "b", "c", "d", "b", "c"]


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(0, 9 * SMALL))
def test_the_budget_holds_at_any_moment(keys: list[str], budget: int) -> None:
    weights = Weights(database(), budget)
    for key in keys:
        weights.get(key)
        assert weights.nbytes <= budget


def test_a_weight_larger_than_the_budget_is_given_and_not_kept() -> None:
    db = database()
    weights = Weights(db, SMALL - 1)
    np.testing.assert_array_equal(weights.get("a"), db.arrays["a"])
    weights.get("a")
    assert db.reads == ["a", "a"]
    assert weights.nbytes == 0


def test_one_expert_is_read_and_kept_by_itself() -> None:
    db = database()
    weights = Weights(db, "1MiB")
    np.testing.assert_array_equal(weights.expert("stack", 3), db.arrays["stack"][3])
    weights.expert("stack", 3)
    weights.expert("stack", 1)
    assert db.reads == ["stack#3", "stack#1"]
    assert weights.nbytes == 2 * SMALL


def test_rows_come_in_the_order_that_was_asked_for_each_read_once() -> None:
    db = database()
    found = Weights(db, 0).rows("a", np.array([7, 2, 7, 0]))
    np.testing.assert_array_equal(found, db.arrays["a"][[7, 2, 7, 0]])
    assert db.reads == ["a[[0, 2, 7]]"]


def test_a_matrix_within_the_budget_is_one_tile_and_kept() -> None:
    db = database()
    weights = Weights(db, SMALL)
    for _ in range(2):
        ((rows, tile),) = weights.tiles("a")
        assert rows == slice(0, 10)
        np.testing.assert_array_equal(tile, db.arrays["a"])
    assert db.reads == ["a"]


def test_a_larger_matrix_comes_in_tiles_that_cover_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "_SMALLEST_TILE", 4 * 4 * 3)
    db = database()
    tiles = list(Weights(db, 0).tiles("a"))
    assert [(rows.start, rows.stop) for rows, _ in tiles] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    np.testing.assert_array_equal(np.concatenate([tile for _, tile in tiles]), db.arrays["a"])
    assert db.reads == ["a[0:3]", "a[3:6]", "a[6:9]", "a[9:10]"]


def test_a_budget_that_is_no_size_is_refused() -> None:
    with pytest.raises(UsageError):
        Weights(database(), "plenty")
