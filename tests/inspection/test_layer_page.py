"""The page of a layer says what the configuration, the tensors and NumPy say; planted oddities are on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE
from tests.support.safetensors_writer import write_safetensors
from tests.support.stores import Stores
from wvindex.arch.config import MoE
from wvindex.errors import SelectionError
from wvindex.inspection import api, page
from wvindex.inspection.distribution import Distribution

EXPERTS = "model.layers.1.block_sparse_moe.experts"


def changed(name: str, changes: Mapping[str, NDArray[Any]], directory: Path) -> Path:
    """Write a recipe's checkpoint with other weights."""
    model = checkpoint(name)
    assert changes.keys() <= model.tensors.keys()
    tensors = {
        key: changes[key].astype(old.dtype) if key in changes else old for key, old in model.tensors.items()
    }
    return write_safetensors(replace(model, tensors=tensors), directory)


def weights(name: str, key: str) -> NDArray[np.float32]:
    return checkpoint(name).tensors[key].astype(np.float32)


def found(page: wv.LayerPage) -> dict[tuple[str, str], int]:
    return {(row["kind"], row["key"].split(".", 3)[-1]): row["count"] for row in page.anomalies}


def test_its_tensors_are_the_layers_with_their_statistics(stores: Stores) -> None:
    store = stores.build(stores.safetensors("deepseek_v3"))
    with wv.open(store) as db:
        one, layer = wv.inspect(db, 1, keep=False), db.layers[1]
        assert one.tensors["key"] == [tensor.key for tensor in layer]
        for row, tensor in zip(one.tensors, layer, strict=True):
            assert (row["encoding"], row["exactness"]) == (tensor.encoding, tensor.exactness)
            assert (tuple(row["sources"]), row["nbytes"]) == (tensor.source, tensor.nbytes)
            assert row["std"] == pytest.approx(tensor[:].astype(np.float64).std(), rel=1e-12)
        assert one.parameters == sum(np.asarray(tensor).size for tensor in layer)
        assert one.bits_per_weight == 8 * one.nbytes / one.parameters
    by_stats = wv.stats(store, layers=1, keep=False)
    assert one.tensors.select(by_stats.columns) == by_stats
    assert one.heads == wv.stats(store, layers=1, by="head", keep=False)


def test_the_geometry_of_absorbed_attention(stores: Stores) -> None:
    source = stores.safetensors("deepseek_v3")
    config = checkpoint("deepseek_v3").config
    one = wv.inspect(stores.build(source), 0, stats=False).attention
    assert one is not None
    rope, nope = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    assert (one.form, one.heads, one.kv_heads) == ("absorbed", *[config["num_attention_heads"]] * 2)
    assert (one.qk_head_dim, one.v_head_dim, one.rotary_dim) == (rope + nope, config["v_head_dim"], rope)
    assert (one.q_lora_rank, one.kv_lora_rank) == (config["q_lora_rank"], config["kv_lora_rank"])
    assert one.rope_type == "yarn"
    assert {name: scale.head_slice for name, scale in one.row_scales.items()} == {
        "q": (0, rope + nope),
        "k": (rope, rope + nope),
        "v": (0, config["v_head_dim"]),
    }
    kept = wv.inspect(source, 0, stats=False).attention
    assert kept is not None
    assert kept == replace(one, form="factored", row_scales={})


def test_windows_and_softcaps_of_alternating_layers(stores: Stores) -> None:
    config = checkpoint("gemma2").config
    pages = [wv.inspect(stores.safetensors("gemma2"), i, stats=False).attention for i in range(2)]
    assert [one and one.window for one in pages] == [config["sliding_window"], None]
    assert [one and one.softcap for one in pages] == [config["attn_logit_softcapping"]] * 2
    assert pages[0] is not None
    assert pages[0].scale == pytest.approx(config["query_pre_attn_scalar"] ** -0.5)


@pytest.mark.parametrize(("name", "has"), [("qwen3", "qk_norm"), ("qwen2", "bias")])
def test_norms_and_biases_of_attention(name: str, has: str, stores: Stores) -> None:
    one = wv.inspect(stores.safetensors(name), 0, stats=False).attention
    assert one is not None
    assert [what for what in ("qk_norm", "bias", "sinks") if getattr(one, what)] == [has]


