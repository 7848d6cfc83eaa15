"""Every kind of damage to a store is found, named where it is, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import wvindex
from tests.support.sealing import chunk_path, edit, faults, flip, only_fault, seal
from tests.support.trees import names
from wvindex.errors import NotAStore, StoreVersionError, UsageError
from wvindex.store.reader import open_catalog
from wvindex.verifying import KINDS, verify

EMBEDDING = "model.embed_tokens.weight"
EXPERTS = "model.layers.1.mlp.experts.gate_proj.weight"
ABSORBED = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
FACTOR = "blk.1.attn_q_b.weight"


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def symlink(path: Path) -> None:
    """Move a file out of its store, and leave a symlink to it."""
    away = next(one for one in path.parents if one.suffix == ".zarr").with_name("away")
    path.rename(away)
    path.symlink_to(away)


def catalog_file(store: Path) -> Path:
    return store / "catalog.json"


def array_json(store: Path, key: str = ABSORBED) -> Path:
    return store / open_catalog(store).arrays[key].path / "zarr.json"


class TestASoundStore:
    def test_has_no_fault_and_nothing_unchecked(self, sound: Path) -> None:
        found = verify(sound)
        assert (found.ok, found.faults, found.unchecked, found.notes) == (True, (), (), ())

    def test_is_counted_as_its_files_are(self, sound: Path) -> None:
        found = verify(sound)
        chunks = [
            path
            for path in sound.rglob("*")
            if path.is_file() and path.suffix != ".json" and path.parent.name != "tokenizer"
        ]
        documents = [json.loads(path.read_text()) for path in sound.rglob("zarr.json")]
        arrays = [document for document in documents if document["node_type"] == "array"]
        assert (found.arrays, found.chunks) == (len(arrays), len(chunks))
        assert found.bytes_checked == sum(path.stat().st_size for path in chunks)

    def test_is_left_as_it_is(self, sound: Path) -> None:
        before = {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()}
        verify(sound)
        assert {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_is_read_by_as_many_threads_as_one_asks_for(self, sound: Path, threads: int) -> None:
        reports: list[tuple[int, int]] = []
        found = verify(
            sound, threads=threads, progress=lambda at: reports.append((at.bytes_done, at.bytes_total))
        )
        assert found.ok
        assert [done for done, _ in reports] == sorted({done for done, _ in reports})
        assert reports[-1] == (found.bytes_checked, found.bytes_checked)

    def test_is_not_read_by_none(self, sound: Path) -> None:
        with pytest.raises(UsageError, match="counted from 1"):
            verify(sound, threads=0)

    def test_white_space_and_order_in_metadata_mean_nothing(self, store: Path) -> None:
        path = array_json(store)
        path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
        assert verify(store).ok

    def test_attributes_of_a_user_are_noted(self, store: Path) -> None:
        edit(array_json(store), lambda document: document["attributes"].update(mine=1))
        found = verify(store)
        assert found.ok
        assert "attributes.mine" in found.notes[0]

    @pytest.mark.parametrize(
        "change",
        [
            lambda claims: claims.pop("files"),
            lambda claims: claims.update(files={}),
            lambda claims: claims.update(files=None),
            lambda claims: claims.update(files=[1]),
            lambda claims: claims.update(files="catalog.json"),
        ],
    )
    def test_that_lost_the_checksums_of_its_files_is_none(
        self, store: Path, change: Callable[[Any], None]
    ) -> None:
        edit(store / "zarr.json", lambda document: change(document["attributes"]["wvindex"]))
        found = verify(store)
        assert [(one.kind, one.path, one.found) for one in found.faults] == [
            ("metadata", "zarr.json", "nothing")
        ]
        assert {(one.what, one.subject) for one in found.unchecked} == {
            ("checksum", "catalog.json"),
            ("checksum", "source/gguf-metadata.json"),
            ("checksum", "tokenizer/gguf.json"),
        }


class TestChunks:
    def test_a_flipped_bit_is_found_in_every_array(self, store: Path) -> None:
        catalog, rng = open_catalog(store), np.random.default_rng(0)
        expected = []
        for key, entry in catalog.arrays.items():
            index = int(rng.integers(entry.grid.n_chunks))
            path = chunk_path(store, key, index)
            flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
            expected.append(("checksum", key, path.relative_to(store).as_posix()))
        assert faults(store) == expected

    def test_every_chunk_of_an_array_is_named(self, store: Path) -> None:
        entry = open_catalog(store).arrays[EXPERTS]
        for index in range(entry.grid.n_chunks):
            flip(chunk_path(store, EXPERTS, index), -1)
        found = verify(store).faults
        assert [one.chunk for one in found] == [entry.grid.name(i) for i in range(entry.grid.n_chunks)]
        assert len(found) == 4

    def test_a_checksum_is_told_as_expected_and_found(self, store: Path) -> None:
        path = chunk_path(store, NORM)
        flip(path, 0)
        fault = only_fault(store)
        assert fault.expected == f"crc32c {open_catalog(store).arrays[NORM].crc32c[0]:08x}"
        assert fault.found != fault.expected.removeprefix("crc32c ")

    @pytest.mark.parametrize(
        ("damage", "kind", "found"),
        [
            (missing, "chunk_missing", "no file"),
            (cut, "chunk_length", "bytes"),
            (longer, "chunk_length", "bytes"),
            (empty, "chunk_length", "0 bytes"),
            (fifo, "unreadable", "not a regular file"),
            (directory, "unreadable", "not a regular file"),
            (symlink, "unsafe_path", "symlink"),
        ],
    )
    def test_a_chunk_that_is_no_chunk(
        self, store: Path, damage: Callable[[Path], None], kind: str, found: str
    ) -> None:
        path = chunk_path(store, EMBEDDING)
        damage(path)
        fault = only_fault(store)
        assert (fault.kind, fault.tensor) == (kind, EMBEDDING)
        assert fault.path == path.relative_to(store).as_posix()
        assert found in fault.found

    def test_swapped_chunks_are_both_named_and_recognized(self, store: Path) -> None:
        first, second = (chunk_path(store, EXPERTS, index) for index in (0, 3))
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
        found = verify(store).faults
        assert [one.kind for one in found] == ["checksum", "checksum"]
        assert found[0].found.endswith(f"which is {second.name}'s")
        assert found[1].found.endswith(f"which is {first.name}'s")

    def test_a_directory_that_is_a_symlink(self, store: Path) -> None:
        path = array_json(store, NORM).parent
        shutil.move(path, store.parent / "away")
        path.symlink_to(store.parent / "away")
        below = [("unsafe_path", NORM, f"{path.name}/zarr.json")]
        below += [("unsafe_path", NORM, chunk_path(store, NORM).relative_to(store).as_posix())]
        assert set(faults(store)) == {*below, ("unsafe_path", None, path.name)}

    def test_an_array_that_is_gone(self, store: Path) -> None:
        path = array_json(store, NORM).parent
        chunk = chunk_path(store, NORM).relative_to(store).as_posix()
        shutil.rmtree(path)
        assert faults(store) == [
            ("metadata", NORM, f"{path.name}/zarr.json"),
            ("chunk_missing", NORM, chunk),
        ]

    @pytest.mark.parametrize(("nan", "inf"), [(1, 0), (0, 2)])
    def test_counts_of_what_is_not_finite_are_counted_again(self, store: Path, nan: int, inf: int) -> None:
        def change(document: Any) -> None:
            document["arrays"][ABSORBED].update(nan=nan, inf=inf)

        edit(catalog_file(store), change, sealed=True)
        fault = only_fault(store)
        assert (fault.kind, fault.tensor) == ("nonfinite", ABSORBED)
        assert (fault.expected, fault.found) == (f"{nan} NaN, {inf} infinite", "0 NaN, 0 infinite")


class TestDocuments:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda document: document["shape"].__setitem__(0, 1), "shape"),
            (lambda document: document.update(data_type="int32"), "data_type"),
            (lambda document: document.update(fill_value=1.0), "fill_value"),
            (lambda document: document.update(fill_value=0), "fill_value"),
            (lambda document: document["codecs"][0].update(name="gzip"), "codecs"),
            (lambda document: document.pop("chunk_grid"), "chunk_grid"),
            (lambda document: document["attributes"]["wvindex"].update(exactness="bit"), "exactness"),
            (lambda document: document["attributes"]["wvindex"]["row_scale"].update(eps=1e-5), "eps"),
            (lambda document: document["attributes"]["wvindex"].update(more=1), "more"),
        ],
    )
    def test_metadata_that_contradict_the_catalog(
        self, store: Path, change: Callable[[Any], None], named: str
    ) -> None:
        edit(array_json(store), change)
        fault = only_fault(store)
        assert (fault.kind, fault.tensor) == ("metadata", ABSORBED)
        assert fault.path == array_json(store).relative_to(store).as_posix()
        assert named in fault.expected

    @pytest.mark.parametrize("text", ["", "null", "[]", '{"a": 1, "a": 1}', "{", '{"zarr_format": NaN}'])
    @pytest.mark.parametrize("name", ["array", "group", "root"])
    def test_metadata_that_are_none(self, store: Path, name: str, text: str) -> None:
        paths = {
            "array": array_json(store),
            "group": store / "layers/1/zarr.json",
            "root": store / "zarr.json",
        }
        paths[name].write_text(text)
        fault = only_fault(store) if name != "root" else verify(store).faults[0]
        assert (fault.kind, fault.found) == ("metadata", "no JSON object")

    @pytest.mark.parametrize("name", ["layers/zarr.json", "layers/2/zarr.json", "zarr.json"])
    def test_a_groups_metadata_that_is_missing(self, store: Path, name: str) -> None:
        (store / name).unlink()
        fault = only_fault(store)
        assert (fault.kind, fault.path, fault.found) == ("metadata", name, "nothing")

    def test_a_root_of_another_generator(self, store: Path) -> None:
        edit(store / "zarr.json", lambda document: document["attributes"]["wvindex"].update(generator="x"))
        fault = only_fault(store)
        assert (fault.kind, fault.path) == ("metadata", "zarr.json")
        assert "generator" in fault.expected

    def test_a_catalog_that_was_changed(self, store: Path) -> None:
        edit(catalog_file(store), lambda document: document["config"].update(rms_norm_eps=1e-4))
        fault = only_fault(store)
        assert (fault.kind, fault.path) == ("catalog", "catalog.json")
        assert fault.expected.startswith("crc32c ")

    @pytest.mark.parametrize(
        "change",
        [
            lambda document: document["arrays"][NORM].update(shape=[-1]),
            lambda document: document["arrays"][NORM].update(path="../x"),
            lambda document: document["arrays"][NORM].update(crc32c=[]),
            lambda document: document.pop("ledger"),
            lambda document: document.update(colour="red"),
        ],
    )
    def test_a_catalog_that_is_malformed(self, store: Path, change: Callable[[Any], None]) -> None:
        path = catalog_file(store)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        fault = only_fault(store)
        assert (fault.kind, fault.path) == ("catalog", "catalog.json")

    def test_a_checksum_of_the_catalog_that_was_changed(self, store: Path) -> None:
        def change(document: Any) -> None:
            document["arrays"][EXPERTS]["crc32c"][2] ^= 1

        edit(catalog_file(store), change, sealed=True)
        fault = only_fault(store)
        assert (fault.kind, fault.tensor) == ("checksum", EXPERTS)
        assert fault.chunk == open_catalog(store).arrays[EXPERTS].grid.name(2)

    def test_a_file_of_the_tokenizer_that_is_missing(self, store: Path) -> None:
        (store / "tokenizer/gguf.json").unlink()
        assert faults(store) == [("file", None, "tokenizer/gguf.json")]

    def test_a_file_of_the_tokenizer_that_was_changed(self, store: Path) -> None:
        flip(store / "tokenizer/gguf.json", 1000)
        assert faults(store) == [("file", None, "tokenizer/gguf.json")]

    @pytest.mark.parametrize(
        ("name", "size"),
        [("model.norm.weight/zarr.json", 1 << 20), ("zarr.json", 16 << 20), ("layers/zarr.json", 16 << 20)],
    )
    def test_a_document_that_no_read_takes_for_its_length(self, store: Path, name: str, size: int) -> None:
        path = store / name
        path.write_bytes(path.read_bytes() + b" " * size)
        (kind, _, place), *_ = faults(store)
        assert (kind, place) == ("unreadable", name)

    def test_a_file_without_its_checksum(self, store: Path) -> None:
        edit(
            store / "zarr.json",
            lambda document: document["attributes"]["wvindex"]["files"].pop("catalog.json"),
        )
        assert [kind for kind, *_ in faults(store)] == ["metadata"]


class TestExtraFiles:
    @pytest.mark.parametrize(
        "name",
        [
            "notes.txt",
            "building.json",
            "layers/notes",
            "layers/1/notes",
            "layers/9/zarr.json",
            "tokenizer/other.json",
            "model.norm.weight/c.1",
            "model.norm.weight/c/0",
            "model.norm.weight/c.00",
            "model.norm.weight/zarr.json.bak",
            "model.norm.weight/deep/er/file",
            "other.weight/zarr.json",
            ".hidden",
        ],
    )
    def test_is_found(self, store: Path, name: str) -> None:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"")
        assert faults(store) == [("extra_file", None, name)]

    def test_all_are_listed(self, store: Path) -> None:
        for i in range(20):
            (store / f"x{i:02d}").write_bytes(b"x")
        assert faults(store) == [("extra_file", None, f"x{i:02d}") for i in range(20)]


class TestLedger:
    @staticmethod
    def line(document: Any, tensor: str = FACTOR) -> Any:
        return next(line for line in document["ledger"] if line["tensor"] == tensor)

    def check(self, store: Path, change: Callable[[Any], None], tensor: str) -> list[str]:
        edit(catalog_file(store), change, sealed=True)
        found = verify(store).faults
        assert {(one.kind, one.tensor) for one in found} == {("ledger", tensor)}
        return [one.found for one in found]

    def test_a_key_that_is_no_array(self, store: Path) -> None:
        assert self.check(store, lambda d: self.line(d)["keys"].append("no.such"), FACTOR) == ["no.such"]

    def test_a_key_that_is_not_made_of_the_tensor(self, store: Path) -> None:
        found = self.check(store, lambda d: self.line(d)["keys"].append(NORM), FACTOR)
        assert found == ["sources ['output_norm.weight']"]

    def test_a_key_that_is_missing(self, store: Path) -> None:
        found = self.check(store, lambda d: self.line(d).update(keys=[], reason="config.rope"), FACTOR)
        assert found == ["keys []"]

    def test_a_line_without_keys_or_reason(self, store: Path) -> None:
        assert "neither" in self.check(store, lambda d: self.line(d).update(keys=[]), FACTOR)

    def test_a_line_that_is_missing(self, store: Path) -> None:
        def change(document: Any) -> None:
            document["ledger"].remove(self.line(document))

        assert self.check(store, change, FACTOR) == ["none"]

    def test_a_line_that_stands_twice(self, store: Path) -> None:
        def change(document: Any) -> None:
            document["ledger"].append(self.line(document))

        assert self.check(store, change, FACTOR) == ["several"]

    def test_a_file_that_is_not_the_sources(self, store: Path) -> None:
        assert self.check(store, lambda d: self.line(d).update(file="x.gguf"), FACTOR) == ["x.gguf"]

    @pytest.mark.parametrize("change", [{"shape": [1]}, {"encoding": "Q4_0"}])
    def test_a_form_that_its_copy_does_not_have(self, store: Path, change: dict[str, Any]) -> None:
        self.check(store, lambda d: self.line(d, "output_norm.weight").update(change), "output_norm.weight")


class TestNoStore:
    def test_a_directory_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(NotAStore, match="not a wvindex store"):
            verify(tmp_path)

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(NotAStore, match="no such directory"):
            verify(tmp_path / "x.zarr")

    def test_a_store_of_another_tool(self, tmp_path: Path) -> None:
        zarr.open_group(tmp_path / "x.zarr", mode="w")
        (tmp_path / "x.zarr/catalog.json").write_text("{}")
        with pytest.raises(NotAStore, match="not a wvindex store"):
            verify(tmp_path / "x.zarr")

    def test_a_store_without_its_catalog(self, store: Path) -> None:
        catalog_file(store).unlink()
        with pytest.raises(NotAStore, match="unfinished"):
            verify(store)

    def test_a_build_that_did_not_end(self, store: Path) -> None:
        catalog_file(store).unlink()
        (store / "zarr.json").unlink()
        (store / "building.json").write_text("{}")
        with pytest.raises(NotAStore, match=r"unfinished store.*building\.json"):
            verify(store)

    def test_a_store_whose_build_did_not_end(self, store: Path) -> None:
        catalog_file(store).unlink()
        (store / "building.json").write_text("{}")
        store.rename(store.with_name("copy.zarr.building"))
        with pytest.raises(NotAStore, match=r"unfinished store.*copy\.zarr\.building"):
            verify(store)

    def test_a_newer_format(self, store: Path) -> None:
        edit(catalog_file(store), lambda document: document.update(format=2))
        assert [(kind, path) for kind, _, path in faults(store)] == [("catalog", "catalog.json")]
        edit(store / "zarr.json", lambda document: document["attributes"]["wvindex"].update(format=2))
        with pytest.raises(StoreVersionError):
            verify(store)

    def test_a_newer_format_of_the_root_alone(self, store: Path) -> None:
        edit(store / "zarr.json", lambda document: document["attributes"]["wvindex"].update(format=2))
        with pytest.raises(StoreVersionError, match="newer format"):
            verify(store)


class TestOtherStores:
    def test_behind_zarrs_interface_are_checked_alike(self, sound: Path) -> None:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        memory = zarr.storage.MemoryStore()
        make = default_buffer_prototype().buffer.from_bytes
        for path in sound.rglob("*"):
            if path.is_file():
                sync(memory.set(path.relative_to(sound).as_posix(), make(path.read_bytes())))
        assert verify(memory).faults == ()
        assert verify(memory).chunks == verify(sound).chunks
        sync(memory.set("extra", make(b"x")))
        chunk = chunk_path(sound, NORM).relative_to(sound).as_posix()
        sync(memory.delete(chunk))
        found = [(one.kind, one.path) for one in verify(memory).faults]
        assert found == [("chunk_missing", chunk), ("extra_file", "extra")]

    def test_that_refuse_to_be_listed_say_so(self, sound: Path) -> None:
        class Unlisted(zarr.storage.LocalStore):
            async def list(self) -> AsyncIterator[str]:
                raise ConnectionError("the bucket is away")
                yield

        (fault,) = verify(Unlisted(sound, read_only=True)).faults
        assert (fault.kind, fault.found) == ("unreadable", "ConnectionError: the bucket is away")


@settings(max_examples=150)
@given(data=st.data())
def test_no_changed_byte_goes_unnoticed(sound: Path, data: st.DataObject) -> None:
    """Except white space of a zarr.json that becomes other white space: it means nothing."""
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != before[place]))
    path.write_bytes(before[:place] + bytes([byte]) + before[place + 1 :])
    try:
        if path.name == "zarr.json" and _same(before, path.read_bytes()):
            assert verify(sound).ok
        else:
            assert path.relative_to(sound).as_posix() in {one.path for one in verify(sound).faults}
    finally:
        path.write_bytes(before)


def _same(before: bytes, after: bytes) -> bool:
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


def test_every_kind_of_fault_is_described(store: Path) -> None:
    (store / "x").write_bytes(b"")
    flip(chunk_path(store, NORM), 0)
    assert {one.kind for one in verify(store).faults} <= set(KINDS)


def test_the_public_name_is_the_function(sound: Path) -> None:
    assert wvindex.verify is verify
    assert isinstance(wvindex.verify(sound), wvindex.Verification)


def test_resealing_changes_nothing_else(store: Path) -> None:
    before = (store / "zarr.json").read_bytes()
    assert (seal(store) / "zarr.json").read_bytes() == before


def test_statistics_that_were_kept_are_no_fault(store: Path) -> None:
    wvindex.stats(store)
    assert names(store / "stats")
    assert faults(store) == []
    (store / "stats" / "below").mkdir()
    (store / "stats" / "below" / "x").write_text("stray")
    assert faults(store) == [("extra_file", None, "stats/below/x")]
