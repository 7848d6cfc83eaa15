"""Which files a safetensors checkpoint is made of, and when they do not fit together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import save_file

import wvindex
from tests.support.safetensors_bytes import write_index
from wvindex.errors import (
    DuplicateName,
    LimitExceeded,
    MalformedHeader,
    ShardError,
    UnknownFormat,
    UnreadableSource,
    UnsafePath,
    WvindexError,
)
from wvindex.sources.safetensors import SafetensorsSource

SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
WEIGHT_MAP = dict(zip("abc", SHARDS, strict=True))


def _save(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.full(4, ord(name), np.uint8) for name in names}, path)
    return path


def _write_shards(directory: Path) -> None:
    for name, shard in WEIGHT_MAP.items():
        _save(directory / shard, name)


def _write_set(directory: Path) -> None:
    _write_shards(directory)
    write_index(directory, WEIGHT_MAP)


def _names(path: Path) -> list[str]:
    with SafetensorsSource(path) as source:
        for info in source.tensors():
            assert bytes(source.read(info, 0, 4)) == info.name.encode() * 4
        return [info.name for info in source.tensors()]


@pytest.mark.parametrize("opened", ["", "model.safetensors.index.json", *SHARDS])
def test_directory_index_and_any_shard_open_the_whole_set(tmp_path: Path, opened: str) -> None:
    _write_set(tmp_path)
    assert _names(tmp_path / opened) == ["a", "b", "c"]


def test_fingerprints_come_in_shard_order_with_names_relative_to_the_directory(tmp_path: Path) -> None:
    _save(tmp_path / "part" / "two.safetensors", "b")
    _save(tmp_path / "one.safetensors", "a")
    write_index(tmp_path, {"b": "part/two.safetensors", "a": "one.safetensors"})
    with SafetensorsSource(tmp_path) as source:
        assert [f.name for f in source.fingerprint()] == ["one.safetensors", "part/two.safetensors"]
    assert _names(tmp_path) == ["a", "b"]


def test_an_index_of_another_name_is_found(tmp_path: Path) -> None:
    _save(tmp_path / "x-00001-of-00002.safetensors", "a")
    _save(tmp_path / "x-00002-of-00002.safetensors", "b")
    write_index(
        tmp_path,
        {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"},
        name="diffusion",
    )
    assert _names(tmp_path) == _names(tmp_path / "x-00002-of-00002.safetensors") == ["a", "b"]


def test_files_without_an_index_are_taken_together(tmp_path: Path) -> None:
    _write_shards(tmp_path)
    assert _names(tmp_path) == ["a", "b", "c"]


def test_model_safetensors_stands_alone_and_the_others_are_noted(tmp_path: Path) -> None:
    _save(tmp_path / "model.safetensors", "a")
    _save(tmp_path / "consolidated.safetensors", "a")
    with SafetensorsSource(tmp_path) as source:
        assert [t.name for t in source.tensors()] == ["a"]
        assert source.notes == ("not part of the checkpoint: consolidated.safetensors",)


def test_files_that_the_index_does_not_name_are_noted(tmp_path: Path) -> None:
    _write_set(tmp_path)
    _save(tmp_path / "consolidated.safetensors", "a", "b", "c")
    with SafetensorsSource(tmp_path) as source:
        assert source.notes == ("not part of the checkpoint: consolidated.safetensors",)


def test_a_shard_that_no_index_lists_opens_alone_and_says_so(tmp_path: Path) -> None:
    _write_shards(tmp_path)
    with SafetensorsSource(tmp_path / SHARDS[1]) as source:
        assert [t.name for t in source.tensors()] == ["b"]
        assert "one of 3 shards" in source.notes[0]


def test_unrelated_files_without_an_index_are_said_to_be_taken_for_one_model(tmp_path: Path) -> None:
    _save(tmp_path / "vision.safetensors", "a")
    _save(tmp_path / "text.safetensors", "b")
    with SafetensorsSource(tmp_path) as source:
        assert [t.name for t in source.tensors()] == ["b", "a"]
        assert source.notes == (
            "taken for one model, though no index says so: text.safetensors, vision.safetensors",
        )


def test_gguf_files_beside_safetensors_are_said_to_be_left_aside(tmp_path: Path) -> None:
    _save(tmp_path / "model.safetensors", "a")
    (tmp_path / "model-Q4_K.gguf").write_bytes(b"GGUF")
    with wvindex.open(tmp_path) as db:
        assert db.notes == ("not part of the checkpoint: model-Q4_K.gguf",)


def _make_directory(path: Path) -> Path:
    path.mkdir()
    return path


def _index(**weight_map: str) -> Callable[[Path], object]:
    return lambda directory: write_index(directory, WEIGHT_MAP | weight_map)


FAULTS: dict[str, tuple[Callable[[Path], object], type[WvindexError], str]] = {
    "file missing": (lambda d: (d / SHARDS[1]).unlink(), ShardError, SHARDS[1]),
    "tensor not in its shard": (_index(d=SHARDS[0]), ShardError, "tensor: d"),
    "tensor in another shard": (_index(a=SHARDS[1]), ShardError, "tensor: a"),
    "tensor in two shards": (lambda d: _save(d / SHARDS[1], "b", "a"), ShardError, "in two shards"),
    "tensor not in the index": (lambda d: _save(d / SHARDS[1], "b", "z"), ShardError, "tensor: z"),
    "name with ..": (_index(d="../x.safetensors"), UnsafePath, "../x.safetensors"),
    "name with .. inside": (_index(d="a/../../x.safetensors"), UnsafePath, "a/../../x"),
    "absolute name": (_index(d="/etc/passwd"), UnsafePath, "/etc/passwd"),
    "name with a backslash": (_index(d="..\\x"), UnsafePath, "..\\x"),
    "name with NUL": (_index(d="x\0"), UnsafePath, "x\\x00"),
    "empty name": (_index(d=""), UnsafePath, "file name"),
    "name of the directory": (_index(d="."), UnsafePath, "file name"),
    "name of a directory": (
        lambda d: write_index(d, WEIGHT_MAP | {"d": _make_directory(d / "sub").name}),
        UnreadableSource,
        "not a regular file",
    ),
    "no weight_map": (
        lambda d: (d / "model.safetensors.index.json").write_text("{}"),
        MalformedHeader,
        "weight_map",
    ),
    "weight_map of numbers": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
        MalformedHeader,
        "weight_map",
    ),
    "empty weight_map": (lambda d: write_index(d, {}), ShardError, "found: an empty object"),
    "tensor twice in the index": (
        lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}'),
        DuplicateName,
        "field: a",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, fault: str) -> None:
    _write_set(tmp_path)
    spoil, error, words = FAULTS[fault]
    spoil(tmp_path)
    with pytest.raises(error) as caught:
        SafetensorsSource(tmp_path)
    assert words in str(caught.value)


def test_too_many_shards_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wvindex.sources.safetensors_index.MAX_SHARDS", 2)
    _write_set(tmp_path)
    with pytest.raises(LimitExceeded, match="too many shards"):
        SafetensorsSource(tmp_path)


def test_numbered_shards_without_an_index_must_all_be_there(tmp_path: Path) -> None:
    _write_shards(tmp_path)
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(ShardError, match=SHARDS[1]):
        SafetensorsSource(tmp_path)


def test_a_tensor_in_two_files_without_an_index_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "x.safetensors", "a")
    _save(tmp_path / "y.safetensors", "a")
    with pytest.raises(ShardError, match="in two shards"):
        SafetensorsSource(tmp_path)


def test_several_indexes_are_refused_unless_one_is_the_model_s(tmp_path: Path) -> None:
    _write_shards(tmp_path)
    write_index(tmp_path, WEIGHT_MAP, name="x")
    write_index(tmp_path, WEIGHT_MAP, name="y")
    with pytest.raises(UnknownFormat, match=r"x\.safetensors\.index\.json, y"):
        SafetensorsSource(tmp_path)
    write_index(tmp_path, WEIGHT_MAP)
    assert _names(tmp_path) == ["a", "b", "c"]


def test_an_empty_directory_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat):
        SafetensorsSource(tmp_path)


def _snapshot(root: Path) -> Path:
    """Lay out a checkpoint as huggingface_hub caches it: files are symlinks into blobs."""
    snapshot, blobs = root / "models--x--y" / "snapshots" / "0123abcd", root / "models--x--y" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    _write_set(snapshot)
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    for i, path in enumerate(sorted(snapshot.iterdir())):
        blob = path.rename(blobs / f"{i:064x}")
        path.symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@pytest.mark.parametrize("opened", ["", "model.safetensors.index.json", SHARDS[0]])
def test_a_hub_snapshot_reads_through_its_symlinks(tmp_path: Path, opened: str) -> None:
    snapshot = _snapshot(tmp_path)
    assert _names(snapshot / opened) == ["a", "b", "c"]
    with SafetensorsSource(snapshot) as source:
        assert source.config() == {"model_type": "llama"}
        assert source.tensors()[0].file == snapshot / SHARDS[0]


@pytest.mark.parametrize("name", [SHARDS[1], "config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("layout", ["snapshot", "plain"])
def test_a_symlink_out_of_the_checkpoint_is_refused_unopened(tmp_path: Path, name: str, layout: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("{}")
    directory = _snapshot(tmp_path) if layout == "snapshot" else tmp_path / "plain"
    if layout == "plain":
        _write_set(directory)
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(outside)
    with (
        mock.patch("os.open", wraps=os.open) as opened,
        pytest.raises(UnsafePath, match="symlink"),
    ):
        SafetensorsSource(directory)
    assert outside not in [Path(call.args[0]) for call in opened.call_args_list]


def test_blobs_are_trusted_only_beside_snapshots(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    directory = tmp_path / "models" / "x"
    _write_set(directory)
    blob = (directory / SHARDS[0]).rename(tmp_path / "blobs" / "0")
    (directory / SHARDS[0]).symlink_to(blob)
    with pytest.raises(UnsafePath):
        SafetensorsSource(directory)


def test_a_symlink_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(UnreadableSource):
        SafetensorsSource(tmp_path)
