"""DeepSeek-V3.2: V3 whose queries attend to the keys that an indexer chooses.

The indexer is stored and not run: for as many tokens as it would choose, attention is V3's.
"""

from __future__ import annotations

from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.families.deepseek_v2 import deepseek_config
from wvindex.arch.families.deepseek_v3 import ROUTING
from wvindex.arch.family import Family, HubForm, RawMetadata, layer_count
from wvindex.arch.fields import Fields
from wvindex.arch.mla_geometry import mla_gguf_fields

_INDEXED: Final = "indexed_attention"


def sparse_config(f: Fields, family: str) -> ModelConfig:
    """Read DeepSeek-V3's configuration and how many keys the indexer leaves; every layer has the same."""
    top = f.integer("index_topk")
    if top == 0:
        raise f.error("index_topk", "a positive integer", top)
    kinds = f.raw.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list | tuple) or set(map(str, kinds)) != {_INDEXED}):
        raise f.error("layer_types", f"{_INDEXED} alone", kinds)
    everywhere = ["full_attention"] * layer_count(f)
    plain = Fields({**f.raw, "layer_types": everywhere}, f.file)
    return deepseek_config(plain, family, ROUTING, index_topk=top)


def sparse_gguf_fields(hub: HubForm, metadata: RawMetadata) -> None:
    """Complete the hub form of a GGUF file with an indexer."""
    mla_gguf_fields(hub, metadata)
    hub["index_topk"] = metadata.get("attention.indexer.top_k")
    hub["scoring_func"] = "softmax" if metadata.get("expert_gating_func") == 1 else "sigmoid"


FAMILY = Family(
    name="deepseek_v32",
    model_types=("deepseek_v32",),
    config=lambda f: sparse_config(f, "deepseek_v32"),
    gguf_arch="deepseek32",
    gguf_fields=sparse_gguf_fields,
)
