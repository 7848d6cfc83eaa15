"""JSON becomes a dataclass exactly, or the fault says where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.store.records import Mismatch, read_record, record_json


@dataclass(frozen=True)
class Inner:
    pair: tuple[int, str]
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    number: int
    text: str
    flag: bool
    kind: Literal["a", "b"]
    numbers: tuple[int, ...]
    maybe: Inner | None
    named: Mapping[str, Inner]
    anything: Any = None


INNER = st.builds(Inner, st.tuples(st.integers(), st.text()), st.floats(allow_nan=False))
OUTER = st.builds(
    Outer,
    number=st.integers(),
    text=st.text(),
    flag=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    numbers=st.lists(st.integers()).map(tuple),
    maybe=st.none() | INNER,
    named=st.dictionaries(st.text(), INNER),
)


@given(record=OUTER)
def test_what_was_written_is_read(record: Outer) -> None:
    assert read_record(Outer, record_json(record)) == record
    assert json.loads(json.dumps(record_json(record))) == json.loads(json.dumps(asdict(record)))


GOOD: dict[str, Any] = {
    "number": 1,
    "text": "x",
    "flag": True,
    "kind": "a",
    "numbers": [1],
    "maybe": None,
    "named": {},
}


@pytest.mark.parametrize(
    ("change", "path", "expected"),
    [
        ({"number": 1.0}, ("number",), "int"),
        ({"number": True}, ("number",), "int"),
        ({"flag": 1}, ("flag",), "bool"),
        ({"text": None}, ("text",), "str"),
        ({"kind": "c"}, ("kind",), "one of 'a', 'b'"),
        ({"kind": []}, ("kind",), "one of 'a', 'b'"),
        ({"numbers": [1, "2"]}, ("numbers", "[1]"), "int"),
        ({"numbers": "12"}, ("numbers",), "a list"),
        ({"maybe": []}, ("maybe",), "an object"),
        ({"maybe": {}}, ("maybe", "pair"), "a value"),
        ({"maybe": {"pair": [1]}}, ("maybe", "pair"), "a list of 2"),
        ({"named": {"k": {"pair": [1, "a"], "ratio": "1"}}}, ("named", "k", "ratio"), "float"),
        ({"extra": 1}, ("extra",), "no such field"),
    ],
)
def test_a_fault_says_where_it_is(change: dict[str, Any], path: tuple[str, ...], expected: str) -> None:
    with pytest.raises(Mismatch) as caught:
        read_record(Outer, GOOD | change)
    assert (caught.value.path, caught.value.expected) == (path, expected)


def test_an_integer_serves_as_a_float() -> None:
    ratio = read_record(Inner, {"pair": [1, "a"], "ratio": 2}).ratio
    assert (ratio, type(ratio)) == (2.0, float)


@dataclass(frozen=True)
class Entry:
    name: str
    numbers: tuple[int, ...]
    pair: tuple[int, str]
    ratio: float
    reason: str | None = None


@dataclass(frozen=True)
class Book:
    entries: tuple[Entry, ...]


ENTRY = {"name": "a", "numbers": [1, 2], "pair": [3, "b"], "ratio": 1, "reason": None}
STEPS = {
    "name": (1, ("name",)),
    "numbers": ([1, True], ("numbers", "[1]")),
    "pair": ([1, 2], ("pair", "[1]")),
    "ratio": ("1", ("ratio",)),
    "reason": (False, ("reason",)),
    "another": (None, ("another",)),
}


@given(
    st.lists(
        st.builds(
            Entry,
            st.text(),
            st.tuples(st.integers()),
            st.tuples(st.integers(), st.text()),
            st.floats(allow_nan=False),
            st.none() | st.text(),
        )
    )
)
def test_a_list_of_records_comes_back(entries: list[Entry]) -> None:
    book = Book(tuple(entries))
    assert read_record(Book, json.loads(json.dumps(record_json(book)))) == book


@pytest.mark.parametrize("field", STEPS)
def test_one_record_at_fault_among_many_is_named(field: str) -> None:
    value, steps = STEPS[field]
    with pytest.raises(Mismatch) as fault:
        read_record(Book, {"entries": [*[ENTRY] * 5, {**ENTRY, field: value}, ENTRY]})
    assert fault.value.path == ("entries", "[5]", *steps)


def test_what_has_a_default_may_be_absent_from_any_record() -> None:
    short = {name: value for name, value in ENTRY.items() if name != "reason"}
    book = read_record(Book, {"entries": [ENTRY, short, ENTRY]})
    assert book.entries[0] == book.entries[1] == book.entries[2]
    assert type(book.entries[0].ratio) is float
