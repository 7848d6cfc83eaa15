"""A store whose arrays are byte ranges of its source: what has changed, and which arrays suffer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import wvindex
from tests.support.checkpoints import checkpoint
from tests.support.gguf_writer import write_gguf
from tests.support.linking import linked_keys
from tests.support.sealing import edit, flip, only_fault, seal
from wvindex.store.reader import open_catalog
from wvindex.verifying import verify


@pytest.fixture
def linked(tmp_path: Path) -> tuple[Path, Path]:
    """Give a GGUF file and a store that is linked to it."""
    source = write_gguf(checkpoint("llama"), tmp_path / "model.gguf", dtype="Q8_0")[0]
    return source, seal(wvindex.build(source, tmp_path / "x.zarr", link=True))


def test_a_sound_one_has_no_fault_and_says_what_has_no_checksum(linked: tuple[Path, Path]) -> None:
    source, store = linked
    keys = linked_keys(store)
    assert len(keys) > 10
    for found in (verify(store), verify(store, source)):
        assert found.ok
        for what in ("checksum", "nonfinite"):
            assert {one.subject for one in found.unchecked if one.what == what} == keys
    assert found.compared == {"gguf package": found.arrays}


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def other_header(path: Path) -> None:
    status = path.stat()
    flip(path, 200)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("change", "named"),
    [(longer, "size"), (touched, "mtime_ns"), (other_header, "header_sha256"), (gone, "model.gguf")],
)
def test_a_changed_source_is_named_with_all_arrays_that_suffer(
    linked: tuple[Path, Path], change: Callable[[Path], None], named: str
) -> None:
    source, store = linked
    change(source)
    fault = only_fault(store)
    assert (fault.kind, fault.tensor, fault.path) == ("source_changed", None, str(source))
    assert named in fault.expected
    assert set(fault.affects) == linked_keys(store)


def test_store_and_source_may_move_together(linked: tuple[Path, Path], tmp_path: Path) -> None:
    source, store = linked
    (tmp_path / "elsewhere").mkdir()
    for path in (source, store):
        shutil.move(path, tmp_path / "elsewhere")
    assert verify(tmp_path / "elsewhere" / store.name).ok


def test_a_link_to_other_bytes_is_found_beside_the_source(linked: tuple[Path, Path]) -> None:
    source, store = linked
    entries = open_catalog(store).arrays
    layers = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1)]
    links = [entries[key].link for key in layers]
    assert all(links)

    def swap(document: object) -> None:
        assert isinstance(document, dict)
        arrays = document["arrays"]
        first, second = (arrays[key]["link"] for key in layers)
        arrays[layers[0]]["link"], arrays[layers[1]]["link"] = second, first

    edit(store / "catalog.json", swap, sealed=True)
    assert verify(store).ok
    assert [(one.kind, one.tensor) for one in verify(store, source).faults] == [
        ("source_bytes", key) for key in layers
    ]


def test_a_file_where_a_linked_array_would_be_is_extra(linked: tuple[Path, Path]) -> None:
    _, store = linked
    key = min(linked_keys(store))
    path = open_catalog(store).arrays[key].path
    (store / path).mkdir(parents=True)
    (store / path / "zarr.json").write_text("{}")
    fault = only_fault(store)
    assert (fault.kind, fault.path) == ("extra_file", f"{path}/zarr.json")


def test_what_cannot_be_read_for_a_changed_source_is_not_compared(linked: tuple[Path, Path]) -> None:
    source, store = linked
    touched(source)
    found = verify(store, source)
    assert [one.kind for one in found.faults] == ["source_changed"]
    left_out = {one.subject for one in found.unchecked if one.what == "values"}
    assert linked_keys(store) <= left_out
    assert found.compared == {"gguf package": found.arrays - len(linked_keys(store))}
