"""What config.json leaves out is what Hugging Face's own class would have filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from wvindex.arch.config import ModelConfig
from wvindex.arch.hub_defaults import MODEL, SHAPE
from wvindex.arch.registry import identify

CLASSES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "hub_defaults.json").read_text()
)


def read(config: dict[str, Any]) -> ModelConfig:
    return identify(MemorySource({}, config))[1]


@pytest.mark.parametrize("table", [MODEL, SHAPE], ids=["model", "shape"])
def test_every_default_is_transformers_own(table: dict[str, dict[str, Any]]) -> None:
    for model_type, fields in table.items():
        assert fields == {name: CLASSES[model_type][name] for name in fields}, model_type


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("mixtral", "rms_norm_eps", 1e-5),
        ("phi3", "rms_norm_eps", 1e-5),
        ("gemma2", "attn_logit_softcapping", 50.0),
        ("gemma2", "final_logit_softcapping", 30.0),
        ("gemma3", "head_dim", 256),
    ],
)
def test_a_missing_field_is_the_classs(name: str, field: str, value: float) -> None:
    config = {key: kept for key, kept in checkpoint(name).config.items() if key != field}
    assert getattr(read(config), field) == value


def test_null_is_not_missing() -> None:
    config = checkpoint("gemma2").config | {"attn_logit_softcapping": None}
    assert read(config).attn_logit_softcapping is None


def test_a_nested_language_model_may_leave_out_its_shape() -> None:
    nested = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 50}
    found = read({"model_type": "llava", "text_config": nested})
    expected = CLASSES["llama"]
    assert (found.family, found.vocab_size) == ("llama", 50)
    assert found.num_hidden_layers == expected["num_hidden_layers"]
    assert found.hidden_size == expected["hidden_size"]
    assert found.head_dim == expected["head_dim"]
