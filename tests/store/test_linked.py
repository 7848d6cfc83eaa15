"""Linked arrays read as copied ones do, and never from a file that is not what it was."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorstore
import zarr
import zarr.storage
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from tests.support.arrays import MemoryArray, memory_array, memory_arrays, same, write_store
from tests.support.linking import HEADER, linked_bytes, write_linked_store
from wvindex.errors import NotAStore, SourceChanged, StoreError, UnsupportedError, UsageError
from wvindex.formats.arrays import ByteRange, Link
from wvindex.query.database import Store, open_store
from wvindex.store import objects
from wvindex.store.linked import LinkedStore
from wvindex.store.links import link_paths
from wvindex.store.reader import open_catalog
from wvindex.store.writer import StoreWriter

ARRAYS = [
    memory_array("model.layers.0.f32", (30, 24), "F32"),
    memory_array("model.layers.11.f16", (3, 7, 24), "F16"),
    memory_array("vector.weight", (17,), "F32"),
    memory_array("scalar", (), "F32"),
    memory_array("Odd/NAME", (5, 5), "I32"),
    memory_array("conv", (6, 2, 3, 4), "F32"),
    memory_array("empty", (0, 4), "F32"),
    memory_array("bf16", (30, 24), "BF16"),
    memory_array("q8_0", (11, 64), "Q8_0"),
    memory_array("q4_k", (3, 7, 512), "Q4_K"),
    memory_array("fp8", (2, 11, 12), "FP8"),
]
COPIED = [memory_array("model.layers.0.copied", (30, 24), "F32"), memory_array("copied", (9, 32), "Q8_0")]
BY_KEY = {array.spec.key: array for array in (*ARRAYS, *COPIED)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_linked_store(tmp_path, ARRAYS, copied=COPIED)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a linked store and one of the same arrays that was copied; callers must not change them."""
    linked = write_linked_store(tmp_path_factory.mktemp("linked"), ARRAYS, copied=COPIED)
    return linked, write_store(tmp_path_factory.mktemp("copied") / "x.zarr", [*ARRAYS, *COPIED])


# Reading


