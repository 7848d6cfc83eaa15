"""Configurations of checkpoints on disk, and what must be equal in them whatever the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import identify
from wvindex.sources.detect import open_source

GGUF_FAMILY_OF: Final = {"glm4_moe_lite": "deepseek_v3", "youtu": "deepseek_v2"}
"""Families whose GGUF files say that they are DeepSeek's, and compute the same."""


def of_file(path: Path) -> ModelConfig:
    with open_source(path) as source:
        return identify(source)[1]


def require_same_model(gguf: ModelConfig, hub: ModelConfig) -> None:
    """Compare all that GGUF can say: not the exact model_type, nor the prediction layers that llama.cpp
    drops, nor how a scaling was spelled. Factors of rotary frequencies are float32 there.
    """
    assert gguf.family == GGUF_FAMILY_OF.get(hub.family or "", hub.family)
    silent: dict[str, Any] = {"family": "", "model_type": "", "num_nextn_predict_layers": 0, "rope": {}}
    assert replace(gguf, **silent) == replace(hub, **silent)
    assert gguf.rope.keys() == hub.rope.keys()
    for kind, expected in hub.rope.items():
        found = gguf.rope[kind]
        assert (found.rope_theta, found.rotary_dim) == (expected.rope_theta, expected.rotary_dim)
        assert found.original_max_position_embeddings == expected.original_max_position_embeddings
        assert found.attention_factor == pytest.approx(expected.attention_factor, rel=1e-6)
        assert found.inv_freq == pytest.approx(expected.inv_freq, rel=1e-6, abs=0)
        assert (found.long_inv_freq is None) == (expected.long_inv_freq is None)
        assert (found.long_inv_freq or ()) == pytest.approx(expected.long_inv_freq or (), rel=1e-6, abs=0)
