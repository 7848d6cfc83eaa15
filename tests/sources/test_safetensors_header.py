"""A safetensors header that is not sound is refused whole, by name, before anything is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors

from tests.support.safetensors_bytes import entry
from tests.support.safetensors_bytes import safetensors as safetensors_file
from wvindex import limits
from wvindex.errors import (
    DuplicateName,
    LimitExceeded,
    MalformedHeader,
    TensorLayoutError,
    TruncatedSource,
    UnsupportedError,
    WvindexError,
)
from wvindex.sources.safetensors import SafetensorsSource
from wvindex.sources.safetensors_header import UNSUPPORTED_DTYPES


def _one(**changes: Any) -> bytes:
    return safetensors_file({"a": {**entry(), **changes}})


def _two(first: tuple[int, int], second: tuple[int, int], n_bytes: int = 16) -> bytes:
    return safetensors_file(
        {"a": entry("F32", (2,), *first), "b": entry("F32", (2,), *second)}, bytes(n_bytes)
    )


def _text(text: bytes) -> bytes:
    return safetensors_file(text)


A = json.dumps(entry()).encode()

HEADERS: dict[str, tuple[bytes, type[WvindexError], str]] = {
    "empty file": (b"", TruncatedSource, "found: 0 bytes"),
    "seven bytes": (bytes(7), TruncatedSource, "found: 7 bytes"),
    "header beyond the file": (safetensors_file({}, b"", length=99), TruncatedSource, "at least 107"),
    "header beyond the cap": (safetensors_file({}, length=2**63), LimitExceeded, "header is too long"),
    "no header": (safetensors_file(b""), MalformedHeader, "not a JSON object"),
    "space before the header": (_text(b' {"a":' + A + b"}"), MalformedHeader, "not a JSON object"),
    "a list": (_text(b"[]"), MalformedHeader, "not a JSON object"),
    "cut JSON": (_text(b'{"a":'), MalformedHeader, "not JSON"),
    "text after the JSON": (_text(b"{}{}"), MalformedHeader, "Extra data"),
    "not UTF-8": (_text(b'{"\xff": 1}'), MalformedHeader, "not UTF-8"),
    "a byte order mark": (_text(b"\xef\xbb\xbf{}"), MalformedHeader, "not a JSON object"),
    "name twice": (_text(b'{"a":' + A + b',"a":' + A + b"}"), DuplicateName, "field: a"),
    "name twice, once escaped": (_text(b'{"a":' + A + rb',"\u0061":' + A + b"}"), DuplicateName, "field: a"),
    "field twice": (_text(b'{"a":{"dtype":"F32","dtype":"F32"}}'), DuplicateName, "field: dtype"),
    "metadata twice": (_text(b'{"__metadata__":{},"__metadata__":{}}'), DuplicateName, "__metadata__"),
    "lone surrogate": (_text(rb'{"\ud800":' + A + b"}"), MalformedHeader, "lone surrogate"),
    "nested deeply": (_text(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"), LimitExceeded, "nested"),
    "nested very deeply": (_text(b'{"a":' * 100_000), LimitExceeded, "nested"),
    "NaN": (_one(shape=[float("nan")]), MalformedHeader, "found: NaN"),
    "Infinity": (_one(shape=[float("inf")]), MalformedHeader, "found: Infinity"),
    "1e999": (_text(b'{"a": 1e999}'), MalformedHeader, "found: 1e999"),
    "a number of 5000 digits": (_text(b'{"a": ' + b"9" * 5000 + b"}"), MalformedHeader, "too long"),
    "metadata not strings": (
        safetensors_file({"__metadata__": {"a": 1}}),
        MalformedHeader,
        "found: a number",
    ),
    "metadata a list": (
        safetensors_file({"__metadata__": []}),
        MalformedHeader,
        "field: __metadata__, expected: an object of strings, found: an array",
    ),
    "empty name": (safetensors_file({"": entry()}), MalformedHeader, "empty"),
    "long name": (safetensors_file({"n" * 513: entry()}), LimitExceeded, "found: 513"),
    "entry not an object": (safetensors_file({"a": [1]}), MalformedHeader, "found: list"),
    "field missing": (safetensors_file({"a": {"dtype": "F32"}}), MalformedHeader, "found: dtype"),
    "unknown field": (_one(extra=1), MalformedHeader, "extra"),
    "dtype not a string": (_one(dtype=["F32"]), MalformedHeader, "field: dtype"),
    "dtype null": (_one(dtype=None), MalformedHeader, "expected: a string, found: null"),
    "unknown dtype": (_one(dtype="F33"), TensorLayoutError, "found: F33"),
    "GGML's type as dtype": (_one(dtype="Q4_K"), TensorLayoutError, "found: Q4_K"),
    "shape not a list": (_one(shape=8), MalformedHeader, "field: shape"),
    "shape of floats": (_one(shape=[2.0]), MalformedHeader, "field: shape"),
    "shape of bools": (_one(shape=[True, 2]), MalformedHeader, "field: shape"),
    "negative dimension": (_one(shape=[-2]), MalformedHeader, "field: shape"),
    "too many dimensions": (_one(shape=[1] * 9), LimitExceeded, "found: 9"),
    "too many elements": (_one(shape=[2**40, 2**40]), LimitExceeded, "elements"),
    "a product that wraps to 2": (_one(shape=[2**63 + 1, 2]), LimitExceeded, "elements"),
    "a huge dimension beside a zero": (_one(shape=[0, 2**63]), LimitExceeded, "elements"),
    "three offsets": (_one(data_offsets=[0, 4, 8]), MalformedHeader, "begin and an end"),
    "offsets backwards": (_one(data_offsets=[8, 0]), MalformedHeader, "begin and an end"),
    "negative offset": (_one(data_offsets=[-8, 0]), MalformedHeader, "data_offsets"),
    "span too short": (_one(data_offsets=[0, 4]), TensorLayoutError, "expected: 8 bytes"),
    "span too long": (_one(shape=[1]), TensorLayoutError, "expected: 4 bytes"),
    "hole at the start": (_one(data_offsets=[8, 16]), TensorLayoutError, "hole"),
    "hole between": (_two((0, 8), (16, 24), 24), TensorLayoutError, "hole"),
    "overlap": (_two((0, 8), (4, 12)), TensorLayoutError, "overlaps"),
    "the same bytes twice": (_two((0, 8), (0, 8)), TensorLayoutError, "overlaps"),
    "data short": (_two((0, 8), (8, 16), 15), TruncatedSource, "before a tensor does"),
    "data long": (_two((0, 8), (8, 16), 17), TensorLayoutError, "after the last tensor"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_unsound_header_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, error, words = HEADERS[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        SafetensorsSource(path)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert caught.value.file == str(path)


# serde keeps the last of two equal names, ignores fields that it does not know and skips space, which the
# format forbids; the caps are ours.
STRICTER_THAN_THE_PACKAGE = {
    "space before the header",
    "name twice",
    "name twice, once escaped",
    "unknown field",
    "empty name",
    "long name",
    "too many dimensions",
}


@pytest.mark.parametrize("name", sorted(set(HEADERS) - STRICTER_THAN_THE_PACKAGE))
def test_the_safetensors_package_refuses_it_too(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(HEADERS[name][0])
    with pytest.raises((safetensors.SafetensorError, OSError)):
        safetensors.safe_open(path, "numpy")


@pytest.mark.parametrize("dtype", sorted(UNSUPPORTED_DTYPES))
def test_a_dtype_that_the_package_knows_and_we_do_not_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(_one(dtype=dtype))
    with pytest.raises(UnsupportedError, match=dtype):
        SafetensorsSource(path)


def test_a_header_padded_with_spaces_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(_text(b'{"a":' + A + b"}" + b" " * 7))
    with SafetensorsSource(path) as source:
        assert [t.name for t in source.tensors()] == ["a"]


def test_the_cap_on_the_header_is_the_package_s() -> None:
    assert limits.MAX_SAFETENSORS_HEADER == 100_000_000
