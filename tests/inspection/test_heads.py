"""Norms of heads are those of the explicit hidden x hidden products."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.packed import REPO_GOLDEN
from tests.support.stores import Stores
from tests.support.tensors import plain_tensor
from wvindex.arch.keys import split_layer
from wvindex.formats.arrays import Heads
from wvindex.inspection.heads import head_grams, head_moments
from wvindex.query.layers import Layer


def explicit(layer: Layer, heads: int) -> list[dict[str, float]]:
    """Multiply each head's matrices out, in float64."""
    q, k, v, o = (layer.self_attn[f"{name}_proj"][:].astype(np.float64) for name in "qkvo")
    kv_heads = layer.self_attn.k_proj.heads
    qk_dim, v_dim = len(q) // heads, len(v) // kv_heads
    rows = []
    for head in range(heads):
        kv = head // (heads // kv_heads)
        one = q[head * qk_dim :][:qk_dim], k[kv * qk_dim :][:qk_dim], v[kv * v_dim :][:v_dim]
        out = o[:, head * v_dim :][:, :v_dim]
        rows.append(
            {
                "qk_norm": float(np.linalg.norm(one[0].T @ one[1])),
                "ov_norm": float(np.linalg.norm(out @ one[2])),
                "q_l2": float(np.linalg.norm(one[0])),
                "k_l2": float(np.linalg.norm(one[1])),
                "v_l2": float(np.linalg.norm(one[2])),
                "o_l2": float(np.linalg.norm(out)),
                "o_absmax": float(np.abs(out).max()),
            }
        )
    return rows


def require_heads(path: Path) -> None:
    with wv.open(path) as db:
        found = wv.stats(db, by="head", keep=False).to_dicts()
        heads = db.config.num_attention_heads
        numbers = {layer for layer, _ in map(split_layer, db) if layer is not None}  # also a layer beyond
        layers = [db.layers[number] for number in sorted(numbers)]
        assert heads is not None
        assert [(row["layer"], row["head"]) for row in found] == [
            (layer.number, head) for layer in layers for head in range(heads)
        ]
        expected = [row for layer in layers for row in explicit(layer, heads)]
    for row, exact in zip(found, expected, strict=True):
        for name, value in exact.items():
            assert row[name] == pytest.approx(value, rel=1e-9), (row["layer"], row["head"], name)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_grouped_queries(name: str, stores: Stores) -> None:
    path = stores.safetensors(name)
    with wv.open(path) as db:
        assert db.layers[0].self_attn.k_proj.heads < db.layers[0].self_attn.q_proj.heads
    require_heads(path)


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2_lite"])
def test_absorbed_latent_attention_with_unequal_widths(name: str, stores: Stores) -> None:
    store = stores.build(stores.safetensors(name))
    with wv.open(store) as db:
        attention = db.layers[0].self_attn
        assert attention.q_proj.head(0).shape[0] != attention.v_proj.head(0).shape[0]
    require_heads(store)


def test_a_packed_model() -> None:
    require_heads(REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf")


def test_columns_of_heads_sum_to_the_whole(stores: Stores) -> None:
    with wv.open(stores.safetensors("llama")) as db:
        o = db.layers[0].self_attn.o_proj
        values = o[:].astype(np.float64)
        moments, grams = head_moments(o), head_grams(o)
    assert sum(m.sum_of_squares for m in moments) == pytest.approx((values**2).sum())
    width = values.shape[1] // len(grams)
    for head, gram in enumerate(grams):
        part = values[:, head * width :][:, :width]
        np.testing.assert_allclose(gram, part.T @ part, rtol=1e-9, atol=1e-12)


def test_choosing_one_projection_chooses_its_layer(stores: Stores) -> None:
    path = stores.safetensors("llama")
    one = wv.stats(path, "*.q_proj.weight", layers=1, by="head")
    assert one == wv.stats(path, layers=1, by="head")
    assert set(one["layer"]) == {1}


def test_a_head_that_is_not_finite_spoils_no_other() -> None:
    values = np.random.default_rng(0).standard_normal((32, 64), np.float32)
    values[0, 0], values[9, 1] = np.inf, np.nan
    for axis, shown in ((0, values), (1, np.ascontiguousarray(values.T))):
        grams = head_grams(plain_tensor(shown, heads=Heads(axis=axis, count=4)))
        assert [bool(np.isfinite(gram).all()) for gram in grams] == [False, False, True, True]


@pytest.mark.parametrize("scale", [1e-100, 1e-50, 1e100])
def test_float64_is_not_taken_through_float32(scale: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = {"q": (16, 16), "k": (8, 16), "v": (8, 16), "o": (16, 16)}
    name = "model.layers.0.self_attn.{}_proj.weight"
    tensors = {name.format(part): random.standard_normal(shape) * scale for part, shape in shapes.items()}
    tensors["model.embed_tokens.weight"] = random.standard_normal((9, 16))
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 9}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | heads))
    for head, row in enumerate(wv.stats(tmp_path, by="head")):
        q, k = (tensors[name.format(p)][4 * i :][:4] / scale for p, i in (("q", head), ("k", head // 2)))
        assert row["qk_norm"] == pytest.approx(np.linalg.norm(q.T @ k) * scale**2, rel=1e-12)
        assert row["q_l2"] == pytest.approx(np.linalg.norm(q) * scale, rel=1e-12)