@given(array=memory_arrays(), seed=st.integers(0, 99), cuts=st.integers(1, 6), data=st.data())
@settings(max_examples=100)
def test_any_array_reads_as_its_bytes_say(
    array: MemoryArray, seed: int, cuts: int, data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = write_linked_store(tmp_path_factory.mktemp("any"), [array], seed=seed, cuts=cuts)
    with open_store(store) as db:
        tensor = db["x"]
        assert same(tensor[...], array.values)
        assert tensor.raw().tobytes() == array.raw.tobytes() == linked_bytes(store)["x"][0]
        if array.values.ndim and array.values.size:
            rows = data.draw(st.slices(array.values.shape[0]))
            columns = data.draw(st.slices(array.values.shape[-1]))
            index = (rows, ..., columns) if array.values.ndim > 1 else columns
            assert same(tensor[index], array.values[index])


def test_scales_are_read_from_their_ranges(store: Path) -> None:
    with open_store(store) as db:
        assert same(db["fp8"].scales(), BY_KEY["fp8"].scales)
        assert db["fp8"].scales().tobytes() == linked_bytes(store)["fp8"][1]


def test_linked_and_copied_arrays_stand_side_by_side(store: Path) -> None:
    with open_store(store) as db:
        assert set(db) == set(BY_KEY)
        for key, array in BY_KEY.items():
            assert same(db[key][...], array.values), key


def test_only_what_is_asked_for_is_read(store: Path) -> None:
    with open_store(store) as db:
        assert db.stats is not None
        db["q8_0"][4:6]
        assert db.stats.bytes_read == 2 * 68
        db["q8_0"][7, 32:]
        assert db.stats.bytes_read == 2 * 68 + 34


def test_a_linked_array_has_no_checksums_and_nobody_has_looked_for_nan(store: Path) -> None:
    entry = open_catalog(store).arrays["q4_k"]
    assert (entry.crc32c, entry.nan, entry.inf) == ((), None, None)


@pytest.mark.parametrize("check", ["never", "chunks", "always"])
def test_every_way_to_check_reads_linked_arrays(store: Path, check: Any) -> None:
    with open_store(store, check=check) as db:
        assert same(db["q4_k"][1:, 2], BY_KEY["q4_k"].values[1:, 2])


def test_a_closed_store_refuses_reads(store: Path) -> None:
    with open_store(store) as db:
        first, second = db["q8_0"], db["fp8"]
        first[0]
    for tensor in (first, second):
        with pytest.raises(StoreError, match="closed"):
            tensor[0]


def test_threads_read_one_store_through_few_descriptors(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 1)
    wrong: list[str] = []

    def read(db: Any) -> None:
        for _ in range(10):
            wrong.extend(key for key, array in BY_KEY.items() if not same(db[key][...], array.values))

    before = sum(1 for _ in Path("/dev/fd").iterdir())
    with open_store(store) as db:
        threads = [threading.Thread(target=read, args=(db,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(1 for _ in Path("/dev/fd").iterdir()) <= before + 3
    assert wrong == []


# The source must be what it was


def read_all(db: Store) -> None:
    for tensor in db.values():
        tensor[...]


def replaced(path: Path, data: bytes, mtime_ns: int | None = None) -> None:
    """Put another file in a file's place, by renaming."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(0, status.st_mtime_ns if mtime_ns is None else mtime_ns))
    other.rename(path)


def touched(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def truncated(path: Path) -> None:
    mtime_ns = path.stat().st_mtime_ns
    os.truncate(path, path.stat().st_size - 1)
    os.utime(path, ns=(0, mtime_ns))


def grown(path: Path) -> None:
    replaced(path, path.read_bytes() + b"\0")


def of_another_time(path: Path) -> None:
    replaced(path, path.read_bytes(), mtime_ns=5)


def of_another_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    replaced(path, bytes(data))


CHANGES: list[tuple[Callable[[Path], Any], str]] = [
    (touched, "mtime_ns"),
    (truncated, "size"),
    (grown, "size"),
    (of_another_time, "mtime_ns"),
    (of_another_header, "header_sha256"),
]


@pytest.mark.parametrize(("change", "field"), CHANGES, ids=lambda value: getattr(value, "__name__", value))
def test_a_changed_file_is_refused_by_name(store: Path, change: Callable[[Path], Any], field: str) -> None:
    path = store.parent / "data" / "1.bin"
    change(path)
    with open_store(store) as db, pytest.raises(SourceChanged, match="build the store again") as caught:
        read_all(db)
    assert (caught.value.file, caught.value.field) == (str(path), field)
    assert caught.value.expected != caught.value.found


@pytest.mark.parametrize("change", [touched, truncated, grown], ids=lambda change: change.__name__)
def test_so_is_one_that_changes_while_the_store_is_open(store: Path, change: Callable[[Path], Any]) -> None:
    arrays = [memory_array("x", (64, 64), "F32")]
    (store.parent / "more").mkdir()
    store = write_linked_store(store.parent / "more", arrays, cuts=1)
    [path] = [p for p in (store.parent / "data").iterdir() if p.stat().st_size > 1000]
    with open_store(store) as db:
        tensor = db["x"]
        assert same(tensor[:], arrays[0].values)
        if change is grown:
            with path.open("ab") as file:
                file.write(b"\0")
        else:
            change(path)
        with pytest.raises(SourceChanged):
            tensor[3]


def test_a_file_replaced_while_it_is_open_is_never_served(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its descriptor was given up, what now has its name is checked anew, header and all."""
    monkeypatch.setattr(objects, "MAX_DESCRIPTORS", 1)
    with open_store(store) as db:
        read_all(db)
        for number in range(3):
            of_another_header(store.parent / "data" / f"{number}.bin")
        with pytest.raises(SourceChanged, match="header_sha256"):
            read_all(db)


def as_a_symlink(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to("kept")


def as_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change", [Path.unlink, as_a_symlink, as_a_directory, as_a_fifo], ids=lambda change: change.__name__
)
def test_what_is_no_file_is_refused_and_the_place_named(store: Path, change: Callable[[Path], Any]) -> None:
    path = store.parent / "data" / "2.bin"
    change(path)
    with open_store(store) as db, pytest.raises(SourceChanged, match="not where it was") as caught:
        read_all(db)
    assert caught.value.file == str(path)


def test_a_copied_array_needs_no_source(store: Path) -> None:
    (store.parent / "data").rename(store.parent / "gone")
    with open_store(store) as db:
        assert same(db["copied"][:], BY_KEY["copied"].values)


# Moving


def test_store_and_source_move_together(store: Path, tmp_path: Path) -> None:
    moved = tmp_path / "some" / "where"
    moved.mkdir(parents=True)
    (tmp_path / "data").rename(moved / "data")
    store.rename(moved / "x.zarr")
    with open_store(moved / "x.zarr") as db:
        assert same(db["q4_k"][:], BY_KEY["q4_k"].values)


def test_a_store_is_found_through_a_symlink_and_its_source_from_where_it_is(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "away" / "link.zarr").symlink_to(store)
    with open_store(tmp_path / "far" / "away" / "link.zarr") as db:
        assert same(db["q4_k"][:], BY_KEY["q4_k"].values)


@pytest.mark.parametrize("moved", ["x.zarr", "data"])
def test_one_alone_is_not_found(store: Path, tmp_path: Path, moved: str) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / moved).rename(tmp_path / "else" / moved)
    store = tmp_path / "else" / "x.zarr" if moved == "x.zarr" else store
    with open_store(store) as db, pytest.raises(SourceChanged, match="move it together") as caught:
        read_all(db)
    assert str(store.parent / "data") in str(caught.value.file)


class TestLinkPaths:
    """From the store's real directory to the file's."""

    def test_symlinks_on_either_side_are_resolved(self, tmp_path: Path) -> None:
        for name in ("real/stores", "models"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "models" / "m.gguf").touch()
        (tmp_path / "short").symlink_to("real/stores")
        (tmp_path / "m").symlink_to("models/m.gguf")
        paths = link_paths(tmp_path / "short" / "x.zarr", [tmp_path / "m"])
        assert paths == ("../../../models/m.gguf",)

    def test_a_file_in_the_store_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="lies in the store"):
            link_paths(tmp_path / "x.zarr", [tmp_path / "x.zarr" / "m.gguf"])

    def test_a_name_that_json_cannot_hold_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match="cannot link"):
            link_paths(tmp_path / "x.zarr", [tmp_path / os.fsdecode(b"\xff.gguf")])


# On the disk


def test_a_linked_array_has_no_file_so_no_reader_takes_it_for_zeros(store: Path) -> None:
    catalog = open_catalog(store)
    for key, entry in catalog.arrays.items():
        assert (store / entry.path).exists() == (entry.link is None), key
    group = zarr.open_group(store, mode="r")
    assert "q8_0" not in group
    assert set(zarr.open_group(store, path="layers/0", mode="r").array_keys()) == {"copied"}
    with pytest.raises(ValueError, match=r"zarr\.json"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / "vector.weight")}}
        tensorstore.open(spec).result()


