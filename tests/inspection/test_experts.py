"""Experts: exact moments of each, cosines as of flattened vectors, planted duplicates and dead ones found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.stores import Stores
from tests.support.tensors import plain_tensor
from wvindex.inspection import experts
from wvindex.inspection.experts import expert_products, expert_rows


def stack(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((6, 33, 40), np.float32)


@pytest.mark.parametrize("block", [1, 6 * 40 * 7, 1 << 22])
def test_products_do_not_depend_on_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "BLOCK_VALUES", block)
    values = stack()
    flat = values.reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(expert_products(plain_tensor(values)), flat @ flat.T, rtol=1e-5, atol=1e-2)


def test_rows_are_of_each_expert(stores: Stores) -> None:
    with wv.open(stores.safetensors("mixtral")) as db:
        key = "model.layers.1.mlp.experts.up_proj.weight"
        found = wv.stats(db, key, by="expert").to_dicts()
        values = db[key][:].astype(np.float64)
    assert [row["expert"] for row in found] == list(range(len(values)))
    for row, expert in zip(found, values, strict=True):
        assert row["l2"] == pytest.approx(np.linalg.norm(expert), rel=1e-12)
        assert row["std"] == pytest.approx(expert.std(), rel=1e-12)
        assert row["absmax"] == np.abs(expert).max()
        assert not (row["dead"] or row["duplicate"])


def test_a_near_duplicate_is_found() -> None:
    values = stack()
    values[4] = values[1] * 3 + 0.01 * stack(1)[0]
    rows = expert_rows(plain_tensor(values))
    assert [row["expert"] for row in rows if row["duplicate"]] == [1, 4]
    assert (rows[1]["nearest"], rows[4]["nearest"]) == (4, 1)
    a, b = values[1].reshape(-1).astype(np.float64), values[4].reshape(-1).astype(np.float64)
    assert rows[1]["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_dead_experts_are_found() -> None:
    values = stack()
    values[2] = 0
    values[5] *= 1e-5
    rows = expert_rows(plain_tensor(values))
    assert [row["expert"] for row in rows if row["dead"]] == [2, 5]
    assert rows[2]["nearest"] is None
    assert math.isnan(rows[2]["cosine"])


def test_an_expert_that_is_not_finite_spoils_no_other() -> None:
    values = stack()
    values[3, 0, 0] = np.nan
    rows = expert_rows(plain_tensor(values))
    assert [row["nan"] for row in rows] == [0, 0, 0, 1, 0, 0]
    assert rows[3]["nearest"] is None
    assert all(row["nearest"] not in (3, None) for row in rows if row["expert"] != 3)


def test_a_single_expert_has_no_neighbour() -> None:
    (row,) = expert_rows(plain_tensor(stack()[:1]))
    assert row["nearest"] is None
    assert not row["duplicate"]


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.float32, 1e-43), (np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1e-300), (np.float64, 1e300)],
)
def test_how_alike_experts_are_does_not_depend_on_their_scale(dtype: type, scale: float) -> None:
    values = stack().astype(np.float64)
    values[4] = values[1] * 3
    values[5] = 0
    stored: NDArray[Any] = (values * scale).astype(dtype)
    back = stored.astype(np.float64) / scale  # what is left of denormals
    rows = expert_rows(plain_tensor(stored))
    assert [row["expert"] for row in rows if row["dead"]] == [5]
    norms = np.linalg.norm(back.reshape(6, -1), axis=1)
    assert [row["norm_ratio"] for row in rows] == pytest.approx(norms / np.median(norms), rel=1e-5)
    unit = back[:5].reshape(5, -1) / norms[:5, None]
    nearest = (unit @ unit.T - 2 * np.eye(5)).max(axis=1)
    found = np.array([row["cosine"] for row in rows[:5]])
    np.testing.assert_allclose(found, nearest, atol=1e-5)
    assert (found <= 1).all()


def test_an_expert_of_nan_is_not_dead() -> None:
    values = stack()
    values[3] = np.nan
    assert not any(row["dead"] for row in expert_rows(plain_tensor(values)))
