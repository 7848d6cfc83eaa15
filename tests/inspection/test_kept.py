"""What a store keeps is what would be computed; it goes by chunks' crc32c, and may be lost or broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.sealing import seal
from wvindex.errors import SourceChanged
from wvindex.inspection import api, tensor_stats
from wvindex.inspection.api import GROUPINGS
from wvindex.store.checksum import crc32c

TABLES = ("tensor", "layer", "role", "head", "expert")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wv.build(EXAMPLE, tmp_path_factory.mktemp("kept") / "kjv.zarr")


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "kjv.zarr"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the keys of tensors that are computed from now on."""
    keys: list[str] = []
    summarize = tensor_stats.summarize

    def counted(tensors: list[wv.Tensor], *rest: Any) -> object:
        keys.extend(tensor.key for tensor in tensors)
        return summarize(tensors, *rest)

    monkeypatch.setattr(api, "summarize", counted)
    return keys


def rows(table: wv.Table) -> str:
    """Give all values, every digit of them; NaN equals NaN."""
    return repr(table.to_dicts())


@pytest.mark.parametrize("by", TABLES)
def test_what_is_kept_equals_what_is_computed(by: api.By, store: Path) -> None:
    first = wv.stats(store, by=by)
    assert (store / "stats" / f"{by}.json").is_file()
    kept = wv.stats(store, by=by)
    assert rows(kept) == rows(first) == rows(wv.stats(store, by=by, keep=False))
    assert kept.notes == first.notes


def test_nothing_is_computed_twice(store: Path, computed: list[str]) -> None:
    wv.stats(store, layers=1)
    assert len(computed) == len(set(computed)) == 15
    computed.clear()
    wv.stats(store, layers=[1, 2])
    assert {key.split(".")[2] for key in computed} == {"2"}


def test_nothing_else_of_the_store_changes(store: Path, built: Path) -> None:
    wv.stats(store)
    files = {p.relative_to(store) for p in store.rglob("*") if p.is_file()}
    before = {p.relative_to(built) for p in built.rglob("*") if p.is_file()}
    assert files - before == {Path("stats/tensor.json")}
    assert all((store / name).read_bytes() == (built / name).read_bytes() for name in before)


def test_other_bytes_are_computed_again(store: Path, computed: list[str]) -> None:
    wv.stats(store)
    catalog = json.loads((store / "catalog.json").read_text())
    entry = catalog["arrays"]["lm_head.weight"]
    chunk = store / entry["path"] / "c.0.0"
    data = bytearray(chunk.read_bytes())
    data[2] ^= 1
    chunk.write_bytes(data)
    entry["crc32c"][0] = crc32c([bytes(data)])
    (store / "catalog.json").write_text(json.dumps(catalog))
    seal(store)
    computed.clear()
    wv.stats(store)
    assert computed == ["lm_head.weight"]


def test_a_projection_that_was_not_chosen_counts_for_heads(store: Path) -> None:
    wv.stats(store, "*.0.self_attn.q_proj.weight", by="head")
    kept = json.loads((store / "stats" / "head.json").read_text())["subjects"]["0"]["of"]
    wv.stats(store, layers=0, by="head")
    assert json.loads((store / "stats" / "head.json").read_text())["subjects"]["0"]["of"] == kept


def test_the_directory_may_be_removed(store: Path) -> None:
    first = wv.stats(store)
    shutil.rmtree(store / "stats")
    assert rows(wv.stats(store)) == rows(first)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 3}',
        '{"version": 3, "columns": [], "subjects": {"lm_head.weight": {"of": 1}}}',
        '{"version": 99, "columns": [], "subjects": {}}',
    ],
)
def test_a_broken_file_is_as_good_as_none(text: str, store: Path) -> None:
    first = wv.stats(store)
    (store / "stats" / "tensor.json").write_text(text)
    assert rows(wv.stats(store)) == rows(first)


def _set(column: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Put another value into a kept row."""
    place = GROUPINGS["tensor"].columns.index(column)

    def change(entry: dict[str, Any]) -> None:
        entry["rows"][0][place] = value

    return change


CHANGES: tuple[Callable[[dict[str, Any]], Any], ...] = (
    lambda entry: entry["rows"].clear(),
    lambda entry: entry["rows"].extend(entry["rows"]),
    lambda entry: entry.pop("crc32c"),
    lambda entry: entry.pop("rows"),
    _set("key", "other.key"),
    _set("count", None),
    _set("count", 10**400),
    _set("nan", False),
    _set("mean", 0.25),
    _set("mean", "text"),
    _set("mean", {"a": 1}),
    _set("mean", [[1]]),
)


def test_rows_that_are_not_those_that_were_written_are_not_believed(store: Path, computed: list[str]) -> None:
    first = wv.stats(store)
    file = store / "stats" / "tensor.json"
    document = json.loads(file.read_text())
    changed = dict(zip(document["subjects"], CHANGES, strict=False))
    for subject, change in changed.items():
        change(document["subjects"][subject])
    file.write_text(json.dumps(document))
    computed.clear()
    table = wv.stats(store)
    assert rows(table) == rows(first)
    assert computed == list(changed)
    assert str(file) in table.notes[0]
    assert wv.stats(store).notes == first.notes


def test_a_directory_that_cannot_be_written_is_a_note(store: Path) -> None:
    (store / "stats").write_text("in the way")
    table = wv.stats(store)
    assert len(table) == 43
    assert any("not kept" in note for note in table.notes)


def test_a_symlink_is_neither_read_nor_written_through(store: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (store / "stats").symlink_to(elsewhere)
    table = wv.stats(store)
    assert table.notes
    assert list(elsewhere.iterdir()) == []


def test_a_bare_file_keeps_nothing(tmp_path: Path) -> None:
    source = tmp_path / EXAMPLE.name
    shutil.copyfile(EXAMPLE, source)
    assert len(wv.stats(source, layers=0)) == 13
    assert list(tmp_path.iterdir()) == [source]


def test_a_linked_store_goes_by_its_source_while_that_is_what_it_was(
    tmp_path: Path, computed: list[str]
) -> None:
    shutil.copyfile(EXAMPLE, tmp_path / EXAMPLE.name)
    linked = wv.build(tmp_path / EXAMPLE.name, tmp_path / "linked.zarr", link=True)
    first = wv.stats(linked)
    computed.clear()
    assert rows(wv.stats(linked)) == rows(first)
    assert computed == []
    os.utime(tmp_path / EXAMPLE.name, ns=(0, 0))
    with pytest.raises(SourceChanged):
        wv.stats(linked, "lm_head.weight")
    with pytest.raises(SourceChanged):
        wv.sql("SELECT std FROM tensors", linked)


def test_what_was_done_before_an_interruption_is_kept(store: Path, computed: list[str]) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wv.stats(store, progress=stop)
    before = len(computed)
    computed.clear()
    wv.stats(store)
    assert 0 < len(computed) <= 43 - before + 1


def test_progress_ends_at_its_total(store: Path) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        wv.stats(store, spectrum="full", layers=0, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1][0] == seen[-1][1] > 0
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        seen.clear()
