"""A checkpoint is taken for the family that it is of; what cannot be is refused by name."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, config_v5, names
from tests.support.configurations import GGUF_FAMILY_OF
from tests.support.memory_source import MemorySource
from tests.support.stores import Stores
from wvindex.arch.config import ModelConfig
from wvindex.arch.registry import FAMILIES, identify
from wvindex.errors import MetadataError, WvindexError
from wvindex.sources.detect import open_source

WRONG: tuple[Any, ...] = (
    *(None, "x", "", [], [0], {}, {"a": 1}, True, False),
    *(-1, 0, 1, 3, 2**47, 2**64 - 1, 1.5, -0.5, 1e308, 1e-308, float("nan"), float("inf")),
)

FAMILY_OF = {
    "llama": "llama",
    "llama-linear": "llama",
    "mistral": "llama",
    "mistral-window": "llama",
    "mixtral": "mixtral",
    "qwen2": "qwen2",
    "qwen2-window": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "qwen3_moe-dense": "qwen3_moe",
    "gemma2": "gemma2",
    "gemma2-scalar": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi3",
    "phi3-longrope": "phi3",
    "phi3-longrope-short": "phi3",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v2_lite": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v3-bias": "deepseek_v3",
    "deepseek_v3-halves": "deepseek_v3",
    "deepseek_v3-norope-scaling": "deepseek_v3",
    "deepseek_v3-fp8": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "glm4_moe_lite": "glm4_moe_lite",
    "mistral4": "mistral4",
    "youtu": "youtu",
    "minicpm3": "minicpm3",
    "longcat_flash": "longcat_flash",
    "deepseek_v32": "deepseek_v32",
    "glm_moe_dsa": "glm_moe_dsa",
    "gpt_oss": "gpt_oss",
}
NO_DEFAULTS = [name for name in FAMILY_OF if name not in {"gemma3", "longcat_flash"}]
"""Gemma 3's published checkpoints leave out what equals its configuration class's defaults; LongCat-Flash has
another name for its layers."""

MINICPM3: dict[str, Any] = {
    "model_type": "minicpm3",
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "vocab_size": 512,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.05, 1.1, 1.15],
        "long_factor": [1.0, 1.1, 1.2, 1.3],
        "original_max_position_embeddings": 2048,
    },
}


RESULT_OF = {"query_pre_attn_scalar": "attention_scale", "moe_topk": "num_experts_per_tok"}
"""Fields that are bounded by what is worked out from them."""


def refused(config: Mapping[str, Any]) -> MetadataError:
    with pytest.raises(MetadataError) as caught:
        identify(MemorySource({}, config))
    assert caught.value.file == "memory"
    return caught.value


def gguf_source(config: Mapping[str, Any], *tensors: str) -> MemorySource:
    return MemorySource({name: np.zeros((264, 8), np.float32) for name in tensors}, config, "gguf")


@pytest.mark.parametrize("name", names())
def test_a_hub_checkpoint_is_of_its_family(name: str) -> None:
    for config in (checkpoint(name).config, config_v5(name)):
        family, read = identify(MemorySource({}, config))
        assert family is not None
        assert (family.name, read.family) == (FAMILY_OF[name], FAMILY_OF[name])


@pytest.mark.parametrize("name", names(gguf=True))
def test_a_gguf_file_is_of_its_family(name: str, stores: Stores) -> None:
    with open_source(stores.gguf(name)) as source:
        family, _ = identify(source)
    assert family is not None
    assert family.name == GGUF_FAMILY_OF.get(name, FAMILY_OF[name])


def test_every_family_has_a_recipe_or_a_reference_model() -> None:
    assert {family.name for family in FAMILIES} == set(FAMILY_OF.values())


def test_no_two_families_claim_one_model() -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
    for metadata in ({}, {"expert_count": 8}, {"expert_gating_func": 1}, {"expert_gating_func": 2}):
        claims = [family.gguf_arch for family in FAMILIES if family.gguf_claims(metadata)]
        assert len(claims) == len(set(claims))


@pytest.mark.parametrize(
    ("metadata", "tensors", "family"),
    [
        ({"expert_gating_func": 2}, (), "deepseek_v3"),
        ({"expert_gating_func": 1}, ("blk.1.exp_probs_b.bias",), "deepseek_v2"),
        ({}, ("blk.1.exp_probs_b.bias",), "deepseek_v3"),
        ({}, (), "deepseek_v2"),
    ],
)
def test_deepseeks_generations_are_told_apart_by_how_they_route(
    metadata: dict[str, Any], tensors: tuple[str, ...], family: str, stores: Stores
) -> None:
    with open_source(stores.gguf("deepseek_v2")) as source:
        known = dict(source.config())
    del known["deepseek2.expert_gating_func"]
    config = known | {f"deepseek2.{key}": value for key, value in metadata.items()}
    found, _ = identify(gguf_source(config, "token_embd.weight", *tensors))
    assert found is not None
    assert found.name == family


def test_a_model_of_no_known_family_says_what_it_can() -> None:
    config = {"model_type": "novel", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": -5}
    family, read = identify(MemorySource({}, config))
    assert family is None
    assert (read.model_type, read.family) == ("novel", None)
    assert (read.hidden_size, read.num_hidden_layers, read.vocab_size) == (64, 2, None)


def test_a_checkpoint_without_configuration_is_of_no_family() -> None:
    assert identify(MemorySource({}))[0] is None


def test_a_gguf_file_that_is_no_model_is_of_no_family() -> None:
    config = {"general.architecture": "llama", "llama.block_count": 2}
    family, read = identify(gguf_source(config, "blk.0.attn_q.weight.lora_a"))
    assert family is None
    assert (read.model_type, read.num_hidden_layers) == ("llama", 2)


def test_a_multimodal_checkpoint_is_its_language_model() -> None:
    text = {k: v for k, v in checkpoint("gemma3").config.items() if not k.endswith("_token_id")}
    whole = {"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text, "vision_config": {}}
    _, read = identify(MemorySource({}, whole))
    _, alone = identify(MemorySource({}, checkpoint("gemma3").config))
    assert read.family == "gemma3"
    assert read.eos_token_ids == (1, 106)
    assert (read.rope, read.layer_types, read.head_dim) == (alone.rope, alone.layer_types, alone.head_dim)


def test_gemma3s_scaling_may_spell_its_type_the_old_way() -> None:
    config = checkpoint("gemma3").config
    old = config | {"rope_scaling": {"type": "linear", "factor": 8.0}}
    assert identify(MemorySource({}, old))[1] == identify(MemorySource({}, config))[1]


def test_an_unknown_scaling_reads_but_does_not_run() -> None:
    _, read = identify(MemorySource({}, checkpoint("llama").config | {"rope_scaling": {"type": "spiral"}}))
    assert read.refuses_to_run == ("rope_type 'spiral'",)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *((name, field) for name in NO_DEFAULTS for field in ("num_hidden_layers", "hidden_size")),
        *((name, "num_attention_heads") for name in NO_DEFAULTS),
        ("mixtral", "num_local_experts"),
        ("mixtral", "intermediate_size"),
        ("qwen3_moe", "num_experts"),
        ("qwen3_moe", "moe_intermediate_size"),
        ("deepseek_v3", "num_experts_per_tok"),
        ("deepseek_v3", "moe_intermediate_size"),
        *(("longcat_flash", f) for f in ("num_layers", "hidden_size", "routed_scaling_factor")),
        ("gpt_oss", "num_local_experts"),
        *(("deepseek_v2", f) for f in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")),
    ],
)
def test_a_missing_field_is_named(name: str, field: str) -> None:
    config = checkpoint(name).config
    del config[field]
    assert refused(config).field == field


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("llama", "num_hidden_layers", 0),
        ("llama", "num_hidden_layers", 1 << 20),
        ("llama", "hidden_size", 0),
        *(("llama", "vocab_size", wrong) for wrong in (-1, 0, 1 << 40, "many")),
        ("llama", "max_position_embeddings", -5),
        ("llama", "rms_norm_eps", -1e-6),
        ("mistral-window", "sliding_window", -1),
        ("gemma2", "query_pre_attn_scalar", 1e308),
        ("deepseek_v3", "num_nextn_predict_layers", 1 << 46),
        ("deepseek_v3", "n_group", 0),
        ("llama", "num_attention_heads", "4"),
        ("llama", "num_key_value_heads", 3),
        ("llama", "num_key_value_heads", 0),
        ("llama", "rms_norm_eps", "small"),
        ("llama", "rope_scaling", [1]),
        ("llama", "hidden_act", 5),
        ("llama", "tie_word_embeddings", "yes"),
        ("llama", "layer_types", ["full_attention"]),
        ("llama", "layer_types", ["full_attention", "other", "full_attention"]),
        ("qwen2", "use_sliding_window", 1),
        ("gemma2", "query_pre_attn_scalar", 0),
        ("gemma2", "query_pre_attn_scalar", -1),
        ("gemma2", "sliding_window", 0),
        ("gemma3", "rope_scaling", "linear"),
        ("mixtral", "num_experts_per_tok", 5),
        ("mixtral", "num_local_experts", 1 << 40),
        ("deepseek_v3", "n_routed_experts", 1 << 40),
        ("deepseek_v3", "n_group", 3),
        ("deepseek_v3", "topk_group", 5),
        ("deepseek_v3", "topk_group", 0),
        ("deepseek_v3", "scoring_func", "tanh"),
        ("deepseek_v3", "topk_method", "best"),
        ("deepseek_v3", "kv_lora_rank", 0),
        ("deepseek_v3", "qk_rope_head_dim", 15),
        ("deepseek_v3", "v_head_dim", None),
        ("deepseek_v3", "q_lora_rank", -3),
        ("glm4_moe_lite", "partial_rotary_factor", 0.5),
        ("longcat_flash", "num_layers", 1 << 20),
        ("longcat_flash", "moe_topk", 9),
        ("longcat_flash", "zero_expert_num", 1 << 40),
        ("longcat_flash", "zero_expert_type", "copy"),
        ("longcat_flash", "norm_topk_prob", True),
        ("deepseek_v32", "index_topk", 0),
        ("deepseek_v32", "layer_types", ["full_attention"] * 3),
        ("gpt_oss", "swiglu_limit", 0),
        ("gpt_oss", "swiglu_alpha", "1.7"),
    ],
)
def test_a_wrong_field_is_named(name: str, field: str, value: Any) -> None:
    error = refused(checkpoint(name).config | {field: value})
    assert error.field == RESULT_OF.get(field, field) or error.field == field
    assert error.expected is not None
    assert error.found is not None


def paths(config: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in config.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, name))


def changed(config: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(dict(config))
    inner = result
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return result


def require_read_or_refused(source: MemorySource, what: object) -> None:
    """Only two ends are allowed: an error that names a field, or a configuration that JSON can hold."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, config = identify(source)
            text = json.dumps(config.to_json(), allow_nan=False)
        assert ModelConfig.from_json(json.loads(text)) == config, what
    except WvindexError as error:
        assert error.field is not None, what
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error


