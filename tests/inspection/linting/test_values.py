"""WV1xx: values, rows and columns that were planted are found, where they are, and nothing else."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import wvindex as wv
from tests.support.planted import Array, edit_json, number, one_finding, planted, put
from tests.support.stores import Stores

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.2.mlp.down_proj.weight"


def nonfinite(values: Array) -> None:
    values[5, 7] = np.nan
    values[5, 9] = -np.inf
    values[100, 0] = np.nan


def test_nonfinite_weights(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {UP: nonfinite}), "WV101")
    assert (found.severity, found.tensor, found.layer) == ("error", UP, 1)
    assert (found.row, found.column, found.expert, found.count) == (5, 7, None, 3)
    assert np.isnan(number(found))
    assert found.message == f"2 NaN and 1 infinite of {192 * 128} values"
    assert (found.file, found.source) == ("model.safetensors", UP)


def test_nonfinite_weights_of_an_expert(tmp_path: Path) -> None:
    key = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    found = one_finding(planted(tmp_path, "mixtral", {key: put((9, 4), np.inf)}), "WV101")
    assert found.tensor == "model.layers.1.mlp.experts.down_proj.weight"
    assert (found.expert, found.row, found.column, found.value) == (3, 9, 4, np.inf)
    assert found.source == key


@pytest.mark.parametrize("key", ["model.norm.weight", "model.layers.0.self_attn.k_proj.bias"])
def test_nonfinite_vectors(key: str, tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "qwen2", {key: put([3, 11], np.nan)}), "WV101")
    assert (found.tensor, found.column, found.count, found.indices) == (key, 3, 2, (3, 11))


def test_a_store_names_its_own_files(tmp_path: Path) -> None:
    source = planted(tmp_path / "source", "llama", {UP: nonfinite})
    bare = one_finding(source, "WV101")
    copied = one_finding(wv.build(source, tmp_path / "a.zarr"), "WV101")
    linked = one_finding(wv.build(source, tmp_path / "b.zarr", link=True), "WV101")
    assert copied.file == "layers/1/mlp.up_proj.weight/zarr.json"
    assert (tmp_path / "a.zarr" / copied.file).is_file()
    assert linked.file == "catalog.json"
    for found in (copied, linked):
        assert found.to_dict() | {"file": "", "value": 0} == bare.to_dict() | {"file": "", "value": 0}


def test_of_shards_the_one_is_named(tmp_path: Path, stores: Stores) -> None:
    directory = stores.safetensors("llama", "hub", "each", 2)
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    holder = next(f for f in sorted(tmp_path.glob("*.safetensors")) if UP in load_file(f))
    tensors = load_file(holder)
    nonfinite(tensors[UP])
    save_file(tensors, holder, metadata={"format": "pt"})
    assert one_finding(tmp_path, "WV101").file == holder.name


def test_nan_codes_of_fp8(tmp_path: Path) -> None:
    key = "model.layers.0.self_attn.o_proj.weight"
    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {key: put((200, 3), np.nan)}), "WV101")
    assert (found.tensor, found.row, found.column, found.count) == (key, 200, 3, 1)


def test_zero_tensor_and_not_its_rows(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {UP: put(..., -0.0)}), "WV102")
    assert (found.tensor, found.severity, found.count) == (UP, "warning", 192 * 128)


def test_zero_vectors_are_healthy(tmp_path: Path) -> None:
    key = "model.layers.0.self_attn.k_proj.bias"
    assert wv.check(planted(tmp_path, "qwen2", {key: put(..., 0)})).findings == ()


def test_zero_rows_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    rows = [3, *range(20, 40)]
    found = one_finding(planted(tmp_path, "llama", {UP: put(rows, 0)}), "WV103")
    assert (found.tensor, found.row, found.count) == (UP, 3, 21)
    assert found.indices == (3, 20, 21, 22, 23, 24, 25, 26)
    assert found.message == "21 of 192 rows are zero: 3, 20, 21, 22, 23, 24, 25, 26 and 13 more"


def test_zero_rows_of_an_expert(tmp_path: Path) -> None:
    key = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    found = one_finding(planted(tmp_path, "mixtral", {key: put(8, 0)}), "WV103")
    assert (found.tensor, found.expert, found.row) == ("model.layers.0.mlp.experts.gate_proj.weight", 2, 8)
    assert found.message == "1 of 768 rows is zero: 8 of expert 2"


def test_zero_columns(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {DOWN: put((..., [5, 9]), 0)}), "WV104")
    assert (found.tensor, found.column, found.row, found.indices) == (DOWN, 5, None, (5, 9))


def test_constant_rows(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {UP: put([1, 2], 0.5)}), "WV105")
    assert (found.tensor, found.row, found.count) == (UP, 1, 2)


def test_constant_columns(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {DOWN: put((..., 77), -0.25)}), "WV106")
    assert (found.tensor, found.column, found.count) == (DOWN, 77, 1)


def test_extreme_weights(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "llama", {UP: put((17, 99), -(2.0**40))}), "WV107")
    assert (found.tensor, found.row, found.column, found.value) == (UP, 17, 99, 2.0**40)


def test_extreme_weights_of_an_expert(tmp_path: Path) -> None:
    key = "model.layers.1.block_sparse_moe.experts.3.w3.weight"
    found = one_finding(planted(tmp_path, "mixtral", {key: put((17, 9), 1e9)}), "WV107")
    assert (found.expert, found.row, found.column) == (3, 17, 9)


def test_outliers_of_trained_models_are_healthy(tmp_path: Path) -> None:
    assert wv.check(planted(tmp_path, "llama", {UP: put((17, 99), 8.0)})).findings == ()


def test_saturated_float16(tmp_path: Path) -> None:
    def saturate(values: Array) -> Array:
        half = (values.astype(np.float32) * 20000).astype(np.float16)
        half[3, 4], half[90, 1] = -65504, 65504
        return half

    found = one_finding(planted(tmp_path, "llama", {UP: saturate}), "WV108", ignore=["WV704"])
    assert (found.tensor, found.row, found.column, found.value, found.count) == (UP, 3, 4, -65504, 2)


def test_65504_among_larger_weights_is_healthy(tmp_path: Path) -> None:
    def grow(values: Array) -> Array:
        wide = values.astype(np.float32) * 20000
        wide[3, 4], wide[3, 5] = 65504, 65505
        return wide

    assert wv.check(planted(tmp_path, "llama", {UP: grow}), ignore=["WV704"]).findings == ()


def test_saturated_codes_without_scales(tmp_path: Path) -> None:
    def cast(values: Array) -> Array:
        codes = values.astype(ml_dtypes.float8_e4m3fn)
        codes[6, 2] = -448
        return codes

    path = planted(tmp_path, "llama", {UP: cast})
    found = one_finding(path, "WV109", rules=["WV109"])
    assert (found.tensor, found.row, found.column, found.count) == (UP, 6, 2, 1)


def test_saturated_codes_with_scales_that_are_too_small(tmp_path: Path) -> None:
    key = "model.layers.0.self_attn.o_proj.weight"

    def clip(codes: Array) -> Array:
        wide = codes.astype(np.float32) * 16
        return np.clip(wide, -448, 448).astype(codes.dtype)

    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {key: clip}), "WV109")
    expected = np.abs(load_file_codes(tmp_path, key)) == 448
    assert (found.tensor, found.count) == (key, int(expected.sum()))
    assert (found.row, found.column) == tuple(map(int, np.argwhere(expected)[0]))


def load_file_codes(directory: Path, key: str) -> Array:
    with wv.open(directory) as db:
        codes: Array = db[key].raw().view(ml_dtypes.float8_e4m3fn)
        return codes.astype(np.float32)


def test_untrained_tokens(tmp_path: Path) -> None:
    key = "model.embed_tokens.weight"
    changes = {key: put([250, 260], 0), "lm_head.weight": put(7, 0.5)}
    findings = wv.check(planted(tmp_path, "llama", changes)).findings
    assert [(f.rule, f.tensor, f.row, f.count) for f in findings] == [
        ("WV110", key, 250, 2),
        ("WV110", "lm_head.weight", 7, 1),
    ]
    assert wv.check(tmp_path).at_least("warning") == ()


def test_masks_of_families_that_are_not_known_are_no_weights(tmp_path: Path) -> None:
    mask = np.triu(np.full((1, 1, 32, 32), -np.inf, np.float32), 1)
    lower = np.tril(np.ones((1, 1, 32, 32), np.float32))
    path = planted(tmp_path, "llama", add={"h.0.attn.mask": mask, "h.0.attn.bias": lower})
    edit_json(path / "config.json", model_type="mystery")
    assert {f.rule for f in wv.check(path)} == {"WV702"}


def test_matrices_of_any_name_are_looked_at(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flip = rng.standard_normal((600, 640)).astype(np.float32)
    flip[7, 9] = 1e25
    broken = {
        "zero": np.zeros((600, 640), np.float32),
        "const": np.full((600, 640), 0.25, np.float32),
        "flip": flip,
        "line": np.where(np.arange(600)[:, None] == 5, np.float32(0), rng.standard_normal((600, 640))),
    }
    healthy = {"fine": rng.standard_normal((600, 640)), "steps": np.arange(64.0 * 64).reshape(64, 64)}
    tensors = {name: values.astype(np.float32) for name, values in (broken | healthy).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = {(f.rule, f.tensor, f.row) for f in wv.check(tmp_path, ignore=["WV7"])}
    assert found == {
        ("WV102", "zero", None),
        ("WV105", "const", 0),
        ("WV106", "const", None),
        ("WV107", "flip", 7),
        ("WV103", "line", 5),
    }


@pytest.mark.parametrize(
    "name", ["h.0.attn.mask", "attn_mask", "h.1.attn.bias", "rope.cos_cached", "sin", "freqs"]
)
def test_tables_that_are_computed_may_have_zeros_and_ones(name: str, tmp_path: Path) -> None:
    save_file({name: np.tril(np.ones((64, 64), np.float32))}, tmp_path / "model.safetensors")
    assert wv.check(tmp_path, ignore=["WV7"]).findings == ()


def test_a_token_for_what_is_masked_is_a_weight(tmp_path: Path) -> None:
    save_file({"vision.mask_token": np.zeros((4, 64), np.float32)}, tmp_path / "model.safetensors")
    assert [f.rule for f in wv.check(tmp_path, ignore=["WV7"])] == ["WV102"]


def test_kernels_of_convolutions_are_no_experts(tmp_path: Path) -> None:
    key = "vision.patch_embed.weight"
    kernels = np.random.default_rng(0).standard_normal((64, 3, 16, 16)).astype(np.float32)
    kernels[5] = kernels[4]
    kernels[7] = 0
    found = one_finding(planted(tmp_path, "llama", add={key: kernels}), "WV103", ignore=["WV701"])
    assert (found.tensor, found.expert, found.row, found.count) == (key, None, 7 * 48, 48)


def test_a_choice_of_tensors_is_about_them_alone(tmp_path: Path) -> None:
    path = planted(tmp_path, "llama", {UP: nonfinite, DOWN: put((..., 5), 0)})
    edit_json(path / "config.json", eos_token_id=999)
    assert {f.rule for f in wv.check(path)} == {"WV101", "WV104", "WV503"}
    assert [f.rule for f in wv.check(path, layers=1)] == ["WV101"]
    assert [f.rule for f in wv.check(path, "*.down_proj.weight")] == ["WV104"]
    assert [f.rule for f in wv.check(path, rules=["WV1"], ignore=["zero-columns"])] == ["WV101"]
