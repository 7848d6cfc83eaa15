"""Latent attention as it is planned and stored: dense, kept, both; from every form that checkpoints have."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex
from tests.support.checkpoints import checkpoint, golden, names
from tests.support.memory_source import MemorySource
from tests.support.planned import plan_of, spec, stored, values
from tests.support.stores import Stores
from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import identify
from wvindex.errors import DuplicateName, MetadataError, WvindexError
from wvindex.formats.arrays import ArraySpec
from wvindex.infer import Model, gqa_attention_asym
from wvindex.infer.reference_mla import reference_mla
from wvindex.infer.rope import apply_rotary, rotary_tables
from wvindex.query.database import Store
from wvindex.store.reader import ChunkReader, read_catalog
from wvindex.store.remote import open_objects
from wvindex.transform.plan import Plan, plan_source

Array = NDArray[Any]

DEEPSEEK = [name for name in names() if "kv_lora_rank" in checkpoint(name).config]
IN_GGUF = [name for name in DEEPSEEK if name in names(gguf=True)]
IN_TWO_FORMS = [name for name in IN_GGUF if name != "minicpm3"]  # which llama.cpp never splits
LAYERS = [
    (name, layer)
    for name in DEEPSEEK
    for layer in range(
        (identify(MemorySource({}, checkpoint(name).config))[1].num_hidden_layers or 0)
        + checkpoint(name).config.get("num_nextn_predict_layers", 0)
    )
]
DENSE = ("q_proj", "k_proj", "v_proj", "latent_proj")
FACTORS = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")
ATTN = "model.layers.{}.self_attn.{}"
TOKENS = 40


def config_of(name: str) -> ModelConfig:
    return identify(MemorySource({}, checkpoint(name).config))[1]


def factors(name: str, layer: int) -> dict[str, NDArray[np.float64]]:
    """Give a layer's factors as `reference_mla` takes them, in float64, straight from the checkpoint."""
    prefix = ATTN.format(layer, "")
    if name == "longcat_flash":  # two to a layer
        prefix = ATTN.format(layer // 2, f"{layer % 2}.")
    found = {
        key.removeprefix(prefix): v for key, v in checkpoint(name).decoded().items() if key.startswith(prefix)
    }
    return {key.removesuffix(".weight"): value.astype(np.float64) for key, value in found.items()}


def reference(name: str, layer: int, x: Array) -> Array:
    config = config_of(name)
    assert config.mla is not None
    assert config.attention_scale is not None
    return reference_mla(
        x.astype(np.float64),
        factors(name, layer),
        config.mla,
        num_heads=config.num_attention_heads or 0,
        rope=config.rope["full_attention"],
        scale=config.attention_scale,
    )


def dense(plan: Plan, layer: int, x: Array, *, scaled: bool = True) -> Array:
    """Run a layer's absorbed attention in float32, knowing of it only what a store's catalog says."""
    config = plan.config
    heads, head_dim, v_dim = config.num_attention_heads or 0, config.head_dim or 0, config.v_head_dim or 0
    rotary = rotary_tables(config.rope["full_attention"], 0, len(x))
    q, k, v = (projected(plan, ATTN.format(layer, f"{n}_proj"), x, scaled) for n in "qkv")
    return gqa_attention_asym(
        apply_rotary(q, rotary, head_dim),
        apply_rotary(k, rotary, head_dim),
        v,
        num_q_heads=heads,
        num_kv_heads=config.num_key_value_heads or 0,
        qk_head_dim=head_dim,
        v_head_dim=v_dim,
        scale=config.attention_scale or 0.0,
    )


def projected(plan: Plan, stem: str, x: Array, scaled: bool) -> Array:
    keys = {op.spec.key for op in plan.operations}
    found = spec(plan, f"{stem}.weight")
    y = x @ values(plan, f"{stem}.weight").T
    if f"{stem}.bias" in keys:
        y += values(plan, f"{stem}.bias")
    if found.row_scale is not None and scaled:
        scale_rows(plan, found, x, y, f"{found.row_scale.weight.removesuffix('.weight')}.bias" in keys)
    return y


def scale_rows(plan: Plan, found: ArraySpec, x: Array, y: Array, bias: bool) -> None:
    """Multiply in place by ``1 / sqrt(mean(c ** 2) + eps)``, as `RowScale` documents it."""
    assert found.row_scale is not None
    assert found.heads is not None
    (a, b), (i, j) = found.row_scale.rows, found.row_scale.head_slice
    c = x @ values(plan, found.row_scale.weight)[a:b].T
    if bias:
        c += values(plan, f"{found.row_scale.weight.removesuffix('.weight')}.bias")[a:b]
    y.reshape(len(x), found.heads.count, -1)[:, :, i:j] /= np.sqrt(
        (c**2).mean(-1) + np.float32(found.row_scale.eps)
    )[:, None, None]


def inputs(name: str, layer: int) -> Array:
    """Give tokens of very different sizes, as the row scale must level out."""
    rng = np.random.default_rng(layer)
    x = rng.standard_normal((TOKENS, checkpoint(name).config["hidden_size"]))
    return (x * rng.uniform(0.2, 3, (TOKENS, 1))).astype(np.float32)


def relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# Exactness


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_an_absorbed_layer_is_latent_attention(name: str, layer: int) -> None:
    x = inputs(name, layer)
    assert relative(dense(plan_of(name), layer, x), reference(name, layer, x)) < 1e-5


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_without_the_row_scale_it_is_not(name: str, layer: int) -> None:
    x = inputs(name, layer)
    assert relative(dense(plan_of(name), layer, x, scaled=False), reference(name, layer, x)) > 0.1


def without_row_scales(path: Path) -> Store:
    """Open a store whose tensors have forgotten their row scales."""
    objects = open_objects(path)
    catalog = read_catalog(objects)
    arrays = {
        key: (replace(entry.spec, row_scale=None), ChunkReader(objects, entry))
        for key, entry in catalog.arrays.items()
    }
    return Store(path, catalog.config, arrays, close=objects.close)


@pytest.mark.parametrize("name", DEEPSEEK)
def test_without_the_row_scale_a_models_logits_are_wrong(name: str, stores: Stores) -> None:
    ids, expected = golden(name)
    path = stores.build(stores.safetensors(name))
    with wvindex.open(path) as scaled, without_row_scales(path) as unscaled:
        right = Model(scaled).forward(ids).logits
        wrong = Model(unscaled).forward(ids).logits
    assert np.abs(right - expected).max() < 5e-4
    assert np.abs(wrong - expected).max() > 1
    assert (wrong.argmax(-1) == expected.argmax(-1)).mean() < 0.9


# One result, whatever the checkpoint's form


@pytest.mark.parametrize("name", IN_GGUF)
@pytest.mark.parametrize("form", ["split", "kv_b"])
def test_gguf_absorbs_to_what_safetensors_does(name: str, form: Any, stores: Stores) -> None:
    with (
        wvindex.open(stores.build(stores.safetensors(name))) as expected,
        wvindex.open(stores.build(stores.gguf(name, form))) as found,
    ):
        for key in expected:
            if re.search(r"self_attn\.(q|k|v|latent)_proj", key) and not expected[key].mtp:
                assert found[key].row_scale == expected[key].row_scale
                np.testing.assert_array_equal(
                    found[key].read(dtype="float32"), expected[key].read(dtype="float32"), err_msg=key
                )


def test_fp8_absorbs_to_what_its_decoded_weights_do() -> None:
    model = checkpoint("deepseek_v3-fp8")
    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    fp8 = plan_of(model.name)
    wide = plan_source(MemorySource(model.decoded(), config))
    for name in DENSE:
        key = ATTN.format(1, f"{name}.weight")
        np.testing.assert_array_equal(values(fp8, key), values(wide, key))


@pytest.mark.parametrize(
    ("dtype", "encoding"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")]
)
def test_absorbed_dtype_is_what_products_are_stored_as(dtype: str, encoding: str) -> None:
    plan = plan_of("deepseek_v3", absorbed_dtype=dtype)
    exact = plan_of("deepseek_v3")
    for name in ("q_proj", "k_proj", "v_proj"):
        key = ATTN.format(0, f"{name}.weight")
        found = spec(plan, key)
        assert (found.encoding.name, found.exactness) == (encoding, "derived")
        expected = values(exact, key).astype(found.encoding.dtype).astype(np.float32)
        np.testing.assert_array_equal(values(plan, key), expected)
    assert spec(plan, ATTN.format(0, "latent_proj.weight")).encoding.name == "BF16"  # the source's own


# What is stored


@pytest.mark.parametrize("name", DEEPSEEK)
def test_absorbing_leaves_no_factor(name: str) -> None:
    keys = {op.spec.key for op in plan_of(name).operations}
    assert not any(factor in key for key in keys for factor in FACTORS)
    assert all(ATTN.format(0, f"{n}.weight") in keys for n in DENSE)


@pytest.mark.parametrize("mla", ["keep", "both"])
@pytest.mark.parametrize("name", DEEPSEEK)
def test_kept_factors_are_the_sources_bytes(name: str, mla: str) -> None:
    plan = plan_of(name, mla=mla)
    keys = {op.spec.key for op in plan.operations}
    tensors = checkpoint(name).tensors
    for key, tensor in tensors.items():
        if any(f"self_attn.{factor}." in key for factor in FACTORS) and not key.endswith("_scale_inv"):
            assert spec(plan, key).exactness == "bit"
            assert stored(plan, key) == tensor.tobytes()
    assert (ATTN.format(0, "latent_proj.weight") in keys) == (mla == "both")


@pytest.mark.parametrize("name", DEEPSEEK)
def test_both_is_what_absorb_and_keep_are(name: str) -> None:
    both, absorb, keep = (
        {op.spec.key: op.spec for op in plan_of(name, mla=mla).operations}
        for mla in ("both", "absorb", "keep")
    )
    assert both.keys() == absorb.keys() | keep.keys()
    # W_q without a low-rank form goes by one key in both: the dense form's rows.
    assert all(both[key] == absorb.get(key, keep.get(key)) for key in both)


@pytest.mark.parametrize("name", IN_TWO_FORMS)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_split_factors_are_joined_again(name: str, dtype: str, stores: Stores) -> None:
    """To the very values that safetensors has; the recipes' weights are exact in all three types."""
    if name.endswith("fp8") and dtype != "F32":
        dtype = "F32"  # its values are products of codes and scales
    plan = wvindex.plan(stores.gguf(name, "split", dtype), mla="keep")
    assert not any(
        "k_b_proj" in op.spec.key or "v_b_proj" in op.spec.key
        for op in plan.operations
        if "kv_b" not in op.spec.key
    )
    with wvindex.open(stores.build(stores.gguf(name, "split", dtype), mla="keep")) as db:
        for layer in range(checkpoint(name).config["num_hidden_layers"]):
            tensor = db[ATTN.format(layer, "kv_b_proj.weight")]
            assert (tensor.encoding, tensor.exactness, tensor.transforms) == (
                dtype,
                "reordered",
                ("join_kv_b",),
            )
            np.testing.assert_array_equal(
                tensor.read(dtype="float32"),
                checkpoint(name).decoded()[ATTN.format(layer, "kv_b_proj.weight")],
            )


def test_packed_split_factors_stay_split(stores: Stores) -> None:
    path = stores.gguf("deepseek_v3-norope-scaling", "split", "Q8_0")
    with wvindex.open(stores.build(path, mla="keep")) as db:
        k_b, v_b = db[ATTN.format(0, "k_b_proj.weight")], db[ATTN.format(0, "v_b_proj.weight")]
        assert (k_b.shape, v_b.shape) == ((4, 64, 32), (4, 24, 64))
        assert (k_b.encoding, k_b.exactness) == ("Q8_0", "bit")
        assert ATTN.format(0, "kv_b_proj.weight") not in db
        split = {n: np.asarray(t) for n, t in (("k", k_b), ("v", v_b))}
    with wvindex.open(stores.build(path, mla="keep", dtype="float32")) as db:
        joined = db[ATTN.format(0, "kv_b_proj.weight")]
        assert joined.exactness == "cast"
        heads = joined[:].reshape(4, 32 + 24, 64)
    np.testing.assert_array_equal(heads[:, :32], split["k"].swapaxes(1, 2))
    np.testing.assert_array_equal(heads[:, 32:], split["v"])


def test_packed_split_factors_are_absorbed_as_they_decode(stores: Stores) -> None:
    path = stores.gguf("deepseek_v3-norope-scaling", "split", "Q8_0")
    with (
        wvindex.open(stores.build(path)) as dense_db,
        wvindex.open(stores.build(path, mla="keep", dtype="float32")) as kept,
    ):
        rank = 64
        kv_b = kept[ATTN.format(1, "kv_b_proj.weight")][:].astype(np.float64).reshape(4, 56, rank)
        gamma = kept[ATTN.format(1, "kv_a_layernorm.weight")][:].astype(np.float64)
        c_a = kept[ATTN.format(1, "kv_a_proj_with_mqa.weight")][:rank].astype(np.float64)
        expected = ((kv_b[:, 32:] * gamma) @ c_a).reshape(4 * 24, -1)
        np.testing.assert_allclose(
            dense_db[ATTN.format(1, "v_proj.weight")][:], expected, rtol=1e-4, atol=1e-5
        )


# Prediction layers


@pytest.mark.parametrize("mla", ["absorb", "keep", "both"])
def test_a_prediction_layer_is_marked_and_treated_alike(mla: str) -> None:
    plan = plan_of("deepseek_v3", mla=mla)
    beyond = {op.spec.key: op.spec for op in plan.operations if op.spec.mtp}
    roles = {key.removeprefix("model.layers.3.") for key in beyond}
    within = {op.spec.key.removeprefix("model.layers.2.") for op in plan.operations if ".2." in op.spec.key}
    assert all(key.startswith("model.layers.3.") for key in beyond)
    assert within <= roles
    assert {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.head.weight"} <= roles - within
    assert plan.config.num_hidden_layers == 3
    assert plan.config.num_nextn_predict_layers == 1


def test_a_prediction_layer_takes_no_part_in_the_forward_pass(stores: Stores) -> None:
    with wvindex.open(stores.build(stores.safetensors("deepseek_v3"))) as db:
        model = Model(db)
        assert len(model.layers) == 3
        assert not any(name.startswith("layers.3") for name in model.activation_names)


# Refusals


def refusals(name: str, changes: dict[str, Any] | None = None, **options: Any) -> list[WvindexError]:
    return [refusal.error for refusal in plan_of(name, changes, **options).refusals]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"q_lora_rank": 97}, "q_lora_rank"),
        ({"q_lora_rank": None}, "q_lora_rank"),
        ({"kv_lora_rank": 63}, "kv_lora_rank"),
        ({"qk_rope_head_dim": 14}, "qk_nope_head_dim"),
        ({"qk_nope_head_dim": 31}, "qk_nope_head_dim"),
        ({"v_head_dim": 23}, "v_head_dim"),
        ({"num_attention_heads": 8, "num_key_value_heads": 8}, "qk_nope_head_dim"),
        ({"hidden_size": 64}, "q_lora_rank"),
    ],
)
def test_geometry_that_the_tensors_contradict_is_refused(changes: dict[str, Any], field: str) -> None:
    errors = refusals("deepseek_v3-norope-scaling", config=changes)
    assert errors
    assert isinstance(errors[0], MetadataError)
    assert field in {error.field for error in errors}
    assert all(error.expected is not None and error.found is not None for error in errors)


