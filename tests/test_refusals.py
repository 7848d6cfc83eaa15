"""What cannot be done is refused before anything is written, and rows and stores come in every form."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr.storage
from safetensors.numpy import save_file

import wvindex
from tests.support.golden import EXAMPLE
from tests.support.stores import Stores
from wvindex.errors import LimitExceeded, SelectionError

KEY = "model.layers.1.mlp.gate.weight"


def test_a_name_too_long_for_a_file_is_refused_at_planning(tmp_path: Path) -> None:
    tensors = {"x" * 241: np.zeros((2, 2), np.float32), "y": np.zeros(2, np.float32)}
    save_file(tensors, tmp_path / "m.safetensors")
    (refusal,) = wvindex.plan(tmp_path).refusals
    assert isinstance(refusal.error, LimitExceeded)
    with pytest.raises(LimitExceeded):
        wvindex.build(tmp_path, tmp_path / "m.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_rows_may_be_a_range() -> None:
    with wvindex.open(EXAMPLE) as db:
        whole = db[KEY].read()
        np.testing.assert_array_equal(db[KEY].read(rows=range(1, 3)), whole[1:3])
        with pytest.raises(SelectionError):
            db[KEY].read(rows=range(0, 4, 2))
        with pytest.raises(SelectionError):
            db[KEY].read(rows=cast("Any", [1, 3]))  # a list of rows is no range: refused, not guessed


def test_a_zip_file_is_a_store(tmp_path: Path, stores: Stores) -> None:
    path = stores.build(stores.gguf("llama"))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as packed:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(path).as_posix())
    archive = zarr.storage.ZipStore(tmp_path / "s.zip", mode="r")
    with wvindex.open(archive) as db, wvindex.open(path) as expected:
        for key in expected:
            np.testing.assert_array_equal(db[key].read(dtype="float32"), expected[key].read(dtype="float32"))
