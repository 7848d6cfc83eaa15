"""Quantizers' lists of modules mean the same modules after a conversion, however they are spelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wvindex.converting.modules import ModuleNames
from wvindex.converting.pairs import Attention
from wvindex.converting.plan import Direction
from wvindex.errors import UnsupportedError

L = [f"model.layers.{n}.self_attn" for n in range(2)]
Q, KV, F = "q_a_proj", "kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"
FIRST, ALL = [f"{L[0]}.{KV}", f"{L[0]}.{Q}"], [f"{layer}.{half}" for layer in L for half in (Q, KV)]


def rewritten(value: Any, direction: Direction = "fuse") -> Any:
    found = [Attention(parent=layer, query={}, below={}, fused={}, fused_name=f"{layer}.{F}") for layer in L]
    return ModuleNames(found, direction, Path("config.json")).rewritten(value, "quantization_config")


@pytest.mark.parametrize(
    ("apart", "fused"),
    [
        # names, in order and out of it
        (["lm_head", *FIRST], ["lm_head", f"{L[0]}.{F}"]),
        (sorted(ALL), [f"{layer}.{F}" for layer in L]),
        # ends of names, and segments
        ([Q, KV, "lm_head"], [F, "lm_head"]),
        ([f"self_attn.{Q}", f"self_attn.{KV}"], [f"self_attn.{F}"]),
        # what means both and the fused one alike stays
        ([L[0], "lm_head"], [L[0], "lm_head"]),
        (["re:.*self_attn.*"], ["re:.*self_attn.*"]),
        (["model.layers.0*"], ["model.layers.0*"]),
        (["Linear"], ["Linear"]),
        (["re:.*mlp.gate$", "lm_head"], ["re:.*mlp.gate$", "lm_head"]),
        # a pattern that means both halves, and not the fused one
        ([r"re:.*\.q_a_proj$", r"re:.*\.kv_a_proj_with_mqa$"], None),
        ([r".*\.q_a_proj$", r".*\.kv_a_proj_with_mqa$"], None),
        ([".*q_a_proj$", ".*kv_a_proj_with_mqa$"], [".*q_a_proj$", ".*kv_a_proj_with_mqa$"]),
        (["^model.*[.](q_a_proj|kv_a_proj_with_mqa)$"], None),
        ([f"model.layers.*.{Q}", f"model.layers.*.{KV}*"], None),
    ],
    ids=str,
)
def test_lists(apart: list[str], fused: list[str] | None) -> None:
    expected = fused if fused is not None else [*apart, *(f"{layer}.{F}" for layer in L)]
    assert rewritten(apart) == expected
    assert sorted(rewritten(rewritten(apart), "unfuse")) == sorted(apart)


def test_a_sorted_list_stays_sorted() -> None:
    names = sorted([*ALL, f"{L[0]}.o_proj", f"{L[0]}.kv_b_proj", "lm_head"])
    assert rewritten(names) == sorted(rewritten(names))
    assert rewritten(rewritten(names), "unfuse") == names


def test_lists_are_found_wherever_they_are() -> None:
    before = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": FIRST, "weights": {"num_bits": 8, "block_structure": None}}},
        "ignore": ["lm_head"],
        "nested": [[*FIRST], 3, {"exclude_modules": FIRST}],
    }
    name = f"{L[0]}.{F}"
    after = {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "group_0": {"targets": [name], "weights": {"num_bits": 8, "block_structure": None}}
        },
        "ignore": ["lm_head"],
        "nested": [[name], 3, {"exclude_modules": [name]}],
    }
    assert rewritten(before) == after
    assert rewritten(after, "unfuse") == before


def test_objects_by_module() -> None:
    before = {
        "quantized_layers": {FIRST[0]: {"quant_algo": "FP8"}, FIRST[1]: {"quant_algo": "FP8"}, "lm_head": {}}
    }
    after = {"quantized_layers": {f"{L[0]}.{F}": {"quant_algo": "FP8"}, "lm_head": {}}}
    assert rewritten(before) == after
    assert rewritten(after, "unfuse") == before


@pytest.mark.parametrize(
    "value",
    [
        [FIRST[0], "lm_head"],
        ["re:.*kv_a_proj_with_mqa$"],
        [f"model.layers.*.{Q}"],
        {"layers": {FIRST[0]: 4, FIRST[1]: 8}},
        {"layers": {"re:.*q_a_proj": 4}},
        {"dynamic": {"-:.*q_a_proj": {}, "-:.*kv_a_proj_with_mqa": {}}},
        {"dynamic": {r"+:.*\.kv_a_proj_with_mqa": {"bits": 8}}},
        # in a spelling that is not known
        [f"{L[0]}.{Q},{KV}"],
        [f"model.*layers.{Q}.*x"],
        {"modules_to_not_convert": Q},
    ],
    ids=str,
)
def test_what_means_one_half_and_not_the_other_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UnsupportedError, match="quantization_config"):
        rewritten(value)


def test_patterns_that_mean_the_whole_attention_stay() -> None:
    before = {"dynamic": {r"-:.*\.self_attn\..*": {}, ".*mlp.*": {"bits": 8}}}
    assert rewritten(before) == before


def test_a_pattern_that_comes_to_mean_more_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="does not mean"):
        rewritten(["re:.*fused_qkv.*"])


def test_a_pattern_that_is_no_regular_expression_is_left_alone() -> None:
    assert rewritten(["re:(", "lm_head"]) == ["re:(", "lm_head"]
