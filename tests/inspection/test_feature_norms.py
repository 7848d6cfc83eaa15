"""Norms of feed-forward features are those of NumPy, and dead ones are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.packed import REPO_GOLDEN
from wvindex.inspection.feature_norms import feed_forward

Matrix = NDArray[np.float64]


def explicit(db: wv.Store, layer: int, block: str) -> dict[str, Matrix]:
    """Take norms in float64, features of a stack one expert after another."""
    parts = {}
    for part in ("gate", "up", "down"):
        values = db[f"model.layers.{layer}.{block}.{part}_proj.weight"][:].astype(np.float64)
        axis = -2 if part == "down" else -1
        parts[part] = np.sqrt((values**2).sum(axis=axis)).reshape(-1)
    return parts | {"strength": parts["gate"] * parts["up"] * parts["down"]}


@pytest.mark.parametrize(
    ("path", "layer", "block"),
    [
        (EXAMPLE, 0, "mlp"),
        (EXAMPLE, 1, "mlp.experts"),
        (EXAMPLE, 2, "mlp.shared_experts"),
        (REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf", 0, "mlp"),
    ],
)
def test_norms_of_each_feature(path: Path, layer: int, block: str) -> None:
    with wv.open(path) as db:
        expected = explicit(db, layer, block)
        found = wv.stats(db, role=f"{block}.*", layers=layer, by="feature")
        rows = [row for row in found if row["role"] == block]
        experts = db[f"model.layers.{layer}.{block}.down_proj.weight"].shape[:-2]
    assert len(rows) == len(expected["strength"])
    for name in ("gate", "up", "down"):
        np.testing.assert_allclose([row[f"{name}_l2"] for row in rows], expected[name], rtol=1e-12)
    np.testing.assert_allclose([row["strength"] for row in rows], expected["strength"], rtol=1e-12)
    places = [(row["expert"], row["feature"]) for row in rows]
    each = len(rows) // (experts[0] if experts else 1)
    assert places == [(i // each if experts else None, i % each) for i in range(len(rows))]


def test_one_projection_chooses_the_whole_block() -> None:
    one = wv.stats(EXAMPLE, "*.0.mlp.up_proj.weight", by="feature")
    assert one == wv.stats(EXAMPLE, layers=0, by="feature")
    assert None not in one["gate_l2"]


def projections() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return {
        "gate_proj.weight": random.standard_normal((6, 4), np.float32),
        "up_proj.weight": random.standard_normal((6, 4), np.float32),
        "down_proj.weight": random.standard_normal((4, 6), np.float32),
    }


def dead(tensors: dict[str, NDArray[np.float32]], tmp_path: Path) -> list[int]:
    named = {f"model.layers.0.mlp.{name}": values for name, values in tensors.items()}
    save_file(named, tmp_path / "m.safetensors")
    with wv.open(tmp_path / "m.safetensors") as db:
        block = feed_forward(db, 0, "mlp")
        assert block is not None
        return [int(i) for i in np.flatnonzero(block.dead(block.norms()))]


def test_a_feature_is_dead_where_any_part_of_it_is_zero(tmp_path: Path) -> None:
    tensors = projections()
    assert dead(tensors, tmp_path) == []
    tensors["gate_proj.weight"][1] = 0
    tensors["up_proj.weight"][3] = 0
    tensors["down_proj.weight"][:, 4] = 0
    assert dead(tensors, tmp_path) == [1, 3, 4]


def test_a_bias_may_wake_a_row_of_zeros_but_no_column(tmp_path: Path) -> None:
    tensors = projections() | {"up_proj.bias": np.ones(6, np.float32)}
    tensors["up_proj.weight"][3] = 0
    tensors["down_proj.weight"][:, 4] = 0
    assert dead(tensors, tmp_path) == [4]


@pytest.mark.parametrize("change", ["missing down", "down alone", "other width"])
def test_what_does_not_fit_is_no_block(change: str, tmp_path: Path) -> None:
    tensors = projections()
    if change == "missing down":
        del tensors["down_proj.weight"]
    elif change == "down alone":
        tensors = {"down_proj.weight": tensors["down_proj.weight"]}
    else:
        tensors["down_proj.weight"] = tensors["down_proj.weight"][:, :5].copy()
    named = {f"model.layers.0.mlp.{name}": values for name, values in tensors.items()}
    save_file(named, tmp_path / "m.safetensors")
    assert len(wv.stats(tmp_path / "m.safetensors", by="feature")) == 0


def test_a_feature_that_is_not_finite_has_no_finite_norm_and_is_not_dead(tmp_path: Path) -> None:
    tensors = projections()
    tensors["gate_proj.weight"][1] = np.nan
    tensors["up_proj.weight"][2] = 0
    tensors["up_proj.weight"][2, 1] = -np.inf
    tensors["gate_proj.weight"][3] = 0
    tensors["down_proj.weight"][0, 3] = np.inf
    tensors["down_proj.weight"][:, 4] = 0
    assert dead(tensors, tmp_path) == [4]
    found = wv.stats(tmp_path / "m.safetensors", by="feature")
    for name, axis in (("gate", 1), ("up", 1), ("down", 0)):
        norms = np.linalg.norm(tensors[f"{name}_proj.weight"].astype(np.float64), axis=axis)
        np.testing.assert_allclose(found[f"{name}_l2"], norms, rtol=1e-12)
