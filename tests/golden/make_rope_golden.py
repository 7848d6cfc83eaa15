"""Write rope.json, rotary frequencies as transformers has them: python tests/golden/make_rope_golden.py.

Each case is a `config.json` in the hub's form; beside it stand the frequencies that transformers' rotary
module has (for LongRoPE both its short and its long ones) and the factor on cos and sin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

VERSION = "5.23.0"
ROTARY = {
    "llama": LlamaRotaryEmbedding,
    "phi3": Phi3RotaryEmbedding,
    "deepseek_v3": DeepseekV3RotaryEmbedding,
}
BASE = {
    "hidden_size": 512,
    "intermediate_size": 64,
    "max_position_embeddings": 8192,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 64,
}
LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 2048, "rope_type": "yarn"}
DEEPSEEK_YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
MLA = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "model_type": "deepseek_v3",
    "max_position_embeddings": 163840,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}


def longrope(width: int, **fields: Any) -> dict[str, Any]:
    """Give Phi-3's scaling for `width` rotated dimensions."""
    own = {
        "long_factor": [1.0 + 0.75 * i for i in range(width // 2)],
        "short_factor": [1.0 + 0.03125 * i for i in range(width // 2)],
        "type": "longrope",
    }
    return own | fields


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "default-wide-heads": {"head_dim": 192, "rope_theta": 1e6},
    "linear": {"rope_scaling": {"factor": 2.5, "type": "linear"}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "max_position_embeddings": 131072},
    "llama3-32": {"rope_scaling": LLAMA3 | {"factor": 32.0}, "rope_theta": 500000.0, "head_dim": 64},
    "yarn": {"rope_scaling": YARN},
    "yarn-betas": {"rope_scaling": YARN | {"beta_fast": 20.0, "beta_slow": 2.0}, "rope_theta": 150000.0},
    "yarn-attention-factor": {"rope_scaling": YARN | {"attention_factor": 0.75}},
    "yarn-not-truncated": {"rope_scaling": YARN | {"truncate": False, "factor": 32.0}},
    "deepseek-yarn": MLA | {"rope_scaling": DEEPSEEK_YARN},
    "deepseek-yarn-mscale": MLA | {"rope_scaling": DEEPSEEK_YARN | {"mscale": 1.0, "mscale_all_dim": 0.707}},
    "deepseek-yarn-one-mscale": MLA | {"rope_scaling": DEEPSEEK_YARN | {"mscale_all_dim": 0.0}},
    "kimi-yarn": MLA
    | {"rope_scaling": DEEPSEEK_YARN | {"beta_fast": 1.0, "factor": 32.0}, "rope_theta": 50000.0},
    "partial": {"model_type": "phi3", "partial_rotary_factor": 0.75},
    "longrope": {
        "model_type": "phi3",
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": longrope(128),
    },
    "longrope-partial": {
        "model_type": "phi3",
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rope_scaling": longrope(96),
    },
    "longrope-attention-factor": {
        "model_type": "phi3",
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": longrope(128, attention_factor=1.5),
    },
}


def main() -> None:
    """Work out every case and write the file."""
    if transformers.__version__ != VERSION:
        raise SystemExit(f"needs transformers {VERSION}, found {transformers.__version__}")
    transformers.logging.set_verbosity_error()
    cases = {name: case({"model_type": "llama"} | BASE | fields) for name, fields in CASES.items()}
    path = Path(__file__).with_name("rope.json")
    path.write_text(json.dumps({"transformers": VERSION, "cases": cases}, indent=1) + "\n")


def case(hub: dict[str, Any]) -> dict[str, Any]:
    """Give a case: the configuration, and what transformers makes of it."""
    model_type = hub["model_type"]
    config = transformers.CONFIG_MAPPING[model_type].from_dict(dict(hub))
    rotary = ROTARY[model_type](config)
    saved = config.to_dict()
    result = {
        "config": hub,
        "rope_parameters": saved["rope_parameters"],
        "inv_freq": rotary.inv_freq.tolist(),
        "attention_factor": float(rotary.attention_scaling),
    }
    if config.rope_parameters["rope_type"] == "longrope":
        beyond = config.rope_parameters["original_max_position_embeddings"] + 1
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=beyond)
        result["long_inv_freq"] = long.tolist()
    return result


if __name__ == "__main__":
    main()
