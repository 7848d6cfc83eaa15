"""The fused form as it is planned: rows moved whole, both halves told apart; and what has no such form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, names
from tests.support.fused import SGLANG, VLLM, fused_tensors
from tests.support.memory_source import MemorySource
from tests.support.planned import plan_of, require_whole_ledger, spec, stored, values
from wvindex.errors import DuplicateName, MetadataError, TensorLayoutError, UnsupportedError, UsageError
from wvindex.formats.arrays import part_spec
from wvindex.transform.plan import Plan, plan_source

ATTENTION = "model.layers.1.self_attn"
FUSED = f"{ATTENTION}.fused_qkv_a_proj.weight"
QUERY, BELOW = f"{ATTENTION}.q_a_proj.weight", f"{ATTENTION}.kv_a_proj_with_mqa.weight"
RANKED = [name for name in names() if checkpoint(name).config.get("q_lora_rank")]


def fused_plan(name: str, *arguments: Any, **options: Any) -> Plan:
    chosen: dict[str, Any] = {"mla": "keep", "fused_mla_lora_proj": True}
    return plan_of(name, *arguments, **chosen | options)


def plan_of_fused(name: str, *, called: str = SGLANG, **options: Any) -> Plan:
    """Plan a checkpoint that is fused already."""
    return plan_source(
        MemorySource(fused_tensors(checkpoint(name).tensors, called), checkpoint(name).config), **options
    )


def refusal(plan: Plan) -> Exception:
    return plan.refusals[0].error


@pytest.mark.parametrize("name", RANKED)
def test_rows_of_the_query_stand_above_those_of_keys_and_values(name: str) -> None:
    plan, kept = fused_plan(name), plan_of(name, mla="keep")
    require_whole_ledger(plan, list(checkpoint(name).tensors))
    assert stored(plan, FUSED) == stored(kept, QUERY) + stored(kept, BELOW)
    np.testing.assert_array_equal(
        values(plan, FUSED), np.concatenate([values(kept, QUERY), values(kept, BELOW)])
    )
    config = checkpoint(name).config
    assert spec(plan, FUSED).widths == tuple(
        config[field] for field in ("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim")
    )
    assert not {QUERY, BELOW} & {op.spec.key for op in plan.operations}


@pytest.mark.parametrize("dtype", ["keep", "float32", "bfloat16"])
@pytest.mark.parametrize("name", RANKED)
def test_each_part_is_what_the_half_alone_would_be(name: str, dtype: str) -> None:
    plan, kept = fused_plan(name, dtype=dtype), plan_of(name, mla="keep", dtype=dtype)
    halves = [part_spec(spec(plan, FUSED), part) for part in spec(plan, FUSED).parts]
    assert halves == [spec(kept, QUERY), spec(kept, BELOW)]


def test_everything_else_is_the_kept_form() -> None:
    plan, kept = fused_plan("deepseek_v3-bias"), plan_of("deepseek_v3-bias", mla="keep")
    found = {op.spec.key: op.spec for op in plan.operations}
    others = {op.spec.key: op.spec for op in kept.operations if "_a_proj" not in op.spec.key}
    assert others.items() <= found.items()
    assert len(found) == len(others) + 2 * 3
    assert plan.config == kept.config


def test_biases_are_fused_as_vectors() -> None:
    plan, kept = fused_plan("deepseek_v3-bias"), plan_of("deepseek_v3-bias", mla="keep")
    keys = [key.replace("weight", "bias") for key in (FUSED, QUERY, BELOW)]
    assert stored(plan, keys[0]) == stored(kept, keys[1]) + stored(kept, keys[2])
    assert spec(plan, keys[0]).shape == (96 + 64 + 16,)


def test_the_prediction_layer_is_fused_alike() -> None:
    plan = fused_plan("deepseek_v3")
    assert spec(plan, FUSED.replace(".1.", ".3.")).mtp


def test_both_forms_may_be_stored() -> None:
    keys = {op.spec.key for op in fused_plan("deepseek_v3", mla="both").operations}
    assert {FUSED, f"{ATTENTION}.latent_proj.weight", f"{ATTENTION}.q_proj.weight"} <= keys


# A checkpoint that is fused already


@pytest.mark.parametrize("called", [SGLANG, VLLM])
@pytest.mark.parametrize(
    "options", [{}, {"mla": "keep"}, {"mla": "keep", "fused_mla_lora_proj": True}], ids=str
)
@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v3-bias", "deepseek_v3-fp8"])
def test_a_fused_checkpoint_gives_the_same_arrays(name: str, options: dict[str, Any], called: str) -> None:
    found, expected = plan_of_fused(name, called=called, **options), plan_of(name, **options)
    assert found.refusals == ()
    assert [op.spec.key for op in found.operations] == [op.spec.key for op in expected.operations]
    for op in expected.operations:
        ours = spec(found, op.spec.key)
        assert (ours.shape, ours.encoding, ours.row_scale) == (
            op.spec.shape,
            op.spec.encoding,
            op.spec.row_scale,
        )
        assert stored(found, op.spec.key) == stored(expected, op.spec.key)


def test_fp8_that_is_fused_within_a_block_is_kept_whole_and_decoded_apart() -> None:
    """128 rows of the query and blocks of 48: the third block holds rows of both."""
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [48, 64]}}
    tensors = fused_tensors(checkpoint("deepseek_v3").tensors)
    rng = np.random.default_rng(1)
    base = f"{ATTENTION}{SGLANG}weight"
    for layer in range(4):
        name = base.replace(".1.", f".{layer}.")
        codes = tensors[name].astype(np.float32).astype("float8_e4m3fn")
        tensors |= {name: codes, f"{name}_scale_inv": rng.uniform(0.5, 2, (4, 2)).astype(np.float32)}
    config = checkpoint("deepseek_v3").config | config | {"q_lora_rank": 100, "kv_lora_rank": 60}
    for layer in range(4):
        for norm, size in (("q_a_layernorm", 100), ("kv_a_layernorm", 60)):
            tensors[f"model.layers.{layer}.self_attn.{norm}.weight"] = np.ones(size, np.float32)
        for up, rank in (("q_b_proj", 100), ("kv_b_proj", 60)):
            key = f"model.layers.{layer}.self_attn.{up}.weight"
            tensors[key] = np.ones((tensors[key].shape[0], rank), np.float32)
    source = MemorySource(tensors, config)
    decoded = tensors[base].astype(np.float32) * np.repeat(
        np.repeat(tensors[f"{base}_scale_inv"], 48, 0)[:176], 64, 1
    )
    fused = plan_source(source, mla="keep", fused_mla_lora_proj=True)
    assert fused.refusals == ()
    assert spec(fused, FUSED).encoding.scale_block == (48, 64)
    np.testing.assert_array_equal(values(fused, FUSED), decoded)
    apart = plan_source(source, mla="keep")
    np.testing.assert_array_equal(values(apart, QUERY), decoded[:100])
    np.testing.assert_array_equal(values(apart, BELOW), decoded[100:])
    assert spec(apart, BELOW).exactness == "cast"
    np.testing.assert_array_equal(
        values(plan_source(source), f"{ATTENTION}.latent_proj.weight"), decoded[:160]
    )


# What has no fused form


def test_the_absorbed_form_has_nothing_to_fuse() -> None:
    with pytest.raises(UsageError, match="latent_proj is one matrix already"):
        fused_plan("deepseek_v3", mla="absorb")


@pytest.mark.parametrize(
    ("name", "field"), [("deepseek_v2_lite", "q_lora_rank"), ("llama", "fused_mla_lora_proj")]
)
def test_a_model_without_such_a_form_is_refused(name: str, field: str) -> None:
    plan = fused_plan(name)
    error = refusal(plan)
    assert isinstance(error, UnsupportedError)
    assert error.field == field


def test_halves_of_two_encodings_are_refused_by_both_names_unless_they_are_cast() -> None:
    changes = {BELOW: checkpoint("deepseek_v3").tensors[BELOW].astype(np.float16)}
    error = refusal(fused_plan("deepseek_v3", changes))
    assert isinstance(error, UnsupportedError)
    assert QUERY in str(error)
    assert BELOW in str(error)
    assert "BF16 and F16" in str(error)
    cast = fused_plan("deepseek_v3", changes, dtype="float32")
    assert cast.refusals == ()
    assert spec(cast, FUSED).exactness == "cast"


def test_a_query_that_ends_within_a_block_of_scales_is_refused_unless_it_is_cast() -> None:
    fp8 = checkpoint("deepseek_v3-fp8")
    changes: dict[str, Any] = {}
    for layer in range(3):
        name = QUERY.replace(".1.", f".{layer}.")
        changes |= {name: fp8.tensors[name][:96], f"{name}_scale_inv": fp8.tensors[f"{name}_scale_inv"]}
        stem = f"model.layers.{layer}.self_attn"
        changes[f"{stem}.q_a_layernorm.weight"] = fp8.tensors[f"{stem}.q_a_layernorm.weight"][:96]
        q_b = f"{stem}.q_b_proj.weight"
        changes |= {q_b: np.ascontiguousarray(fp8.tensors[q_b][:, :96])}
    error = refusal(fused_plan("deepseek_v3-fp8", changes, config={"q_lora_rank": 96}))
    assert isinstance(error, UnsupportedError)
    assert (error.field, error.found) == ("q_lora_rank", 96)
    assert "a multiple of 128" in str(error)
    cast = fused_plan("deepseek_v3-fp8", changes, config={"q_lora_rank": 96}, dtype="float32")
    assert cast.refusals == ()


@pytest.mark.parametrize("gone", [QUERY, BELOW])
def test_a_missing_half_is_named(gone: str) -> None:
    error = refusal(fused_plan("deepseek_v3", drop=(gone,)))
    assert isinstance(error, MetadataError)
    assert error.tensor == gone


@pytest.mark.parametrize("gone", [QUERY, BELOW])
def test_a_bias_of_one_half_alone_is_refused(gone: str) -> None:
    error = refusal(fused_plan("deepseek_v3-bias", drop=(gone.replace("weight", "bias"),)))
    assert isinstance(error, TensorLayoutError)
    assert "the other has none" in str(error)


def test_fused_and_unfused_in_one_checkpoint_are_refused() -> None:
    both = dict(checkpoint("deepseek_v3").tensors)
    both[f"{ATTENTION}{SGLANG}weight"] = np.concatenate([both[QUERY], both[BELOW]])
    for options in ({}, {"mla": "keep"}, {"mla": "keep", "fused_mla_lora_proj": True}):
        plan = plan_source(MemorySource(both, checkpoint("deepseek_v3").config), **options)
        assert isinstance(refusal(plan), DuplicateName)


def test_a_fused_tensor_of_other_rows_is_refused() -> None:
    tensors = fused_tensors(checkpoint("deepseek_v3").tensors)
    name = f"{ATTENTION}{SGLANG}weight"
    tensors[name] = tensors[name][:-1]
    plan = plan_source(MemorySource(tensors, checkpoint("deepseek_v3").config), mla="keep")
    assert plan.refusals[0].tensor == name
    assert "96 + 80 rows" in str(refusal(plan))


def test_a_model_of_another_attention_keeps_such_a_name() -> None:
    name = f"{ATTENTION}{SGLANG}weight"
    plan = plan_of("llama", {name: np.ones((3, 128), np.float32)})
    assert not spec(plan, name).mapped
