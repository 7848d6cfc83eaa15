"""The `config.json` of each family, as the hub's checkpoints have it, for models of a megabyte."""

from __future__ import annotations

from typing import Any, Final

# The tokenizer of every model: two control tokens, 256 bytes, six merged pairs (see tokenizer.py).
VOCAB_SIZE: Final = 264

_COMMON: Final = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
    "vocab_size": VOCAB_SIZE,
}


def _config(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type} | _COMMON | fields


def llama(**fields: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    return _config("LlamaForCausalLM", "llama", **own | fields)


def mistral(**fields: Any) -> dict[str, Any]:
    own = {"head_dim": 32, "rope_theta": 1000000.0}
    return _config("MistralForCausalLM", "mistral", **own | fields)


MIXTRAL: Final = _config(
    "MixtralForCausalLM",
    "mixtral",
    num_experts_per_tok=2,
    num_hidden_layers=2,
    num_local_experts=4,
    output_router_logits=False,
    rope_theta=1000000.0,
    router_aux_loss_coef=0.02,
    sliding_window=None,
)


def qwen2(**fields: Any) -> dict[str, Any]:
    # A window that is not in use, as on the hub: it must be left alone.
    own = {
        "max_window_layers": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    }
    return _config("Qwen2ForCausalLM", "qwen2", **own | fields)


def qwen3(architecture: str = "Qwen3ForCausalLM", model_type: str = "qwen3", **fields: Any) -> dict[str, Any]:
    own = {
        "attention_bias": False,
        "head_dim": 48,
        "max_window_layers": 3,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "sliding_window": None,
        "use_sliding_window": False,
    }
    return _config(architecture, model_type, **own | fields)


def qwen3_moe(**fields: Any) -> dict[str, Any]:
    own = {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }
    return qwen3("Qwen3MoeForCausalLM", "qwen3_moe", **own | fields)


def _gemma(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
    own = {
        "attention_bias": False,
        "cache_implementation": "hybrid",
        "head_dim": 48,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 48,
        "rms_norm_eps": 1e-6,
        "sliding_window": 16,
        "tie_word_embeddings": True,
    }
    config = _config(architecture, model_type, **own | fields)
    del config["hidden_act"]
    return config


def gemma2(**fields: Any) -> dict[str, Any]:
    # Caps low enough to matter at a logit standard deviation of 3.
    own = {
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 10.0,
        "num_hidden_layers": 4,
    }
    return _gemma("Gemma2ForCausalLM", "gemma2", **own | fields)


GEMMA3: Final = _gemma(
    "Gemma3ForCausalLM",
    "gemma3_text",
    attn_logit_softcapping=None,
    final_logit_softcapping=None,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=7,
    num_key_value_heads=1,
    rope_local_base_freq=10000.0,
    rope_scaling={"factor": 8.0, "rope_type": "linear"},
    rope_theta=1000000.0,
    sliding_window_pattern=6,
)


def phi3(**fields: Any) -> dict[str, Any]:
    own = {
        "embd_pdrop": 0.0,
        "original_max_position_embeddings": 2048,
        "pad_token_id": 1,
        "resid_pdrop": 0.0,
        "sliding_window": 24,
    }
    return _config("Phi3ForCausalLM", "phi3", **own | fields)


def phi3_longrope(original_max_position_embeddings: int) -> dict[str, Any]:
    """Phi-4-mini's shape: three quarters of a head of 32 are rotated, so there are 12 factors."""
    return phi3(
        max_position_embeddings=512,
        original_max_position_embeddings=original_max_position_embeddings,
        partial_rotary_factor=0.75,
        rope_scaling={
            "long_factor": [1.0 + 0.5 * i for i in range(12)],
            "short_factor": [1.0 + 0.0625 * i for i in range(12)],
            "type": "longrope",
        },
        sliding_window=None,
        tie_word_embeddings=True,
    )


def yarn(mscale: float, mscale_all_dim: float, **fields: Any) -> dict[str, Any]:
    own = {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": mscale,
        "mscale_all_dim": mscale_all_dim,
        "original_max_position_embeddings": 128,
        "type": "yarn",
    }
    return own | fields


def _deepseek(version: int, **fields: Any) -> dict[str, Any]:
    own = {
        "attention_bias": False,
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 64,
        "max_position_embeddings": 5120,
        "moe_intermediate_size": 64,
        "moe_layer_freq": 1,
        "n_group": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "num_key_value_heads": 4,
        "pretraining_tp": 1,
        "q_lora_rank": 96,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "seq_aux": True,
        "topk_group": 2,
        "v_head_dim": 24,
    }
    architecture, model_type = f"DeepseekV{version}ForCausalLM", f"deepseek_v{version}"
    return _config(architecture, model_type, **own | fields)


def deepseek_v2(**fields: Any) -> dict[str, Any]:
    own = {
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "rope_scaling": yarn(0.707, 0.707),
        "routed_scaling_factor": 4.0,
        "scoring_func": "softmax",
        "topk_method": "group_limited_greedy",
    }
    return _deepseek(2, **own | fields)


def deepseek_v3(**fields: Any) -> dict[str, Any]:
    own = {
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 0,
        "rope_scaling": yarn(1.0, 1.0),
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
    return _deepseek(3, **own | fields)


FP8: Final = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}

MXFP4: Final = {
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    "quant_method": "mxfp4",
}


def gpt_oss(**fields: Any) -> dict[str, Any]:
    own = {
        "attention_bias": True,
        "experts_per_token": 2,
        "head_dim": 48,
        "initial_context_length": 64,
        "intermediate_size": 64,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "max_position_embeddings": 512,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
        "num_local_experts": 6,
        "output_router_logits": False,
        "quantization_config": MXFP4,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 16,
        "swiglu_limit": 7.0,
    }
    return _config("GptOssForCausalLM", "gpt_oss", **own | fields)


def _of_deepseeks_kind(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
    """Give a sibling of DeepSeek-V3, without what only its own configuration says."""
    config = deepseek_v3(**fields) | {"architectures": [architecture], "model_type": model_type}
    for name in ("aux_loss_alpha", "ep_size", "moe_layer_freq", "pretraining_tp", "seq_aux"):
        del config[name]
    return config


def glm4_moe_lite(**fields: Any) -> dict[str, Any]:
    own = {
        "n_group": 1,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "routed_scaling_factor": 1.8,
        "topk_group": 1,
        "v_head_dim": 40,
    }
    config = _of_deepseeks_kind("Glm4MoeLiteForCausalLM", "glm4_moe_lite", **own | fields)
    del config["scoring_func"]
    return config


def mistral4(**fields: Any) -> dict[str, Any]:
    rope = {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 16.0,
        "llama_4_scaling_beta": 0.4,
        "max_position_embeddings": 512,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "type": "yarn",
    }
    own = {
        "first_k_dense_replace": 1,
        "max_position_embeddings": 512,
        "qk_nope_head_dim": 48,
        "rope_parameters": rope,
        "routed_scaling_factor": 1.5,
    }
    config = _of_deepseeks_kind("Mistral4ForCausalLM", "mistral4", **own | fields)
    for name in ("num_nextn_predict_layers", "rope_scaling", "rope_theta", "scoring_func", "topk_method"):
        del config[name]
    return config


def youtu(**fields: Any) -> dict[str, Any]:
    config = _of_deepseeks_kind("YoutuForCausalLM", "youtu", rope_scaling=None, tie_word_embeddings=True)
    routing = (
        *("first_k_dense_replace", "moe_intermediate_size", "n_group", "n_routed_experts"),
        *("n_shared_experts", "norm_topk_prob", "num_experts_per_tok", "num_nextn_predict_layers"),
        *("routed_scaling_factor", "scoring_func", "topk_group", "topk_method"),
    )
    for name in routing:
        del config[name]
    return config | {"rope_theta": 1600000, **fields}


def minicpm3(**fields: Any) -> dict[str, Any]:
    own = {
        "dim_model_base": 256,  # twice the width, so that logits are scaled
        "kv_lora_rank": 64,
        "num_key_value_heads": 4,
        "q_lora_rank": 96,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "scale_depth": 1.4,
        "scale_emb": 12,
        "tie_word_embeddings": True,
        "attention_bias": False,
    }
    return _config("MiniCPM3ForCausalLM", "minicpm3", **own | fields)


def longcat_flash(**fields: Any) -> dict[str, Any]:
    own = {
        "attention_bias": False,
        "attention_method": "MLA",
        "expert_ffn_hidden_size": 64,
        "ffn_hidden_size": 192,
        "head_dim": 16,  # of which transformers makes the rotary frequencies
        "kv_lora_rank": 64,
        "mla_scale_kv_lora": True,
        "mla_scale_q_lora": True,
        "moe_topk": 3,
        "n_routed_experts": 5,
        "num_layers": 2,
        "q_lora_rank": 96,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "rope_theta": 10000000.0,
        "routed_scaling_factor": 6.0,
        "router_bias": False,
        "v_head_dim": 24,
        "zero_expert_num": 3,
        "zero_expert_type": "identity",
    }
    config = _config("LongcatFlashForCausalLM", "longcat_flash", **own | fields)
    for name in ("intermediate_size", "num_hidden_layers", "num_key_value_heads"):
        del config[name]
    return config


def _sparse(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
    """Give DeepSeek-V3 with an indexer that lets through as many keys as a prompt of the tests has."""
    own = {"index_head_dim": 32, "index_n_heads": 4, "index_topk": 80, "num_nextn_predict_layers": 1}
    return _of_deepseeks_kind(architecture, model_type, **own | fields)


def deepseek_v32(**fields: Any) -> dict[str, Any]:
    return _sparse("DeepseekV32ForCausalLM", "deepseek_v32", **fields)


def glm_moe_dsa(**fields: Any) -> dict[str, Any]:
    own = {
        "index_skip_topk_offset": 2,
        "index_topk_freq": 2,
        "n_group": 1,
        "num_hidden_layers": 4,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "topk_group": 1,
        "v_head_dim": 40,
    }
    return _sparse("GlmMoeDsaForCausalLM", "glm_moe_dsa", **own | fields)
