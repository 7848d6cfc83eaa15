"""Rows read in parts are the parts of the rows, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import fp8
from tests.support.memory_source import MemorySource
from tests.support.rows import check_part, read_all, read_part, values
from wvindex.formats.encodings import BF16, F8_E4M3, F16, F32, Encoding, with_scale_block
from wvindex.transform.combine import AsVector, Cast, Concat, JoinedVectors, Reordered, Slice, tensor_rows
from wvindex.transform.product import ArrayRows, Factor, LatestFactor, ProductRows, TransposedRows
from wvindex.transform.rows import Rows, decoded

Array = NDArray[Any]
RNG = np.random.default_rng(11)


def random_bits(*shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, np.uint8)


SMALL = RNG.standard_normal((7, 12)).astype(np.float32)
TALL = RNG.standard_normal((40, 6)).astype(np.float16)
STACK = RNG.standard_normal((3, 5, 8)).astype(np.float32)
VECTOR = RNG.standard_normal(10).astype(np.float32)
PACKED = random_bits(6, 2 * 34)
CODES, SCALES = fp8.quantize(RNG.standard_normal((10, 9)).astype(np.float32), (4, 4))
SOURCE = MemorySource(
    {
        "small": SMALL,
        "tall": TALL,
        "stack": STACK,
        "vector": VECTOR,
        "packed": ("Q8_0", (6, 64), PACKED),
        "packed stack": ("Q8_0", (2, 3, 64), PACKED),
        "codes": CODES,
        "scales": SCALES,
        "code stack": np.stack([CODES, CODES[::-1]]),
        "scale stack": np.stack([SCALES, SCALES[::-1]]).astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5, np.float32),
    }
)


def rows_of(name: str, **options: Any) -> Rows:
    return tensor_rows(SOURCE, SOURCE.info(name), **options)


def codes(**options: Any) -> Rows:
    return rows_of("codes", scales=SOURCE.info("scales"), scale_block=(4, 4), **options)


def code_stack(**options: Any) -> Rows:
    return rows_of("code stack", scales=SOURCE.info("scale stack"), scale_block=(4, 4), **options)


def product(encoding: Encoding = F32) -> Rows:
    """Whole numbers, whose products are exact in whatever order they are summed."""
    left = RNG.integers(-4, 5, (9, 4)).astype(np.float32)
    gamma = np.array([1, 2, -1, 3], np.float32)
    right, tail = RNG.integers(-4, 5, (4, 5)), RNG.integers(-4, 5, (2, 5))
    factor = Factor(right.astype(np.float32), tail.astype(np.float32))
    index = np.array([~1, 8, 0, ~0, 3, 3, ~1, 7], np.int64)
    return ProductRows(ArrayRows(left), index, lambda: gamma, lambda: factor, 5, encoding)


def column() -> Rows:
    """A vector as the bias of absorption is made: a column of a product, turned."""
    left = np.arange(12, dtype=np.float32).reshape(6, 2)
    factor = Factor(np.array([[2.0], [3.0]], np.float32), np.array([[7.0]], np.float32))
    index = np.array([5, ~0, 1, 0], np.int64)
    return AsVector(ProductRows(ArrayRows(left), index, lambda: np.ones(2, np.float32), lambda: factor, 1))


ORDER = np.array([6, 0, 3, 2, 1, 5, 4], np.int64)
SCATTERED = np.concatenate([[39, 0, 20], RNG.permutation(np.setdiff1d(np.arange(40), [0, 20, 39]))])

MADE: dict[str, Callable[[], Rows]] = {
    "a matrix": lambda: rows_of("small"),
    "a stack": lambda: rows_of("stack"),
    "one matrix of a stack": lambda: rows_of("stack", matrix=1),
    "a part of a matrix": lambda: rows_of("small", part=(2, 6)),
    "a part of a matrix of a stack": lambda: rows_of("stack", matrix=2, part=(1, 3)),
    "an empty part": lambda: rows_of("small", part=(3, 3)),
    "reordered in the file": lambda: rows_of("small", order=ORDER),
    "rows that are far apart": lambda: rows_of("tall", order=SCATTERED),
    "packed": lambda: rows_of("packed"),
    "packed, reordered": lambda: rows_of("packed", order=ORDER[ORDER < 6].copy()),
    "one packed matrix": lambda: rows_of("packed stack", matrix=1),
    "a vector": lambda: rows_of("vector"),
    "a scalar": lambda: rows_of("scalar"),
    "a part of a vector": lambda: rows_of("vector", part=(2, 9)),
    "a vector reordered": lambda: rows_of("vector", order=np.arange(10)[::-1].copy()),
    "FP8": codes,
    "FP8, a part": lambda: codes(part=(4, 10)),
    "FP8, one of a stack": lambda: code_stack(matrix=1),
    "cast": lambda: Cast(rows_of("tall"), F32),
    "cast to half": lambda: Cast(rows_of("small"), F16, 0.5),
    "cast from packed": lambda: Cast(rows_of("packed"), BF16),
    "cast from FP8": lambda: Cast(codes(), F32),
    "cast from stacked FP8": lambda: Cast(code_stack(), F32),
    "slice of a cast": lambda: Slice(Cast(codes(), F32), 3, 9),
    "joined": lambda: Concat(
        [rows_of("small"), rows_of("small", part=(1, 3)), rows_of("small", order=ORDER)], stacked=False
    ),
    "joined with an empty part": lambda: Concat(
        [rows_of("small", part=(0, 0)), rows_of("small"), rows_of("small", part=(7, 7))], stacked=False
    ),
    "stacked": lambda: Concat([rows_of("stack", matrix=i) for i in (2, 0, 1)], stacked=True),
    "stacked FP8": lambda: Concat([code_stack(matrix=1), code_stack(matrix=0)], stacked=True),
    "reordered after a cast": lambda: Reordered(Cast(codes(), F32), np.array([9, 0, 4, 4], np.int64)),
    "a column as a vector": column,
    "vectors joined": lambda: JoinedVectors((rows_of("vector"), rows_of("vector", part=(3, 5)))),
    "transposed": lambda: TransposedRows(rows_of("stack")),
    "transposed, packed": lambda: TransposedRows(rows_of("packed stack")),
    "from memory": lambda: ArrayRows(SMALL),
    "a product": product,
    "a product, narrowed": lambda: product(BF16),
}


@pytest.mark.parametrize("name", MADE)
@given(data=st.data())
@settings(max_examples=30)
def test_a_part_is_the_part_of_the_whole(name: str, data: st.DataObject) -> None:
    rows = MADE[name]()
    check_part(rows, read_all(rows), data)


@pytest.mark.parametrize("name", MADE)
def test_no_more_than_the_rows_is_written(name: str) -> None:
    rows = MADE[name]()
    width = rows.encoding.row_bytes(rows.row_values)
    padded = np.full(rows.n_rows * width + 8, 0x5A, np.uint8)
    rows.read_rows(0, rows.n_rows, padded[: rows.n_rows * width].data)
    assert (padded[rows.n_rows * width :] == 0x5A).all()


def test_reading_in_place_reads_no_more_than_is_asked_for() -> None:
    rows = rows_of("stack", matrix=1, part=(1, 4))
    SOURCE.bytes_read = 0
    read_part(rows, 1, 3, (4, 12))
    assert SOURCE.bytes_read == 2 * 8


def test_scattered_rows_are_read_alone_and_near_ones_together() -> None:
    SOURCE.bytes_read = 0
    read_part(rows_of("tall", order=SCATTERED), 0, 3)
    assert SOURCE.bytes_read == 3 * 12
    SOURCE.bytes_read = 0
    read_part(rows_of("small", order=ORDER), 0, 4)  # 6, 0, 3, 2
    assert SOURCE.bytes_read == 7 * 48


def test_what_the_pieces_are() -> None:
    np.testing.assert_array_equal(values(MADE["one matrix of a stack"]()), STACK[1])
    np.testing.assert_array_equal(values(MADE["a part of a matrix of a stack"]()), STACK[2, 1:3])
    np.testing.assert_array_equal(values(MADE["reordered in the file"]()), SMALL[ORDER])
    np.testing.assert_array_equal(values(MADE["rows that are far apart"]()), TALL[SCATTERED])
    np.testing.assert_array_equal(values(MADE["a part of a vector"]()), VECTOR[None, 2:9])
    np.testing.assert_array_equal(values(MADE["a vector reordered"]()), VECTOR[None, ::-1])
    np.testing.assert_array_equal(values(MADE["a scalar"]()), [[2.5]])
    np.testing.assert_array_equal(values(MADE["cast"]()), TALL.astype(np.float32))
    np.testing.assert_array_equal(
        values(MADE["cast to half"]()), (SMALL - np.float32(0.5)).astype(np.float16)
    )
    np.testing.assert_array_equal(values(MADE["joined"]()), np.concatenate([SMALL, SMALL[1:3], SMALL[ORDER]]))
    np.testing.assert_array_equal(values(MADE["stacked"](), (3, 5, 8)), STACK[[2, 0, 1]])
    np.testing.assert_array_equal(values(MADE["transposed"]()), STACK.swapaxes(1, 2).reshape(24, 5))
    np.testing.assert_array_equal(values(MADE["vectors joined"]()), [[*VECTOR, *VECTOR[3:5]]])
    assert MADE["stacked"]().matrix_rows == 5
    assert MADE["joined"]().matrix_rows == 7 + 2 + 7


def test_fp8_decodes_with_the_scales_of_its_block() -> None:
    expected = fp8.dequantize(CODES, SCALES, (4, 4))
    np.testing.assert_array_equal(decoded(codes(), 0, 10), expected)
    np.testing.assert_array_equal(values(MADE["slice of a cast"]()), expected[3:9])
    np.testing.assert_array_equal(values(MADE["reordered after a cast"]()), expected[[9, 0, 4, 4]])
    np.testing.assert_array_equal(decoded(MADE["FP8, a part"](), 0, 6), expected[4:])


@given(start=st.integers(0, 20), data=st.data())
def test_fp8_parts_of_a_stack_decode_as_the_whole(start: int, data: st.DataObject) -> None:
    """Blocks restart at each matrix, and the last of a matrix is short: 10 rows are 4 + 4 + 2."""
    stop = data.draw(st.integers(start, 20))
    wide = np.stack([SCALES, SCALES[::-1]]).astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = np.concatenate(
        [fp8.dequantize(CODES, wide[0], (4, 4)), fp8.dequantize(CODES[::-1], wide[1], (4, 4))]
    )
    np.testing.assert_array_equal(decoded(code_stack(), start, stop), expected[start:stop])
    swapped = Concat([code_stack(matrix=1), code_stack(matrix=0)], stacked=True)
    both = np.concatenate([expected[10:], expected[:10]])
    np.testing.assert_array_equal(decoded(swapped, start, stop), both[start:stop])


@given(data=st.data())
def test_scales_in_parts_are_parts_of_the_scales(data: st.DataObject) -> None:
    wide = np.stack([SCALES, SCALES[::-1]]).astype(ml_dtypes.bfloat16).astype(np.float32)
    for rows, whole in (
        (codes(), SCALES),
        (codes(part=(4, 10)), SCALES[1:]),
        (code_stack(), wide.reshape(6, -1)),
        (code_stack(matrix=1), wide[1]),
        (Concat([code_stack(matrix=1), code_stack(matrix=0)], stacked=True), wide[::-1].reshape(6, -1)),
    ):
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        out = np.full((stop - start, whole.shape[1]), 7, np.float32)
        rows.read_scales(start, stop, out.reshape(-1).view(np.uint8).data)
        np.testing.assert_array_equal(out, whole[start:stop])
        assert rows.encoding == with_scale_block(F8_E4M3, (4, 4))


def test_a_product_is_the_product() -> None:
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((9, 4)), rng.standard_normal((4, 5))
    gamma, tail = rng.standard_normal(4), rng.standard_normal((2, 5))
    index = np.array([~1, 8, 0, ~0, 3], np.int64)
    factor = Factor(right.astype(np.float32), tail.astype(np.float32))
    rows = ProductRows(
        ArrayRows(left.astype(np.float32)), index, lambda: gamma.astype(np.float32), lambda: factor, 5
    )
    dense = (left * gamma) @ right
    expected = np.stack([tail[1], dense[8], dense[0], tail[0], dense[3]])
    np.testing.assert_allclose(values(rows), expected, rtol=1e-5, atol=1e-6)


def test_one_factor_is_held_and_only_the_last() -> None:
    made: list[str] = []

    def make(name: str) -> Callable[[], Factor]:
        def factor() -> Factor:
            made.append(name)
            return Factor(SMALL, SMALL)

        return factor

    latest = LatestFactor()
    for name in ("a", "a", "b", "b", "a"):
        latest.get(name, make(name))
    assert made == ["a", "b", "a"]
