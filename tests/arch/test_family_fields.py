"""What a family's configuration leaves out, spells its own way, or has no key for in GGUF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from tests.support.stores import Stores
from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import identify
from wvindex.errors import MetadataError
from wvindex.sources.detect import open_source


def read(name: str, changes: dict[str, Any] | None = None, *, drop: tuple[str, ...] = ()) -> ModelConfig:
    config = {key: value for key, value in checkpoint(name).config.items() if key not in drop}
    return identify(MemorySource({}, config | (changes or {})))[1]


def read_gguf(path: Any, changes: dict[str, Any], *, drop: tuple[str, ...] = ()) -> ModelConfig:
    with open_source(path) as source:
        config = {key: value for key, value in source.config().items() if key not in drop}
        # of what only the tensors tell: an embedding, a head, a router's correction
        telling = ("token_embd.weight", "output.weight", ".exp_probs_b.bias")
        names = [info.name for info in source.tensors() if info.name.endswith(telling)]
        tensors = {name: np.zeros((264, 8), np.float32) for name in names}
    return identify(MemorySource(tensors, config | changes, "gguf"))[1]


class TestGptOss:
    def test_every_other_layer_slides_where_nothing_is_said(self) -> None:
        assert read("gpt_oss", drop=("layer_types",)) == read("gpt_oss")

    def test_bounds_of_yarn_are_not_rounded_in_gguf_either(self, stores: Stores) -> None:
        exact, rounded = (
            read("gpt_oss", {"rope_scaling": checkpoint("gpt_oss").config["rope_scaling"] | {"truncate": t}})
            for t in (False, True)
        )
        gguf = read_gguf(stores.gguf("gpt_oss"), {})
        assert exact.rope["full_attention"].inv_freq != rounded.rope["full_attention"].inv_freq
        assert gguf.rope["full_attention"].inv_freq == pytest.approx(
            exact.rope["full_attention"].inv_freq, rel=1e-6
        )

    def test_without_rotary_parameters_it_has_its_classs(self) -> None:
        rope = read("gpt_oss", drop=("rope_scaling",)).rope["full_attention"]
        assert rope.rope_type == "yarn"
        assert rope.attention_factor == pytest.approx(0.1 * math.log(32) + 1)

    def test_the_limit_and_the_slope_may_be_others(self) -> None:
        moe = read("gpt_oss", {"swiglu_limit": 5.5, "swiglu_alpha": 1.25}).moe
        assert moe is not None
        assert (moe.swiglu_limit, moe.swiglu_alpha) == (5.5, 1.25)


class TestMistral4:
    def test_a_gguf_file_without_keys_for_the_temperature_has_the_classs(self, stores: Stores) -> None:
        keys = tuple(f"mistral4.attention.temperature_{name}" for name in ("scale", "length"))
        config = read_gguf(stores.gguf("mistral4"), {}, drop=keys)
        assert (config.attn_temperature_scale, config.attn_temperature_length) == (0.1, 32)

    def test_a_gguf_file_may_have_a_length_of_its_own(self, stores: Stores) -> None:
        changes = {
            "mistral4.attention.temperature_scale": 0.25,
            "mistral4.attention.temperature_length": 4096,
        }
        config = read_gguf(stores.gguf("mistral4"), changes)
        assert (config.attn_temperature_scale, config.attn_temperature_length) == (0.25, 4096)

    def test_without_a_scale_queries_are_left_alone(self) -> None:
        rope = dict(checkpoint("mistral4").config["rope_parameters"])
        del rope["llama_4_scaling_beta"]
        config = read("mistral4", {"rope_parameters": rope})
        assert (config.attn_temperature_scale, config.attn_temperature_length) == (0.0, None)

    def test_without_rotary_parameters_it_has_its_classs(self) -> None:
        config = read("mistral4", drop=("rope_parameters",))
        assert (config.attn_temperature_scale, config.attn_temperature_length) == (0.1, 8192)
        assert config.rope["full_attention"].rotary_dim == 16

    def test_another_rotary_share_than_the_dimensions_say_is_refused(self) -> None:
        rope = checkpoint("mistral4").config["rope_parameters"] | {"partial_rotary_factor": 0.5}
        with pytest.raises(MetadataError) as caught:
            read("mistral4", {"rope_parameters": rope})
        assert caught.value.field == "rope_parameters.partial_rotary_factor"

    def test_its_language_model_may_stand_in_a_multimodal_checkpoint(self) -> None:
        text = checkpoint("mistral4").config
        config = identify(MemorySource({}, {"model_type": "mistral3", "text_config": text}))[1]
        assert config.family == "mistral4"
        assert config == read("mistral4")


def test_deepseeks_gguf_may_have_a_temperature_as_mistral_large_has(stores: Stores) -> None:
    changes = {
        "deepseek2.attention.temperature_scale": 0.1,
        "deepseek2.attention.temperature_length": 8192,
    }
    config = read_gguf(stores.gguf("deepseek_v3"), changes)
    assert (config.attn_temperature_scale, config.attn_temperature_length) == (0.1, 8192)
    del changes["deepseek2.attention.temperature_length"]
    with pytest.raises(MetadataError) as caught:
        read_gguf(stores.gguf("deepseek_v3"), changes)
    assert caught.value.field == "attn_temperature_length"


class TestMiniCpm3:
    def test_null_scales_nothing(self) -> None:
        config = read("minicpm3", {"scale_depth": None, "dim_model_base": None})
        assert math.isclose(config.residual_multiplier, 1.0)
        assert config.logits_multiplier == 1.0

    def test_what_is_absent_is_the_familys(self) -> None:
        assert read("minicpm3", drop=("scale_depth", "scale_emb", "dim_model_base")) == read("minicpm3")


class TestLongcatFlash:
    def test_layers_may_be_counted_as_transformers_counts_them(self) -> None:
        assert read("longcat_flash", {"num_hidden_layers": 4}, drop=("num_layers",)) == read("longcat_flash")

    def test_the_latent_vectors_are_scaled_by_their_ranks(self) -> None:
        mla = read("longcat_flash").mla
        assert mla is not None
        assert (mla.q_lora_scale, mla.kv_lora_scale) == ((128 / 96) ** 0.5, 2**0.5)

    def test_or_are_not(self) -> None:
        mla = read("longcat_flash", {"mla_scale_q_lora": False, "mla_scale_kv_lora": False}).mla
        assert mla is not None
        assert (mla.q_lora_scale, mla.kv_lora_scale) == (1.0, 1.0)

    def test_more_may_be_chosen_than_have_weights(self) -> None:
        moe = read("longcat_flash", {"moe_topk": 8}).moe
        assert moe is not None
        assert (moe.n_routed_experts, moe.n_zero_experts, moe.num_experts_per_tok) == (5, 3, 8)


def test_youtu_goes_by_two_names() -> None:
    first, second = read("youtu"), read("youtu", {"model_type": "youtu_llm"})
    assert (second.family, second.rope, second.mla) == (first.family, first.rope, first.mla)


def test_fields_that_say_nothing_are_left_out_of_a_catalog() -> None:
    written = {**read("llama").to_json(), **(read("mixtral").to_json()["moe"] or {})}
    young = {"attn_temperature_scale", "attn_temperature_length", "index_topk", "n_zero_experts", "shortcut"}
    assert young.isdisjoint(written)
    assert read("deepseek_v32").to_json()["index_topk"] == 80
    assert read("longcat_flash").to_json()["moe"]["n_zero_experts"] == 3
