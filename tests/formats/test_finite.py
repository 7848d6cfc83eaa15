"""Counts of NaN and infinity are those of the decoded values, and clean blocks are not decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.packed import PACKED, Bytes, random_rows, reference_decode
from wvindex.errors import TensorLayoutError, UndecodableType
from wvindex.formats import finite
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import ENCODINGS, Encoding, with_scale_block
from wvindex.formats.finite import count_nonfinite
from wvindex.formats.kernels.nonfinite import FEW_BYTES

FLOATS = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]
INTEGERS = [name for name, e in ENCODINGS.items() if e.is_plain and name not in FLOATS]
EXTREME = np.array([0x00, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F, 0x80, 0xF0, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF], np.uint8)
SCALES = np.array([0, -0.0, 1, 1e-45, 1e35, 3.4e38, -7.6e35, np.inf, -np.inf, np.nan], np.float32)


def counts(values: npt.NDArray[Any]) -> tuple[int, int]:
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = values.astype(np.float64)
    return int(np.isnan(wide).sum()), int(np.isinf(wide).sum())


def hostile_rows(name: str, n_rows: int, n_blocks: int, seed: int) -> Bytes:
    """Random blocks, a third of whose bytes are those that scales need to be infinite, NaN or huge."""
    raw = random_rows(name, n_rows, n_blocks, seed)
    rng = np.random.default_rng(seed + 1)
    chosen = rng.random(raw.shape) < 1 / 3
    return np.where(chosen, rng.choice(EXTREME, raw.shape), raw)


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 3), blocks=st.integers(1, 12))
def test_packed_blocks(name: str, seed: int, rows: int, blocks: int) -> None:
    raw = hostile_rows(name, rows, blocks, seed)
    assert count_nonfinite(raw, ENCODINGS[name]) == counts(reference_decode(raw, name))


@pytest.mark.parametrize("name", [name for name in PACKED if name != "NVFP4"])
def test_the_packed_test_does_meet_nan_or_infinity(name: str) -> None:
    assert sum(counts(reference_decode(hostile_rows(name, 40, 20, 0), name))) > 0


@pytest.mark.parametrize("exponent", range(256))
def test_every_exponent_of_mxfp4(exponent: int) -> None:
    raw = np.concatenate([np.array([exponent]), np.arange(16) * 17]).astype(np.uint8).reshape(1, 17)
    assert count_nonfinite(raw, ENCODINGS["MXFP4"]) == counts(reference_decode(raw, "MXFP4"))


@pytest.mark.parametrize("level", [-128, 127, 1, 0])
def test_q8_k_just_below_and_above_overflow(level: int) -> None:
    largest = np.finfo(np.float32).max / np.float32(128)
    d = np.array([largest, np.nextafter(largest, np.float32(np.inf)), -largest, 2.7e36, np.inf], np.float32)
    raw = np.zeros((5, 292), np.uint8)
    raw[:, :4] = d.view(np.uint8).reshape(5, 4)
    raw[:, 4:260] = np.int8(level).view(np.uint8)
    assert count_nonfinite(raw, ENCODINGS["Q8_K"]) == counts(reference_decode(raw, "Q8_K"))


@pytest.mark.parametrize("name", FLOATS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_plain_floats(name: str, seed: int) -> None:
    encoding = ENCODINGS[name]
    raw = np.random.default_rng(seed).choice(EXTREME, (3, 50 * encoding.type_size))
    raw = np.where(np.random.default_rng(seed).random(raw.shape) < 0.6, raw, 0xFF).astype(np.uint8)
    assert count_nonfinite(raw, encoding) == counts(raw.view(encoding.logical_dtype))


@pytest.mark.parametrize("name", FLOATS)
def test_plain_infinities(name: str) -> None:
    encoding = ENCODINGS[name]
    values = np.array([[1, np.inf, -np.inf, np.nan, -0.0, 2]]).astype(encoding.logical_dtype)
    assert count_nonfinite(values.view(np.uint8), encoding) == counts(values)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_finite(name: str) -> None:
    assert count_nonfinite(np.full((2, 24), 0xFF, np.uint8), ENCODINGS[name]) == (0, 0)


@pytest.mark.parametrize("name", ["F8_E4M3", "F8_E5M2"])
@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    offset=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_fp8_with_scales(
    name: str, rows: int, columns: int, block: tuple[int, int], offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first_row = offset % block[0]
    encoding = with_scale_block(ENCODINGS[name], block)
    codes = rng.integers(0, 256, (rows, columns), np.uint8)
    common = SCALES if rng.random() < 0.5 else SCALES[2:4]
    scales = rng.choice(common, (-(-(first_row + rows) // block[0]), -(-columns // block[1])))
    expected = np.empty((rows, columns), np.float32)
    decode_rows(codes, encoding, expected, scales=scales, first_row=first_row)
    assert count_nonfinite(codes, encoding, scales, first_row=first_row) == counts(expected)


def test_fp8_over_several_tiles() -> None:
    rng = np.random.default_rng(3)
    encoding = with_scale_block(ENCODINGS["F8_E4M3"], (128, 128))
    codes = rng.integers(0, 256, (300, 4096), np.uint8)
    scales = rng.random((3, 32), np.float32) + 1
    scales[1, 5] = np.inf
    expected = np.empty(codes.shape, np.float32)
    decode_rows(codes, encoding, expected, scales=scales)
    assert count_nonfinite(codes, encoding, scales) == counts(expected)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "IQ1_M", "Q8_K"])
def test_counts_over_several_tiles(name: str) -> None:
    raw = random_rows(name, 3, (1 << 18) // ENCODINGS[name].block_size + 7)
    raw[:, ::2] &= 0x3F
    expected = np.empty(
        (3, raw.shape[1] // ENCODINGS[name].type_size * ENCODINGS[name].block_size), np.float32
    )
    decode_rows(raw, ENCODINGS[name], expected)
    assert count_nonfinite(raw, ENCODINGS[name]) == counts(expected)


@pytest.mark.parametrize("name", PACKED)
def test_clean_blocks_are_not_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(finite, "decode_blocks", fail)
    raw = random_rows(name, 4, 10) & np.uint8(0x3B)
    assert count_nonfinite(raw, ENCODINGS[name]) == (0, 0)


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_few_suspicious_blocks_among_many(name: str, seed: int) -> None:
    size, rng = ENCODINGS[name].type_size, np.random.default_rng(seed)
    raw = random_rows(name, 2, FEW_BYTES // size, seed) & np.uint8(0x3B)
    blocks = raw.reshape(-1, size)
    blocks[rng.integers(0, len(blocks), 3)] = hostile_rows(name, 3, 1, seed)
    assert count_nonfinite(raw, ENCODINGS[name]) == counts(reference_decode(raw, name))


@pytest.mark.parametrize("name", FLOATS)
def test_few_special_values_among_many(name: str) -> None:
    encoding = ENCODINGS[name]
    values = np.full((3, FEW_BYTES), -1.5).astype(encoding.logical_dtype)
    values[[0, 1, 2, 2], [0, 7777, 5, FEW_BYTES - 1]] = [np.nan, np.inf, -np.inf, -np.nan]
    assert count_nonfinite(values.view(np.uint8), encoding) == counts(values)


def test_strided_rows() -> None:
    raw = hostile_rows("Q5_1", 6, 4, 9)
    expected = counts(reference_decode(raw[::2, 24:], "Q5_1"))
    assert count_nonfinite(raw[::2, 24:], ENCODINGS["Q5_1"]) == expected


def test_an_unknown_block_type_is_named() -> None:
    with pytest.raises(UndecodableType, match="Q9_Z"):
        count_nonfinite(np.zeros((1, 18), np.uint8), Encoding("Q9_Z", 32, 18))


@pytest.mark.parametrize("name", ["Q4_0", "F32"])
def test_broken_rows_are_refused(name: str) -> None:
    with pytest.raises(TensorLayoutError, match="whole number"):
        count_nonfinite(np.zeros((1, 19), np.uint8), ENCODINGS[name])


def test_fp8_without_scales_is_refused() -> None:
    with pytest.raises(TensorLayoutError, match="without their scales"):
        count_nonfinite(np.zeros((1, 4), np.uint8), with_scale_block(ENCODINGS["F8_E4M3"], (1, 1)))
