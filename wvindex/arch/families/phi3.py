"""Phi-3 and Phi-4: Llama with fused projections, partial rotary embedding and LongRoPE."""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, decoder_config, window_everywhere
from wvindex.arch.fields import Fields


def _config(f: Fields) -> ModelConfig:
    return decoder_config(f, "phi3", layer_types=window_everywhere(f))


FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    config=_config,
    gguf_arch="phi3",
    splits={
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    },
)
