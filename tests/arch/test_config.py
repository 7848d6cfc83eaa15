"""One ModelConfig, whatever the checkpoint's form: hub, transformers 5, GGUF."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint, config_v5, golden, names
from tests.support.gguf_metadata import MLAForm
from tests.support.golden import GOLDEN
from tests.support.memory_source import MemorySource
from tests.support.stores import Stores
from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import identify
from wvindex.sources.detect import open_source

MLA_FORMS: tuple[MLAForm, ...] = ("split", "kv_b")


def of_hub(config: dict[str, Any]) -> ModelConfig:
    return identify(MemorySource({}, config))[1]


def of_file(path: Path) -> ModelConfig:
    with open_source(path) as source:
        return identify(source)[1]


def require_same_model(gguf: ModelConfig, hub: ModelConfig) -> None:
    """Compare all that GGUF can say: not the exact model_type, nor the prediction layers that llama.cpp
    drops, nor how a scaling was spelled. Factors of rotary frequencies are float32 there.
    """
    silent: dict[str, Any] = {"model_type": "", "num_nextn_predict_layers": 0, "rope": {}}
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


@pytest.mark.parametrize(
    "family", sorted(path.parent.parent.name for path in GOLDEN.glob("families/*/hf/config.json"))
)
@pytest.mark.parametrize("kind", ["BF16", "Q4_K_M"])
def test_llama_cpps_conversion_says_what_the_hub_says(family: str, kind: str) -> None:
    directory = GOLDEN / "families" / family
    hub, gguf = of_file(directory / "hf"), of_file(directory / f"{family}-{kind}.gguf")
    require_same_model(gguf, hub)
