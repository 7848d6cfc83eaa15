"""What was fused into an array is reached under its own names, as a view of the array's rows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.support.stores import Stores
from wvindex.errors import SelectionError
from wvindex.query.database import Store

MODELS = ("deepseek_v3-bias", "deepseek_v3-fp8", "packed")
ATTENTION = "model.layers.1.self_attn"
HALVES = ("q_a_proj", "kv_a_proj_with_mqa")


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, stores: Stores) -> tuple[Path, Path]:
    """Give a store of the kept form, and one that is fused."""
    name = request.param
    source = stores.gguf("deepseek_v3", "split", "Q8_0") if name == "packed" else stores.safetensors(name)
    return stores.build(source, mla="keep"), stores.build(source, mla="keep", fused_mla_lora_proj=True)


def halves(db: Store) -> list[str]:
    return [key for key in db if "_a_proj" in key]


def test_every_name_of_a_half_gives_what_the_unfused_store_gives(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[0]) as kept, wvindex.open(pair[1]) as fused:
        assert halves(kept)
        for key in halves(kept):
            expected = kept[key]
            for name in (key, *expected.aliases):
                found = fused[name]
                assert name in fused
                assert found.spec == expected.spec
                assert found.nbytes == expected.nbytes
                np.testing.assert_array_equal(found.read(), expected.read())
                np.testing.assert_array_equal(found.raw(), expected.raw())


def test_a_view_reads_any_selection(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[0]) as kept, wvindex.open(pair[1]) as fused:
        for half in HALVES:
            key = f"{ATTENTION}.{half}.weight"
            for index in (np.s_[3:17, ::2], np.s_[-1], np.s_[[5, 1, 7], 40:], np.s_[..., -3]):
                np.testing.assert_array_equal(fused[key][index], kept[key][index])
            np.testing.assert_array_equal(fused[key].read(rows=(5, 9)), kept[key].read(rows=(5, 9)))
            x = np.random.default_rng(0).standard_normal((3, kept[key].shape[1]), np.float32)
            np.testing.assert_allclose(fused[key].matmul(x), kept[key].matmul(x), rtol=1e-5, atol=1e-6)
            encoded = fused[key].encoded().matmul(x)
            np.testing.assert_allclose(encoded, kept[key].matmul(x), rtol=1e-5, atol=1e-6)
            if kept[key].scale_block is not None:
                np.testing.assert_array_equal(fused[key].scales(), kept[key].scales())


def test_a_store_iterates_over_its_arrays_alone(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[1]) as fused:
        assert all("fused_qkv_a_proj" in key for key in halves(fused))
        for key in halves(fused):
            kind = key.rpartition(".")[2]
            stem = key.partition(".fused")[0]
            assert fused[key].parts == tuple(f"{stem}.{half}.{kind}" for half in HALVES)


def test_layers_have_both_as_attributes(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[1]) as fused:
        attention = fused.layers[1].self_attn
        for half in HALVES:
            key = f"{ATTENTION}.{half}.weight"
            assert getattr(attention, half).key == key
            assert attention[f"{half}.weight"].key == key
            assert half in dir(attention)
        assert attention.fused_qkv_a_proj.key == f"{ATTENTION}.fused_qkv_a_proj.weight"


def test_selectors_mean_a_half_where_they_do_not_mean_the_whole(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[1]) as fused:
        key = f"{ATTENTION}.q_a_proj.weight"
        assert [tensor.key for tensor in fused.select(key)] == [key]
        assert [tensor.key for tensor in fused.select(layer=1, role="self_attn.q_a_proj")] == [key]
        assert [tensor.key for tensor in fused.select("blk.1.attn_q_a.weight")] == [key]
        assert len(fused.select("*")) == len(fused)


def test_a_view_is_pickled(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[1]) as fused:
        for half in HALVES:
            tensor = fused[f"{ATTENTION}.{half}.weight"]
            again = pickle.loads(pickle.dumps(tensor))
            assert again.spec == tensor.spec
            np.testing.assert_array_equal(again.read(), tensor.read())


def test_statistics_are_those_of_the_half(pair: tuple[Path, Path]) -> None:
    columns = ("mean", "std", "absmax")
    with wvindex.open(pair[0]) as kept, wvindex.open(pair[1]) as fused:
        tables: list[Any] = [wvindex.stats(db, "*q_a_proj.weight", keep=False) for db in (kept, fused)]
    assert len(tables[0]) > 1
    for column in ("key", *columns):
        assert tables[0][column] == tables[1][column]


def test_what_was_not_fused_has_no_parts(pair: tuple[Path, Path]) -> None:
    with wvindex.open(pair[1]) as fused:
        tensor = fused["model.norm.weight"]
        assert tensor.parts == ()
        with pytest.raises(SelectionError, match="no such part"):
            tensor.part("model.layers.1.self_attn.q_a_proj.weight")