def test_heads_without_number_are_refused_before_a_table_is_made() -> None:
    for name in ("deepseek_v3-norope-scaling", "deepseek_v2_lite"):
        many = {"num_attention_heads": 1 << 40, "num_key_value_heads": 1 << 40}
        assert all(isinstance(error, MetadataError) for error in refusals(name, config=many))


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("deepseek_v3-bias", "q_a_proj.bias", (95,)),
        ("deepseek_v3-bias", "q_a_proj.bias", (96, 1)),
        ("deepseek_v3-bias", "kv_a_proj_with_mqa.bias", (64,)),
        ("deepseek_v2_lite", "q_proj.bias", (191,)),
    ],
)
def test_a_bias_that_does_not_fit_is_refused(name: str, key: str, shape: tuple[int, ...]) -> None:
    key = ATTN.format(1, key)
    [error] = refusals(name, {key: np.ones(shape, np.float32)})
    assert isinstance(error, MetadataError)
    assert (error.tensor, error.found) == (key, shape)


def test_a_bias_of_a_plain_query_projection_moves_with_its_rows() -> None:
    key = ATTN.format(1, "q_proj.bias")
    bias = np.arange(4 * 48, dtype=np.float32)
    plan = plan_of("deepseek_v2_lite", {key: bias})
    heads = bias.reshape(4, 48)
    turned = heads[:, 32:].reshape(4, 8, 2).swapaxes(1, 2).reshape(4, 16)
    expected = np.concatenate([turned, heads[:, :32]], axis=1).ravel()
    np.testing.assert_array_equal(values(plan, key), expected)
    assert (spec(plan, key).exactness, spec(plan, key).transforms) == ("reordered", ("rope_first",))


