"""GLM-4-MoE-Lite (GLM-4.7-Flash): DeepSeek-V3 with GLM's sizes, and no groups of experts.

Its GGUF files say that they are DeepSeek's architecture, and are read as DeepSeek-V3's: nothing that is
computed differs.
"""

from __future__ import annotations

from wvindex.arch.config import ModelConfig
from wvindex.arch.families.deepseek_v2 import deepseek_config
from wvindex.arch.families.deepseek_v3 import ROUTING
from wvindex.arch.family import Family
from wvindex.arch.fields import Fields


def _config(f: Fields) -> ModelConfig:
    return deepseek_config(f, "glm4_moe_lite", ROUTING)


FAMILY = Family(
    name="glm4_moe_lite",
    model_types=("glm4_moe_lite",),
    config=_config,
    gguf_arch="deepseek2",
    gguf_claims=lambda metadata: False,
)
