"""Mixtral: Mistral with a softmax-routed mixture of experts in every layer."""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, decoder_config, moe, window_everywhere
from wvindex.arch.fields import Fields


def _config(f: Fields) -> ModelConfig:
    routing = moe(f, "num_local_experts", width="intermediate_size")
    return decoder_config(f, "mixtral", layer_types=window_everywhere(f), moe=routing)


FAMILY = Family(
    name="mixtral",
    model_types=("mixtral",),
    config=_config,
    gguf_arch="llama",
    gguf_claims=lambda metadata: bool(metadata.get("expert_count")),
    renames=(
        (r"block_sparse_moe\.gate\.", "mlp.gate."),
        (r"block_sparse_moe\.experts\.(\d+)\.w1\.", r"mlp.experts.\1.gate_proj."),
        (r"block_sparse_moe\.experts\.(\d+)\.w2\.", r"mlp.experts.\1.down_proj."),
        (r"block_sparse_moe\.experts\.(\d+)\.w3\.", r"mlp.experts.\1.up_proj."),
        (r"block_sparse_moe\.experts\.", "mlp.experts."),
    ),
    hub_names=(
        (r"mlp\.gate\.", "block_sparse_moe.gate."),
        (r"mlp\.experts\.(\d+)\.gate_proj\.", r"block_sparse_moe.experts.\1.w1."),
        (r"mlp\.experts\.(\d+)\.down_proj\.", r"block_sparse_moe.experts.\1.w2."),
        (r"mlp\.experts\.(\d+)\.up_proj\.", r"block_sparse_moe.experts.\1.w3."),
    ),
    gguf_permuted=True,
)
