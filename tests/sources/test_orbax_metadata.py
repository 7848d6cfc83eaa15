"""``_METADATA`` is believed only where it is what Orbax writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.maxtext_writer import write_orbax
from wvindex.errors import (
    DuplicateName,
    LimitExceeded,
    MalformedHeader,
    ShardError,
    TensorLayoutError,
    UnknownFormat,
    UnreadableSource,
    UnsafePath,
    UnsupportedError,
    UsageError,
    WvindexError,
)
from wvindex.sources.maxtext import MaxTextSource
from wvindex.sources.orbax_arrays import context, open_arrays
from wvindex.sources.orbax_metadata import is_orbax, locate, read_tree

TREE = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "opt_state": {"0": {"mu": np.ones(2)}}}


def edited(directory: Path, edit: Any, **options: Any) -> Path:
    path = write_orbax(directory / "items", TREE, **options)
    document = json.loads((path / "_METADATA").read_text())
    edit(document, document["tree_metadata"])
    (path / "_METADATA").write_text(json.dumps(document))
    return path


def test_leaves_are_named_as_orbax_names_them(tmp_path: Path) -> None:
    tree = read_tree(write_orbax(tmp_path / "items", TREE))
    assert [leaf.name for leaf in tree.leaves] == ["opt_state.0.mu", "params.a"]
    assert tree.leaves[0].path == ("opt_state", "0", "mu")
    assert (tree.ocdbt, tree.zarr3, tree.fill_is_stored) == (True, True, True)


def test_empty_nodes_hold_nothing(tmp_path: Path) -> None:
    def add(document: Any, members: Any) -> None:
        value = {"value_type": "None", "skip_deserialize": True}
        members["('e',)"] = {"key_metadata": [{"key": "e", "key_type": 2}], "value_metadata": value}

    assert len(read_tree(edited(tmp_path, add)).leaves) == 2


def _segment(value: object) -> Any:
    def edit(document: Any, members: Any) -> None:
        members["('params', 'a')"]["key_metadata"][1]["key"] = value

    return edit


def _member(name: str, value: object) -> Any:
    def edit(document: Any, members: Any) -> None:
        members["('params', 'a')"][name] = value

    return edit


def _value(**changes: object) -> Any:
    def edit(document: Any, members: Any) -> None:
        members["('params', 'a')"]["value_metadata"] |= changes

    return edit


def _twice(document: Any, members: Any) -> None:
    members["again"] = members["('params', 'a')"]


FAULTS = [
    (_segment(".."), UnsafePath),
    (_segment("a/b"), UnsafePath),
    (_segment("a\0"), UnsafePath),
    (_segment(""), UnsafePath),
    (_segment("x" * 600), LimitExceeded),
    (_member("key_metadata", []), MalformedHeader),
    (_member("key_metadata", "a"), MalformedHeader),
    (_member("value_metadata", None), MalformedHeader),
    (_value(value_type="pickle"), MalformedHeader),
    (_value(value_type=3), MalformedHeader),
    (_value(write_shape=[-1]), MalformedHeader),
    (_value(write_shape=[1] * 9), MalformedHeader),
    (_twice, DuplicateName),
]


@pytest.mark.parametrize(("edit", "error"), FAULTS)
def test_a_tree_that_is_not_sound_is_refused(tmp_path: Path, edit: Any, error: type[WvindexError]) -> None:
    with pytest.raises(error):
        read_tree(edited(tmp_path, edit))


def test_a_shape_that_is_not_the_arrays_is_refused(tmp_path: Path) -> None:
    directory = edited(tmp_path, _value(write_shape=[3, 2]))
    with pytest.raises(TensorLayoutError):
        open_arrays(read_tree(directory), directory, context())


def test_a_leaf_that_is_not_there_is_named(tmp_path: Path) -> None:
    directory = edited(tmp_path, _segment("b"))
    with pytest.raises(ShardError) as error:
        open_arrays(read_tree(directory), directory, context())
    assert error.value.tensor == "params.b"


def test_a_dtype_that_no_store_has_is_refused(tmp_path: Path) -> None:
    directory = write_orbax(tmp_path / "items", {"a": np.ones(2, np.complex64)})
    with pytest.raises(UnsupportedError, match="complex64"):
        open_arrays(read_tree(directory), directory, context())


@pytest.mark.parametrize("metadata", ["{", "{}", '{"zarr_format": 3, "node_type": "group"}', "[1]"])
def test_metadata_of_an_array_that_are_none_are_refused(tmp_path: Path, metadata: str) -> None:
    directory = write_orbax(tmp_path / "items", TREE, ocdbt=False)
    (directory / "params.a" / "zarr.json").write_text(metadata)
    with pytest.raises(WvindexError) as error:
        open_arrays(read_tree(directory), directory, context())
    assert error.value.exit_code == 3


def test_a_chunk_beyond_all_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    directory = edited(tmp_path, _value(write_shape=[1 << 40, 3]), ocdbt=False)
    file = directory / "params.a" / "zarr.json"
    document = json.loads(file.read_text())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 40, 3]
    file.write_text(json.dumps(document))
    with pytest.raises(LimitExceeded, match="chunk"):
        open_arrays(read_tree(directory), directory, context())


def test_bytes_that_do_not_decode_are_a_damaged_array(tmp_path: Path) -> None:
    directory = write_orbax(tmp_path / "items", TREE, ocdbt=False, zarr3=False)
    (directory / "params.a" / "0.0").write_bytes(b"\x00\x01\x02")
    arrays = {one.leaf.name: one for one in open_arrays(read_tree(directory), directory, context())}
    with pytest.raises(WvindexError) as error:
        arrays["params.a"].read((slice(None), slice(None)))
    assert error.value.exit_code == 3
    assert error.value.tensor == "params.a"


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    directory = write_orbax(tmp_path / "items", TREE, ocdbt=False)
    (tmp_path / "outside").write_text("x")
    (directory / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafePath):
        MaxTextSource(directory)


def test_a_pipe_among_the_files_is_refused_and_never_opened(tmp_path: Path) -> None:
    directory = write_orbax(tmp_path / "items", TREE, ocdbt=False)
    os.mkfifo(directory / "params.a" / "pipe")
    with pytest.raises(UnreadableSource):
        MaxTextSource(directory)


def test_a_directory_is_known_by_its_tree(tmp_path: Path) -> None:
    assert not is_orbax(tmp_path)
    directory = write_orbax(tmp_path / "step" / "items", TREE)
    assert is_orbax(directory)
    assert is_orbax(tmp_path / "step")
    assert locate(tmp_path / "step") == directory
    write_orbax(tmp_path / "step" / "other", TREE)
    with pytest.raises(UsageError):
        locate(tmp_path / "step")
    with pytest.raises(UnknownFormat):
        locate(tmp_path)
