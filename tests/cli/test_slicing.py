"""Indices as text mean what Python means by them, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.cli.slicing import parse_items, parse_layers, split_key
from wvindex.errors import UsageError
from wvindex.spelling import Item, items_text

BOUNDS = st.none() | st.integers(-9, 9)
STEPS = st.none() | st.integers(-3, 3).filter(bool)
ITEMS = st.integers(-9, 9) | st.builds(slice, BOUNDS, BOUNDS, STEPS) | st.just(...)
INDICES = st.lists(ITEMS, min_size=1, max_size=4).map(tuple)


class Asked:
    """Gives back the index that it is asked for, as Python's own parser reads it."""

    def __getitem__(self, index: object) -> tuple[object, ...]:
        return index if isinstance(index, tuple) else (index,)


@given(index=INDICES)
def test_an_index_reads_as_python_reads_it(index: tuple[Item, ...]) -> None:
    text = items_text(index)
    assert eval(f"asked{text}", {"asked": Asked()}) == index
    assert parse_items(text[1:-1]) == index


@pytest.mark.parametrize("text", ["0", " 0 : 4 , -1", "::2", "...", "+1", ":,:", "3:, ..., :-2", "4::-1"])
def test_spellings(text: str) -> None:
    assert parse_items(text) == eval(f"asked[{text}]", {"asked": Asked()})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1.0",
        "0,",
        ",",
        "0:4:2:1",
        "::0",
        "....",
        "1e3",
        "0x10",
        "1_0",
        "--1",
        "٣",
        "9" * 19,
        "[0]",
        "None",
    ],
)
def test_what_is_no_index_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_items(text)
    assert refused.value.found == text


def test_the_index_is_what_stands_in_the_last_brackets() -> None:
    assert split_key("a.weight[0, :2]", {"a.weight"}) == ("a.weight", (0, slice(None, 2)))
    assert split_key("a.weight", {"a.weight"}) == ("a.weight", None)


def test_a_key_may_have_brackets_of_its_own() -> None:
    assert split_key("a[0]", {"a[0]"}) == ("a[0]", None)
    assert split_key("a[0][1]", {"a[0]"}) == ("a[0]", (1,))


def test_what_is_neither_key_nor_index_is_left_to_the_store() -> None:
    assert split_key("a]", {"b"}) == ("a]", None)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("3", [3]),
        ("3:7", [3, 4, 5, 6]),
        ("1,4", [1, 4]),
        (":2", [0, 1]),
        ("8:", [8, 9]),
        ("-2:", [8, 9]),
        ("-1,0", [9, 0]),
    ],
)
def test_layers(text: str, chosen: list[int]) -> None:
    numbers = np.arange(10)
    assert np.concatenate([np.atleast_1d(numbers[one]) for one in parse_layers(text)]).tolist() == chosen


@pytest.mark.parametrize("text", ["", "...", "a", "1,", "1;2"])
def test_what_is_no_choice_of_layers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a choice of layers"):
        parse_layers(text)
