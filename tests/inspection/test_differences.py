"""``wv.diff``: damage that was put there is found and ranked first, and nothing else is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex as wv
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE
from tests.support.damaged import changed
from tests.support.packed import REPO_GOLDEN
from tests.support.random_weights import Array
from tests.support.stores import Stores
from wvindex.errors import SelectionError, UsageError
from wvindex.inspection import difference_rows
from wvindex.inspection.gap import METRICS

Q4, Q2 = REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf", REPO_GOLDEN / "llama-tiny-Q2_K.gguf"
GATE = "model.layers.1.block_sparse_moe.experts.{}.w1.weight"
STACK = "model.layers.1.mlp.experts.gate_proj.weight"


def decoded(path: Path) -> dict[str, NDArray[np.float64]]:
    """Decode a file with the gguf package alone."""
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in gguf.GGUFReader(path).tensors
    }


def test_every_number_is_numpys_on_what_the_gguf_package_decodes() -> None:
    a, b = decoded(Q4), decoded(Q2)
    with wv.open(Q4) as db:
        found = wv.diff(db, Q2)
        assert len(found.tensors) == len(a) == len(b)
        for row in found.tensors:
            (name,) = db[row["key"]].source
            x, d = a[name], a[name] - b[name]
            assert row["count"] == d.size
            assert row["changed"] == np.count_nonzero(d)
            assert row["max_abs"] == np.abs(d).max()
            assert row["mean_abs"] == pytest.approx(np.abs(d).mean(), rel=1e-12)
            ratio = np.linalg.norm(d) / np.linalg.norm(x)
            assert row["rel_l2"] == pytest.approx(ratio, rel=1e-12)
            if ratio:
                norms = np.linalg.norm(x) * np.linalg.norm(b[name])
                assert row["sqnr_db"] == pytest.approx(-20 * math.log10(ratio), rel=1e-12)
                assert row["cosine"] == pytest.approx((x * b[name]).sum() / norms, rel=1e-12)
    everything = np.concatenate([a[name].ravel() for name in a])
    apart = np.concatenate([(a[name] - b[name]).ravel() for name in a])
    (model,) = found.model
    assert model["count"] == everything.size
    assert model["rel_l2"] == pytest.approx(np.linalg.norm(apart) / np.linalg.norm(everything), rel=1e-12)
    assert model["a_bits"] == pytest.approx(4.823, abs=1e-3)


def test_the_largest_difference_is_where_it_says() -> None:
    with wv.open(Q4) as a, wv.open(Q2) as b:
        for row in wv.diff(a, b).tensors:
            if row["changed"]:
                at = tuple(row["at"])
                assert (row["a_at"], row["b_at"]) == (a[row["key"]][at], b[row["key"]][at])
                assert row["max_abs"] == abs(row["a_at"] - row["b_at"])


def test_groups_are_over_all_values_of_their_tensors() -> None:
    with wv.open(Q4) as a, wv.open(Q2) as b:
        found = wv.diff(a, b)
        for table, name in ((found.roles, "role"), (found.layers, "layer")):
            for row in table:
                keys = [one["key"] for one in found.tensors if one[name] == row[name]]
                x, y = (
                    np.concatenate([db[key][:].astype(np.float64).ravel() for key in keys]) for db in (a, b)
                )
                assert (row["tensors"], row["count"]) == (len(keys), x.size)
                assert row["rel_l2"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
                assert row["max_abs"] == np.abs(x - y).max()
    assert found.layers["layer"] == [None, 0, 1, 2]
    damage = found.roles["rel_l2"]
    assert damage == sorted(damage, reverse=True)


@pytest.mark.parametrize("source", [EXAMPLE, Q4])
def test_a_model_does_not_differ_from_itself(source: Path) -> None:
    found = wv.diff(source, source)
    assert not found.differs
    assert set(found.tensors["status"]) == {"same"}
    assert set(found.tensors["rel_l2"] + found.tensors["max_abs"] + found.tensors["changed"]) == {0}
    assert set(found.tensors["cosine"]) == {1}
    assert set(found.tensors["sqnr_db"]) == {math.inf}


def test_what_has_equal_bytes_is_not_decoded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stores.gguf("llama")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(difference_rows, "side_by_side", refuse)
    assert not wv.diff(source, stores.build(source)).differs


def noisy(array: Array, share: float) -> Array:
    noise = np.random.default_rng(3).standard_normal(array.shape) * share * array.astype(np.float32).std()
    damaged: Array = (array.astype(np.float32) + noise).astype(array.dtype)
    return damaged


def test_noise_in_one_tensor_is_found(stores: Stores, tmp_path: Path) -> None:
    key = "model.layers.1.self_attn.o_proj.weight"
    damaged = changed("llama", tmp_path, {key: noisy(checkpoint("llama").tensors[key], 0.1)})
    found = wv.diff(stores.safetensors("llama"), damaged)
    assert found.differs
    first, *others = found.tensors
    assert (first["key"], first["status"], first["over"]) == (key, "different", True)
    assert first["rel_l2"] == pytest.approx(0.1, rel=0.05)
    assert {row["status"] for row in others} == {"same"}
    assert found.roles["role"][0] == "self_attn.o_proj"
    assert [row["layer"] for row in found.layers if row["changed"]] == [1]


@pytest.mark.parametrize("built", [False, True])
def test_a_row_of_zeros_is_found(built: bool, stores: Stores, tmp_path: Path) -> None:
    key = "model.layers.0.mlp.down_proj.weight"
    array = checkpoint("llama").tensors[key].copy()
    array[37] = 0
    damaged = changed("llama", tmp_path / "damaged", {key: array})
    if built:
        damaged = wv.build(damaged, tmp_path / "damaged.zarr")
    found = wv.diff(stores.gguf("llama"), damaged)
    row = next(iter(found.tensors))
    assert (row["key"], row["worst_row"], row["worst_row_rel_l2"]) == (key, 37, 1)
    assert [(one["row"], one["rel_l2"], one["cosine"]) for one in found.rows] == [
        (37, 1.0, pytest.approx(math.nan, nan_ok=True))
    ]


def test_an_expert_in_anothers_place_is_found(stores: Stores, tmp_path: Path) -> None:
    made = checkpoint("mixtral").tensors
    swap = {GATE.format(0): made[GATE.format(2)], GATE.format(2): made[GATE.format(0)]}
    found = wv.diff(stores.safetensors("mixtral"), changed("mixtral", tmp_path, swap))
    row = next(iter(found.tensors))
    assert row["key"] == STACK
    assert row["worst_expert"] in (0, 2)
    experts = found.experts.to_dicts()
    assert {one["key"] for one in experts} == {STACK}
    assert [one["expert"] for one in experts if one["changed"]] == [one["expert"] for one in experts[:2]]
    assert {one["expert"] for one in experts[:2]} == {0, 2}
    assert all(one["rel_l2"] > 1 for one in experts[:2])


def test_nan_on_one_side_comes_before_any_other_damage(stores: Stores, tmp_path: Path) -> None:
    key, other = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
    made = checkpoint("llama").tensors
    array = made[key].copy()
    array[5, 6] = np.nan
    damaged = changed("llama", tmp_path, {key: array, other: -made[other]})
    there = wv.diff(stores.safetensors("llama"), damaged, threshold=10)
    first, second = there.tensors.to_dicts()[:2]
    assert (first["key"], first["nonfinite"], first["changed"], first["rel_l2"]) == (key, 1, 1, 0)
    assert (first["over"], first["worst_row"]) == (True, 5)
    assert (second["key"], second["rel_l2"], second["over"]) == (other, 2, False)
    back = wv.diff(damaged, stores.safetensors("llama"), threshold=10)
    assert next(iter(back.tensors))["nonfinite"] == 1
    assert not wv.diff(damaged, damaged).differs


def test_lower_precision_is_more_damage_and_fewer_bits(stores: Stores) -> None:
    exact = stores.safetensors("llama")
    damage, bits = [], []
    for dtype in ("BF16", "F16", "Q8_0", "Q5_0", "Q4_0"):
        (model,) = wv.diff(exact, stores.gguf("llama", dtype=dtype)).model
        damage.append(model["rel_l2"])
        bits.append(model["b_bits"])
    assert damage == sorted(damage)
    assert bits == sorted(bits, reverse=True)
    assert damage[0] == 0
    assert 0.003 < damage[2] < 0.01
    assert 0.05 < damage[4] < 0.12


@pytest.mark.parametrize(
    ("metric", "threshold", "over"),
    [
        ("rel_l2", 0.5, False),
        ("rel_l2", 0.2, True),
        ("sqnr_db", 3.0, False),
        ("sqnr_db", 20.0, True),
        ("cosine", 0.5, False),
        ("cosine", 0.99, True),
        ("max_abs", 5.0, False),
        ("max_abs", 0.1, True),
    ],
)
def test_a_threshold_is_of_the_metric(metric: Any, threshold: float, over: bool) -> None:
    found = wv.diff(Q4, Q2, metric=metric, threshold=threshold)
    assert found.differs == any(found.tensors["over"]) == over
    values = found.tensors[metric]
    assert values == sorted(values, reverse=metric not in ("cosine", "sqnr_db"))


def test_missing_and_extra_keys_and_other_shapes_are_differences(stores: Stores, tmp_path: Path) -> None:
    made = checkpoint("llama").tensors
    gone, wide = "model.layers.1.mlp.up_proj.weight", "something.else.weight"
    damaged = changed("llama", tmp_path, {gone: None, wide: made[gone]})
    exact = stores.safetensors("llama")
    found = wv.diff(exact, damaged, threshold=100)
    assert found.missing["key"] == [gone]
    assert found.extra["key"] == [wide]
    assert found.differs
    assert set(found.tensors["status"]) == {"same"}
    assert wv.diff(damaged, exact).missing["key"] == [wide]


def test_different_models_are_a_result(stores: Stores) -> None:
    found = wv.diff(stores.safetensors("llama"), stores.gguf("qwen3_moe"))
    assert found.differs
    assert len(found.unlike) > 0
    assert len(found.missing) > 0
    assert len(found.extra) > 0
    assert any(found.config["matters"])
    json.dumps(found.to_json(), allow_nan=False)


def test_a_field_that_changes_what_is_computed_is_a_difference(stores: Stores, tmp_path: Path) -> None:
    other = changed("llama", tmp_path, {}, {"rms_norm_eps": 1e-3})
    found = wv.diff(stores.safetensors("llama"), other)
    assert [(row["field"], row["matters"]) for row in found.config] == [("rms_norm_eps", True)]
    assert found.differs
    assert set(found.tensors["status"]) == {"same"}


def test_a_window_that_only_one_has_is_a_difference(stores: Stores) -> None:
    found = wv.diff(stores.safetensors("mistral"), stores.safetensors("mistral-window"))
    assert "sliding_window" in [row["field"] for row in found.config if row["matters"]]


def test_what_an_unknown_family_does_not_say_is_none(stores: Stores, tmp_path: Path) -> None:
    unknown = changed("llama", tmp_path, {}, {"model_type": "something"})
    found = wv.diff(stores.safetensors("llama"), unknown)
    assert not found.differs
    assert "family" in found.config["field"]


def test_a_name_in_the_configuration_is_not(stores: Stores, tmp_path: Path) -> None:
    other = changed("llama", tmp_path, {}, {"max_position_embeddings": 99})
    found = wv.diff(stores.safetensors("llama"), other)
    assert [(row["field"], row["matters"]) for row in found.config] == [("max_position_embeddings", False)]
    assert not found.differs


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"selector": "*.o_proj.weight", "layers": 1}, ["model.layers.1.self_attn.o_proj.weight"]),
        ({"selector": "blk.0.ffn_up.weight"}, ["model.layers.0.mlp.up_proj.weight"]),
        ({"role": "mlp.down*", "layers": [0]}, ["model.layers.0.mlp.down_proj.weight"]),
    ],
)
def test_a_selection(options: dict[str, Any], keys: list[str]) -> None:
    found = wv.diff(Q4, Q2, **options)
    assert found.tensors["key"] == keys
    assert (len(found.model), len(found.missing)) == (bool(keys), 0)


def test_one_expert_is_a_tensor_of_its_own(stores: Stores) -> None:
    key = "model.layers.0.mlp.experts.1.up_proj.weight"
    with wv.open(stores.safetensors("mixtral")) as a, wv.open(stores.gguf("mixtral", dtype="Q8_0")) as b:
        (row,) = wv.diff(a, b, key).tensors
        x, y = (db[key][:].astype(np.float64) for db in (a, b))
        assert (row["key"], row["shape"]) == (key, "x".join(map(str, x.shape)))
        assert row["rel_l2"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)


def test_every_table_has_its_columns_and_is_plain(stores: Stores) -> None:
    found = wv.diff(stores.gguf("mixtral", dtype="Q8_0"), stores.gguf("mixtral", dtype="Q4_0"))
    assert len(found.experts) == 3 * 2 * 4
    for table in found.tables().values():
        assert all(row.keys() == set(table.columns) for row in table)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["tensors"]["rows"][0]["key"] == found.tensors["key"][0]
    assert found.to_dict()["tensors"] == found.tensors.to_dicts()
    assert document["differs"] is found.to_dict()["differs"] is True


def test_progress_ends_with_all_bytes() -> None:
    seen: list[tuple[int, int]] = []
    wv.diff(Q4, Q2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"metric": "entropy"}, UsageError),
        ({"threshold": math.nan}, UsageError),
        ({"worst": -1}, UsageError),
        ({"layers": "three"}, SelectionError),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        wv.diff(Q4, Q2, **options)


def test_no_rows_need_be_named() -> None:
    found = wv.diff(Q4, Q2, worst=0)
    assert len(found.rows) == 0
    assert set(found.tensors["worst_row"]) == {None}


def test_a_store_that_was_opened_stays_open(stores: Stores) -> None:
    with wv.open(Q4) as db:
        wv.diff(db, Q4)
        assert db["lm_head.weight"][0, 0] == db["lm_head.weight"][0, 0]


Make = Callable[[Array], Array]


@pytest.mark.parametrize(
    "make",
    [lambda a: a, lambda a: a.astype(np.float32), lambda a: a.astype(np.float64)],
    ids=["as they are", "float32", "float64"],
)
def test_equal_values_of_any_type_are_equal(make: Make, stores: Stores, tmp_path: Path) -> None:
    wider = {key: make(value) for key, value in checkpoint("llama").tensors.items()}
    assert wider["model.norm.weight"].dtype in (ml_dtypes.bfloat16, np.float32, np.float64)
    assert not wv.diff(stores.safetensors("llama"), changed("llama", tmp_path, wider)).differs


@pytest.mark.parametrize("choice", [{"selector": "nothing*"}, {"layers": 99}, {"role": "mlp.nothing"}])
def test_a_choice_that_nothing_is_of_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match=r"nothing matches|no such layer"):
        wv.diff(Q4, Q2, **choice)


def test_without_one_finite_pair_no_measure_is_known(tmp_path: Path) -> None:
    a = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    for name, b in (("a", a), ("b", np.full_like(a, np.nan)), ("c", -a * 0)):
        save_file({"w.weight": b, "v.weight": a}, tmp_path / f"{name}.safetensors")
    first, second = wv.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors").tensors
    assert (first["key"], first["nonfinite"], first["over"]) == ("w.weight", 12, True)
    assert all(math.isnan(first[name]) for name in METRICS)
    assert second["rel_l2"] == 0
    first, _ = wv.diff(tmp_path / "a.safetensors", tmp_path / "c.safetensors").tensors
    assert (first["rel_l2"], math.copysign(1, first["sqnr_db"])) == (1, 1)
