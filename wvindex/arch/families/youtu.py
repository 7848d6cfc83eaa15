"""Youtu-LLM: DeepSeek-V3's latent attention in a dense model.

Its GGUF files say that they are DeepSeek's architecture, and are read as DeepSeek-V2's without experts.
"""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.family import Family, decoder_config
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import mla, mla_overrides


def _config(f: Fields) -> ModelConfig:
    geometry = mla(f, interleaved_rope=f.flag("rope_interleave", True))
    return decoder_config(f, "youtu", **mla_overrides(f, geometry))


FAMILY = Family(
    name="youtu",
    model_types=("youtu", "youtu_llm"),
    config=_config,
    gguf_arch="deepseek2",
    gguf_claims=lambda metadata: False,
)