@pytest.mark.parametrize("factor", FACTORS)
def test_a_missing_factor_is_refused(factor: str) -> None:
    key = ATTN.format(1, f"{factor}.weight")
    [error] = refusals("deepseek_v3-norope-scaling", drop=(key,))
    assert isinstance(error, MetadataError)
    assert (error.tensor, error.found) == (key, "nothing")


@pytest.mark.parametrize("mla", ["absorb", "both"])
@pytest.mark.parametrize("factor", ["q_b_proj", "kv_b_proj", "kv_a_layernorm", "q_proj"])
def test_a_bias_that_absorption_cannot_take_in_is_refused(factor: str, mla: str) -> None:
    key = ATTN.format(0, f"{factor}.bias")
    errors = refusals("deepseek_v3-norope-scaling", {key: np.ones(8, np.float32)}, mla=mla)
    assert [error.tensor for error in errors] == [key]


def test_such_a_bias_is_kept_where_factors_are() -> None:
    key = ATTN.format(0, "q_b_proj.bias")
    plan = plan_of("deepseek_v3-norope-scaling", {key: np.ones(8, np.float32)}, mla="keep")
    assert spec(plan, key).exactness == "bit"


def test_a_bias_of_one_down_projection_alone_is_refused() -> None:
    assert refusals("deepseek_v3-bias", drop=(ATTN.format(0, "q_a_proj.bias"),))


