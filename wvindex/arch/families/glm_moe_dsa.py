"""GLM-5: DeepSeek-V3.2 with GLM's sizes; some layers take the keys that an earlier layer's indexer chose."""

from __future__ import annotations

from wvindex.arch.families.deepseek_v32 import sparse_config, sparse_gguf_fields
from wvindex.arch.family import Family

FAMILY = Family(
    name="glm_moe_dsa",
    model_types=("glm_moe_dsa",),
    config=lambda f: sparse_config(f, "glm_moe_dsa"),
    gguf_arch="glm-dsa",
    gguf_fields=sparse_gguf_fields,
)
