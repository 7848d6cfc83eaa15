"""FP8 rows brought to other blocks: what had the block's scale keeps its codes, the rest is rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import fp8
from tests.support.memory_source import MemorySource
from wvindex.converting.requant import Requantized, ScaledRows

BLOCK = (4, 6)


def scaled(rng: np.random.Generator, rows: int, columns: int, spread: float) -> tuple[Any, Any]:
    values = rng.standard_normal((rows, columns)) * np.exp(rng.uniform(-spread, spread, (rows, 1)))
    return fp8.quantize(values.astype(np.float32), BLOCK)


def requantized(
    parts: list[tuple[Any, Any, int, int]], scales_dtype: Any = np.float32
) -> tuple[Requantized, NDArray[np.float32]]:
    """Give rows [first, stop) of some matrices together, and what they decode to."""
    tensors: dict[str, Any] = {}
    for i, (codes, scales, _, _) in enumerate(parts):
        tensors |= {f"w{i}": codes, f"s{i}": scales.astype(scales_dtype)}
    source = MemorySource(tensors)
    rows = [
        ScaledRows(source.info(f"w{i}"), source.info(f"s{i}"), BLOCK, first, stop)
        for i, (_, _, first, stop) in enumerate(parts)
    ]
    decoded = [
        fp8.dequantize(codes, tensors[f"s{i}"].astype(np.float32), BLOCK)[first:stop]
        for i, (codes, _, first, stop) in enumerate(parts)
    ]
    return Requantized(source, rows), np.concatenate(decoded)


def contents(made: Requantized, columns: int, dtype: Any = np.float32) -> tuple[Any, NDArray[np.float32]]:
    out = bytearray(made.nbytes)
    for start in range(0, made.nbytes, 7):  # in pieces that end anywhere
        made.read(start, memoryview(out)[start : start + 7])
    codes = np.frombuffer(out, ml_dtypes.float8_e4m3fn).reshape(-1, columns)
    scales = np.frombuffer(made.scales(), dtype).astype(np.float32)
    return codes, scales.reshape(-1, -(-columns // BLOCK[1]))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    rows=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    columns=st.integers(1, 14),
    spread=st.sampled_from([0.0, 0.5, 3.0]),
    first=st.integers(0, 4),
)
def test_no_value_moves_by_more_than_half_a_step(
    seed: int, rows: tuple[int, int], columns: int, spread: float, first: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [(*scaled(rng, n, columns, spread), min(first, n - 1), n) for n in rows]
    made, expected = requantized(parts)
    codes, scales = contents(made, columns)
    found = fp8.dequantize(codes, scales, BLOCK)
    assert found.shape == expected.shape
    # E4M3: 3 bits after the point, 2^-9 the step of the smallest; half a step, of the new block's scale
    steps = np.repeat(np.repeat(scales, BLOCK[0], 0)[: len(found)], BLOCK[1], 1)[:, :columns]
    bound = np.maximum(np.abs(expected) * 2.0**-4, steps * 2.0**-10) * (1 + 1e-6)
    assert (np.abs(found - expected) <= bound).all()
    told = {change.tensor: change for change in made.changes()}
    edges = np.cumsum([0, *(stop - begin for _, _, begin, stop in parts)])
    for i in range(2):
        part = slice(edges[i], edges[i + 1])
        count = int((found[part] != expected[part]).sum())
        assert (f"w{i}" in told) == (count > 0)
        if count:
            assert told[f"w{i}"].values == count
            assert told[f"w{i}"].max_abs == pytest.approx(np.abs(found[part] - expected[part]).max())


def test_rows_that_line_up_keep_every_byte() -> None:
    rng = np.random.default_rng(0)
    upper, lower = scaled(rng, 8, 10, 2.0), scaled(rng, 7, 10, 2.0)
    made, _ = requantized([(*upper, 0, 8), (*lower, 0, 7)])
    codes, scales = contents(made, 10)
    np.testing.assert_array_equal(codes.view(np.uint8), np.concatenate([upper[0], lower[0]]).view(np.uint8))
    np.testing.assert_array_equal(scales, np.concatenate([upper[1], lower[1]]))
    assert made.changes() == []


def test_the_query_keeps_its_whole_blocks() -> None:
    rng = np.random.default_rng(0)
    upper, lower = scaled(rng, 10, 12, 2.0), scaled(rng, 9, 12, 2.0)
    made, _ = requantized([(*upper, 0, 10), (*lower, 0, 9)])
    codes, scales = contents(made, 12)
    np.testing.assert_array_equal(codes[:8].view(np.uint8), upper[0][:8].view(np.uint8))
    np.testing.assert_array_equal(scales[:2], upper[1][:2])
    np.testing.assert_array_equal(scales[2], np.maximum(upper[1][2], lower[1][0]))


def test_scales_keep_their_encoding() -> None:
    rng = np.random.default_rng(0)
    made, expected = requantized([(*scaled(rng, 5, 6, 1.0), 0, 5)] * 2, ml_dtypes.bfloat16)
    codes, scales = contents(made, 6, ml_dtypes.bfloat16)
    assert len(made.scales()) == 2 * scales.size
    np.testing.assert_allclose(fp8.dequantize(codes, scales, BLOCK), expected, rtol=2**-4, atol=1e-2)


def test_nan_stays_nan_and_zeros_stay_zero() -> None:
    rng = np.random.default_rng(0)
    upper, lower = scaled(rng, 5, 6, 1.0), scaled(rng, 5, 6, 1.0)
    upper[0][4] = np.nan
    lower[0][:] = 0
    lower[1][:] = 0
    made, expected = requantized([(*upper, 0, 5), (*lower, 0, 5)])
    codes, scales = contents(made, 6)
    np.testing.assert_array_equal(fp8.dequantize(codes, scales, BLOCK), expected)
    assert made.changes() == []
