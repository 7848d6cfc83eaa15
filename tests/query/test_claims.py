"""Memory is given to what a catalog claims once the files were seen to hold it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.arrays import MemoryArray, memory_array, same, write_store
from tests.support.sealing import seal
from wvindex.errors import ChunkError, LimitExceeded
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.encodings import ENCODINGS
from wvindex.query import memory
from wvindex.query.database import open_store
from wvindex.query.lazy import Tensor

HUGE = 2**45

READS: dict[str, Callable[[Tensor], Any]] = {
    "all": lambda w: w[...],
    "a stride": lambda w: w[..., ::3],
    "far apart": lambda w: w[..., :: 2**40],
    "backwards": lambda w: w[::-1],
    "every other": lambda w: w[::2],
    "half": lambda w: w[: w.shape[0] // 2],
    "read": lambda w: w.read(),
    "float16": lambda w: w.read(dtype="float16"),
    "rows": lambda w: w.read(rows=(1, w.shape[0])),
    "raw": lambda w: w.raw(),
    "asarray": np.asarray,
    "the last": lambda w: w[-1],
    "one": lambda w: w[0],
    "first of each": lambda w: w[..., 0],
}


NONE_OF_ONE = {"half", "rows"}
"""What takes nothing where there is one row."""


def claim(store: Path, shape: list[int], **entry: Any) -> None:
    """Have the catalog and the array's document claim a shape, of one chunk."""
    catalog = json.loads((store / "catalog.json").read_text())
    catalog["arrays"]["w"] |= {"shape": shape, "crc32c": [1], **entry}
    (store / "catalog.json").write_text(json.dumps(catalog))
    seal(store)
    document = json.loads((store / "w" / "zarr.json").read_text())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = shape
    (store / "w" / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("check", ["never", "chunks", "always"])
@pytest.mark.parametrize("shape", [[HUGE], [HUGE // 64, 64], [1, HUGE], [2**20, 2**20, 32]], ids=str)
def test_a_huge_array_is_refused_on_every_way(tmp_path: Path, shape: list[int], check: Any) -> None:
    dims = (64,) if len(shape) == 1 else (4, 64) if len(shape) == 2 else (2, 4, 64)
    store = write_store(tmp_path / "x.zarr", [memory_array("w", dims, "F32")], chunk_bytes=1 << 20)
    rows = shape[-2] if len(shape) > 1 else 1
    checksums = [1] * (shape[0] if len(shape) == 3 else 1)
    claim(store, shape, chunk_rows=rows, crc32c=checksums)
    if len(shape) == 3:
        document = json.loads((store / "w" / "zarr.json").read_text())
        document["chunk_grid"]["configuration"]["chunk_shape"] = [1, *shape[1:]]
        (store / "w" / "zarr.json").write_text(json.dumps(document))
    with open_store(store, check=check) as db:
        tensor = db["w"]
        for name, read in READS.items():
            if shape[0] > 1 or name not in NONE_OF_ONE:
                with pytest.raises(ChunkError) as caught:
                    read(tensor)
                assert caught.value.tensor == "w", name
        if shape[1:] == [64]:
            for read in (lambda w: w.matmul(np.ones(64, np.float32)), lambda w: w.encoded()):
                with pytest.raises(ChunkError):
                    read(tensor)


def test_what_truly_does_not_fit_into_memory_is_a_limit() -> None:
    small = memory_array("w", (4, 64), "F32")
    spec = ArraySpec(key="w", shape=(2**44, 64), encoding=ENCODINGS["F32"], exactness="bit", sources=("w",))
    tensor = Tensor(spec, MemoryArray(spec, small.raw, small.scales, small.values))
    for read in (tensor.read, tensor.raw, lambda: tensor[...]):
        with pytest.raises(LimitExceeded, match="read a part") as caught:
            read()
        assert caught.value.tensor == "w"
        assert "bytes" in str(caught.value.found)


def test_what_is_there_is_read_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "UNPROVEN_BYTES", 0)
    arrays = [
        memory_array("w", (30, 64), "F32"),
        memory_array("fp8", (2, 30, 40), "FP8"),
        memory_array("empty", (0, 5), "F32"),
        memory_array("scalar", (), "F16"),
    ]
    with open_store(write_store(tmp_path / "x.zarr", arrays)) as db:
        for array in arrays:
            assert same(db[array.spec.key][...], array.values)
            assert same(db[array.spec.key].read(), array.values)
            assert np.array_equal(db[array.spec.key].raw(), array.raw)
