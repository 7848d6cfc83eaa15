"""MiniCPM3: latent attention with half-split rotary rows, and scaled embeddings, residuals and logits."""

from __future__ import annotations

from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, decoder_config, layer_count
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import mla, mla_gguf_fields, mla_overrides

# GGUF has no keys for these: they are the family's constants.
DEFAULTS: Final = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 256}


def _config(f: Fields) -> ModelConfig:
    f = f.where_absent(DEFAULTS)
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    # null, unlike a field that is absent, means that nothing is scaled
    unscaled = {"scale_depth": layer_count(f) ** 0.5, "dim_model_base": hidden}
    f = f.with_defaults(unscaled | {"v_head_dim": hidden // max(heads, 1)})
    return decoder_config(
        f,
        "minicpm3",
        embedding_multiplier=f.number("scale_emb"),
        residual_multiplier=f.number("scale_depth") / layer_count(f) ** 0.5,
        logits_multiplier=f.number("dim_model_base") / max(hidden, 1),
        **mla_overrides(f, mla(f, interleaved_rope=False)),
    )


FAMILY = Family(
    name="minicpm3",
    model_types=("minicpm3",),
    config=_config,
    gguf_arch="minicpm3",
    gguf_fields=mla_gguf_fields,
)
