"""Heads of latent attention kept as factors have the norms of the dense matrices that these stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.stores import Stores
from wvindex.query.layers import Layer

NORMS = ("qk_norm", "ov_norm", "q_l2", "k_l2", "v_l2", "o_l2")

Matrix = NDArray[np.float64]


def weight(layer: Layer, name: str) -> Matrix:
    return np.asarray(layer[f"self_attn.{name}.weight"][:], np.float64)


def up_of_keys_and_values(layer: Layer, heads: int, nope: int) -> tuple[Matrix, Matrix]:
    """Give W_kb (heads, nope, rank) and W_vb (heads, v, rank)."""
    if "kv_b_proj" in dir(layer.self_attn):
        both = weight(layer, "kv_b_proj").reshape(heads, -1, weight(layer, "kv_a_layernorm").size)
        return both[:, :nope], both[:, nope:]
    return weight(layer, "k_b_proj").transpose(0, 2, 1), weight(layer, "v_b_proj")


def multiplied_out(db: wv.Store, layer: Layer) -> list[dict[str, float]]:
    """Make each head's dense matrices in float64, and the hidden x hidden products of them."""
    mla, heads = db.config.mla, db.config.num_attention_heads
    assert mla is not None
    assert heads is not None
    rank = mla.kv_lora_rank
    if mla.q_lora_rank is None:
        queries = weight(layer, "q_proj")
    else:
        queries = (weight(layer, "q_b_proj") * weight(layer, "q_a_layernorm")) @ weight(layer, "q_a_proj")
    queries = queries.reshape(heads, -1, queries.shape[-1])
    down = weight(layer, "kv_a_proj_with_mqa")
    normed = weight(layer, "kv_a_layernorm")[:, None] * down[:rank]
    w_kb, w_vb = up_of_keys_and_values(layer, heads, mla.qk_nope_head_dim)
    out = weight(layer, "o_proj").reshape(len(down[0]), heads, -1)
    rows = []
    for h in range(heads):
        q, k, v, o = queries[h], np.concatenate([w_kb[h] @ normed, down[rank:]]), w_vb[h] @ normed, out[:, h]
        norms = (np.linalg.norm(one) for one in (q.T @ k, o @ v, q, k, v, o))
        rows.append(dict(zip(NORMS, map(float, norms), strict=True)))
    return rows


def require_norms(path: Path) -> None:
    with wv.open(path) as db:
        found = wv.stats(db, by="head", keep=False).to_dicts()
        numbers = sorted({row["layer"] for row in found})
        expected = [row for number in numbers for row in multiplied_out(db, db.layers[number])]
        assert len(numbers) >= len(db.layers)
    assert len(found) == len(expected)
    for row, exact in zip(found, expected, strict=True):
        for name in NORMS:
            assert row[name] == pytest.approx(exact[name], rel=1e-10), (row["layer"], row["head"], name)


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2_lite", "deepseek_v3-fp8", "deepseek_v3-halves"])
def test_norms_are_those_of_the_matrices_multiplied_out(name: str, stores: Stores) -> None:
    require_norms(stores.build(stores.safetensors(name), mla="keep"))


def test_of_factors_that_a_packed_file_has_split_and_transposed() -> None:
    with wv.open(EXAMPLE) as db:
        assert db["model.layers.0.self_attn.k_b_proj.weight"].shape == (8, 256, 32)
    require_norms(EXAMPLE)


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2_lite", "deepseek_v3-halves"])
def test_a_kept_and_an_absorbed_store_of_a_model_agree(name: str, stores: Stores) -> None:
    source = stores.safetensors(name)
    kept = wv.stats(stores.build(source, mla="keep"), by="head", keep=False)
    absorbed = wv.stats(stores.build(source), by="head", keep=False)
    for column in ("layer", "head", "kv_head"):
        assert kept[column] == absorbed[column]
    for column in NORMS:
        np.testing.assert_allclose(kept[column], absorbed[column], rtol=1e-5)


def test_values_that_are_not_stored_have_neither_kurtosis_nor_magnitude(stores: Stores) -> None:
    row = next(iter(wv.stats(stores.safetensors("deepseek_v3"), by="head")))
    assert [row[f"{name}_kurtosis"] is None for name in "qkvo"] == [True, True, True, False]
    assert [row[f"{name}_absmax"] is None for name in "qkvo"] == [True, True, True, False]


def test_choosing_one_factor_chooses_its_layer(stores: Stores) -> None:
    path = stores.safetensors("deepseek_v3")
    one = wv.stats(path, "*.kv_a_layernorm.weight", layers=1, by="head")
    assert one == wv.stats(path, layers=1, by="head")
    assert set(one["layer"]) == {1}


def test_they_are_kept_in_the_store(stores: Stores, tmp_path: Path) -> None:
    store = wv.build(stores.safetensors("deepseek_v3"), tmp_path / "s.zarr", mla="keep")
    first = wv.stats(store, by="head")
    assert (store / "stats" / "head.json").is_file()
    assert wv.stats(store, by="head") == first


def test_dense_projections_beside_the_factors_are_the_ones_taken(stores: Stores) -> None:
    both = stores.build(stores.safetensors("deepseek_v3"), mla="both")
    assert None not in wv.stats(both, by="head", keep=False)["q_kurtosis"]
