"""Tiny random models in memory, one for each thing that the forward pass can be asked to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.fake_db import FakeDatabase
from wvindex.arch.config import LayerType, ModelConfig, MoE, Rope
from wvindex.formats.arrays import RowScale

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, LAYERS = 24, 4, 2, 8, 20, 50, 3
FULL: tuple[LayerType, ...] = ("full_attention", "full_attention", "full_attention")
ROPE = Rope(rope_type="default", rope_theta=1e4, rotary_dim=8, inv_freq=(1.0, 0.1, 0.01, 0.001))
LLAMA = ModelConfig(
    model_type="llama",
    family="llama",
    hidden_size=HIDDEN,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    v_head_dim=HEAD_DIM,
    intermediate_size=FFN,
    vocab_size=VOCAB,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    attention_scale=HEAD_DIM**-0.5,
    layer_types=FULL,
    rope={"full_attention": ROPE},
)
SANDWICH = replace(
    LLAMA,
    hidden_act="gelu_pytorch_tanh",
    attn_logit_softcapping=3.0,
    final_logit_softcapping=5.0,
    sliding_window=4,
    layer_types=("sliding_attention", "full_attention", "sliding_attention"),
    rope={"full_attention": ROPE, "sliding_attention": replace(ROPE, inv_freq=(0.7, 0.2, 0.03, 0.004))},
    norm_weight_offset=1.0,
    embedding_multiplier=4.9,
    residual_multiplier=0.8,
    logits_multiplier=0.5,
    tie_word_embeddings=True,
)
ASYMMETRIC = replace(
    LLAMA,
    v_head_dim=5,
    num_key_value_heads=HEADS,
    rope={
        "full_attention": replace(ROPE, rotary_dim=4, inv_freq=(1.0, 0.05), attention_factor=1.1),
    },
)
MIXTURE = replace(
    LLAMA,
    moe=MoE(
        n_routed_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=10,
        n_shared_experts=1,
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        n_group=3,
        topk_group=2,
        routed_scaling_factor=1.7,
    ),
)
MODELS = ("llama", "sandwich", "asymmetric", "mixture")


def tiny_model(name: str, seed: int = 0) -> FakeDatabase:
    """Make one of `MODELS`."""
    rng = np.random.default_rng(seed)
    make = {"llama": _llama, "sandwich": _sandwich, "asymmetric": _asymmetric, "mixture": _mixture}
    return make[name](rng)


def _llama(rng: np.random.Generator) -> FakeDatabase:
    """Grouped queries, biases everywhere, attention sinks, a head of its own."""
    arrays = _base(rng, LLAMA)
    for key in [key for key in arrays if "_proj" in key]:
        arrays[key.replace(".weight", ".bias")] = _normal(rng, arrays[key].shape[0]) * 0.3
    for layer in range(LAYERS):
        arrays[f"model.layers.{layer}.self_attn.sinks"] = _normal(rng, HEADS)
    return FakeDatabase(LLAMA, arrays)


def _sandwich(rng: np.random.Generator) -> FakeDatabase:
    """Gemma's norms around each branch, head norms, soft caps, sliding windows, multipliers, tied head."""
    arrays = _base(rng, SANDWICH)
    del arrays["lm_head.weight"]
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            arrays[f"{stem}.{norm}.weight"] = _normal(rng, HIDDEN) * 0.3
        for norm in ("q_norm", "k_norm"):
            arrays[f"{stem}.self_attn.{norm}.weight"] = _normal(rng, HEAD_DIM) * 0.3
    return FakeDatabase(SANDWICH, arrays)


def _asymmetric(rng: np.random.Generator) -> FakeDatabase:
    """Narrower value heads, partial rotary, and projections scaled by the RMS of another one."""
    arrays = _base(rng, ASYMMETRIC)
    scales = {}
    for layer in range(LAYERS):
        attn = f"model.layers.{layer}.self_attn"
        arrays[f"{attn}.other.weight"] = _matrix(rng, 14, HIDDEN)
        arrays[f"{attn}.other.bias"] = _normal(rng, 14)
        for part, rows, head_slice in (("q", (0, 6), (0, 8)), ("k", (6, 14), (4, 8)), ("v", (6, 14), (0, 5))):
            scales[f"{attn}.{part}_proj.weight"] = RowScale(
                weight=f"{attn}.other.weight", rows=rows, eps=1e-2, head_slice=head_slice
            )
    return FakeDatabase(ASYMMETRIC, arrays, scales)


def _mixture(rng: np.random.Generator) -> FakeDatabase:
    """Experts in all layers but the first, with a correction bias and a shared expert."""
    arrays = _base(rng, MIXTURE)
    for layer in range(1, LAYERS):
        mlp = f"model.layers.{layer}.mlp"
        for name, shape in (("gate", (10, HIDDEN)), ("up", (10, HIDDEN)), ("down", (HIDDEN, 10))):
            del arrays[f"{mlp}.{name}_proj.weight"]
            arrays[f"{mlp}.experts.{name}_proj.weight"] = _matrix(rng, 6, *shape)
            arrays[f"{mlp}.shared_experts.{name}_proj.weight"] = _matrix(rng, *shape)
        arrays[f"{mlp}.gate.weight"] = _matrix(rng, 6, HIDDEN) * 2
        arrays[f"{mlp}.gate.e_score_correction_bias"] = _normal(rng, 6) * 0.2
    return FakeDatabase(MIXTURE, arrays)


def _base(rng: np.random.Generator, config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    kv, width = config.num_key_value_heads or 0, config.v_head_dim or 0
    matrices = {
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": (kv * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": (kv * width, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * width),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
    }
    arrays = {
        "model.embed_tokens.weight": _normal(rng, VOCAB, HIDDEN),
        "lm_head.weight": _matrix(rng, VOCAB, HIDDEN) * 3,
        "model.norm.weight": _norm(rng, config),
    }
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for name, shape in matrices.items():
            arrays[f"{stem}.{name}.weight"] = _matrix(rng, *shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{stem}.{name}.weight"] = _norm(rng, config)
    return arrays


def _norm(rng: np.random.Generator, config: ModelConfig) -> NDArray[np.float32]:
    return rng.uniform(0.6, 1.4, HIDDEN).astype(np.float32) - np.float32(config.norm_weight_offset)


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def _matrix(rng: np.random.Generator, *shape: int) -> NDArray[Any]:
    return _normal(rng, *shape) * np.float32(1.5 / np.sqrt(shape[-1]))
