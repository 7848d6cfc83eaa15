"""What is the same weights in two files is compared; the form that it has there is no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.checkpoints import checkpoint, names
from tests.support.damaged import changed
from tests.support.packed import REPO_GOLDEN, zoo
from tests.support.stores import Stores
from tests.support.tensors import plain_tensor
from wvindex.arch.config import ModelConfig
from wvindex.inspection.aligned import align
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.select import expert_key

MTP = "deepseek_v3"
"""llama.cpp drops this one's multi-token-prediction layer."""

ABSORBED = [name for name in names() if name.startswith(("deepseek", "kimi"))]


def database(*tensors: Tensor, tied: bool = False) -> Store:
    """Give a database in memory."""
    config = ModelConfig(model_type="test", family=None, tie_word_embeddings=tied)
    return Store("memory", config, {t.key: (t.spec, t.pieces().reader) for t in tensors})


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "F32") for name in names(gguf=True)), ("llama", "BF16"), ("mixtral", "BF16")]
)
def test_a_gguf_file_and_its_hub_checkpoint_do_not_differ(name: str, dtype: str, stores: Stores) -> None:
    found = wv.diff(stores.safetensors(name), stores.gguf(name, dtype=dtype))
    assert set(found.tensors["status"]) == {"same"}
    assert not any(found.config["matters"])
    assert len(found.extra) == len(found.unlike) == 0
    dropped = {row["layer"] for row in found.missing}  # llama.cpp has no multi-token-prediction layers
    assert all(layer >= checkpoint(name).config["num_hidden_layers"] for layer in dropped)
    assert found.differs == bool(dropped) == bool(checkpoint(name).config.get("num_nextn_predict_layers"))