def test_a_factor_that_stands_twice_is_refused() -> None:
    key = ATTN.format(0, "kv_b_proj.weight")
    again = {f"language_model.{key}": checkpoint("deepseek_v3").tensors[key]}
    assert any(isinstance(error, DuplicateName) for error in refusals("deepseek_v3", again))


def test_a_joined_factor_beside_the_split_ones_is_kept(stores: Stores) -> None:
    """Some tools write attn_kv_b and attn_k_b, attn_v_b into one file: nothing is dropped."""
    model = checkpoint("deepseek_v3-norope-scaling")
    key = ATTN.format(0, "kv_b_proj.weight")
    heads = model.tensors[key].reshape(4, 56, 64)
    split = {
        ATTN.format(0, "k_b_proj.weight"): np.ascontiguousarray(heads[:, :32].swapaxes(1, 2)),
        ATTN.format(0, "v_b_proj.weight"): np.ascontiguousarray(heads[:, 32:]),
    }
    plan = plan_of(model.name, split)
    assert plan.refusals == ()
    assert stored(plan, key) == model.tensors[key].tobytes()
    alone = plan_of(model.name)
    for name in "kv":
        dense_key = ATTN.format(0, f"{name}_proj.weight")
        np.testing.assert_array_equal(values(plan, dense_key), values(alone, dense_key))
    assert all(entry.keys for entry in plan.ledger)
