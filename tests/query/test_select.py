"""Every name that a tensor has leads to it; selectors mean what they say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.arrays import memory_array
from wvindex.arch.keys import split_layer
from wvindex.errors import AmbiguousKey, KeyNotFound, SelectionError
from wvindex.query.select import Names, Target, expert_key, standard_order

STACK = "model.layers.1.mlp.experts.gate_proj.weight"
SPECS = [
    memory_array("lm_head.weight", (2, 32), "F32", aliases=("output.weight",)).spec,
    memory_array("model.norm.weight", (2,), "F32", aliases=("twice",)).spec,
    memory_array("odd.tensor", (2,), "F32", mapped=False).spec,
    memory_array(
        "model.layers.10.self_attn.q_proj.weight", (2,), "F32", aliases=("blk.10.attn_q.weight",)
    ).spec,
    memory_array(
        "model.layers.1.self_attn.q_proj.weight", (2,), "F32", aliases=("blk.1.attn_q.weight",)
    ).spec,
    memory_array(
        "model.layers.1.self_attn.q_proj.bias", (2,), "F32", aliases=("twice", "lm_head.weight")
    ).spec,
    memory_array(STACK, (3, 2, 32), "F32", part_aliases=("w1.0", "w1.1", "w1.2")).spec,
    memory_array("model.embed_tokens.weight", (2, 32), "F32").spec,
]


@pytest.fixture
def names() -> Names:
    return Names(standard_order(SPECS))


def test_standard_order() -> None:
    assert [spec.key for spec in standard_order(SPECS)] == [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
        STACK,
        "model.layers.10.self_attn.q_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
        "odd.tensor",
    ]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("lm_head.weight", Target("lm_head.weight")),
        ("output.weight", Target("lm_head.weight")),
        ("blk.10.attn_q.weight", Target("model.layers.10.self_attn.q_proj.weight")),
        (STACK, Target(STACK)),
        ("w1.2", Target(STACK, 2)),
        ("model.layers.1.mlp.experts.0.gate_proj.weight", Target(STACK, 0)),
    ],
)
def test_a_name_leads_to_its_tensor(names: Names, name: str, target: Target) -> None:
    assert names.resolve(name) == target


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.layers.1.mlp.experts.3.gate_proj.weight",
        "model.layers.1.mlp.experts.00.gate_proj.weight",
        "w1.3",
    ],
)
def test_other_names_lead_nowhere(names: Names, name: str) -> None:
    assert names.find(name) == []
    with pytest.raises(KeyNotFound):
        names.resolve(name)


def test_a_missing_name_suggests_close_ones(names: Names) -> None:
    with pytest.raises(KeyError, match=r"close to it: .*model\.layers\.1\.self_attn\.q_proj\.weight"):
        names.resolve("model.layers.1.self_attn.qproj.weight")


def test_an_alias_of_two_is_ambiguous(names: Names) -> None:
    with pytest.raises(
        AmbiguousKey, match=r"model\.norm\.weight.*q_proj\.bias|q_proj\.bias.*model\.norm\.weight"
    ):
        names.resolve("twice")


def keys(names: Names, *args: Any, **kwargs: Any) -> list[str]:
    found = [
        (t.key if t.expert is None else expert_key(t.key, t.expert)) for t in names.select(*args, **kwargs)
    ]
    return [key.removeprefix("model.").removesuffix(".weight") for key in found]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (
            {"pattern": "*q_proj*", "layer": 1},
            ["layers.1.self_attn.q_proj", "layers.1.self_attn.q_proj.bias"],
        ),
        ({"pattern": "blk.*.attn_q.*"}, ["layers.1.self_attn.q_proj", "layers.10.self_attn.q_proj"]),
        ({"pattern": "*.mlp.experts.*", "layer": range(3)}, ["layers.1.mlp.experts.gate_proj"]),
        ({"layer": slice(2, None)}, ["layers.10.self_attn.q_proj"]),
        ({"layer": slice(-1, None)}, ["layers.10.self_attn.q_proj"]),
        ({"layer": [10, 99]}, ["layers.10.self_attn.q_proj"]),
        ({"role": "self_attn.q_proj"}, ["layers.1.self_attn.q_proj", "layers.10.self_attn.q_proj"]),
        ({"role": "self_attn.q_proj.*", "layer": 10}, ["layers.10.self_attn.q_proj"]),
        ({"role": "lm_head"}, ["lm_head"]),
        ({"pattern": "nothing"}, []),
        ({"pattern": "*.experts.2.gate_proj.*"}, ["layers.1.mlp.experts.2.gate_proj"]),
        ({"pattern": "*.mlp.experts.1.*", "role": "mlp.experts.*"}, ["layers.1.mlp.experts.1.gate_proj"]),
    ],
)
def test_select(names: Names, arguments: dict[str, Any], found: list[str]) -> None:
    assert keys(names, **arguments) == found


def test_select_gives_everything_by_default(names: Names) -> None:
    assert len(names.select()) == len(SPECS)


@pytest.mark.parametrize("layer", ["a", 1.5, True, ["x"]])
def test_a_wrong_layer_is_refused(names: Names, layer: Any) -> None:
    with pytest.raises(SelectionError, match="layers"):
        names.select(layer=layer)


def test_split_layer() -> None:
    assert split_layer("model.layers.3.self_attn.q_proj.weight") == (3, "self_attn.q_proj.weight")
    assert split_layer("model.norm.weight") == (None, "model.norm.weight")
    assert split_layer("model.layers.03.x") == (None, "model.layers.03.x")


def test_expert_key() -> None:
    assert expert_key(STACK, 2) == "model.layers.1.mlp.experts.2.gate_proj.weight"
    assert expert_key("some.stack", 2) == "some.stack.2"