def test_every_block_type_is_what_other_decoders_make_of_it(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with np.load(REPO_GOLDEN / "type-zoo.expected.npz") as expected:
        save_file({f"t_{name}": expected[name] for name in zoo()}, tmp_path / "zoo.safetensors")
    found = wv.diff(REPO_GOLDEN / "type-zoo.gguf", tmp_path / "zoo.safetensors")
    assert len(found.tensors) == len(zoo())
    assert set(found.tensors["changed"]) == {0}


@pytest.mark.parametrize("experts", ["each", "fused"])
def test_experts_apart_and_stacked_do_not_differ(experts: str, stores: Stores) -> None:
    one, other = stores.safetensors("mixtral"), stores.safetensors("mixtral", "v5", experts)
    assert not wv.diff(one, other).differs


def test_a_stack_is_compared_with_experts_that_are_arrays_of_their_own() -> None:
    values = np.random.default_rng(0).standard_normal((3, 8, 16)).astype(np.float32)
    key = "model.layers.0.mlp.experts.up_proj.weight"
    stacked = database(plain_tensor(values, key=key))
    other = values.copy()
    other[1] += 1
    apart = database(*(plain_tensor(other[i], key=expert_key(key, i)) for i in range(3)))
    for a, b in ((stacked, apart), (apart, stacked)):
        found = wv.diff(a, b)
        assert {row["key"]: row["status"] for row in found.tensors} == {
            expert_key(key, i): "different" if i == 1 else "same" for i in range(3)
        }
        assert len(found.missing) == len(found.extra) == len(found.unlike) == 0


def test_a_tied_head_is_compared_with_the_embedding() -> None:
    values = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    embedding = plain_tensor(values, key="model.embed_tokens.weight")
    shipped = plain_tensor(values, key="lm_head.weight")
    other = plain_tensor(values * 2, key="lm_head.weight")
    tied, same, different = (
        database(embedding, tied=True),
        database(embedding, shipped, tied=True),
        database(embedding, other),
    )
    assert not wv.diff(tied, same).differs
    assert not wv.diff(same, tied).differs
    found = wv.diff(tied, different)
    assert [(row["key"], row["compared"], row["rel_l2"]) for row in found.tensors][:1] == [
        ("lm_head.weight", "tied", 1.0)
    ]
    assert wv.diff(database(embedding), same).extra["key"] == ["lm_head.weight"]


@pytest.mark.parametrize("name", ABSORBED)
def test_absorbed_and_kept_attention_differ_by_rounding_at_most(name: str, stores: Stores) -> None:
    kept = stores.safetensors(name)
    dense = stores.build(kept)
    for a, b in ((dense, kept), (kept, dense)):
        found = wv.diff(a, b)
        assert not found.differs
        assert set(found.tensors["status"]) <= {"same", "rounding"}
        assert max(found.tensors["rel_l2"]) < 1e-6
        assert {"factors", "moved"} <= set(found.tensors["compared"])
        assert len(found.missing) == len(found.extra) == len(found.unlike) == 0


@pytest.mark.parametrize("form", ["split", "kv_b"])
def test_absorbed_attention_and_either_form_of_gguf(form: str, stores: Stores) -> None:
    for dtype in ("F32", "Q8_0"):
        file = stores.gguf("deepseek_v2", form, dtype)
        assert not wv.diff(stores.build(file), file).differs
        assert not wv.diff(stores.build(file, mla="both"), file).differs


def test_factors_that_are_split_and_packed_compare_with_one_that_is_not(stores: Stores) -> None:
    split, joined = (stores.gguf("deepseek_v2", form, "Q8_0") for form in ("split", "kv_b"))
    with wv.open(split) as a, wv.open(joined) as b:
        assert "model.layers.0.self_attn.k_b_proj.weight" in a
        assert "model.layers.0.self_attn.kv_b_proj.weight" in b
        found = wv.diff(a, b)
        rows = {row["key"]: row for row in found.tensors}
        row = rows["model.layers.0.self_attn.kv_b_proj.weight"]
        k = a["model.layers.0.self_attn.k_b_proj.weight"][:]
        v = a["model.layers.0.self_attn.v_b_proj.weight"][:]
        x = np.concatenate([np.concatenate([keys.T, values]) for keys, values in zip(k, v, strict=True)])
        d = x.astype(np.float64) - b["model.layers.0.self_attn.kv_b_proj.weight"][:]
    assert len(found.missing) == len(found.extra) == 0
    assert (row["compared"], row["max_abs"]) == ("moved", np.abs(d).max())
    assert row["rel_l2"] == pytest.approx(np.linalg.norm(d) / np.linalg.norm(x.astype(np.float64)), rel=1e-12)


def product(made: dict[str, NDArray[np.float32]], heads: int, nope: int) -> NDArray[np.float64]:
    """Multiply out the values' part of kv_b diag(norm) kv_a, in float64."""
    stem = "model.layers.1.self_attn."
    up = made[f"{stem}kv_b_proj.weight"].astype(np.float64)
    norm = made[f"{stem}kv_a_layernorm.weight"].astype(np.float64)
    down = made[f"{stem}kv_a_proj_with_mqa.weight"].astype(np.float64)[: len(norm)]
    values = up.reshape(heads, -1, len(norm))[:, nope:].reshape(-1, len(norm))
    return values * norm @ down


def test_damage_to_a_factor_shows_in_the_dense_arrays_that_it_makes(stores: Stores, tmp_path: Path) -> None:
    name, key = "deepseek_v2", "model.layers.1.self_attn.kv_b_proj.weight"
    made = checkpoint(name)
    heads, nope = made.config["num_attention_heads"], made.config["qk_nope_head_dim"]
    array = made.tensors[key].copy()
    last = (heads - 1) * (nope + made.config["v_head_dim"]) + nope  # the last head's first row of V
    array[last] = 0
    damaged = changed(name, tmp_path, {key: array})
    found = wv.diff(stores.build(stores.safetensors(name)), damaged)
    assert [row["key"] for row in found.tensors if row["status"] == "different"] == [
        "model.layers.1.self_attn.v_proj.weight"
    ]
    row = next(iter(found.tensors))
    assert row["worst_row"] == (heads - 1) * made.config["v_head_dim"]
    values = {k: v.astype(np.float32) for k, v in made.tensors.items()}
    x, y = (product(values | {key: w.astype(np.float32)}, heads, nope) for w in (made.tensors[key], array))
    assert row["rel_l2"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-5)
    assert row["worst_row_rel_l2"] == 1
    assert (row["compared"], row["b_encoding"]) == ("factors", "BF16")


def test_factors_beside_the_dense_form_are_compared_where_both_sides_have_them(stores: Stores) -> None:
    source = stores.safetensors("deepseek_v2")
    both, dense = stores.build(source, mla="both"), stores.build(source)
    with wv.open(both) as a, wv.open(dense) as b, wv.open(source) as c:
        assert {pair.key for pair in align(a, c).pairs} == set(a)
        assert {pair.key for pair in align(a, b).pairs} == set(b)
        assert align(a, b).missing == align(b, a).extra == ()
        (note,) = align(a, b).notes
        assert "dense form was compared" in note


def test_a_layer_whose_factors_do_not_fit_is_reported_and_does_not_fail(
    stores: Stores, tmp_path: Path
) -> None:
    source = stores.safetensors("deepseek_v2")
    with wv.open(stores.build(source)) as dense, wv.open(source) as kept:
        arrays = {key: (tensor.spec, tensor.pieces().reader) for key, tensor in kept.items()}
        del arrays["model.layers.1.self_attn.q_b_proj.weight"]
        found = wv.diff(dense, Store("memory", kept.config, arrays))
    assert "model.layers.1.self_attn.q_proj.weight" in found.missing["key"]
    assert "model.layers.1.self_attn.kv_b_proj.weight" in found.extra["key"]
    assert found.notes == ("layer 1: factors do not make up the dense form of the other side",)


def test_a_dense_array_that_is_not_there_is_missing_though_its_factors_are(stores: Stores) -> None:
    source, key = stores.safetensors("deepseek_v2"), "model.layers.1.self_attn.v_proj.weight"
    with wv.open(stores.build(source)) as dense, wv.open(source) as kept:
        arrays = {k: (tensor.spec, tensor.pieces().reader) for k, tensor in dense.items() if k != key}
        found = wv.diff(kept, Store("memory", dense.config, arrays))
    assert found.missing["key"] == [key]
    assert len(found.extra) == 0
    assert found.differs


def test_a_factor_selects_what_it_is_compared_in(stores: Stores) -> None:
    source = stores.safetensors("deepseek_v2")
    found = wv.diff(stores.build(source), source, "*.q_b_proj.weight", layers=0)
    assert found.tensors["key"] == ["model.layers.0.self_attn.q_proj.weight"]


@pytest.mark.parametrize("other", ["keep", "absorb", "gguf"])
@pytest.mark.parametrize("dtype", ["keep", "float32"])
def test_fused_factors_are_compared_with_whatever_the_other_side_has(
    dtype: str, other: str, stores: Stores
) -> None:
    source = stores.safetensors(MTP)
    fused = stores.build(source, mla="keep", dtype=dtype, fused_mla_lora_proj=True)
    against = stores.gguf(MTP) if other == "gguf" else stores.build(source, mla=other)
    for a, b in ((fused, against), (against, fused)):
        found = wv.diff(a, b)
        assert set(found.tensors["status"]) <= {"same", "rounding"}
        assert len(found.unlike) == 0
        assert {row["layer"] for table in (found.missing, found.extra) for row in table} <= {3}


def test_another_row_scale_is_a_difference(stores: Stores) -> None:
    from dataclasses import replace

    dense = stores.build(stores.safetensors("deepseek_v2"))
    key = "model.layers.0.self_attn.v_proj.weight"
    with wv.open(dense) as db:
        arrays = {k: (tensor.spec, tensor.pieces().reader) for k, tensor in db.items()}
        scale = db[key].row_scale
        assert scale is not None
        arrays[key] = (replace(db[key].spec, row_scale=replace(scale, eps=1e-3)), arrays[key][1])
        found = wv.diff(db, Store("memory", db.config, arrays))
    assert found.config["field"] == [f"row_scale of {key}"]
    assert found.differs
