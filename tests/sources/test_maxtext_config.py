"""MaxText's settings and Hugging Face's configuration, of one model, give one ModelConfig."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import configs
from tests.support.checkpoints import checkpoint
from wvindex.arch.fields import Fields
from wvindex.arch.registry import FAMILIES
from wvindex.errors import MalformedHeader, MetadataError, UnreadableSource, UnsupportedModel, WvindexError
from wvindex.sources.maxtext_config import read_config

DEEPSEEK: dict[str, Any] = {
    "decoder_block": "deepseek",
    "attention_type": "mla",
    "mlp_activations": ["silu", "linear"],
    "rope_type": "yarn",
}


def settings(name: str) -> dict[str, Any]:
    """Write a recipe's configuration as MaxText's settings, name by name."""
    c = checkpoint(name).config
    common = {
        "base_emb_dim": c["hidden_size"],
        "base_mlp_dim": c["intermediate_size"],
        "base_num_decoder_layers": c["num_hidden_layers"],
        "base_num_query_heads": c["num_attention_heads"],
        "base_num_kv_heads": c["num_key_value_heads"],
        "vocab_size": c["vocab_size"],
        "normalization_layer_epsilon": c["rms_norm_eps"],
        "rope_max_timescale": c["rope_theta"],
        "logits_via_embedding": c["tie_word_embeddings"],
        "normalize_embedding_logits": False,
    }
    if "kv_lora_rank" not in c:
        return common
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "routed_scaling_factor")
    yarn = c["rope_scaling"]
    groups = c["topk_method"] != "greedy"
    return (
        common
        | DEEPSEEK
        | {name: c[name] for name in names}
        | {
            "q_lora_rank": c["q_lora_rank"] or 0,
            "first_num_dense_layers": c["first_k_dense_replace"],
            "num_experts": c["n_routed_experts"],
            "num_experts_per_tok": c["num_experts_per_tok"],
            "shared_experts": c["n_shared_experts"],
            "base_moe_mlp_dim": c["moe_intermediate_size"],
            "routed_score_func": c["scoring_func"],
            "routed_bias": c["scoring_func"] == "sigmoid",
            "n_routing_groups": c["n_group"] if groups else -1,
            "topk_routing_group": c["topk_group"] if groups else -1,
            "max_position_embeddings": c["max_position_embeddings"],
            "original_max_position_embeddings": yarn["original_max_position_embeddings"],
            "rope_factor": yarn["factor"],
            "beta_fast": yarn["beta_fast"],
            "beta_slow": yarn["beta_slow"],
            "mscale": yarn["mscale"],
        }
    )


def read(tmp_path: Path, document: dict[str, Any]) -> dict[str, Any]:
    file = tmp_path / "model.yml"
    file.write_text(yaml.safe_dump(document))
    return dict(read_config(file).hub)


def model_config(hub: dict[str, Any]) -> object:
    family = next(one for one in FAMILIES if hub["model_type"] in one.model_types)
    return family.config(Fields(hub, Path("config.json")))


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v2", "deepseek_v2_lite"])
def test_deepseeks_settings_mean_the_hubs_configuration(tmp_path: Path, name: str) -> None:
    document = settings(name)
    document["mtp_num_layers"] = checkpoint(name).config.get("num_nextn_predict_layers", 0)
    stated = checkpoint(name).config
    ours, theirs = model_config(read(tmp_path, document)), model_config(stated)
    for field in (
        "attention_scale",
        "rope",
        "moe",
        "mla",
        "layer_types",
        "head_dim",
        "v_head_dim",
        "rms_norm_eps",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    for field in ("family", "model_type", "hidden_size", "num_nextn_predict_layers", "tie_word_embeddings"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize(
    ("name", "model_name", "noted"),
    [
        ("deepseek_v3", "kimi-k2-1t", "routed_bias and n_routing_groups"),
        ("deepseek_v2", "deepseek2-236b", "by the model_name deepseek2-236b: n_routing_groups as"),
        ("deepseek_v3", "deepseek3-671b", None),
        ("deepseek_v3", None, None),  # a file of configs/models, whose name is the model's
        ("deepseek_v2_lite", "deepseek2-16b", None),
    ],
)
def test_a_name_by_which_maxtext_routes_otherwise_is_noted(
    tmp_path: Path, name: str, model_name: str | None, noted: str | None
) -> None:
    file = tmp_path / "model.yml"
    file.write_text(yaml.safe_dump(settings(name) | {"model_name": model_name}))
    notes = read_config(file).notes
    assert len(notes) == (noted is not None)
    assert noted is None or noted in notes[0]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mistral", {"decoder_block": "mistral", "head_dim": 32}),
        ("qwen3", {"decoder_block": "qwen3", "head_dim": 32, "use_qk_norm": True}),
        ("mixtral", {"decoder_block": "mixtral", "num_experts": 4, "num_experts_per_tok": 2}),
    ],
)
def test_plain_decoders_settings_mean_the_hubs_configuration(
    tmp_path: Path, name: str, own: dict[str, Any]
) -> None:
    stated = dict(checkpoint(name).config)
    head_dim = stated.get("head_dim") or stated["hidden_size"] // stated["num_attention_heads"]
    document = settings(name) | own | {"head_dim": head_dim, "base_moe_mlp_dim": stated["intermediate_size"]}
    ours, theirs = model_config(read(tmp_path, document)), model_config(stated)
    assert read(tmp_path, document).get("sliding_window", "absent") is None  # absent, Mistral has a window
    for field in ("family", "attention_scale", "rope", "moe", "layer_types", "head_dim", "rms_norm_eps"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize("said", [{"model_name": "llama3.1-8b"}, {"rope_type": "llama3.1"}])
def test_llama31_has_its_scaling_built_in(tmp_path: Path, said: dict[str, Any]) -> None:
    hub = read(tmp_path, settings("mistral") | {"decoder_block": "llama2"} | said)
    assert hub["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_whether_a_llamas_heads_are_interleaved_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="model_name"):
        read(tmp_path, settings("mistral") | {"decoder_block": "llama2"})
    hub = read(tmp_path, settings("mistral") | {"decoder_block": "llama2", "model_name": "llama2-7b"})
    assert (hub["model_type"], hub["rope_scaling"]) == ("llama", None)


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "model.yml"
    text = yaml.safe_dump(settings("mistral") | {"decoder_block": "mistral"})
    file.write_text(text.replace("normalization_layer_epsilon: 1.0e-05", "normalization_layer_epsilon: 1e-5"))
    assert "1e-5" in file.read_text()
    assert read_config(file).hub["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"global_parameter_scale": 2}, "global_parameter_scale"),
        ({"base_emb_dim": None}, "base_emb_dim"),
        ({"base_emb_dim": "wide"}, "base_emb_dim"),
        ({"base_emb_dim": 1.5}, "base_emb_dim"),
        ({"base_emb_dim": "96"}, "base_emb_dim"),  # in quotes
        ({"base_emb_dim": -96}, "base_emb_dim"),
        (DEEPSEEK | {"q_lora_rank": -96}, "q_lora_rank"),
        (DEEPSEEK | {"q_lora_rank": "96"}, "q_lora_rank"),
        ({"mlp_activations": ["relu"]}, "mlp_activations"),
        ({"logits_via_embedding": True, "normalize_embedding_logits": True}, "normalize_embedding_logits"),
        ({"rope_type": "yarn"}, "rope_type"),
        ({"rope_min_timescale": 2}, "rope_min_timescale"),
    ],
)
def test_what_hugging_face_cannot_say_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(MetadataError) as error:
        read(tmp_path, settings("mistral") | {"decoder_block": "mistral"} | changes)
    assert error.value.field == field


UNSAID: dict[str, dict[str, Any]] = {
    "mistral": {
        "final_logits_soft_cap": 5.0,
        "attn_logits_soft_cap": 2.0,
        "use_qk_norm": True,
        "mlp_activations_limit": 1.0,
        "sliding_window_size": 16,
        "attention_type": "local_sliding",
        "attention_sink": True,
        "mlp_bias": True,
        "partial_rotary_factor": "5e-1",
    },
    "deepseek": {
        "final_logits_soft_cap": 5.0,
        "attn_logits_soft_cap": 30.0,
        "sliding_window_size": 16,
        "attention_type": "local_sliding",
        "rope_min_timescale": 5,
        "rope_type": "default",
        "use_post_attn_norm": True,
        "interleave_moe_layer_step": 2,
        "attention_bias": True,
        "mhc_expansion_rate": 4,
        "routed_score_func": "",
        "mlp_activations_limit": 7.0,
    },
    "qwen3": {"use_qk_norm": False, "qk_norm_with_scale": False, "num_experts": 4},
    "gemma2": {"sliding_window_size": 0, "use_post_ffw_norm": False, "normalize_embedding_logits": False},
}
OF_BLOCKS: dict[str, dict[str, Any]] = {
    "mistral": {},
    "deepseek": {},
    "qwen3": {"use_qk_norm": True},
    "gemma2": {
        "sliding_window_size": 16,
        "attn_logits_soft_cap": 50.0,
        "use_post_attn_norm": True,
        "use_post_ffw_norm": True,
        "logits_via_embedding": True,
        "normalize_embedding_logits": True,
        "normalization_layer_epsilon": 1e-6,
        "mlp_activations": ["gelu", "linear"],
    },
}


@pytest.mark.parametrize("block", UNSAID)
def test_a_setting_that_changes_the_numbers_is_mapped_or_refused(tmp_path: Path, block: str) -> None:
    document = settings("deepseek_v3" if block == "deepseek" else "mistral") | {"decoder_block": block}
    document |= OF_BLOCKS[block]
    read(tmp_path, document | {"final_logits_soft_cap": None, "dropout_rate": 0.1, "capacity_factor": -1.0})
    for field, value in UNSAID[block].items():
        with pytest.raises(MetadataError) as error:
            read(tmp_path, document | {field: value})
        assert error.value.field == field


@pytest.mark.parametrize("block", ["gpt_oss", "llama4", "default"])
def test_a_model_that_is_not_mapped_is_refused_by_name(tmp_path: Path, block: str) -> None:
    with pytest.raises(UnsupportedModel, match=block):
        read(tmp_path, settings("mistral") | {"decoder_block": block})


@pytest.mark.parametrize(
    "text",
    [
        "- a list\n",
        "a: [1, 2\n",
        "a: 1\na: 2\nbase_emb_dim: 4\n",
        "base_emb_dim: &x 3\nbase_mlp_dim: *x\n",
        "a: " + "[" * 100 + "]" * 100,
        "base_emb_dim: !!python/object/apply:os.system [true]\n",
        "base_emb_dim: \x00\n",
        "something: else\n",
        "base_emb_dim: 2020-13-45\n",
        "",
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "model.yml"
    file.write_text(text)
    with pytest.raises(WvindexError) as error:
        read_config(file)
    assert error.value.exit_code == 3


def test_a_huggingface_configuration_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(configs.llama()))
    assert read_config(file).hub == configs.llama()
    file.write_text("{")
    with pytest.raises(MalformedHeader):
        read_config(file)
    with pytest.raises(UnreadableSource):
        read_config(tmp_path / "none.yml")
