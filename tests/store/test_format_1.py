"""Stores of format 1 that were kept are read, to the bit; later formats are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import zarr

import wvindex as wv
from tests.support.sealing import seal
from wvindex.errors import StoreVersionError
from wvindex.formats.arrays import RowScale
from wvindex.infer import Model

DATA: Final = Path(__file__).parents[1] / "data" / "format-1"
EXPECTED: Final[dict[str, dict[str, Any]]] = json.loads((DATA / "expected.json").read_text())
ATTENTION: Final = "model.layers.0.self_attn"


@pytest.mark.parametrize("check", ["never", "chunks", "always"])
@pytest.mark.parametrize("name", EXPECTED)
def test_values_are_those_that_others_decode(name: str, check: Any) -> None:
    with wv.open(DATA / name, check=check) as db:
        for key, facts in EXPECTED[name].items():
            values = np.asarray(db[key])
            assert (list(values.shape), values.dtype.name) == (facts["shape"], facts["dtype"]), key
            assert hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() == facts["sha256"], key
            if values.ndim > 1 and values.size:
                assert np.array_equal(db[key][1:, ..., ::2], values[1:, ..., ::2])


def test_absorbed_arrays_are_the_products_in_float64() -> None:
    with wv.open(DATA / "deepseek") as db, np.load(DATA / "expected.npz") as products:
        assert set(db) == {*products, *EXPECTED["deepseek"]}
        for key in products:
            values = np.asarray(db[key], np.float64)
            np.testing.assert_allclose(values, products[key], rtol=1e-5, atol=1e-5)
        weight = f"{ATTENTION}.latent_proj.weight"
        scales = {name: db[f"{ATTENTION}.{name}_proj.weight"].row_scale for name in "qkv"}
        assert scales == {
            "q": RowScale(weight=weight, rows=(0, 16), eps=1e-6, head_slice=(0, 12)),
            "k": RowScale(weight=weight, rows=(16, 28), eps=1e-6, head_slice=(4, 12)),
            "v": RowScale(weight=weight, rows=(16, 28), eps=1e-6, head_slice=(0, 6)),
        }


def test_they_hold_what_a_store_may_hold() -> None:
    found = set()
    for name in EXPECTED:
        with wv.open(DATA / name) as db:
            assert db.catalog is not None
            assert db.catalog.format == 1
            for tensor in db.values():
                found |= {tensor.encoding, tensor.exactness, "scales" if tensor.scale_block else "plain"}
            found |= {"short chunk" for e in db.catalog.arrays.values() if e.grid.edge_rows != e.grid.rows}
    assert found >= {"Q4_K", "Q8_0", "BF16", "F16", "F32", "F8_E4M3", "I32", "BOOL", "scales"}
    assert found >= {"bit", "reordered", "derived", "short chunk"}


@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_they_run(name: str) -> None:
    with wv.open(DATA / name) as db:
        logits = Model(db).forward([1, 2, 3]).logits
        assert logits.shape == (3, db.config.vocab_size)
        assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_zarr_reads_them_too(name: str) -> None:
    with wv.open(DATA / name) as db:
        group = zarr.open_group(DATA / name, mode="r")
        assert db.catalog is not None
        for key, entry in db.catalog.arrays.items():
            array = group[entry.path]
            assert isinstance(array, zarr.Array)
            np.testing.assert_array_equal(np.asarray(array[...]), np.asarray(db[key]), err_msg=key)


@pytest.mark.parametrize("document", ["zarr.json", "catalog.json"])
def test_a_later_format_is_refused_by_name(tmp_path: Path, document: str) -> None:
    store = Path(shutil.copytree(DATA / "llama", tmp_path / "x"))
    path = store / document
    text = path.read_text().replace('"format": 1', '"format": 2')
    path.write_text(text.replace('"format":1', '"format":2'))
    if document == "catalog.json":
        seal(store)
    with pytest.raises(StoreVersionError, match="a newer wvindex reads it") as caught:
        wv.open(store)
    assert (caught.value.field, caught.value.expected, caught.value.found) == ("format", "at most 1", 2)
