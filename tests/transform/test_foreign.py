"""Weights that are not the model's by themselves are kept, never run, and said to be so."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from tests.support.planned import plan_of
from wvindex.errors import MetadataError
from wvindex.transform.plan import plan_source

Q = "model.layers.0.self_attn.q_proj"
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "name",
    [f"{Q}.SCB", f"{Q}.weight_scale", f"{Q}.weight.absmax", f"{Q}.lora_A.weight", "lm_head.weight_scale"],
)
def test_a_tensor_that_belongs_to_a_weight_stops_the_run(name: str) -> None:
    plan = plan_of("llama", {name: np.ones(4, np.float32)})
    assert plan.refusals == ()
    (reason,) = plan.config.refuses_to_run
    assert name in reason
    assert reason in str(plan)


def test_gguf_scales_beside_a_weight_stop_the_run() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
    }
    tensors = {
        "token_embd.weight": np.zeros((8, 64), np.float32),
        "blk.0.attn_v.weight": np.zeros((64, 64), np.float32),
        "blk.0.attn_v.scale": np.ones(1, np.float32),
    }
    plan = plan_source(MemorySource(tensors, metadata, "gguf"))
    assert "blk.0.attn_v.scale" in plan.config.refuses_to_run[0]


def test_integer_codes_stop_the_run() -> None:
    shape = checkpoint("llama").tensors[f"{Q}.weight"].shape
    plan = plan_of("llama", {f"{Q}.weight": RNG.integers(-128, 127, shape, np.int8)})
    assert "integer codes" in plan.config.refuses_to_run[0]


@pytest.mark.parametrize(
    "extra", ["model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.proj.weight"]
)
def test_other_unmapped_tensors_do_not(extra: str) -> None:
    plan = plan_of("llama", {extra: np.ones(4, np.float32)})
    assert plan.config.refuses_to_run == ()


def test_fp8_codes_with_scales_of_another_kind_are_refused() -> None:
    shape = checkpoint("llama").tensors[f"{Q}.weight"].shape
    codes = np.ones(shape, ml_dtypes.float8_e4m3fn)
    plan = plan_of("llama", {f"{Q}.weight": codes, f"{Q}.weight_scale": np.ones(1, np.float32)})
    error = plan.refusals[0].error
    assert isinstance(error, MetadataError)
    assert (error.tensor, error.found) == (f"{Q}.weight", f"{Q}.weight_scale")


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "latent_proj"])
def test_a_projection_beside_its_own_factors_is_refused(name: str) -> None:
    hidden = checkpoint("deepseek_v3").config["hidden_size"]
    key = f"model.layers.0.self_attn.{name}.weight"
    plan = plan_of("deepseek_v3", {key: np.ones((8, hidden), np.float32)})
    assert any(key in str(one.error) or key == one.tensor for one in plan.refusals)


@pytest.mark.parametrize("prefix", ["layers.", "embed_tokens.", "norm."])
def test_a_base_model_saved_without_its_prefix_is_mapped(prefix: str) -> None:
    made = checkpoint("qwen3")
    bare = {name.removeprefix("model."): tensor for name, tensor in made.tensors.items()}
    assert any(name.startswith(prefix) for name in bare)
    expected = {op.spec.key for op in plan_source(MemorySource(made.tensors, made.config)).operations}
    found = plan_source(MemorySource(bare, made.config))
    assert {op.spec.key for op in found.operations} == expected
    assert all(op.spec.mapped for op in found.operations)


def test_fused_experts_that_lie_transposed_are_refused() -> None:
    made = checkpoint("mixtral")
    hidden, inner = made.config["hidden_size"], made.config["intermediate_size"]
    count = made.config["num_local_experts"]
    tensors = {name: tensor for name, tensor in made.tensors.items() if ".experts." not in name}
    for layer in range(made.config["num_hidden_layers"]):
        stem = f"model.layers.{layer}.mlp.experts"
        tensors[f"{stem}.gate_up_proj"] = np.ones((count, hidden, 2 * inner), np.float32)
        tensors[f"{stem}.down_proj"] = np.ones((count, inner, hidden), np.float32)
    plan = plan_source(MemorySource(tensors, made.config))
    assert len(plan.refusals) == 2 * made.config["num_hidden_layers"]


def rope_factor(**metadata: Any) -> float:
    common = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
    }
    tensors = {"token_embd.weight": np.zeros((8, 64), np.float32)}
    more = {f"llama.{key.replace('__', '.')}": value for key, value in metadata.items()}
    config = plan_source(MemorySource(tensors, common | more, "gguf")).config
    return 1 / config.rope["full_attention"].inv_freq[0]


def test_a_rotary_factor_alone_is_linear_scaling_under_either_name() -> None:
    assert rope_factor() == 1
    assert rope_factor(rope__scaling__factor=4.0) == 4
    assert rope_factor(rope__scale_linear=4.0) == 4
    assert rope_factor(rope__scaling__factor=4.0, rope__scaling__type="none") == 1
