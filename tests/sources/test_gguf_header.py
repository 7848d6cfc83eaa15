"""A GGUF header that is not sound is refused whole, by name, before anything is served."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.gguf_bytes import (
    ARRAY,
    BOOL,
    STRING,
    U8,
    U32,
    U64,
    Record,
    array,
    gguf,
    pair,
    string,
    u32,
    u64,
)
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
from wvindex.sources import gguf_cursor
from wvindex.sources.gguf import GGUFSource

DATA = bytes(16)


def _nested(depth: int) -> bytes:
    value = array(U8, [b"\1"])
    for _ in range(depth - 1):
        value = array(ARRAY, [value])
    return pair("k", ARRAY, value)


def _tensors(*records: Record, data: bytes = DATA) -> bytes:
    return gguf(records=records, data=data)


def _one(*pairs: bytes) -> bytes:
    return gguf(pairs=pairs)


HEADERS: dict[str, tuple[bytes, type[WvindexError], str]] = {
    "empty file": (b"", TruncatedSource, "magic"),
    "other magic": (gguf(magic=b"GGML"), MalformedHeader, "not a GGUF file"),
    "cut after the version": (gguf()[:12], TruncatedSource, "number of tensors"),
    "version 1": (gguf(version=1), UnsupportedError, "version 1"),
    "version 4": (gguf(version=4), UnsupportedError, "version 4"),
    "version 0": (gguf(version=0), UnsupportedError, "version 0"),
    "big-endian": (gguf(version=3 << 24), UnsupportedError, "big-endian"),
    "too many tensors": (gguf(n_tensors=2**63), LimitExceeded, "number of tensors"),
    "too many keys": (gguf(n_keys=2**40), LimitExceeded, "number of metadata keys"),
    "more tensors than bytes": (gguf(n_tensors=1000), TruncatedSource, "1000 of them"),
    "more keys than bytes": (gguf(n_keys=1000), TruncatedSource, "1000 of them"),
    "empty key": (_one(pair("", U8, b"\1"), bytes(8)), MalformedHeader, "empty"),
    "long key": (_one(pair("k" * 513, U8, b"\1")), LimitExceeded, "513"),
    "key not UTF-8": (_one(pair(b"\xff", U8, b"\1"), bytes(8)), MalformedHeader, "not UTF-8"),
    "key beyond the file": (_one(string("k", 200) + bytes(30)), TruncatedSource, "metadata key 0"),
    "key twice": (_one(pair("k", U8, b"\1"), pair("k", U8, b"\2")), DuplicateName, "field: k"),
    "unknown value type": (_one(pair("k", 13, u64(0))), MalformedHeader, "found: 13"),
    "bool of 2": (_one(pair("k", BOOL, b"\2")), MalformedHeader, "expected: 0 or 1, found: 2"),
    "bool of 2 in an array": (
        _one(pair("k", ARRAY, array(BOOL, [b"\1", b"\2"]))),
        MalformedHeader,
        "neither 0 nor 1",
    ),
    "string beyond the file": (_one(pair("k", STRING, string("x", 2**63))), TruncatedSource, "field: k"),
    "string not UTF-8": (_one(pair("k", STRING, string(b"\xc0\x80"))), MalformedHeader, "not UTF-8"),
    "string of a surrogate": (_one(pair("k", STRING, string(b"\xed\xa0\x80"))), MalformedHeader, "not UTF-8"),
    "array of an unknown type": (_one(pair("k", ARRAY, array(99, [], 0))), MalformedHeader, "found: 99"),
    "array of too many items": (
        _one(pair("k", ARRAY, array(U8, [], 2**62))),
        LimitExceeded,
        "too many items",
    ),
    "numbers beyond the file": (_one(pair("k", ARRAY, array(U64, [], 1000))), TruncatedSource, "8000 bytes"),
    "strings beyond the file": (_one(pair("k", ARRAY, array(STRING, [], 99))), TruncatedSource, "792 bytes"),
    "arrays beyond the file": (_one(pair("k", ARRAY, array(ARRAY, [], 99))), TruncatedSource, "1188 bytes"),
    "string in an array beyond the file": (
        _one(pair("k", ARRAY, array(STRING, [string("a"), string("b", 2**64 - 1), string("c")]))),
        TruncatedSource,
        "field: k",
    ),
    "last string in an array beyond the file": (
        _one(pair("k", ARRAY, array(STRING, [string("a"), string("b", 999)]))),
        TruncatedSource,
        "field: k",
    ),
    "arrays nested too deeply": (_one(_nested(limits.MAX_ARRAY_DEPTH + 1)), LimitExceeded, "nested"),
    "alignment as a string": (
        _one(pair("general.alignment", STRING, string("32"))),
        MalformedHeader,
        "general.alignment",
    ),
    "alignment in 64 bits": (
        _one(pair("general.alignment", U64, u64(32))),
        MalformedHeader,
        "expected: UINT32, found: UINT64",
    ),
    "alignment of no type": (
        _one(pair("general.alignment", 99, u64(32))),
        MalformedHeader,
        "expected: UINT32, found: type 99",
    ),
    "alignment 0": (_one(pair("general.alignment", U32, u32(0))), MalformedHeader, "found: 0"),
    "alignment 4": (_one(pair("general.alignment", U32, u32(4))), MalformedHeader, "at least 8"),
    "alignment 48": (_one(pair("general.alignment", U32, u32(48))), MalformedHeader, "power of two"),
    "empty tensor name": (_tensors(Record("")), MalformedHeader, "name of tensor 0"),
    "long tensor name": (_tensors(Record("n" * 513)), LimitExceeded, "name of tensor 0"),
    "tensor name twice": (
        _tensors(Record("a"), Record("a", offset=32), data=bytes(48)),
        DuplicateName,
        "tensor: a",
    ),
    "no dimensions": (_tensors(Record(dims=()), data=bytes(64)), TensorLayoutError, "found: 0"),
    "five dimensions": (_tensors(Record(dims=(1,) * 5)), TensorLayoutError, "found: 5"),
    "2^32 - 1 dimensions": (_tensors(Record(n_dims=2**32 - 1)), TensorLayoutError, "1 to 4"),
    "too many elements": (_tensors(Record(dims=(2**40, 2**40))), LimitExceeded, "1099511627776 x"),
    "a product that wraps to 0": (_tensors(Record(dims=(2**32, 2**32))), LimitExceeded, "elements"),
    "a huge dimension beside a zero": (_tensors(Record(dims=(2**63, 0))), LimitExceeded, "elements"),
    "unknown type": (_tensors(Record(ggml_type=43)), TensorLayoutError, "unknown GGML type 43"),
    "removed type": (_tensors(Record(ggml_type=31)), TensorLayoutError, "31 (Q4_0_4_4) was removed"),
    "row not whole blocks": (
        _tensors(Record(dims=(48,), ggml_type=2), data=bytes(64)),
        TensorLayoutError,
        "a multiple of 32 (Q4_0)",
    ),
    "rows that are whole blocks only together": (
        _tensors(Record(dims=(16, 2), ggml_type=2), data=bytes(64)),
        TensorLayoutError,
        "found: 16",
    ),
    "offset not aligned": (_tensors(Record(offset=8), data=bytes(64)), TensorLayoutError, "not aligned"),
    "overlap": (
        _tensors(Record("a", (16,)), Record("b", offset=32), data=bytes(64)),
        TensorLayoutError,
        "overlaps a",
    ),
    "the same bytes twice": (_tensors(Record("a"), Record("b")), TensorLayoutError, "overlaps a"),
    "offset beyond the file": (_tensors(Record(offset=2**64 - 32)), TruncatedSource, "tensor: a"),
    "empty tensor beyond the file": (_tensors(Record(dims=(0,), offset=2**40)), TruncatedSource, "tensor: a"),
    "data one byte short": (_tensors(Record(), data=bytes(15)), TruncatedSource, "tensor: a"),
    "no data": (_tensors(Record(), data=b""), TruncatedSource, "tensor: a"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_unsound_header_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, error, words = HEADERS[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        GGUFSource(path)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert caught.value.file == str(path)


def test_the_deepest_nesting_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(_one(_nested(limits.MAX_ARRAY_DEPTH)))
    with GGUFSource(path) as source:
        assert source.config() == {"k": [[[[1]]]]}


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = gguf(
        pairs=[
            pair("s", STRING, string("text")),
            pair("a", ARRAY, array(STRING, [string("x"), string("y")])),
        ],
        records=[Record("t", (4, 2)), Record("u", offset=32)],
        data=bytes(48),
    )
    path = tmp_path / "m.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(TruncatedSource):
            GGUFSource(path)


def test_a_header_longer_than_the_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_cursor, "MAX_HEADER_BYTES", 4096)
    path = tmp_path / "m.gguf"
    path.write_bytes(_one(pair("k", STRING, string("x" * 5000))))
    with pytest.raises(LimitExceeded, match="the header is too long"):
        GGUFSource(path)


@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_header_reads_the_same_through_any_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(gguf_cursor, "FIRST_WINDOW", window)
    strings = [str(i) * i for i in range(50)]
    numbers = [struct.pack("<I", i) for i in range(100)]
    path = tmp_path / "m.gguf"
    path.write_bytes(
        gguf(
            pairs=[
                pair("s", ARRAY, array(STRING, [string(s) for s in strings])),
                pair("n", ARRAY, array(U32, numbers)),
            ],
            records=[Record("t")],
            data=DATA,
        )
    )
    with GGUFSource(path) as source:
        assert source.config() == {"s": strings, "n": list(range(100))}
        assert [t.name for t in source.tensors()] == ["t"]
