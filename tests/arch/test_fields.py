"""Fields of a configuration are read with their types, and refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wvindex.arch.fields import Fields
from wvindex.errors import MetadataError

FILE = Path("somewhere/config.json")


def fields(value: Any) -> Fields:
    return Fields({"field": value}, FILE, "outer.")


READERS: dict[str, Callable[[Fields], Any]] = {
    "integer": lambda f: f.integer("field"),
    "integer_or_none": lambda f: f.integer_or_none("field"),
    "number": lambda f: f.number("field"),
    "positive": lambda f: f.positive("field"),
    "number_or_none": lambda f: f.number_or_none("field"),
    "flag": lambda f: f.flag("field", True),
    "text": lambda f: f.text("field"),
    "numbers": lambda f: f.numbers("field"),
    "child": lambda f: f.child("field"),
}


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        ("integer", 7, 7),
        ("integer", 0, 0),
        ("integer_or_none", None, None),
        ("integer_or_none", 3, 3),
        ("number", 2, 2.0),
        ("number", 1e-6, 1e-6),
        ("positive", 1e-300, 1e-300),
        ("number_or_none", None, None),
        ("number_or_none", -0.5, -0.5),
        ("flag", False, False),
        ("flag", None, True),
        ("text", "silu", "silu"),
        ("numbers", [1, 2.5], (1.0, 2.5)),
        ("numbers", [], ()),
        ("child", None, None),
    ],
)
def test_right_values_are_read(reader: str, value: Any, expected: Any) -> None:
    found = READERS[reader](fields(value))
    assert found == expected
    assert type(found) is type(expected)


WRONG: dict[str, tuple[Any, ...]] = {
    "integer": (None, -1, 1.0, True, "7", [7], 1 << 48, 10**400),
    "integer_or_none": (-1, 2.5, False),
    "number": (None, "1", True, [1.0], float("nan"), float("inf"), 10**400),
    "positive": (None, 0, 0.0, -1.0, float("inf"), 10**400),
    "number_or_none": ("1", True, float("-inf")),
    "flag": (0, 1, "true", []),
    "text": (None, 1, ["silu"]),
    "numbers": (None, 1.0, "12", [None], ["1"], [float("nan")], [True], [10**400]),
    "child": (1, "x", []),
}


@pytest.mark.parametrize(
    ("reader", "value"), [(reader, value) for reader, wrong in WRONG.items() for value in wrong]
)
def test_wrong_values_are_refused_by_name(reader: str, value: Any) -> None:
    with pytest.raises(MetadataError) as caught:
        READERS[reader](fields(value))
    assert caught.value.field == "outer.field"
    assert caught.value.file == str(FILE)
    assert len(str(caught.value)) < 1000


def test_defaults_stand_in_for_what_is_missing_or_null() -> None:
    given = Fields({"a": None, "b": 2}, FILE).with_defaults({"a": 1, "b": 1, "c": 3})
    assert [given.integer(name) for name in "abc"] == [1, 2, 3]
    assert Fields({"a": None}, FILE).integer("a", 5) == 5


def test_null_is_not_there() -> None:
    assert "a" not in Fields({"a": None}, FILE)
    assert "a" in Fields({"a": 0}, FILE)


def test_a_nested_field_is_named_in_full() -> None:
    inner = Fields({"rope": {"factor": "x"}}, FILE).child("rope")
    assert inner is not None
    with pytest.raises(MetadataError) as caught:
        inner.number("factor")
    assert caught.value.field == "rope.factor"
