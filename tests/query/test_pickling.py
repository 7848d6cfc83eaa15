"""A store that was opened by a path goes to another process, and is the same one there, or refused."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage

import wvindex as wv
from tests.support.arrays import CONFIG, memory_array, same, write_store
from tests.support.checkpoints import checkpoint
from tests.support.linking import write_linked_store
from tests.support.safetensors_writer import write_safetensors
from wvindex.errors import StoreClosed, StoreReplaced, UsageError
from wvindex.formats.arrays import Heads
from wvindex.query.database import Store, open_store
from wvindex.query.lazy import Tensor

EXPERTS = "model.layers.0.mlp.experts.up_proj.weight"
ARRAYS = [
    memory_array("w", (12, 64), "F32", heads=Heads(axis=0, count=3)),
    memory_array(EXPERTS, (3, 8, 256), "Q4_K", part_aliases=("a", "b", "c")),
    memory_array("fp8", (9, 40), "FP8"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("written") / "x.zarr", ARRAYS)


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "x.zarr"))


def again(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_a_store(store: Path) -> None:
    with wv.open(store, check="always") as db, again(db) as other:
        assert isinstance(other, Store)
        assert other is not db
        assert (list(other), other.config, other.path) == (list(db), db.config, db.path)
        for array in ARRAYS:
            assert same(other[array.spec.key][...], array.values)
        chunk = store / "w" / "c.0.0"
        chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
        with pytest.raises(wv.errors.ChecksumError):  # the way to check goes with it
            other["w"][0]


def test_a_tensor_and_its_views(store: Path) -> None:
    with open_store(store) as db:
        tensors = [db["w"], db["w"].head(1), db[EXPERTS], db["b"], db[EXPERTS].expert(2), db["fp8"]]
        for tensor, other in zip(tensors, again(tensors), strict=True):
            assert isinstance(other, Tensor)
            assert (other.key, other.spec) == (tensor.key, tensor.spec)
            assert same(other[...], tensor[...])
            assert np.array_equal(other.raw(), tensor.raw())


def test_what_is_pickled_together_shares_one_store(store: Path) -> None:
    with open_store(store) as db:
        before = sum(1 for _ in Path("/dev/fd").iterdir())
        other, *tensors = again((db, db["w"], db["fp8"]))
        assert tensors == [other["w"], other["fp8"]]
        assert sum(1 for _ in Path("/dev/fd").iterdir()) == before + 1
        other.close()
        assert sum(1 for _ in Path("/dev/fd").iterdir()) == before
        with pytest.raises(StoreClosed):
            tensors[0][0]


def test_it_may_be_pickled_once_more(store: Path) -> None:
    with open_store(store) as db, again(again(db)) as other:
        assert same(again(other["w"])[:], ARRAYS[0].values)


def test_a_relative_path_and_a_url_mean_the_same_elsewhere(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)
    for path in ("x.zarr", store.as_uri()):
        monkeypatch.chdir(store.parent)
        with wv.open(path) as db:
            pickled = pickle.dumps(db["w"])
        monkeypatch.chdir("/")
        assert same(pickle.loads(pickled)[:], ARRAYS[0].values)


def test_a_store_with_links(tmp_path: Path) -> None:
    with open_store(write_linked_store(tmp_path, ARRAYS)) as db:
        assert same(again(db["fp8"])[:], ARRAYS[2].values)


def test_a_bare_checkpoint(tmp_path: Path) -> None:
    path = write_safetensors(checkpoint("llama"), tmp_path / "m")
    with wv.open(path) as db:
        key = "model.layers.1.mlp.up_proj.weight"
        assert same(again(db[key])[:], db[key][:])
        assert list(again(db)) == list(db)
        pickled = pickle.dumps(db[key])
    for file in path.glob("*.safetensors"):
        file.touch()
    with pytest.raises(StoreReplaced):
        pickle.loads(pickled)


def test_another_process_reads_it(store: Path) -> None:
    with open_store(store) as db, multiprocessing.get_context("spawn").Pool(1) as pool:
        for array in ARRAYS:
            assert same(pool.apply(np.asarray, (db[array.spec.key],)), array.values)


def test_another_store_in_its_place_is_refused(store: Path, tmp_path: Path) -> None:
    with open_store(store) as db:
        pickled = pickle.dumps((db, db["w"]))
        shutil.rmtree(store)
        shutil.copytree(write_store(tmp_path / "y.zarr", [memory_array("w", (12, 64), "F32", 5)]), store)
        with pytest.raises(StoreReplaced, match="what was pickled"):
            pickle.loads(pickled)


def test_what_has_no_path_is_refused(store: Path) -> None:
    in_memory = Store("memory", CONFIG, {a.spec.key: (a.spec, a) for a in ARRAYS})
    with open_store(zarr.storage.LocalStore(store)) as db:
        for value in (in_memory, in_memory["w"], db, db["w"]):
            with pytest.raises(UsageError, match="opened by a path or a URL"):
                pickle.dumps(value)


def test_a_closed_store_is_refused(store: Path) -> None:
    db = open_store(store)
    tensor = db["w"]
    db.close()
    for value in (db, tensor):
        with pytest.raises(StoreClosed):
            pickle.dumps(value)


def test_a_copy_of_a_tensor_is_itself(store: Path) -> None:
    with open_store(store) as db:
        assert copy.copy(db["w"]) is db["w"]
        assert copy.deepcopy({"a": db["w"]}) == {"a": db["w"]}