def test_an_array_stands_once(tmp_path: Path) -> None:
    array = BY_KEY["scalar"]
    with StoreWriter(tmp_path / "x.zarr") as writer:
        entry = writer.write_array(array.spec, array, workspace=1 << 20)
        assert entry.link is None
        with pytest.raises(StoreError, match="twice"):
            writer.link_array(array.spec, Link(rows=(ByteRange(0, 24, 4),)))


def test_stores_elsewhere_refuse_links_by_name(store: Path) -> None:
    contents = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    make = default_buffer_prototype().buffer.from_bytes
    for place in (
        zarr.storage.LocalStore(store, read_only=True),
        zarr.storage.MemoryStore({name: make(data) for name, data in contents.items()}),
        LinkedStore(store),
    ):
        with pytest.raises(UnsupportedError, match="byte ranges") as caught:
            open_store(place)
        assert caught.value.tensor == ARRAYS[0].spec.key


# LinkedStore


def objects_of(store: zarr.abc.store.Store) -> dict[str, bytes]:
    async def read() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            data = await store.get(key, default_buffer_prototype())
            assert data is not None
            found[key] = data.to_bytes()
        return found

    return sync(read())


async def listed(keys: Any) -> list[str]:
    return sorted([key async for key in keys])


DIFFERENT = {"catalog.json", "zarr.json"}
"""What says where the arrays are, and has its checksum."""


