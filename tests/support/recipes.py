"""The tiny models that wvindex is tested with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from tests.support import configs


@dataclass(frozen=True)
class Recipe:
    """A model to make.

    Attributes
    ----------
    name : str
    seed : int
        Chosen so that no expert is picked by a hair: see make_golden.py.
    config : mapping
        `config.json` in the hub's form.
    gguf : bool
        Whether a GGUF file can say all that the model is. Where not, `why_no_gguf` says why.
    """

    name: str
    seed: int
    config: Mapping[str, Any]
    why_no_gguf: str = ""

    @property
    def gguf(self) -> bool:
        return not self.why_no_gguf


_NO_WINDOW_KEY = "llama.cpp writes no sliding window for this family"

_RECIPES: Final = (
    Recipe(
        "llama",
        6,
        configs.llama(
            max_position_embeddings=512,
            rope_scaling={
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            rope_theta=500000.0,
        ),
    ),
    Recipe(
        "llama-linear",
        1,
        configs.llama(
            attention_bias=True,
            head_dim=48,
            rope_scaling={"factor": 4.0, "type": "linear"},
            tie_word_embeddings=True,
        ),
    ),
    Recipe("mistral", 2, configs.mistral(sliding_window=None)),
    Recipe("mistral-window", 7, configs.mistral(sliding_window=16), _NO_WINDOW_KEY),
    Recipe("mixtral", 18, configs.MIXTRAL),
    Recipe("qwen2", 1, configs.qwen2()),
    Recipe("qwen2-window", 2, configs.qwen2(use_sliding_window=True), _NO_WINDOW_KEY),
    Recipe("qwen3", 1, configs.qwen3()),
    Recipe("qwen3_moe", 25, configs.qwen3_moe()),
    Recipe(
        "qwen3_moe-dense",
        32,
        configs.qwen3_moe(mlp_only_layers=[1], norm_topk_prob=False, num_hidden_layers=3),
        "llama.cpp takes every layer for sparse and always normalizes",
    ),
    Recipe("gemma2", 1, configs.gemma2()),
    Recipe(
        "gemma2-scalar",
        1,
        configs.gemma2(query_pre_attn_scalar=32),
        "there is no key for query_pre_attn_scalar: llama.cpp knows it by the model's size",
    ),
    Recipe("gemma3", 3, configs.GEMMA3),
    Recipe("phi3", 3, configs.phi3()),
    # 80 tokens: more than the original 64, where the long factors hold; fewer than 96, where the short do.
    Recipe("phi3-longrope", 2, configs.phi3_longrope(64)),
    Recipe("phi3-longrope-short", 1, configs.phi3_longrope(96)),
    Recipe("deepseek_v2", 225, configs.deepseek_v2()),
    Recipe(
        "deepseek_v2_lite",
        323,
        configs.deepseek_v2(
            n_group=1, q_lora_rank=None, routed_scaling_factor=1.0, topk_group=1, topk_method="greedy"
        ),
    ),
    Recipe("deepseek_v3", 1, configs.deepseek_v3(num_nextn_predict_layers=1)),
    Recipe(
        "deepseek_v3-bias",
        9,
        # Unequal mscales: the rotary attention factor is not 1.
        configs.deepseek_v3(attention_bias=True, rope_scaling=configs.yarn(1.0, 0.707)),
        "there is no key for mscale, and llama.cpp reads no biases here",
    ),
    Recipe(
        "deepseek_v3-halves",
        5,
        configs.deepseek_v3(rope_interleave=False),
        "llama.cpp rotates interleaved pairs whatever the configuration says",
    ),
    Recipe(
        "deepseek_v3-norope-scaling",
        2,
        # A large epsilon, which the norms of q_a and kv_a must not use: theirs is 1e-6.
        configs.deepseek_v3(rms_norm_eps=1e-3, rope_scaling=None),
    ),
    Recipe(
        "deepseek_v3-fp8",
        13,
        # 160 rows of kv_a, 448 of kv_b and 192 columns of o: blocks that end short of 128.
        configs.deepseek_v3(
            hidden_size=256,
            intermediate_size=256,
            kv_lora_rank=128,
            moe_intermediate_size=128,
            q_lora_rank=128,
            qk_nope_head_dim=64,
            qk_rope_head_dim=32,
            quantization_config=configs.FP8,
            v_head_dim=48,
        ),
    ),
    Recipe(
        "kimi_k2",
        4,
        # The hub's Kimi-K2 has a model_type of its own and DeepSeek-V3's architecture.
        configs.deepseek_v3(
            n_group=1,
            n_routed_experts=6,
            num_experts_per_tok=2,
            rope_scaling=configs.yarn(
                1.0, 1.0, beta_fast=1.0, beta_slow=1.0, factor=32.0, original_max_position_embeddings=160
            ),
            rope_theta=50000.0,
            routed_scaling_factor=2.827,
            topk_group=1,
        )
        | {"model_type": "kimi_k2"},
    ),
    Recipe("glm4_moe_lite", 18, configs.glm4_moe_lite(num_nextn_predict_layers=1)),
    Recipe("mistral4", 229, configs.mistral4()),
    Recipe("youtu", 2, configs.youtu()),
    Recipe("minicpm3", 3, configs.minicpm3()),
    Recipe("longcat_flash", 4, configs.longcat_flash(), "llama.cpp does not have the architecture"),
    Recipe("deepseek_v32", 1, configs.deepseek_v32()),
    Recipe("glm_moe_dsa", 13, configs.glm_moe_dsa()),
    Recipe("gpt_oss", 46, configs.gpt_oss()),
)

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})
"""Every recipe by name."""
