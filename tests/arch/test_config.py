"""One ModelConfig, whatever the checkpoint's form: hub, transformers 5, GGUF."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint, config_v5, golden, names
from tests.support.configurations import of_file, require_same_model
from tests.support.gguf_metadata import MLAForm
from tests.support.memory_source import MemorySource
from tests.support.stores import Stores
from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import identify

MLA_FORMS: tuple[MLAForm, ...] = ("split", "kv_b")


def of_hub(config: dict[str, Any]) -> ModelConfig:
    return identify(MemorySource({}, config))[1]


@pytest.mark.parametrize("name", names())
def test_transformers_5s_form_is_the_hubs(name: str) -> None:
    hub = of_hub(checkpoint(name).config)
    v5 = of_hub(config_v5(name))
    if name == "kimi_k2":  # transformers knows it as DeepSeek-V3
        v5 = replace(v5, model_type="kimi_k2")
    assert v5 == hub


@pytest.mark.parametrize("name", names(gguf=True))
def test_gguf_says_what_the_hub_says(name: str, stores: Stores) -> None:
    hub = of_hub(checkpoint(name).config)
    require_same_model(of_file(stores.gguf(name)), hub)


@pytest.mark.parametrize(
    "name", [name for name in names(gguf=True) if "kv_lora_rank" in checkpoint(name).config]
)
def test_both_gguf_forms_of_latent_attention_are_one(name: str, stores: Stores) -> None:
    split, joined = (of_file(stores.gguf(name, form)) for form in MLA_FORMS)
    assert split == joined


@pytest.mark.parametrize("name", names())
def test_json_round_trip(name: str) -> None:
    config = of_hub(checkpoint(name).config)
    text = json.dumps(config.to_json(), allow_nan=False)
    assert ModelConfig.from_json(json.loads(text)) == config


@pytest.mark.parametrize("name", names())
def test_a_config_is_whole(name: str) -> None:
    config = of_hub(checkpoint(name).config)
    _, logits = golden(name)
    assert config.vocab_size == logits.shape[1]
    assert config.num_hidden_layers == len(config.layer_types)
    assert set(config.rope) == set(config.layer_types)
    assert config.eos_token_ids == (1,)
    assert config.bos_token_id == 0
    assert config.refuses_to_run == ()
    assert (config.mla is not None) == (config.attention_form == "factored")