def test_attention_sinks(tmp_path: Path) -> None:
    model = checkpoint("llama")
    sinks = {"model.layers.1.self_attn.sinks": np.zeros(4, np.float32)}
    path = write_safetensors(replace(model, tensors=dict(model.tensors) | sinks), tmp_path)
    with wv.open(path) as db:
        pages = [wv.inspect(db, i, stats=False).attention for i in range(2)]
    assert [one and one.sinks for one in pages] == [False, True]


def test_experts_are_those_of_numpy(stores: Stores) -> None:
    with wv.open(stores.safetensors("deepseek_v3")) as db:
        one, mlp = wv.inspect(db, 1), db.layers[1].mlp
        parts = {n: mlp.experts[f"{n}_proj"][:].astype(np.float64) for n in ("gate", "up", "down")}
        router = mlp.gate[:].astype(np.float64)
        bias = np.asarray(mlp["gate.e_score_correction_bias"], np.float64)
        assert one.routing is not None
        assert one.routing.rule == db.config.moe
    flat = {name: values.reshape(len(router), -1) for name, values in parts.items()}
    norms = np.sqrt(sum((values**2).sum(axis=1) for values in flat.values()))
    np.testing.assert_allclose(one.experts["l2"], norms, rtol=1e-12)
    np.testing.assert_allclose(one.experts["norm_ratio"], norms / np.median(norms), rtol=1e-12)
    for name, values in flat.items():
        np.testing.assert_allclose(one.experts[f"{name}_l2"], np.linalg.norm(values, axis=1), rtol=1e-12)
    np.testing.assert_allclose(one.experts["router_l2"], np.linalg.norm(router, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(one.experts["correction_bias"], bias)
    assert one.routing.correction_bias == (bias.min(), bias.max())
    cosines = []
    for values in flat.values():
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        cosines.append(unit @ unit.T - 2 * np.eye(len(unit)))
    np.testing.assert_allclose(one.experts["cosine"], np.max(cosines, axis=(0, 2)), atol=1e-6)


def test_features_are_spread_as_their_norms_are() -> None:
    one = wv.inspect(EXAMPLE, 1)
    rows = wv.stats(EXAMPLE, layers=1, by="feature").to_dicts()
    assert one.features["role"] == [
        f"{block}{part}"
        for block in ("mlp.experts", "mlp.shared_experts")
        for part in (".gate_proj", ".up_proj", ".down_proj", "")
    ]
    for row in one.features:
        block, _, part = row["role"].removesuffix("_proj").rpartition(".")
        name = f"{part}_l2" if row["role"].endswith("_proj") else "strength"
        owner = block if row["role"].endswith("_proj") else row["role"]
        values = [feature[name] for feature in rows if feature["role"] == owner]
        assert Distribution.of_row(row) == Distribution.of(values)
        assert (row["features"], row["zeros"]) == (len(values), 0)


def test_a_model_of_noise_has_nothing_out_of_the_ordinary(stores: Stores) -> None:
    assert found(wv.inspect(stores.safetensors("mixtral"), 1)) == {}


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    stem = "model.layers.1"
    q, k = (weights("llama", f"{stem}.self_attn.{name}_proj.weight") for name in "qk")
    gate, up, down = (weights("llama", f"{stem}.mlp.{name}_proj.weight") for name in ("gate", "up", "down"))
    q[3, 5], q[4, 6], q[4, 7] = np.nan, np.inf, -np.inf
    k[:, 9] *= 40
    k[2] = 0
    gate[7] = 0.25
    up[11] = 0
    down[:, [11, 12]] = 0
    path = changed(
        "llama",
        {
            f"{stem}.self_attn.q_proj.weight": q,
            f"{stem}.self_attn.k_proj.weight": k,
            f"{stem}.mlp.gate_proj.weight": gate,
            f"{stem}.mlp.up_proj.weight": up,
            f"{stem}.mlp.down_proj.weight": down,
            f"{stem}.input_layernorm.weight": np.full_like(
                weights("llama", f"{stem}.input_layernorm.weight"), 2
            ),
        },
        tmp_path,
    )
    one = wv.inspect(path, 1)
    assert found(one) == {
        ("nan", "self_attn.q_proj.weight"): 1,
        ("inf", "self_attn.q_proj.weight"): 2,
        ("constant", "input_layernorm.weight"): checkpoint("llama").config["hidden_size"],
        ("outlier_channels", "self_attn.k_proj.weight"): 1,
        ("zero_rows", "self_attn.k_proj.weight"): 1,
        ("zero_rows", "mlp.up_proj.weight"): 1,
        ("constant_rows", "mlp.gate_proj.weight"): 1,
        ("zero_columns", "mlp.down_proj.weight"): 2,
        ("dead_features", "mlp"): 2,
    }
    (channel,) = [row for row in one.anomalies if row["kind"] == "outlier_channels"]
    assert channel["detail"].startswith("input 9 at ")
    assert found(wv.inspect(path, 0)) == {}
    json.dumps(one.to_json(), allow_nan=False)


def test_dead_and_duplicate_experts_are_found(tmp_path: Path) -> None:
    name = f"{EXPERTS}.{{}}.w1.weight"
    twin = weights("mixtral", name.format(2)) * 1.01
    dead = weights("mixtral", name.format(1)) * 1e-5
    path = changed("mixtral", {name.format(0): twin, name.format(1): dead}, tmp_path)
    one = wv.inspect(path, 1)
    key = "mlp.experts.gate_proj.weight"
    assert found(one) == {("dead_experts", key): 1, ("duplicate_experts", key): 2}
    rows = one.experts.to_dicts()
    assert [row["expert"] for row in rows if row["dead"]] == [1]
    assert [(row["expert"], row["nearest"]) for row in rows if row["duplicate"]] == [(0, 2), (2, 0)]
    assert one.anomalies["detail"] == ["1", "0 and 2"]


def test_what_nobody_decodes_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "can_decode", lambda encoding: encoding.name != "Q8_0")
    one = wv.inspect(EXAMPLE, 0)
    assert {row["kind"] for row in one.anomalies} == {"undecodable"}
    assert [row["std"] is None for row in one.tensors] == [e == "Q8_0" for e in one.tensors["encoding"]]


def test_a_bare_file_and_the_store_that_keeps_it_have_the_same_numbers(stores: Stores) -> None:
    source = stores.gguf("deepseek_v2")
    bare, kept = wv.inspect(source, 1), wv.inspect(stores.build(source, mla="keep"), 1, keep=False)
    assert replace(bare, path="", tensors=kept.tensors) == replace(kept, path="")
    assert bare.tensors.to_csv() == kept.tensors.to_csv()


def test_the_second_time_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = wv.build(EXAMPLE, tmp_path / "kjv.zarr")
    first = wv.inspect(store, 1)

    def nobody(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(api, "summarize", nobody)
    monkeypatch.setattr(api, "head_rows", nobody)
    monkeypatch.setattr("wvindex.inspection.layer_page.features_rows", nobody)
    monkeypatch.setattr("wvindex.inspection.layer_page.rows_row", nobody)
    again = wv.inspect(store, 1)
    assert again.to_json() == first.to_json()
    with pytest.raises(AssertionError):
        wv.inspect(store, 1, keep=False)


def test_without_statistics_only_headers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    for reader in ("read", "stream", "raw"):
        monkeypatch.setattr(wv.Tensor, reader, nobody)
    one = wv.inspect(EXAMPLE, 1, stats=False)
    assert set(one.tensors["std"]) == {None}
    assert isinstance(one.routing and one.routing.rule, MoE)
    assert len(one.heads) == len(one.experts) == len(one.anomalies) == 0


def test_a_layer_beyond_the_forward_pass(stores: Stores) -> None:
    one = wv.inspect(stores.safetensors("deepseek_v3"), 3)
    assert (one.mtp, one.layers, one.layer) == (True, 3, 3)
    assert one.attention is not None
    assert one.attention.rope_type == "yarn"
    assert len(one.heads) == one.attention.heads
    assert "beyond the 3" in str(one)


def test_layers_are_counted_from_the_last_too_and_others_are_refused() -> None:
    assert wv.inspect(EXAMPLE, -1, stats=False).layer == 2
    with pytest.raises(SelectionError, match="no such layer"):
        wv.inspect(EXAMPLE, 3)


def test_progress_ends_where_it_should() -> None:
    seen: list[tuple[int, int]] = []
    wv.inspect(EXAMPLE, 1, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0
