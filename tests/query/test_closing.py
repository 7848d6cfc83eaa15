"""After a store was closed every read is refused, in one way, whatever was opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr.storage

import wvindex as wv
from tests.support.arrays import memory_array, write_store
from tests.support.checkpoints import checkpoint
from tests.support.linking import write_linked_store
from tests.support.safetensors_writer import write_safetensors
from wvindex.errors import StoreClosed, UsageError
from wvindex.query.database import Store

ARRAYS = [memory_array(key, (12, 256), encoding) for key, encoding in (("f32", "F32"), ("fp8", "FP8"))]

READS: dict[str, Callable[[Any], Any]] = {
    "index": lambda w: w[0],
    "nothing": lambda w: w[0:0],
    "asarray": np.asarray,
    "read": lambda w: w.read(),
    "raw": lambda w: w.raw(),
    "matmul": lambda w: w.matmul(np.ones(w.shape[1], np.float32)),
    "encoded": lambda w: w.encoded(),
    "iteration": list,
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Store]]:
    """Give every kind of thing that can be opened."""
    root = tmp_path_factory.mktemp("opened")
    local = write_store(root / "local.zarr", ARRAYS)
    linked = write_linked_store(root, ARRAYS)
    bare = write_safetensors(checkpoint("llama"), root / "bare")
    return {
        "directory": lambda: wv.open(local),
        "zarr store": lambda: wv.open(zarr.storage.LocalStore(local)),
        "links": lambda: wv.open(linked),
        "bare checkpoint": lambda: wv.open(bare),
    }


@pytest.mark.parametrize("kind", ["directory", "zarr store", "links", "bare checkpoint"])
def test_every_read_is_refused_alike(opened: dict[str, Callable[[], Store]], kind: str) -> None:
    with opened[kind]() as db:
        matrices = [tensor for tensor in db.values() if tensor.ndim == 2][:2]
        matrices[0][0]
    db.close()  # once more: nothing happens
    for tensor in matrices:
        for name, read in READS.items():
            with pytest.raises(StoreClosed, match="closed") as caught:
                read(tensor)
            assert (caught.value.kind, caught.value.file) == ("closed", str(db.path)), name
    with pytest.raises(StoreClosed):
        _ = db.tokenizer
    assert len(db) > 0  # what was known stays known
    assert repr(db[next(iter(db))])


def test_scales_are_refused_too(opened: dict[str, Callable[[], Store]]) -> None:
    db = opened["directory"]()
    db.close()
    with pytest.raises(StoreClosed):
        db["fp8"].scales()


def test_it_is_no_mistake_of_usage_to_look_at_an_open_one(opened: dict[str, Callable[[], Store]]) -> None:
    with opened["directory"]() as db, pytest.raises(UsageError, match="no scales"):
        db["f32"].scales()
