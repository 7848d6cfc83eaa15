"""What config.json leaves out: the defaults of Hugging Face's configuration classes (transformers 5.23).

A file says everything that its writer's version did not default; transformers fills in the rest from the
class, and so must every other reader. GGUF has no such defaults: its keys are required where they matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_EPS_6: Final = {"rms_norm_eps": 1e-6}
_EPS_5: Final = {"rms_norm_eps": 1e-5}
_DEEPSEEK_DIMS: Final = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}

MODEL: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": _EPS_6,
    "mistral": {**_EPS_6, "sliding_window": 4096, "num_key_value_heads": 8},
    "mixtral": {**_EPS_5, "rope_theta": 1e6, "num_key_value_heads": 8},
    "qwen2": {**_EPS_6, "max_window_layers": 28},
    "qwen3": {**_EPS_6, "max_window_layers": 28, "head_dim": 128},
    "qwen3_moe": {**_EPS_6, "num_key_value_heads": 4, "norm_topk_prob": False},
    "gemma2": {
        **_EPS_6,
        "head_dim": 256,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {
        **_EPS_6,
        "head_dim": 256,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
    },
    "phi3": _EPS_5,
    "deepseek_v2": {**_EPS_6, "routed_scaling_factor": 1.0, "topk_method": "greedy", "norm_topk_prob": False},
    "deepseek_v3": {
        **_EPS_6,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
    },
    "minicpm3": {**_EPS_5, "tie_word_embeddings": True},
    "glm4_moe_lite": {
        **_EPS_5,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.8,
        "norm_topk_prob": True,
    },
    "mistral4": {
        **_EPS_6,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
    },
    "youtu": {**_EPS_6, "tie_word_embeddings": True},
    "longcat_flash": {**_EPS_5, "rope_theta": 1e7},
    "deepseek_v32": {
        **_EPS_6,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "index_topk": 2048,
    },
    "glm_moe_dsa": {
        **_EPS_5,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "index_topk": 2048,
    },
    "gpt_oss": {
        **_EPS_5,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "rope_theta": 150000.0,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
}
"""By ``model_type``, what says how a model computes."""

SHAPE: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008},
    "mistral": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336},
    "mixtral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016},
    "qwen3": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016},
    "gemma2": {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "max_position_embeddings": 131072,
    },
    "phi3": {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192},
    "deepseek_v3": {
        **_DEEPSEEK_DIMS,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
    },
    "mistral4": {
        "kv_lora_rank": 256,
        "q_lora_rank": 1024,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 1048576,
    },
}
"""By ``model_type``, how large a model is. For language models nested in another's configuration, which keep
only what differs from the class; a configuration of its own says how large it is."""

_LAYERS_AND_HEADS: Final = {"num_hidden_layers": 32, "num_attention_heads": 32}

_SAME: Final = {"gemma3": "gemma3_text", "kimi_k2": "deepseek_v3", "youtu_llm": "youtu"}


def hub_defaults(model_type: str, *, nested: bool) -> Mapping[str, Any]:
    """Give what a configuration of this type means where it says nothing.

    Parameters
    ----------
    model_type : str
    nested : bool
        Whether it stands within another model's configuration.
    """
    name = _SAME.get(model_type, model_type)
    shape = {**_LAYERS_AND_HEADS, **SHAPE[name]} if nested and name in SHAPE else {}
    return {**shape, **MODEL.get(name, {})}
