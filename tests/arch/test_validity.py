"""What no model can have is found wherever it stands; every reference model passes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint, names
from tests.support.memory_source import MemorySource
from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import identify
from wvindex.arch.validity import first_fault


def config_of(name: str) -> ModelConfig:
    return identify(MemorySource({}, checkpoint(name).config))[1]


def changed(config: ModelConfig, field: str, value: Any) -> ModelConfig:
    part, _, inner = field.rpartition(".")
    if not part:
        return replace(config, **{field: value})
    if part.startswith("rope."):
        kind = part.removeprefix("rope.")
        return replace(config, rope={**config.rope, kind: replace(config.rope[kind], **{inner: value})})
    return replace(config, **{part: replace(getattr(config, part), **{inner: value})})


@pytest.mark.parametrize("name", names())
def test_a_reference_model_has_no_fault(name: str) -> None:
    assert first_fault(config_of(name)) is None


def test_a_model_that_says_nothing_has_no_fault() -> None:
    assert first_fault(ModelConfig(model_type="novel", family=None)) is None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("vocab_size", (-1, 0, 1 << 40)),
        ("hidden_size", (-1, 0, 1 << 60)),
        ("head_dim", (-1, 0)),
        ("max_position_embeddings", (-5, 1 << 60)),
        ("num_hidden_layers", (-1, 1 << 20)),
        ("num_nextn_predict_layers", (-1, 2**60)),
        ("sliding_window", (-1, 0, 1 << 60)),
        ("rms_norm_eps", (-1e-6, math.nan, math.inf)),
        ("attention_scale", (0.0, -1.0, 1e-30, 1e30, math.nan, math.inf)),
        ("embedding_multiplier", (math.nan, -math.inf)),
        ("mla.norm_eps", (-1e-6, math.inf)),
        ("mla.kv_lora_rank", (0, -1)),
        ("mla.q_lora_rank", (0, -1)),
        ("moe.n_routed_experts", (0, -1, 1 << 40)),
        ("moe.num_experts_per_tok", (0, -1, 1000)),
        ("moe.n_group", (0, -1, 3)),
        ("moe.topk_group", (0, -1, 1000)),
        ("moe.n_shared_experts", (-1, 1 << 40)),
        ("moe.routed_scaling_factor", (math.nan,)),
        ("rope.full_attention.rotary_dim", (-2, 1 << 40)),
        ("rope.full_attention.attention_factor", (math.inf,)),
    ],
)
def test_a_fault_is_named(field: str, values: tuple[Any, ...]) -> None:
    config = config_of("deepseek_v3")
    for value in values:
        fault = first_fault(changed(config, field, value))
        assert fault is not None, value
        assert fault.field == field
        assert fault.found is value


def test_frequencies_are_as_many_as_are_rotated() -> None:
    fault = first_fault(changed(config_of("llama"), "rope.full_attention.inv_freq", (1.0,)))
    assert fault is not None
    assert fault.field == "rope.full_attention.inv_freq"
    assert fault.found == "1 numbers"
