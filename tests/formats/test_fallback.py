"""Outputs whose rows are not contiguous are decoded too, without the compiled kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.support.fp8 import dequantize
from tests.support.packed import PACKED, assert_same_values, random_rows, reference_decode
from wvindex.formats.decode import decode_rows, encode_plain
from wvindex.formats.encodings import BF16, ENCODINGS, with_scale_block

SIDEWAYS = [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)]


def sideways(rows: int, columns: int, dtype: Any) -> Any:
    """An output whose columns are contiguous, not its rows."""
    return np.full((columns, rows), 7, dtype).T


@pytest.mark.parametrize("name", PACKED)
def test_packed_blocks(name: str) -> None:
    raw = random_rows(name, 4, 6)
    out = sideways(4, 6 * ENCODINGS[name].block_size, np.float32)
    decode_rows(raw, ENCODINGS[name], out)
    assert_same_values(out, reference_decode(raw, name))


@pytest.mark.parametrize("dtype", SIDEWAYS)
def test_fp8_with_scales(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(0)
    codes, scales = rng.integers(0, 0x78, (9, 20), np.uint8), rng.random((3, 3), np.float32)
    out = sideways(9, 20, dtype)
    decode_rows(codes, with_scale_block(ENCODINGS["F8_E4M3"], (4, 8)), out, scales=scales)
    exact = dequantize(codes.view(ml_dtypes.float8_e4m3fn), scales, (4, 8))
    np.testing.assert_array_equal(out, exact.astype(dtype))


def test_casts() -> None:
    values = np.random.default_rng(0).standard_normal((300, 500)).astype(np.float32)
    out = sideways(300, 500, BF16.logical_dtype)
    encode_plain(values, BF16, out)
    np.testing.assert_array_equal(out, values.astype(ml_dtypes.bfloat16))