ODD_FORMS = (
    "llama",
    "llama-linear",
    "mixtral",
    "qwen3_moe",
    "gemma2",
    "gemma3",
    "phi3-longrope",
    "deepseek_v2",
    "mistral4",
    "longcat_flash",
    "glm_moe_dsa",
    "gpt_oss",
)


@pytest.mark.parametrize("name", [*ODD_FORMS, "minicpm3"])
def test_no_value_of_any_field_makes_anything_but_an_error_of_ours(name: str) -> None:
    forms = [MINICPM3] if name == "minicpm3" else [checkpoint(name).config, config_v5(name)]
    for config in forms:
        for path in list(paths(config)):
            for value in (*WRONG, 10**400):
                require_read_or_refused(MemorySource({}, changed(config, path, value)), (path, value))


@pytest.mark.parametrize(
    "name",
    [
        *("llama-linear", "mixtral", "gemma2", "gemma3", "phi3-longrope", "deepseek_v2"),
        *("mistral4", "glm_moe_dsa", "gpt_oss"),
    ],
)
def test_no_value_of_any_gguf_key_makes_anything_but_an_error_of_ours(name: str, stores: Stores) -> None:
    with open_source(stores.gguf(name)) as source:
        config = dict(source.config())
    for key in config:
        for value in WRONG:
            found = gguf_source(config | {key: value}, "token_embd.weight")
            require_read_or_refused(found, (key, value))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"llama.block_count": None}, "block_count"),
        ({"llama.block_count": "many"}, "block_count"),
        ({"llama.nextn_predict_layers": 9}, "block_count"),
        ({"llama.attention.head_count": [4, 4, 2]}, "attention.head_count"),
        ({"llama.attention.head_count": []}, "attention.head_count"),
        ({"llama.embedding_length": None}, "hidden_size"),
        ({"llama.rope.dimension_count": 33}, "rope_scaling.partial_rotary_factor"),
    ],
)
def test_a_wrong_gguf_key_is_named(changes: dict[str, Any], field: str, stores: Stores) -> None:
    with open_source(stores.gguf("llama-linear")) as source:
        config = {key: value for key, value in (dict(source.config()) | changes).items() if value is not None}
    with pytest.raises(MetadataError) as caught:
        identify(gguf_source(config, "token_embd.weight"))
    assert caught.value.field == field


