"""A store is written whole or not at all, the same bytes every time, and only over a store."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.arrays import MemoryArray, catalog_of, memory_array, memory_arrays, write_store
from tests.support.trees import contents, names
from wvindex.errors import BuildLocked, CatalogError, StoreError, TargetExists, UnsafePath
from wvindex.sources.base import TokenizerData
from wvindex.store.checksum import Buffer
from wvindex.store.durable import write_file
from wvindex.store.layout import chunk_rows
from wvindex.store.reader import open_catalog, read_tokenizer
from wvindex.store.remote import open_objects
from wvindex.store.writer import StoreWriter


@pytest.fixture
def arrays() -> list[MemoryArray]:
    return [
        memory_array("model.layers.0.a.weight", (20, 64), "F32"),
        memory_array("model.layers.1.b.weight", (2, 11, 30), "FP8"),
        memory_array("lm_head.weight", (20, 256), "Q4_K"),
    ]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path, arrays: list[MemoryArray]) -> None:
    a = write_store(tmp_path / "a.zarr", arrays, workspace=1)
    b = write_store(tmp_path / "b.zarr", arrays, workspace=1 << 20)
    assert contents(a) == contents(b)


def test_files_of_a_store(tmp_path: Path) -> None:
    array = memory_array("model.layers.0.a.weight", (20, 64), "F32")
    root = write_store(tmp_path / "a.zarr", [array], chunk_bytes=10 * 256)
    assert sorted(contents(root)) == [
        "catalog.json",
        "layers/0/a.weight/c.0.0",
        "layers/0/a.weight/c.1.0",
        "layers/0/a.weight/zarr.json",
        "layers/0/zarr.json",
        "layers/zarr.json",
        "zarr.json",
    ]
    assert json.loads(contents(root)["zarr.json"])["attributes"]["wvindex"]["format"] == 1
    assert names(tmp_path) == ["a.zarr"]


def test_a_short_plain_chunk_is_padded_and_a_packed_one_is_not(tmp_path: Path) -> None:
    plain, packed = memory_array("f", (11, 64), "F32"), memory_array("q", (11, 512), "Q4_K")
    root = write_store(tmp_path / "a.zarr", [plain, packed], chunk_bytes=1200)
    assert [len(data) for name, data in contents(root).items() if name.startswith("f/c")] == [1024] * 3
    assert contents(root)["f/c.2.0"] == plain.raw[8:].tobytes() + bytes(256)
    assert [len(data) for name, data in contents(root).items() if name.startswith("q/c")] == [1152, 1152, 864]


def test_fp8_chunks_are_codes_and_then_their_scales(tmp_path: Path) -> None:
    array = memory_array("w", (2, 7, 12), "FP8")
    root = write_store(tmp_path / "a.zarr", [array], chunk_bytes=3 * 12)
    files = contents(root)
    for matrix in range(2):
        for chunk in range(3):
            rows = array.raw[matrix * 7 + chunk * 3 : matrix * 7 + min(chunk * 3 + 3, 7)]
            scales = array.scales[matrix * 3 + chunk]
            assert files[f"w/c.{matrix}.{chunk}.0"] == rows.tobytes() + scales.tobytes()


@given(array=memory_arrays(), chunk_bytes=st.integers(1, 600))
@settings(max_examples=50, deadline=None)
def test_checksums_and_counts(
    tmp_path_factory: pytest.TempPathFactory, array: MemoryArray, chunk_bytes: int
) -> None:
    root = write_store(tmp_path_factory.mktemp("s") / "a.zarr", [array], chunk_bytes=chunk_bytes)
    entry = open_catalog(root).arrays["x"]
    chunks = [(root / entry.path / entry.grid.name(i)).read_bytes() for i in range(entry.grid.n_chunks)]
    assert entry.crc32c == tuple(google_crc32c.value(chunk) for chunk in chunks)
    values = array.values.astype(np.float64)
    assert (entry.nan, entry.inf) == (np.isnan(values).sum(), np.isinf(values).sum())


def test_nan_and_infinity_are_counted_but_padding_is_not(tmp_path: Path) -> None:
    array = memory_array("x", (7, 8), "F32")
    array.values[2, 1], array.values[3, :2], array.values[6, 0] = np.nan, np.inf, -np.inf
    entry = open_catalog(write_store(tmp_path / "a.zarr", [array], chunk_bytes=64)).arrays["x"]
    assert (entry.nan, entry.inf) == (1, 3)


class Recorder:
    """An array that notes how many bytes are asked for at once."""

    def __init__(self, array: MemoryArray, preferred_tile_bytes: int) -> None:
        self.array = array
        self.preferred_tile_bytes = preferred_tile_bytes
        self.sizes: list[int] = []

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        self.sizes.append(len(out))
        self.array.read_rows(start, stop, out, span=span)

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        self.array.read_scales(start, stop, out)


@pytest.mark.parametrize("workspace", [1, 4096, 3 * 4096, 1 << 30])
def test_what_is_read_at_once_does_not_depend_on_the_memory(tmp_path: Path, workspace: int) -> None:
    rows = Recorder(memory_array("x", (64, 64), "F32"), 4500)
    told: list[int] = []
    with StoreWriter(tmp_path / "a.zarr", chunk_bytes=1024) as writer:
        writer.write_array(rows.array.spec, rows, workspace=workspace, on_bytes=told.append)
    assert rows.sizes == [4096] * 4
    assert told == [1024] * 16


@pytest.mark.parametrize(("workspace", "tiles"), [(1, 1), (4096, 1), (2 * 4096, 2), (1 << 30, 3)])
def test_a_workspace_bounds_the_tiles_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: int, tiles: int
) -> None:
    may_write = Event()

    def wait_and_write(path: Path, parts: Sequence[Buffer]) -> None:
        assert may_write.wait(60)
        write_file(path, parts)

    monkeypatch.setattr("wvindex.store.pipeline.write_file", wait_and_write)
    rows = Recorder(memory_array("x", (64, 64), "F32"), 4096)
    with StoreWriter(tmp_path / "a.zarr", chunk_bytes=1024) as writer, ThreadPoolExecutor(1) as pool:
        building = pool.submit(writer.write_array, rows.array.spec, rows, workspace=workspace)
        with pytest.raises(TimeoutError):
            building.result(timeout=0.2)
        assert rows.sizes == [4096] * tiles
        may_write.set()
        building.result()


class TestFailure:
    """Whatever goes wrong, there is no store and nothing half-written."""

    def test_an_exception_leaves_nothing(self, tmp_path: Path, arrays: list[MemoryArray]) -> None:
        def write() -> None:
            with StoreWriter(tmp_path / "a.zarr") as writer:
                writer.write_array(arrays[0].spec, arrays[0], workspace=1)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write()
        assert names(tmp_path) == []

    def test_leaving_without_finish_leaves_nothing(self, tmp_path: Path) -> None:
        with StoreWriter(tmp_path / "a.zarr"):
            assert names(tmp_path) == ["a.zarr.building"]
        assert names(tmp_path) == []

    def test_an_old_store_survives_a_failed_overwrite(
        self, tmp_path: Path, arrays: list[MemoryArray]
    ) -> None:
        before = contents(write_store(tmp_path / "a.zarr", arrays))
        with StoreWriter(tmp_path / "a.zarr", overwrite=True) as writer:
            writer.write_array(arrays[0].spec, arrays[0], workspace=1)
        assert contents(tmp_path / "a.zarr") == before
        assert names(tmp_path) == ["a.zarr"]

    def test_the_catalog_must_name_what_was_written(self, tmp_path: Path, arrays: list[MemoryArray]) -> None:
        with StoreWriter(tmp_path / "a.zarr") as writer:
            writer.write_array(arrays[0].spec, arrays[0], workspace=1)
            with pytest.raises(CatalogError, match=r"layers/0/a\.weight"):
                writer.finish(catalog_of({}))
        assert names(tmp_path) == []

    def test_an_array_is_written_once(self, tmp_path: Path, arrays: list[MemoryArray]) -> None:
        with StoreWriter(tmp_path / "a.zarr") as writer:
            writer.write_array(arrays[0].spec, arrays[0], workspace=1)
            with pytest.raises(StoreError, match="twice"):
                writer.write_array(arrays[0].spec, arrays[0], workspace=1)

    def test_what_another_kind_of_build_left_is_cleared(
        self, tmp_path: Path, arrays: list[MemoryArray]
    ) -> None:
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_die_while_building, args=(tmp_path / "a.zarr", arrays[0]))
        process.start()
        process.join()
        assert process.exitcode == 9
        assert (tmp_path / "a.zarr.building" / "store" / "layers").is_dir()
        write_store(tmp_path / "a.zarr", arrays[2:])
        assert set(open_catalog(tmp_path / "a.zarr").arrays) == {"lm_head.weight"}
        assert not (tmp_path / "a.zarr" / "layers").exists()


def _die_while_building(path: Path, array: MemoryArray) -> None:
    writer = StoreWriter(path)
    writer.__enter__()
    writer.write_array(array.spec, array, workspace=1)
    os._exit(9)


class TestTarget:
    """What stands at the output path is replaced only if it is a store and that was asked for."""

    def test_a_store_is_kept_by_default(self, tmp_path: Path, arrays: list[MemoryArray]) -> None:
        path = write_store(tmp_path / "a.zarr", arrays)
        with pytest.raises(TargetExists, match="taken"), StoreWriter(path):
            pass
        assert set(open_catalog(path).arrays) == {a.spec.key for a in arrays}

    def test_a_store_is_replaced_when_asked(self, tmp_path: Path, arrays: list[MemoryArray]) -> None:
        path = write_store(tmp_path / "a.zarr", arrays)
        with StoreWriter(path, overwrite=True) as writer:
            writer.finish(catalog_of({}))
        assert not open_catalog(path).arrays
        assert names(tmp_path) == ["a.zarr"]

    @pytest.mark.parametrize(
        "kind", ["file", "directory", "empty directory", "zarr group", "symlink", "dangling"]
    )
    def test_nothing_else_is_ever_replaced(
        self, tmp_path: Path, arrays: list[MemoryArray], kind: str
    ) -> None:
        path = tmp_path / "a.zarr"
        if kind == "file":
            path.write_text("mine")
        elif kind == "symlink":
            path.symlink_to(write_store(tmp_path / "real.zarr", arrays))
        elif kind == "dangling":
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.mkdir()
            if kind == "directory":
                (path / "mine").write_text("mine")
            if kind == "zarr group":
                (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        before = names(tmp_path)
        with pytest.raises(TargetExists), StoreWriter(path, overwrite=True):
            pass
        assert names(tmp_path) == before

    def test_a_building_directory_of_someone_else_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.zarr.building").mkdir()
        (tmp_path / "a.zarr.building" / "mine").write_text("mine")
        with pytest.raises(TargetExists, match="something else"), StoreWriter(tmp_path / "a.zarr"):
            pass
        assert (tmp_path / "a.zarr.building" / "mine").read_text() == "mine"

    def test_two_builds_exclude_each_other(self, tmp_path: Path) -> None:
        with StoreWriter(tmp_path / "a.zarr") as first:
            with pytest.raises(BuildLocked, match=r"a\.zarr"), StoreWriter(tmp_path / "a.zarr"):
                pass
            first.finish(catalog_of({}))
        open_catalog(tmp_path / "a.zarr")

    def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="nowhere"), StoreWriter(tmp_path / "nowhere" / "a.zarr"):
            pass


def test_a_tokenizer_comes_back_as_it_was(tmp_path: Path) -> None:
    data = TokenizerData(
        files={"tokenizer.json": b"{}", "tokenizer_config.json": b"[]"},
        gguf={"tokenizer.ggml.tokens": ["a", "é"], "tokenizer.ggml.scores": [0.1, -1e9]},
    )
    with StoreWriter(tmp_path / "a.zarr") as writer:
        writer.add_tokenizer(data)
        writer.finish(catalog_of({}))
    assert read_tokenizer(open_objects(tmp_path / "a.zarr"), open_catalog(tmp_path / "a.zarr")) == data


@pytest.mark.parametrize(
    "name", ["x", "tokenizer/../x", "tokenizer/a/b", "tokenizer/.x", "/tokenizer/x", "tokenizer/"]
)
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with StoreWriter(tmp_path / "a.zarr") as writer, pytest.raises(UnsafePath):
        writer.add_file(name, b"")


def test_the_default_chunk_is_about_four_mebibytes() -> None:
    spec = memory_array("x", (1, 256), "Q4_K").spec
    assert chunk_rows(spec) == 1
