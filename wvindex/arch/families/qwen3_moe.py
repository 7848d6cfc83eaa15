"""Qwen3-MoE: Qwen3 with a softmax-routed mixture of experts in most layers."""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.families.qwen2 import qwen_layer_types
from wvindex.arch.family import Family, HubForm, RawMetadata, decoder_config, moe
from wvindex.arch.fields import Fields


def _config(f: Fields) -> ModelConfig:
    routing = moe(f, "num_experts", "num_local_experts", norm_topk_prob=f.flag("norm_topk_prob", False))
    return decoder_config(f, "qwen3_moe", layer_types=qwen_layer_types(f), moe=routing)


def _gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    hub["norm_topk_prob"] = True  # GGUF has no key for it: llama.cpp always normalizes for this architecture


FAMILY = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    config=_config,
    gguf_arch="qwen3moe",
    gguf_fields=_gguf_fields,
)
