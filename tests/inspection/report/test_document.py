"""A document's JSON: columns by statistic, four digits, shared blocks once, roles in the order of a layer."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from wvindex.inspection.report.document import Document, Entry, Grid, Statistic, rounded

STD = Statistic("std", "Std", "Values", "Spread")


def document(*entries: Entry) -> Document:
    return Document("Report", "m", (), (STD,), "std", ("std",), entries)


def entries(*keys: str) -> list[Entry]:
    return [Entry(key, (), {"std": 1.0}) for key in keys]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.123456, 0.1235),
        (-1234567.0, -1235000.0),
        (1 << 60, 1 << 60),
        (math.nan, None),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (None, None),
        (True, True),
        ("text", "text"),
    ],
)
def test_floats_have_four_digits_and_all_else_is_as_it_is(value: Any, written: Any) -> None:
    assert rounded(value) == written
    assert type(rounded(value)) is type(written)


def test_values_stand_in_columns_in_the_order_of_entries() -> None:
    found = document(Entry("a", (), {"std": 0.5}), Entry("b", (), {}), Entry("c", (), {"std": math.nan}))
    assert found.to_json()["values"] == {"std": [0.5, None, None]}


def test_a_block_that_several_tensors_share_is_there_once() -> None:
    grid = Grid("Heads", "", "head", (STD,), {"std": (1.0, 2.0)}, {1: "dead"})
    found = document(Entry("q", (), {}, (grid,)), Entry("k", (), {}, (grid,))).to_json()
    assert found["tensorBlocks"] == [[0], [0]]
    assert found["blocks"][0]["values"] == {"std": [1.0, 2.0]}
    assert found["blocks"][0]["marks"] == {"1": "dead"}


def test_layers_are_sorted_as_numbers_and_roles_as_values_flow() -> None:
    keys = ("mlp.down_proj.weight", "self_attn.q_proj.weight", "odd.thing", "self_attn.latent_proj.weight")
    found = document(
        *entries(*(f"model.layers.{n}.{key}" for n in (10, 9) for key in keys), "lm_head.weight")
    )
    json_ = found.to_json()
    assert json_["layers"] == ["9", "10"]
    assert json_["roles"] == ["self_attn.q_proj", "self_attn.latent_proj", "mlp.down_proj", "odd.thing"]
    assert json_["places"][0] == [1, "mlp.down_proj"]
    assert json_["places"][-1] == [-1, "lm_head"]


def test_two_tensors_never_share_a_cell() -> None:
    found = document(*entries("model.layers.0.a.weight", "model.layers.0.a", "b.weight", "b")).to_json()
    assert found["places"] == [[0, "a.weight"], [0, "a"], [-1, "b.weight"], [-1, "b"]]


def test_everything_is_json() -> None:
    big = entries("model.layers.0.x", f"model.layers.{10**400}.x")
    assert json.loads(json.dumps(document(*big).to_json(), allow_nan=False))["layers"][1] == str(10**400)