class TestLinkedStore:
    """Zarr's view of a linked store is the copied store, object by object."""

    def test_objects_are_those_of_a_copied_store(self, pair: tuple[Path, Path]) -> None:
        found = objects_of(LinkedStore(pair[0]))
        expected = objects_of(zarr.storage.LocalStore(pair[1], read_only=True))
        assert found.keys() == expected.keys()
        assert {k for k in found if found[k] != expected[k]} == DIFFERENT

    @given(data=st.data())
    @settings(max_examples=200)
    def test_parts_of_objects_too(self, pair: tuple[Path, Path], data: Any) -> None:
        linked, copied = LinkedStore(pair[0]), zarr.storage.LocalStore(pair[1], read_only=True)
        keys = [key for key in sync(listed(copied.list())) if key not in DIFFERENT]
        key = data.draw(st.sampled_from(keys))
        size = sync(copied.getsize(key))
        n = st.integers(0, size + 3)
        start, stop = sorted((data.draw(n), data.draw(n)))
        requests: list[ByteRequest] = [RangeByteRequest(start, stop), OffsetByteRequest(start)]
        requests.append(SuffixByteRequest(max(stop, 1)))
        prototype = default_buffer_prototype()
        for request in requests:
            found = sync(linked.get(key, prototype, request))
            expected = sync(copied.get(key, prototype, request))
            assert found is not None
            assert expected is not None
            assert found.to_bytes() == expected.to_bytes(), request
        [one, other] = sync(linked.get_partial_values(prototype, [(key, requests[0]), (key, None)]))
        assert one is not None
        assert other is not None
        assert one.to_bytes() == other.to_bytes()[start:stop]

    def test_sizes_and_names(self, pair: tuple[Path, Path]) -> None:
        linked, copied = LinkedStore(pair[0]), zarr.storage.LocalStore(pair[1], read_only=True)
        keys = sync(listed(copied.list()))
        prefixes = {"/".join(key.split("/")[:depth]) for key in keys for depth in range(len(key.split("/")))}
        for prefix in (*prefixes, "nowhere", "layers/7", "q4_k/c/9"):
            assert sync(listed(linked.list_prefix(prefix))) == sync(listed(copied.list_prefix(prefix)))
            assert sync(listed(linked.list_dir(prefix))) == sync(listed(copied.list_dir(prefix))), prefix
        for key in keys:
            assert sync(linked.exists(key))
            assert key in DIFFERENT or sync(linked.getsize(key)) == sync(copied.getsize(key))

    @pytest.mark.parametrize(
        "key", ["q4_k", "q4_k/c.3.0.0", "q4_k/c", "q4_k/x", "nowhere", "layers/0/f32/c.99.0"]
    )
    def test_what_is_not_there(self, pair: tuple[Path, Path], key: str) -> None:
        store = LinkedStore(pair[0])
        assert sync(store.get(key, default_buffer_prototype())) is None
        assert not sync(store.exists(key))
        with pytest.raises(FileNotFoundError):
            sync(store.getsize(key))

    def test_zarr_reads_every_value(self, pair: tuple[Path, Path]) -> None:
        catalog = open_catalog(pair[0])
        group = zarr.open_group(LinkedStore(pair[0]), mode="r")
        layers = zarr.open_group(LinkedStore(pair[0]), path="layers", mode="r")
        assert set(layers.group_keys()) == {"0", "11"}
        for key, entry in catalog.arrays.items():
            array = group[entry.path]
            assert isinstance(array, zarr.Array)
            values = BY_KEY[key].values
            assert same(array[...], values), key
            if values.ndim > 1:
                assert same(array[1:4, ..., 3:], values[1:4, ..., 3:]), key

    def test_files_that_stand_in_a_linked_array_s_place_are_not_seen(self, store: Path) -> None:
        (store / "q8_0" / "c").mkdir(parents=True)
        (store / "q8_0" / "zarr.json").write_text("{}")
        (store / "q8_0" / "c" / "stray").write_text("stray")
        linked = LinkedStore(store)
        assert not sync(linked.exists("q8_0/c/stray"))
        assert "q8_0/c/stray" not in objects_of(linked)
        assert same(zarr.open_array(linked, path="q8_0", mode="r")[...], BY_KEY["q8_0"].values)

    def test_a_changed_source_is_refused(self, store: Path) -> None:
        for number in range(3):
            touched(store.parent / "data" / f"{number}.bin")
        array = zarr.open_array(LinkedStore(store), path="q4_k", mode="r")
        with pytest.raises(SourceChanged):
            array[...]

    def test_nothing_is_written(self, store: Path) -> None:
        linked = LinkedStore(store)
        value = default_buffer_prototype().buffer.from_bytes(b"x")
        for attempt in (linked.set("q8_0/zarr.json", value), linked.delete("zarr.json")):
            with pytest.raises(ValueError, match="read-only"):
                sync(attempt)
        with pytest.raises(NotImplementedError):  # zarr's own answer for stores that delete nothing
            sync(linked.clear())
        assert linked.read_only
        with pytest.raises(ValueError, match="read-only"):
            zarr.open_group(linked, mode="r+")
        with pytest.raises(UsageError):
            linked.with_read_only(read_only=False)

    def test_it_may_be_sent_to_another_process(self, store: Path) -> None:
        linked = LinkedStore(store)
        copy = pickle.loads(pickle.dumps(linked))
        assert copy == linked
        assert hash(copy) == hash(linked)
        assert copy != zarr.storage.LocalStore(store)
        assert copy == linked.with_read_only(read_only=True)
        assert str(store) in repr(copy)
        assert same(zarr.open_array(copy, path="fp8", mode="r")[...], BY_KEY["fp8"].values)

    def test_closing_it_closes_the_source(self, store: Path) -> None:
        counts = []
        for _ in range(2):  # the first time, zarr opens what its own thread needs
            with LinkedStore(store) as linked:
                array = zarr.open_array(linked, path="q4_k", mode="r")
                array[...]
            counts.append(sum(1 for _ in Path("/dev/fd").iterdir()))
        assert counts[0] == counts[1]
        with pytest.raises(StoreError, match="closed"):
            array[...]

    def test_a_store_without_links_is_what_it_is(self, pair: tuple[Path, Path]) -> None:
        linked, copied = LinkedStore(pair[1]), zarr.storage.LocalStore(pair[1], read_only=True)
        assert objects_of(linked) == objects_of(copied)

    def test_what_is_no_store_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NotAStore):
            LinkedStore(tmp_path)

    def test_an_unknown_request_is_a_type_error(self, pair: tuple[Path, Path]) -> None:
        request: Any = (0, 3)
        with pytest.raises(TypeError, match="Unexpected byte_range"):
            sync(LinkedStore(pair[0]).get("scalar/c", default_buffer_prototype(), request))


def test_the_header_is_what_its_hash_covers(store: Path) -> None:
    for file in open_catalog(store).sources:
        assert file.header_nbytes == len(HEADER)
