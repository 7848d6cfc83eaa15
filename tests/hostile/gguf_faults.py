"""GGUF files that are wrong, or meant to harm, or odd and yet valid; each of them small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.support.gguf_bytes import (
    ARRAY,
    I32,
    STRING,
    U8,
    U16,
    U32,
    Record,
    array,
    gguf,
    pair,
    string,
    u16,
    u32,
    u64,
)
from wvindex.formats.encodings import ENCODINGS
from wvindex.sources.gguf_types import GGML_TYPES

_NESTING: Final = 3000
_ONE: Final = bytes(16)
"""The data of one tensor of four float32."""


def _tensors(*records: Record | bytes, data: bytes = _ONE) -> bytes:
    return gguf(records=records, data=data)


def _dims(*dims: int) -> bytes:
    return _tensors(Record(dims=dims))


def _keys(*pairs: bytes) -> bytes:
    return gguf(pairs=pairs, records=[Record()], data=_ONE)


def _named(name: bytes) -> bytes:
    """Name a tensor by bytes that need not be text."""
    return _tensors(string(name) + Record().pack()[9:])


def _nested(depth: int) -> bytes:
    """Nest arrays of one array each; the file ends where the innermost would begin."""
    return _keys(pair("k", ARRAY, array(ARRAY, [], 1) * depth + array(U8, [b"\1"])))


def _alignment(value: int) -> bytes:
    return _keys(pair("general.alignment", U32, u32(value)))


_TWICE: Final = pair("k", U8, b"\1")

WHOLE: Final = gguf(
    pairs=[
        pair("general.alignment", U32, u32(32)),
        pair("s", STRING, string("text")),
        pair("a", ARRAY, array(STRING, [string("x"), string("yz")])),
        pair("n", ARRAY, array(ARRAY, [array(I32, [u32(1), u32(2)]), array(U8, [])])),
    ],
    records=[Record("t", (4, 2)), Record("q", (64,), 8, 32), Record("u", offset=128)],
    data=bytes(range(144)),
)
"""A sound file with some of everything."""

DATA_START: Final = len(WHOLE) - 144

CUTS: Final = (*range(DATA_START), *range(DATA_START, len(WHOLE), 13), len(WHOLE) - 1)
"""Lengths at which `WHOLE` is cut: every one in its header, some in its data."""

BLOCK_TYPES: Final = {name: number for number, name in GGML_TYPES.items() if ENCODINGS[name].block_size > 1}
"""Every block type and its number."""

FILES: Final[dict[str, bytes]] = {
    "tensor-count-2pow63": gguf(n_tensors=2**63),
    "tensor-count-past-end": gguf(n_tensors=1000),
    "key-count-2pow63": gguf(n_keys=2**63),
    "string-length-2pow63": _keys(pair("k", STRING, string("x", 2**63))),
    "string-past-end": _keys(pair("k", STRING, string("x", 500))),
    "key-empty": _keys(pair("", U8, b"\1"), _TWICE),
    "key-twice": _keys(_TWICE, _TWICE),
    "key-with-nul": _keys(pair("a\0b", U8, b"\1")),
    "key-bad-utf8": _keys(pair(b"\xff\xfe", U8, b"\1")),
    "key-64-KiB": _keys(pair("k" * 65536, U8, b"\1")),
    "array-count-in-49-bytes": gguf(pairs=[pair("k", ARRAY, array(STRING, [], 2**62))], alignment=1),
    "array-past-end": _keys(pair("k", ARRAY, array(STRING, [], 2**20))),
    "arrays-nested-3000-deep": _nested(_NESTING),
    "arrays-nested-131072-wide": _keys(pair("k", ARRAY, array(ARRAY, [bytes(12)] * (1 << 17)))),
    "value-type-unknown": _keys(pair("k", 13, u64(0))),
    "item-type-unknown": _keys(pair("k", ARRAY, array(99, [], 0))),
    "tensor-type-unknown": _tensors(Record(ggml_type=99)),
    "tensor-type-removed": _tensors(Record(ggml_type=31)),
    "dims-0": _tensors(Record(dims=()), data=bytes(64)),
    "dims-5": _tensors(Record(dims=(1,) * 5)),
    "dims-9": _tensors(Record(dims=(1,) * 9)),
    "dims-2pow31": _tensors(Record(n_dims=2**31)),
    "product-wraps-to-zero": _dims(2**33, 2**33),
    "product-wraps-to-minus-one": _dims(2**32 + 1, 2**32 - 1),
    "product-wraps-to-minus-two": _dims(2**63 - 1, 2),
    "dim-huge": _dims(2**47),
    "dim-beyond-all-disks": _dims(2**62),
    "dim-huge-beside-zero": _dims(2**63, 0),
    "offset-2pow64-minus-32": _tensors(Record(offset=2**64 - 32)),
    "offset-past-end": _tensors(Record(offset=64)),
    "offset-misaligned": _tensors(Record(offset=8), data=bytes(64)),
    "offset-overlapping": _tensors(Record("a", (16,)), Record("b", offset=32), data=bytes(64)),
    "offset-out-of-order": _tensors(Record("a", offset=32), Record("b", offset=0), data=bytes(48)),
    "alignment-0": _alignment(0),
    "alignment-13": _alignment(13),
    "alignment-2pow31": _alignment(2**31),
    "alignment-of-wrong-type": _keys(pair("general.alignment", STRING, string("32"))),
    "tensor-twice": _tensors(Record("a"), Record("a", offset=32), data=bytes(48)),
    "name-empty": _named(b""),
    "name-with-nul": _named(b"a\0b"),
    "name-bad-utf8": _named(b"a\xc0\x80"),
    "name-64-bytes": _named(b"n" * 64),
    "name-1000-bytes": _named(b"n" * 1000),
    "version-0": gguf(version=0),
    "version-1": gguf(version=1),
    "version-99": gguf(version=99),
    "big-endian": gguf(version=3 << 24),
    "empty": b"",
    **{
        f"row-no-whole-blocks-{name}": _tensors(
            Record(dims=(ENCODINGS[name].block_size // 2, 2), ggml_type=number), data=bytes(512)
        )
        for name, number in BLOCK_TYPES.items()
    },
    **{f"cut-at-{length:03d}": WHOLE[:length] for length in CUTS},
}
"""Files to refuse, by the name of the fault."""

VALID_FILES: Final[dict[str, bytes]] = {
    "zero-dims": _tensors(Record("a", (0,)), Record("b", (4, 0)), Record("c", (32, 0), 8), Record("d")),
    "trailing-bytes": _tensors(Record()) + b"trailing" * 8,
    "name-63-bytes": _named(b"n" * 63),
    "whole": WHOLE,
}
"""Odd files that are valid."""


def _shard(number: int, names: Sequence[str], count: int = 3, n_tensors: int = 3) -> bytes:
    records = [Record(name, offset=32 * i) for i, name in enumerate(names)]
    return gguf(
        pairs=[
            pair("split.no", U16, u16(number)),
            pair("split.count", U16, u16(count)),
            pair("split.tensors.count", I32, u32(n_tensors)),
        ],
        records=records,
        data=bytes(32 * len(names)),
    )


def _write_set(directory: Path, *shards: bytes | None) -> Path:
    """Write three shards, or others in their places, or none (None); give the first one's path."""
    sound = [_shard(i, [name]) for i, name in enumerate("abc")]
    for i, data in enumerate([*shards, *sound[len(shards) :]]):
        if data is not None:
            (directory / f"m-{i + 1:05d}-of-00003.gguf").write_bytes(data)
    return directory / "m-00001-of-00003.gguf"


