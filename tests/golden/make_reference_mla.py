"""Write reference_mla.npz: latent attention by transformers 5.23.0 (torch 2.13), on small random weights.

    python tests/golden/make_reference_mla.py

Three cases, in float64 but for angles and softmax, which transformers has in float32: DeepSeek-V3 with YaRN
and biases, DeepSeek-V3 whose rope is not interleaved, and DeepSeek-V2 without q_lora_rank (V2-Lite). Norm
weights are random, so a norm that is left out or folded into a product shows. What is saved is the input of
`o_proj`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3

HEADS, HIDDEN, TOKENS, START = 3, 48, 20, 45
GEOMETRY = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 12}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
SHARED: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "eager",
} | GEOMETRY


def attend(config: Any, module: Any, rotary: Any, seed: int) -> dict[str, np.ndarray]:
    """Give a module's random weights, an input, and what attention makes of it before `o_proj`."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for name, parameter in module.named_parameters():
        spread = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        norm = "layernorm" in name
        parameter.data = 1 + 0.3 * spread if norm else spread / (parameter.shape[-1] ** 0.5)
    x = torch.randn((1, TOKENS, HIDDEN), generator=generator, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    module.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mask = torch.full((TOKENS, TOKENS), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    # float32 positions, as a model in float32 makes them; then exact.
    position = rotary(x.float(), torch.arange(START, START + TOKENS)[None])
    position = (
        tuple(p.double() for p in position) if isinstance(position, tuple) else position.to(torch.complex128)
    )
    with torch.no_grad():
        module(hidden_states=x, position_embeddings=position, attention_mask=mask)
    weights = {n.removesuffix(".weight"): p.detach().numpy() for n, p in module.named_parameters()}
    weights = {n: w for n, w in weights.items() if not n.startswith("o_proj")}
    return weights | {
        "x": x[0].numpy(),
        "out": seen[0][0].numpy(),
        "inv_freq": rotary.inv_freq.double().numpy(),
        "attention_factor": np.array(rotary.attention_scaling),
        "scale": np.array(module.scaling),
    }


def main() -> None:
    """Write every case's arrays as ``case/name``."""
    torch.manual_seed(0)
    yarn = DeepseekV3Config(
        **SHARED, q_lora_rank=24, rope_parameters=YARN, attention_bias=True, rope_interleave=True
    )
    halves = DeepseekV3Config(**SHARED, q_lora_rank=24, rope_parameters=YARN, rope_interleave=False)
    lite = DeepseekV2Config(**SHARED, q_lora_rank=None, rope_parameters=YARN)
    cases = {
        "v3": attend(yarn, v3.DeepseekV3Attention(yarn, 0), v3.DeepseekV3RotaryEmbedding(yarn), 1),
        "v3_halves": attend(
            halves, v3.DeepseekV3Attention(halves, 0), v3.DeepseekV3RotaryEmbedding(halves), 2
        ),
        "v2_lite": attend(lite, v2.DeepseekV2Attention(lite, 0), v2.DeepseekV2RotaryEmbedding(lite), 3),
    }
    arrays: dict[str, Any] = {
        f"{case}/{name}": array for case, values in cases.items() for name, array in values.items()
    }
    np.savez_compressed(Path(__file__).with_name("reference_mla.npz"), **arrays)


if __name__ == "__main__":
    main()
