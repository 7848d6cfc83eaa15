"""Down-projections are found by whole segments of names, and a half that is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from wvindex.converting.pairs import attentions, require_every, require_form
from wvindex.converting.plan import Direction
from wvindex.errors import DuplicateName, MetadataError, UnsupportedError
from wvindex.formats.encodings import BF16
from wvindex.sources.base import TensorInfo

HERE = Path("checkpoint")
L0, L1 = "model.layers.0.self_attn", "model.layers.1.self_attn"
HALVES = (f"{L0}.q_a_proj.weight", f"{L0}.kv_a_proj_with_mqa.weight")


def infos(*names: str) -> list[TensorInfo]:
    return [TensorInfo(name, (2, 2), BF16, Path("x.safetensors"), 0, 8) for name in names]


def test_every_leaf_of_both_modules_is_found() -> None:
    leaves = ("weight", "bias", "weight_scale_inv")
    names = [f"{L0}.{half}.{leaf}" for half in ("q_a_proj", "kv_a_proj_with_mqa") for leaf in leaves]
    (one,) = attentions(infos(*names))
    assert (one.parent, set(one.query), set(one.below), one.fused) == (L0, set(leaves), set(leaves), {})
    assert (one.query_name, one.below_name) == (f"{L0}.q_a_proj", f"{L0}.kv_a_proj_with_mqa")
    assert one.fused_name == f"{L0}.fused_qkv_a_proj_with_mqa"


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_a_proj_norm.weight",
        "model.layers.0.self_attn.my_q_a_proj.weight",
        "model.layers.0.self_attn.q_a_layernorm.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa",
        "q_a_proj",
        "xq_a_proj.weight",
        "model.layers.0.self_attn.fused_qkv_a_proj_with_mqa_2.weight",
    ],
)
def test_a_part_of_a_segment_is_no_match(name: str) -> None:
    assert attentions(infos(name)) == []


def test_the_fused_name_is_not_taken_for_the_half_that_it_contains() -> None:
    (one,) = attentions(infos(f"{L0}.fused_qkv_a_proj_with_mqa.weight"))
    assert (set(one.fused), one.below, one.query) == ({"weight"}, {}, {})


def test_each_attention_is_one_of_its_own() -> None:
    """LongCat has two in a layer; multimodal checkpoints have a prefix."""
    parents = [
        "model.layers.0.self_attn.0",
        "model.layers.0.self_attn.1",
        "language_model.model.layers.0.self_attn",
    ]
    names = [f"{parent}.{half}.weight" for parent in parents for half in ("q_a_proj", "kv_a_proj_with_mqa")]
    assert [one.parent for one in require_form(attentions(infos(*names)), "fuse", HERE)] == parents


@pytest.mark.parametrize("kept", HALVES)
def test_a_missing_half_is_named(kept: str) -> None:
    (gone,) = set(HALVES) - {kept}
    with pytest.raises(MetadataError, match="missing") as caught:
        require_form(attentions(infos(kept)), "fuse", HERE)
    assert (caught.value.tensor, caught.value.expected) == (kept, gone)


def test_a_leaf_that_one_half_lacks_is_named() -> None:
    with pytest.raises(MetadataError) as caught:
        require_form(attentions(infos(*HALVES, f"{L0}.q_a_proj.bias")), "fuse", HERE)
    assert caught.value.expected == f"{L0}.kv_a_proj_with_mqa.bias"


@pytest.mark.parametrize("direction", ["fuse", "unfuse"])
@pytest.mark.parametrize("parent", [L0, L1])
def test_fused_and_unfused_are_not_mixed(direction: Direction, parent: str) -> None:
    found = attentions(infos(*HALVES, f"{parent}.fused_qkv_a_proj_with_mqa.weight"))
    with pytest.raises(DuplicateName, match="fused and unfused"):
        require_form(found, direction, HERE)


def test_both_fused_names_in_one_attention_are_refused() -> None:
    names = [f"{L0}.fused_qkv_a_proj{end}.weight" for end in ("", "_with_mqa")]
    with pytest.raises(DuplicateName, match="two fused"):
        attentions(infos(*names))


def test_what_is_of_the_other_form_already_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="which is fused"):
        require_form(attentions(infos(f"{L0}.fused_qkv_a_proj.weight")), "fuse", HERE)
    with pytest.raises(UnsupportedError, match="q_a_proj"):
        require_form(attentions(infos(*HALVES)), "unfuse", HERE)
    with pytest.raises(UnsupportedError, match="nothing of latent attention"):
        require_form(attentions(infos("model.layers.0.self_attn.q_proj.weight")), "fuse", HERE)


@pytest.mark.parametrize("names", [HALVES, (f"{L0}.fused_qkv_a_proj.weight",)])
def test_a_layer_that_lacks_both_halves_is_named(names: tuple[str, ...]) -> None:
    with pytest.raises(MetadataError, match="both down-projections") as caught:
        require_every(infos(*names, f"{L0}.q_b_proj.weight", f"{L1}.q_b_proj.weight"))
    assert caught.value.tensor == f"{L1}.q_b_proj.weight"
    assert f"{L1}.q_a_proj" in str(caught.value.expected)