def _with_extra(directory: Path) -> Path:
    (directory / "m-00004-of-00003.gguf").write_bytes(_shard(3, ["d"]))
    return _write_set(directory)


def _with_symlink(directory: Path) -> Path:
    outside = directory.parent / f"outside-{directory.name}.gguf"
    outside.write_bytes(_shard(1, ["b"]))
    (directory / "m-00002-of-00003.gguf").symlink_to(outside)
    return _write_set(directory, _shard(0, ["a"]), None)


A: Final = _shard(0, ["a"])

DIRECTORIES: Final[dict[str, Callable[[Path], Path]]] = {
    "shard-missing": lambda d: _write_set(d, A, None),
    "shard-extra": _with_extra,
    "shard-doubled": lambda d: _write_set(d, A, A),
    "shard-number-against-name": lambda d: _write_set(d, A, _shard(2, ["b"])),
    "shard-count-against-name": lambda d: _write_set(d, A, _shard(1, ["b"], count=4)),
    "shard-tensor-count-lies": lambda d: _write_set(d, A, _shard(1, ["b"], n_tensors=9)),
    "shard-tensor-in-two": lambda d: _write_set(d, A, _shard(1, ["a"])),
    "shard-symlink-out": _with_symlink,
}
"""Sets of shards to refuse: each writes one into an empty directory and gives the path to open."""
