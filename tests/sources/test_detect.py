"""A path opens with the reader that its content asks for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.gguf_bytes import Record, gguf, pair, u16, u32
from tests.support.golden import EXAMPLE
from tests.support.safetensors_bytes import write_index
from tests.support.stores import Stores
from wvindex.errors import UnknownFormat, UnreadableSource, UnsafePath, UsageError
from wvindex.sources.detect import open_source

GGUF = gguf(records=[Record()], data=bytes(16))


def _format(path: Path | str) -> str:
    source = open_source(path)
    source.close()
    return source.format


def _save(path: Path) -> Path:
    save_file({"a": np.zeros(4, np.float32)}, path)
    return path


def _write_shard(directory: Path, number: int, count: int) -> Path:
    path = directory / f"m-{number:05d}-of-{count:05d}.gguf"
    pairs = [
        pair("split.no", 2, u16(number - 1)),
        pair("split.count", 2, u16(count)),
        pair("split.tensors.count", 5, u32(count)),
    ]
    path.write_bytes(gguf(pairs=pairs, records=[Record(f"t{number}")], data=bytes(16)))
    return path


def test_real_files_and_directories_open(stores: Stores) -> None:
    directory = stores.safetensors("llama")
    assert _format(EXAMPLE) == "gguf"
    assert _format(directory) == "safetensors"
    assert _format(str(directory / "model.safetensors")) == "safetensors"


@pytest.mark.parametrize("name", ["m.gguf", "blob", "m.safetensors"])
def test_gguf_is_known_by_its_magic_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GGUF)
    assert _format(tmp_path / name) == "gguf"


def test_safetensors_are_known_by_their_header_whatever_their_name(tmp_path: Path) -> None:
    assert _format(_save(tmp_path / "blob")) == "safetensors"


def test_an_index_opens_its_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path / "x.safetensors")
    assert _format(write_index(tmp_path, {"a": "x.safetensors"})) == "safetensors"


def test_safetensors_come_before_gguf_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    assert _format(tmp_path) == "gguf"
    _save(tmp_path / "model.safetensors")
    assert _format(tmp_path) == "safetensors"


def test_a_directory_with_the_shards_of_one_model_opens(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        _write_shard(tmp_path, number, 3)
    source = open_source(tmp_path)
    source.close()
    assert [t.name for t in source.tensors()] == ["t1", "t2", "t3"]


def test_a_directory_with_several_gguf_models_lists_them(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(GGUF)
    (tmp_path / "two.gguf").write_bytes(GGUF)
    _write_shard(tmp_path, 1, 2)
    with pytest.raises(UsageError, match=r"m \(2 shards\), one\.gguf, two\.gguf"):
        open_source(tmp_path)


def test_a_gguf_found_in_a_directory_must_lie_in_it(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(GGUF)
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "m.gguf").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafePath):
        open_source(directory)
    assert _format(directory / "m.gguf") == "gguf"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"hello world", "hello wor"),
        (b"PK\x03\x04" + bytes(20), "PyTorch"),
        (b"tjgg" + bytes(20), "GGJT"),
        (bytes(8) + b"[", "neither GGUF nor safetensors"),
        (b"\xff" * 8 + b"{", "neither GGUF nor safetensors"),
    ],
)
def test_anything_else_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UnknownFormat) as caught:
        open_source(tmp_path / "x")
    assert words in str(caught.value)


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=r"neither a GGUF nor a safetensors"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["missing", "missing.safetensors", "a\0b", "x" * 5000])
def test_a_path_that_is_not_there_is_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableSource):
        open_source(tmp_path / name)


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UnreadableSource, match="not a regular file"):
        open_source(tmp_path / "x")
