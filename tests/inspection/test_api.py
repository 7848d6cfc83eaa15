"""``wv.stats``: what is chosen, over which kinds of input, and what cannot be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.cli import EXAMPLE
from tests.support.packed import REPO_GOLDEN
from tests.support.stores import Stores
from wvindex.errors import SelectionError, UsageError
from wvindex.inspection.api import GROUPINGS, By

GGUF = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf"


def test_every_tensor_of_a_packed_file_is_as_numpy_has_it() -> None:
    with wv.open(GGUF) as db:
        rows = wv.stats(db).to_dicts()
        assert [row["key"] for row in rows] == list(db)
        for row in rows:
            tensor = db[row["key"]]
            values = tensor[:].astype(np.float64)
            assert row["count"] == values.size
            assert row["mean"] == pytest.approx(values.mean(), abs=1e-12)
            assert row["std"] == pytest.approx(values.std(), rel=1e-12)
            assert row["rms"] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-12)
            assert row["l2"] == pytest.approx(np.linalg.norm(values), rel=1e-12)
            assert row["p99_9"] == np.quantile(values, 0.999, method="inverted_cdf")
            assert row["bits_per_weight"] == 8 * tensor.nbytes / tensor.size
            assert row["shape"] == "x".join(map(str, tensor.shape))


def test_a_store_and_its_source_have_the_same_numbers(stores: Stores) -> None:
    source = stores.gguf("llama")
    (built,) = wv.stats(stores.build(source), "lm_head.weight")
    (bare,) = wv.stats(source, "lm_head.weight")
    assert built == bare


@pytest.mark.parametrize(("by", "of"), [("layer", 0), ("role", 1)])
def test_layers_and_roles_are_over_all_values_of_their_tensors(by: By, of: int) -> None:
    with wv.open(GGUF) as db:
        groups: dict[Any, list[wv.Tensor]] = {}
        for key, tensor in db.items():
            layer, _, role = key.removeprefix("model.layers.").partition(".")
            place = (int(layer), role) if key.startswith("model.layers.") else (None, key)
            groups.setdefault(str(place[of]).removesuffix(".weight"), []).append(tensor)
        rows = wv.stats(db, by=by).to_dicts()
        assert [str(row[by]) for row in rows] == list(groups)
        for row, tensors in zip(rows, groups.values(), strict=True):
            values = np.concatenate([t[:].astype(np.float64).reshape(-1) for t in tensors])
            assert (row["tensors"], row["count"]) == (len(tensors), values.size)
            assert row["std"] == pytest.approx(values.std(), rel=1e-12)
            assert row["p1"] == np.quantile(values, 0.01, method="inverted_cdf")


def test_selectors_layers_and_roles() -> None:
    chosen = wv.stats(EXAMPLE, "*.weight", layers=range(1, 3), role="self_attn.o_proj")
    assert chosen["key"] == [f"model.layers.{i}.self_attn.o_proj.weight" for i in (1, 2)]


def test_one_expert_is_a_tensor_of_its_own(stores: Stores) -> None:
    with wv.open(stores.build(stores.safetensors("mixtral"))) as db:
        key = "model.layers.0.mlp.experts.1.up_proj.weight"
        (row,) = wv.stats(db, key)
        assert row["std"] == pytest.approx(db[key][:].astype(np.float64).std(), rel=1e-12)


@pytest.mark.parametrize("by", GROUPINGS)
def test_every_table_has_the_columns_of_its_kind(by: By, tmp_path: Path) -> None:
    table = wv.stats(EXAMPLE, by=by, layers=1)
    assert table.columns == GROUPINGS[by].columns
    assert all(row.keys() == set(table.columns) for row in table)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"by": "chunk"}, UsageError),
        ({"by": "layer", "spectrum": "top"}, UsageError),
        ({"spectrum": "some"}, UsageError),
        ({"layers": "three"}, SelectionError),
        ({"role": "sinks"}, SelectionError),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        wv.stats(EXAMPLE, "lm_head.weight", **options)