def test_a_key_with_one_value_a_layer_may_be_uniform(stores: Stores) -> None:
    with open_source(stores.gguf("llama-linear")) as source:
        config = dict(source.config())
    same = identify(gguf_source(config | {"llama.attention.head_count": [4, 4, 4]}, "token_embd.weight"))
    assert same == identify(gguf_source(config, "token_embd.weight"))


def test_rotary_factors_of_another_kind_are_refused(stores: Stores) -> None:
    with open_source(stores.gguf("llama")) as source:
        config = dict(source.config())
    for wrong in (np.ones(16, np.float16), np.ones((4, 4), np.float32), np.ones(1 << 17, np.float32)):
        with pytest.raises(MetadataError) as caught:
            identify(
                MemorySource(
                    {"token_embd.weight": np.zeros((4, 8), np.float32), "rope_freqs.weight": wrong},
                    config,
                    "gguf",
                )
            )
        assert caught.value.tensor == "rope_freqs.weight"


def test_double_precision_metadata_keeps_its_digits(stores: Stores) -> None:
    with open_source(stores.gguf("llama-linear")) as source:
        config = dict(source.config())
    config["llama.rope.freq_base"] = 10000.123456789
    _, read = identify(gguf_source(config, "token_embd.weight"))
    assert read.rope["full_attention"].rope_theta == 10000.123456789
