"""WV2xx: scales that were damaged in packed blocks and beside FP8 codes are found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.packed import random_rows, reference_decode
from tests.support.planted import Array, one_finding, patched, planted, put
from tests.support.stores import Stores
from wvindex.formats.encodings import ENCODINGS
from wvindex.inspection.linting.scale_fields import SCALE_FIELDS

Bytes = NDArray[np.uint8]

NAME, KEY = "blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"
CODES = "model.layers.0.self_attn.o_proj.weight"  # (256, 192): scale blocks 2 x 2
SCALES = f"{CODES}_scale_inv"

QUANTIZABLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def half(block: int, offset: int, value: float) -> Callable[[Bytes], None]:
    def patch(blocks: Bytes) -> None:
        blocks[block, offset : offset + 2] = np.array([value], "<f2").view(np.uint8)

    return patch


@pytest.mark.parametrize("dtype", QUANTIZABLE)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_scales_of_blocks(dtype: str, value: float, stores: Stores, tmp_path: Path) -> None:
    path = patched(stores.gguf("llama", dtype=dtype), tmp_path / "a.gguf", NAME, half(4 * 7 + 2, 0, value))
    found = one_finding(path, "WV201")
    assert (found.tensor, found.row, found.column, found.count) == (KEY, 7, 64, 1)
    assert (found.file, found.source) == ("a.gguf", NAME)
    np.testing.assert_equal(found.value, value)


def test_negative_scales(stores: Stores, tmp_path: Path) -> None:
    path = patched(stores.gguf("llama", dtype="Q8_0"), tmp_path / "a.gguf", NAME, half(9, 0, -0.01))
    found = one_finding(path, "WV202")
    assert (found.tensor, found.row, found.column) == (KEY, 2, 32)
    assert found.value == np.float16(-0.01)


def test_negative_scales_of_types_that_have_a_sign(stores: Stores, tmp_path: Path) -> None:
    path = patched(stores.gguf("llama", dtype="Q4_0"), tmp_path / "a.gguf", NAME, half(9, 0, -0.01))
    assert wv.check(path).findings == ()


@pytest.mark.parametrize("dtype", QUANTIZABLE)
def test_scales_that_are_lost(dtype: str, stores: Stores, tmp_path: Path) -> None:
    path = patched(stores.gguf("llama", dtype=dtype), tmp_path / "a.gguf", NAME, half(9, 0, 0.0))
    found = one_finding(path, "WV203")
    assert (found.tensor, found.row, found.column, found.count) == (KEY, 2, 32, 1)


@pytest.mark.parametrize("dtype", QUANTIZABLE)
def test_blocks_of_zeros_are_healthy(dtype: str, stores: Stores, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[dtype]
    zeros = gguf.quants.quantize(np.zeros((1, 32), np.float32), kind).reshape(-1)

    def patch(blocks: Bytes) -> None:
        blocks[9] = zeros

    path = patched(stores.gguf("llama", dtype=dtype), tmp_path / "a.gguf", NAME, patch)
    assert wv.check(path).findings == ()


def test_coarse_scales(stores: Stores, tmp_path: Path) -> None:
    path = patched(stores.gguf("llama", dtype="Q8_0"), tmp_path / "a.gguf", NAME, half(9, 0, 2.0**-22))
    found = one_finding(path, "WV204")
    assert (found.severity, found.row, found.column, found.value) == ("info", 2, 32, 2.0**-22)


@pytest.mark.parametrize("name", SCALE_FIELDS)
def test_scales_are_where_others_read_them(name: str) -> None:
    size = ENCODINGS[name].type_size
    for field in SCALE_FIELDS[name]:
        raw = random_rows(name, 1, 3)
        width = np.dtype(field.dtype).itemsize
        at = size + field.offset
        raw[0, at : at + width] = np.array([np.nan], field.dtype).view(np.uint8)
        assert np.isnan(reference_decode(raw, name)[0].reshape(3, -1)[1]).all()
        assert np.isnan(field.read(raw.reshape(3, size))[1])


def test_nonfinite_scales_of_fp8(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {SCALES: put((1, 0), np.nan)}), "WV201")
    assert (found.tensor, found.row, found.column, found.count) == (CODES, 128, 0, 1)


def test_negative_scales_of_fp8(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {SCALES: put((0, 1), -0.5)}), "WV202")
    assert (found.tensor, found.row, found.column, found.value) == (CODES, 0, 128, -0.5)


def test_lost_scales_of_fp8(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {SCALES: put((1, 1), 0)}), "WV203")
    assert (found.tensor, found.row, found.column, found.value) == (CODES, 128, 128, 0)


def test_denormal_scales_of_fp8(tmp_path: Path) -> None:
    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {SCALES: put((0, 0), 1e-40)}), "WV204")
    assert found.value == np.float32(1e-40)


def test_a_zero_scale_over_zero_codes_is_healthy(tmp_path: Path) -> None:
    changes = {SCALES: put((1, 1), 0), CODES: put((slice(128, None), slice(128, None)), 0)}
    assert wv.check(planted(tmp_path, "deepseek_v3-fp8", changes)).findings == ()


def test_scales_of_an_expert(tmp_path: Path) -> None:
    key = "model.layers.1.mlp.experts.5.down_proj.weight_scale_inv"
    found = one_finding(planted(tmp_path, "deepseek_v3-fp8", {key: put((1, 0), np.inf)}), "WV201")
    assert found.tensor == "model.layers.1.mlp.experts.down_proj.weight"
    assert (found.expert, found.row, found.column) == (5, 128, 0)


def test_scales_of_a_weight_that_is_not_fp8(tmp_path: Path) -> None:
    def plain(values: Array) -> Array:
        return values.astype(ml_dtypes.bfloat16)

    path = planted(tmp_path, "deepseek_v3-fp8", {CODES: plain})
    found = one_finding(path, "WV205", ignore=["WV704"])
    assert (found.severity, found.tensor) == ("warning", SCALES)
    assert "o_proj.weight is BF16" in found.message


def test_scales_of_no_weight(tmp_path: Path) -> None:
    scales = {"model.layers.0.mlp.extra_proj.weight_scale": np.ones((2, 2), np.float32)}
    found = one_finding(planted(tmp_path, "llama", add=scales), "WV205")
    assert "no such weight" in found.message


def test_fp8_without_scales(tmp_path: Path) -> None:
    def cast(values: Array) -> Array:
        return values.astype(ml_dtypes.float8_e4m3fn)

    found = one_finding(planted(tmp_path, "llama", {KEY: cast}), "WV206", rules=["WV2"])
    assert (found.severity, found.tensor, found.count) == ("info", KEY, 1)
