"""JSON from untrusted files is parsed as everyone parses it, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.errors import DuplicateName, LimitExceeded, MalformedHeader, WvindexError
from wvindex.limits import MAX_JSON_DEPTH
from wvindex.sources.strict_json import parse_object

FILE = Path("x.json")
TEXT = st.text(st.characters(codec="utf-8"))
MARKS = st.text(st.sampled_from('"\\:[]{},a'))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(value=st.dictionaries(TEXT, VALUES), ascii_only=st.booleans())
def test_what_json_writes_is_read_back(value: dict[str, object], ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_object(data, file=FILE) == value


@given(value=st.dictionaries(TEXT, VALUES), name=MARKS, ascii_only=st.booleans(), depth=st.integers(0, 3))
def test_a_name_that_stands_twice_is_found_whatever_else_stands_there(
    value: dict[str, object], name: str, ascii_only: bool, depth: int
) -> None:
    once, twice = (json.dumps({name: value}, ensure_ascii=ascii_only), json.dumps(name))
    inner = f"{once[:-1]}, {twice}: 0}}"
    for _ in range(depth):
        once, inner = (f'{{"[:": [{text}]}}' for text in (once, inner))
    parse_object(once.encode(), file=FILE)
    with pytest.raises(DuplicateName) as caught:
        parse_object(inner.encode(), file=FILE)
    assert caught.value.found == name


@pytest.mark.parametrize("string", ['"[[["', r'"\"[["', r'"\\"', '"{"', r'"\u005b"'])
def test_brackets_in_strings_do_not_nest(string: str) -> None:
    text = '{"a": ' + "[" * (MAX_JSON_DEPTH - 1) + string + "]" * (MAX_JSON_DEPTH - 1) + "}"
    parse_object(text.encode(), file=FILE)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_beyond_the_cap_is_refused_before_parsing(opening: str) -> None:
    with pytest.raises(LimitExceeded):
        parse_object(f'{{"a": {opening * 1_000_000}'.encode(), file=FILE)


@pytest.mark.parametrize("text", ['"' + r"\"" * 500_000, '{"a": "' + "\\" * 1_000_001, '"' * 1_000_001])
def test_strings_that_never_end_cost_no_more_than_their_length(text: str) -> None:
    with pytest.raises(MalformedHeader):
        parse_object(text.encode(), file=FILE)


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_object(rb'{"a": "\ud83d\ude00"}', file=FILE) == {"a": "😀"}


def test_a_literal_backslash_u_is_no_surrogate() -> None:
    assert parse_object(rb'{"a": "\\ud800"}', file=FILE) == {"a": r"\ud800"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (rb'{"a": ["\ud800"]}', MalformedHeader),
        (rb'{"a": {"\uDFFF": 1}}', MalformedHeader),
        (b'{"a": "\xed\xa0\x80"}', MalformedHeader),
        (b'{"a": -Infinity}', MalformedHeader),
        (b'{"a": -1e999}', MalformedHeader),
        (b'{"a": [{"b": 1, "b": 1}]}', DuplicateName),
        (b"null", MalformedHeader),
        (b"", MalformedHeader),
        (b"{'a': 1}", MalformedHeader),
        (b'{"a": 1,}', MalformedHeader),
        (b'{"a": "\n"}', MalformedHeader),
    ],
)
def test_what_parsers_disagree_about_is_refused(text: bytes, error: type[WvindexError]) -> None:
    with pytest.raises(error) as caught:
        parse_object(text, file=FILE)
    assert caught.value.file == "x.json"


def test_the_offset_of_a_fault_counts_bytes_of_the_file() -> None:
    with pytest.raises(MalformedHeader) as caught:
        parse_object('{"é": x}'.encode(), file=FILE, base=8)
    assert caught.value.offset == 8 + len('{"é": '.encode())
