"""Rotary frequencies are transformers' own, for every kind of scaling and in both forms of config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wvindex.arch.config import Rope
from wvindex.arch.fields import Fields
from wvindex.arch.rope import KNOWN_TYPES, rope, rope_fields
from wvindex.errors import MetadataError

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "rope.json").read_text())
CASES: dict[str, Any] = GOLDEN["cases"]
ROPE_FIELDS = ("rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings")

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}


def worked_out(config: dict[str, Any]) -> Rope:
    head_dim = (
        config.get("qk_rope_head_dim")
        or config.get("head_dim")
        or config["hidden_size"] // config["num_attention_heads"]
    )
    fields = rope_fields(Fields(config, Path("config.json")), "full_attention")
    return rope(fields, head_dim=head_dim, max_positions=config["max_position_embeddings"])


def small(parameters: dict[str, Any], **fields: Any) -> Rope:
    """Work out a head of 8 dimensions from transformers 5's form."""
    config = {"rope_parameters": {"rope_theta": 10000.0} | parameters} | fields
    return rope(rope_fields(Fields(config, Path("config.json"))), head_dim=8, max_positions=256)


def require_equal(found: Rope, expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(found.inv_freq, expected["inv_freq"], rtol=1e-6, atol=0)
    assert found.attention_factor == pytest.approx(expected["attention_factor"], rel=1e-12)
    assert found.rotary_dim == 2 * len(expected["inv_freq"])
    assert (found.long_inv_freq is None) == ("long_inv_freq" not in expected)
    if found.long_inv_freq is not None:
        np.testing.assert_allclose(found.long_inv_freq, expected["long_inv_freq"], rtol=1e-6, atol=0)
        assert (
            found.original_max_position_embeddings == expected["config"]["original_max_position_embeddings"]
        )


@pytest.mark.parametrize("name", CASES)
def test_the_hubs_form_gives_transformers_numbers(name: str) -> None:
    require_equal(worked_out(CASES[name]["config"]), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_transformers_5s_form_gives_transformers_numbers(name: str) -> None:
    config = {field: value for field, value in CASES[name]["config"].items() if field not in ROPE_FIELDS}
    require_equal(worked_out(config | {"rope_parameters": CASES[name]["rope_parameters"]}), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_float32s(name: str) -> None:
    for value in worked_out(CASES[name]["config"]).inv_freq:
        assert float(np.float32(value)) == value


def test_the_golden_cases_cover_every_scaling() -> None:
    covered = {case["rope_parameters"]["rope_type"] for case in CASES.values()}
    only_ours = {"su", "frequency_factors"}  # an old name of LongRoPE, and what GGUF stores as a tensor
    assert covered == KNOWN_TYPES - only_ours


def test_su_is_longrope() -> None:
    assert small(LONGROPE | {"rope_type": "su"}).long_inv_freq == small(LONGROPE).long_inv_freq


def test_the_older_spelling_of_the_type_counts_where_the_newer_is_null() -> None:
    config = {"rope_scaling": {"type": "linear", "rope_type": None, "factor": 2.0}}
    fields = rope_fields(Fields(config, Path("config.json")))
    assert fields.text("rope_type") == "linear"


def test_parameters_nested_by_layer_type_are_told_apart() -> None:
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    fields = Fields({"rope_parameters": nested}, Path("config.json"))
    full = rope(rope_fields(fields, "full_attention"), head_dim=8, max_positions=64)
    sliding = rope(rope_fields(fields, "sliding_attention"), head_dim=8, max_positions=64)
    assert (full.rope_type, full.rope_theta) == ("linear", 1e6)
    assert (sliding.rope_type, sliding.rope_theta) == ("default", 1e4)
    np.testing.assert_allclose(sliding.inv_freq, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)


def test_frequency_factors_divide() -> None:
    found = small({"rope_type": "frequency_factors", "frequency_factors": [1.0, 2.0, 4.0, 8.0]})
    np.testing.assert_allclose(found.inv_freq, [1.0, 0.05, 0.0025, 0.000125], rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"rope_type": "spiral"}, "rope_type"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_theta": "large"}, "rope_theta"),
        ({"rope_theta": 1e-308}, "rope_type"),
        ({"partial_rotary_factor": 0.0}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.4}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 1e308}, "partial_rotary_factor"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({"rope_type": "linear", "factor": 1e-308}, "rope_type"),
        *(({k: v for k, v in LLAMA3.items() if k != gone}, gone) for gone in LLAMA3 if gone != "rope_type"),
        (LLAMA3 | {"low_freq_factor": -1.0}, "low_freq_factor"),
        ({k: v for k, v in YARN.items() if k[0] == "r"}, "original_max_position_embeddings"),
        (YARN | {"factor": -4.0}, "factor"),
        (YARN | {"rope_theta": 1.0}, "rope_theta"),
        (YARN | {"beta_fast": 0}, "beta_fast"),
        (YARN | {"beta_fast": 1e308}, "beta_fast"),
        (YARN | {"beta_slow": 1e-308}, "beta_slow"),
        (YARN | {"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        (YARN | {"attention_factor": 0}, "attention_factor"),
        (YARN | {"mscale": -1.0, "mscale_all_dim": 1.0}, "mscale"),
        (YARN | {"mscale": 1.0, "mscale_all_dim": -1.0}, "mscale_all_dim"),
        (YARN | {"truncate": "no"}, "truncate"),
        (LONGROPE | {"short_factor": [1.0] * 3}, "short_factor"),
        (LONGROPE | {"long_factor": [1.0, 1.0, 1.0, 0.0]}, "long_factor"),
        (LONGROPE | {"long_factor": [1.0, 1.0, 1.0, "x"]}, "long_factor"),
        (LONGROPE | {"long_factor": [1.0, 1.0, 1.0, True]}, "long_factor"),
        (LONGROPE | {"original_max_position_embeddings": 1}, "original_max_position_embeddings"),
        (LONGROPE | {"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ],
)
def test_what_cannot_be_is_refused_by_name(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(MetadataError) as caught:
        small(parameters)
    assert caught.value.field == f"rope_parameters.{field}"


def test_a_head_that_is_wider_than_any_is_refused_before_a_table_is_made() -> None:
    with pytest.raises(MetadataError) as caught:
        rope(Fields({}, Path("config.json")), head_dim=1 << 40, max_positions=None)
    assert caught.value.field == "partial_rotary_factor"
