"""A set of GGUF shards opens as one checkpoint, or says which shard is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.gguf_bytes import I32, U16, U64, Record, pair, string, u16, u32, u64
from tests.support.gguf_bytes import gguf as gguf_file
from wvindex.errors import LimitExceeded, ShardError, UnsafePath, WvindexError
from wvindex.sources.gguf import GGUFSource


def _split(number: int, count: int, n_tensors: int) -> list[bytes]:
    return [
        pair("split.no", U16, u16(number)),
        pair("split.count", U16, u16(count)),
        pair("split.tensors.count", I32, u32(n_tensors)),
    ]


def _write_set(directory: Path, names: Sequence[str] = ("a", "b", "c")) -> list[Path]:
    """Write one tensor a shard; its bytes are its name."""
    paths = []
    for i, name in enumerate(names):
        path = directory / f"m-{i + 1:05d}-of-{len(names):05d}.gguf"
        own = [pair("model.n", U64, u64(7)), pair("tokenizer.x", 8, string("t"))] if i == 0 else []
        data = gguf_file(
            pairs=[*own, *_split(i, len(names), len(names))],
            records=[Record(name)],
            data=name.encode() * 16,
        )
        path.write_bytes(data)
        paths.append(path)
    return paths


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_all(tmp_path: Path, opened: int) -> None:
    paths = _write_set(tmp_path)
    with GGUFSource(paths[opened]) as source:
        assert [(t.name, t.file) for t in source.tensors()] == list(zip("abc", paths, strict=True))
        assert [bytes(source.read(t, 0, 16)) for t in source.tensors()] == [b"a" * 16, b"b" * 16, b"c" * 16]
        assert source.config()["model.n"] == 7
        assert source.tokenizer() is not None
        assert [f.name for f in source.fingerprint()] == [p.name for p in paths]
        assert source.notes == ()


def test_shards_written_by_the_gguf_package_open(tmp_path: Path) -> None:
    tensors = {f"t{i}": np.full((4, 8), i, np.float32) for i in range(5)}
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "test", split_max_tensors=2)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFSource(tmp_path / "m-00002-of-00003.gguf") as source:
        assert len(source.fingerprint()) == 3
        read = {t.name: bytes(source.read(t, 0, t.nbytes)) for t in source.tensors()}
    assert read == {name: tensor.tobytes() for name, tensor in tensors.items()}


def test_a_first_shard_of_metadata_alone_is_valid(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    first.write_bytes(gguf_file(pairs=_split(0, 2, 1)))
    second.write_bytes(gguf_file(pairs=_split(1, 2, 1), records=[Record()], data=bytes(16)))
    with GGUFSource(first) as source:
        assert [t.file for t in source.tensors()] == [second]


def test_more_shards_than_descriptors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wvindex.sources.files.MAX_DESCRIPTORS", 1)
    with GGUFSource(_write_set(tmp_path)[0]) as source:
        assert [bytes(source.read(t, 0, 1)) for t in source.tensors()] == [b"a", b"b", b"c"]


def test_metadata_that_only_a_later_shard_has_are_noted(tmp_path: Path) -> None:
    paths = _write_set(tmp_path)
    extra = pair("late", U64, u64(1))
    paths[2].write_bytes(gguf_file(pairs=[extra, *_split(2, 3, 3)], records=[Record("c")], data=bytes(16)))
    with GGUFSource(paths[0]) as source:
        assert "late" not in source.config()
        (note,) = source.notes
    assert paths[2].name in note
    assert "late" in note


def test_a_single_shard_of_one_needs_no_split_keys(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00001.gguf"
    path.write_bytes(gguf_file(records=[Record()], data=bytes(16)))
    with GGUFSource(path) as source:
        assert len(source.tensors()) == 1


def _rewrite(path: Path, pairs: list[bytes], name: str) -> None:
    path.write_bytes(gguf_file(pairs=pairs, records=[Record(name)], data=bytes(16)))


FAULTS: dict[str, tuple[Callable[[list[Path]], object], str]] = {
    "missing": (lambda p: p[1].unlink(), "m-00002-of-00003.gguf"),
    "extra": (
        lambda p: shutil.copy(p[0], p[0].with_name("m-00004-of-00003.gguf")),
        "m-00004-of-00003.gguf",
    ),
    "number 0": (
        lambda p: shutil.copy(p[0], p[0].with_name("m-00000-of-00003.gguf")),
        "m-00000-of-00003.gguf",
    ),
    "doubled": (lambda p: shutil.copy(p[0], p[1]), "field: split.no"),
    "swapped": (lambda p: p[0].rename(p[0].with_name("x")) and shutil.copy(p[1], p[0]), "split.no"),
    "other count": (lambda p: _rewrite(p[1], _split(1, 4, 3), "b"), "field: split.count"),
    "other number of tensors": (lambda p: _rewrite(p[1], _split(1, 3, 9), "b"), "field: split.tensors.count"),
    "no split keys": (lambda p: _rewrite(p[1], [], "b"), "found: nothing"),
    "tensor in two shards": (lambda p: _rewrite(p[1], _split(1, 3, 3), "a"), "in two shards"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_set_that_does_not_fit_together_is_refused(tmp_path: Path, fault: str) -> None:
    paths = _write_set(tmp_path)
    spoil, words = FAULTS[fault]
    spoil(paths)
    with pytest.raises(ShardError) as caught:
        GGUFSource(paths[0])
    assert words in str(caught.value)


def test_a_shard_under_another_name_is_refused(tmp_path: Path) -> None:
    paths = _write_set(tmp_path)
    renamed = paths[1].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ShardError, match=r"split\.count"):
        GGUFSource(renamed)


@pytest.mark.parametrize(
    ("name", "error"), [("m-00005-of-00003.gguf", ShardError), ("m-00001-of-99999.gguf", LimitExceeded)]
)
def test_an_impossible_name_is_refused(tmp_path: Path, name: str, error: type[WvindexError]) -> None:
    paths = _write_set(tmp_path)
    with pytest.raises(error):
        GGUFSource(paths[0].rename(tmp_path / name))


def test_a_sibling_that_leads_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "model", tmp_path / "outside.gguf"
    inside.mkdir()
    paths = _write_set(inside)
    paths[1].rename(outside)
    paths[1].symlink_to(outside)
    with pytest.raises(UnsafePath, match=r"m-00002-of-00003\.gguf"):
        GGUFSource(paths[0])


def test_a_path_that_the_user_names_may_be_a_symlink(tmp_path: Path) -> None:
    target = tmp_path / "somewhere" / "blob"
    target.parent.mkdir()
    target.write_bytes(gguf_file(records=[Record()], data=bytes(16)))
    link = tmp_path / "m.gguf"
    link.symlink_to(target)
    with GGUFSource(link) as source:
        assert source.tensors()[0].file == link
