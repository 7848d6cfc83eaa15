"""DeepSeek-V3, R1 and Kimi-K2: latent attention, sigmoid routing in groups with a correction bias."""

from __future__ import annotations

from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.families.deepseek_v2 import deepseek_config, gating_is_sigmoid
from wvindex.arch.family import Family
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import mla_gguf_fields

ROUTING: Final = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True}


def _config(f: Fields) -> ModelConfig:
    return deepseek_config(f, "deepseek_v3", ROUTING)


FAMILY = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3", "kimi_k2"),
    config=_config,
    gguf_arch="deepseek2",
    gguf_claims=gating_is_sigmoid,
    gguf_fields=mla_gguf_fields,
)
