"""Write routers.npz: expert choices and weights by the routers of transformers 5.23.0 (torch 2.13).

    python tests/golden/make_routers.py

Each router's weight is the identity, so its input is its logits. Saved are the logits and, for each token, a
dense row of weights: 0 for an expert that was not chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

EXPERTS, TOP_K, TOKENS = 16, 3, 40
BASE: dict[str, Any] = {
    "hidden_size": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
V2 = BASE | {"n_routed_experts": EXPERTS, "routed_scaling_factor": 2.5}
V3 = V2 | {"n_group": 4, "topk_group": 2}
GROUPED = V2 | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}


def routers() -> dict[str, Any]:
    """Build each router by name."""
    return {
        "mixtral": MixtralTopKRouter(MixtralConfig(**BASE, num_local_experts=EXPERTS)),
        "qwen3_moe": Qwen3MoeTopKRouter(Qwen3MoeConfig(**BASE, num_experts=EXPERTS, norm_topk_prob=True)),
        "qwen3_moe_raw": Qwen3MoeTopKRouter(
            Qwen3MoeConfig(**BASE, num_experts=EXPERTS, norm_topk_prob=False)
        ),
        "deepseek_v2_greedy": DeepseekV2TopkRouter(DeepseekV2Config(**V2, topk_method="greedy")),
        "deepseek_v2_groups": DeepseekV2TopkRouter(DeepseekV2Config(**GROUPED)),
        "deepseek_v3": DeepseekV3TopkRouter(DeepseekV3Config(**V3, norm_topk_prob=True)),
        "deepseek_v3_raw": DeepseekV3TopkRouter(DeepseekV3Config(**V3, norm_topk_prob=False)),
    }


def main() -> None:
    """Run every router on the same logits."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn((TOKENS, EXPERTS), generator=generator) * 2
    bias = torch.randn(EXPERTS, generator=generator) * 0.3
    arrays = {"logits": logits.numpy(), "bias": bias.numpy()}
    for name, router in routers().items():
        router.weight.data = torch.eye(EXPERTS)
        if hasattr(router, "e_score_correction_bias"):
            router.e_score_correction_bias.copy_(bias)
        with torch.no_grad():
            _, weights, indices = router(logits)
        arrays[name] = torch.zeros_like(logits).scatter(1, indices, weights).numpy()
    np.savez_compressed(Path(__file__).with_name("routers.npz"), **arrays)


if __name__ == "__main__":
    main()
