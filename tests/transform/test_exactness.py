"""FP8 rows that end within a scale block are decoded, keep their values, and say that they were cast."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from tests.support.planned import plan_of, spec, values
from wvindex.transform.plan import plan_source

RNG = np.random.default_rng(0)
BLOCK = 40
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}}


def quantized(shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Give codes, scales, and the values that they stand for."""
    codes = RNG.standard_normal(shape).astype(ml_dtypes.float8_e4m3fn)
    blocks = (*shape[:-2], -(-shape[-2] // BLOCK), -(-shape[-1] // BLOCK))
    scales = RNG.uniform(0.5, 2, blocks).astype(np.float32)
    wide = scales.repeat(BLOCK, -2).repeat(BLOCK, -1)[..., : shape[-2], : shape[-1]]
    return codes, scales, codes.astype(np.float32) * wide


def test_a_fused_half_that_cuts_a_block_is_cast() -> None:
    made = checkpoint("mixtral")
    experts, inner = made.config["num_local_experts"], made.config["intermediate_size"]
    assert inner % BLOCK
    codes, scales, expected = quantized((experts, 2 * inner, made.config["hidden_size"]))
    stem = "model.layers.0.mlp.experts"
    tensors = {f"{stem}.gate_up_proj": codes, f"{stem}.gate_up_proj_scale_inv": scales}
    plan = plan_source(MemorySource(tensors, made.config | FP8))
    for name, part in (("gate", expected[:, :inner]), ("up", expected[:, inner:])):
        key = f"{stem}.{name}_proj.weight"
        assert (spec(plan, key).encoding.name, spec(plan, key).exactness) == ("F32", "cast")
        np.testing.assert_array_equal(values(plan, key), part)


def test_a_latent_projection_that_cuts_a_block_is_cast() -> None:
    made = checkpoint("deepseek_v2_lite")
    rank = made.config["kv_lora_rank"]
    assert rank % BLOCK
    name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    codes, scales, expected = quantized(made.tensors[name].shape)
    plan = plan_of("deepseek_v2_lite", {name: codes, f"{name}_scale_inv": scales}, config=FP8)
    key = "model.layers.0.self_attn.latent_proj.weight"
    assert (spec(plan, key).encoding.name, spec(plan, key).exactness) == ("F32", "cast")
    np.testing.assert_array_equal(values(plan, key), expected[:rank])
