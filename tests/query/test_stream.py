"""A stream hands on every value once, as indexing would give it, whatever is asked of what encoding."""

from __future__ import annotations

import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.packed import PACKED, assert_same_values, random_rows, reference_decode
from tests.support.tensors import encoded_tensor, plain_tensor
from wvindex.errors import SelectionError
from wvindex.formats.arrays import Heads
from wvindex.formats.encodings import ENCODINGS
from wvindex.query.lazy import Tensor
from wvindex.query.stream import STREAM_VALUES


def streamed(tensor: Tensor) -> NDArray[Any]:
    """Put the tiles of a stream together; rows flattened."""
    tiles: dict[int, NDArray[Any]] = {}
    lock = threading.Lock()

    def consume(first_row: int, values: NDArray[Any]) -> None:
        assert values.flags.c_contiguous
        with lock:
            assert first_row not in tiles
            tiles[first_row] = values.copy()

    tensor.stream(consume)
    end = 0
    for first_row, values in sorted(tiles.items()):
        assert first_row == end
        end += len(values)
    return np.concatenate([values for _, values in sorted(tiles.items())])


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows(name: str) -> None:
    raw = random_rows(name, 5, 2)
    assert_same_values(streamed(encoded_tensor(raw, ENCODINGS[name])), reference_decode(raw, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.bool_])
def test_what_float32_holds_comes_as_float32(dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 2, (700, 1000)).astype(dtype)
    found = streamed(plain_tensor(values))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32, np.uint32])
def test_what_it_does_not_hold_comes_as_float64(dtype: Any) -> None:
    values = np.arange(600 * 900).reshape(600, 900).astype(dtype) * 65537
    found = streamed(plain_tensor(values))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values.astype(np.float64))


def test_tiles_are_of_whole_rows_and_of_bounded_size() -> None:
    sizes: list[int] = []
    values = np.zeros((900, 3000), np.float32)
    plain_tensor(values).stream(lambda first_row, tile: sizes.append(tile.size))
    assert sum(sizes) == values.size
    assert max(sizes) <= STREAM_VALUES
    assert all(size % 3000 == 0 for size in sizes)


@pytest.mark.parametrize("axis", [0, 1])
def test_views_of_heads(axis: int) -> None:
    values = np.random.default_rng(1).standard_normal((48, 64), np.float32)
    tensor = plain_tensor(values, heads=Heads(axis=axis, count=4))
    for head, part in enumerate(np.split(values, 4, axis=axis)):
        np.testing.assert_array_equal(streamed(tensor.head(head)), part)


def test_columns_of_packed_rows_within_blocks() -> None:
    raw = random_rows("Q8_0", 6, 4)
    tensor = encoded_tensor(raw, ENCODINGS["Q8_0"], heads=Heads(axis=1, count=8))
    expected = reference_decode(raw, "Q8_0")
    for head in range(8):
        assert_same_values(streamed(tensor.head(head)), expected[:, 16 * head :][:, :16])


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_nothing_is_handed_on_of_nothing(shape: tuple[int, ...]) -> None:
    called: list[int] = []
    plain_tensor(np.empty(shape, np.float32)).stream(lambda first_row, values: called.append(first_row))
    assert called == []


def test_an_error_of_the_consumer_ends_the_stream() -> None:
    def fail(first_row: int, values: NDArray[Any]) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        plain_tensor(np.zeros((4000, 1000), np.float32)).stream(fail)


@pytest.mark.parametrize("rows", [(0, 2), (3, 11), (5, 5), None])
def test_some_rows_of_a_stack_are_counted_from_the_first_of_them(rows: tuple[int, int] | None) -> None:
    stack = np.arange(3 * 5 * 4, dtype=np.float32).reshape(3, 5, 4)
    found = np.full((15, 4), np.nan, np.float32)

    def consume(first_row: int, values: NDArray[Any]) -> None:
        found[first_row : first_row + len(values)] = values

    plain_tensor(stack).stream(consume, rows=rows)
    expected = stack.reshape(-1, 4)[slice(*(rows or (0, 15)))]
    np.testing.assert_array_equal(found[: len(expected)], expected)
    assert np.isnan(found[len(expected) :]).all()


def test_some_rows_of_an_expert() -> None:
    stack = np.arange(3 * 5 * 4, dtype=np.float32).reshape(3, 5, 4)
    seen: list[NDArray[Any]] = []
    expert = plain_tensor(stack, key="model.layers.0.mlp.experts.up_proj.weight").expert(1)
    expert.stream(lambda first_row, values: seen.append(values.copy()), rows=(2, 4))
    np.testing.assert_array_equal(np.concatenate(seen), stack[1, 2:4])


def test_rows_out_of_range_are_refused() -> None:
    with pytest.raises(SelectionError):
        plain_tensor(np.ones((3, 4), np.float32)).stream(lambda first_row, values: None, rows=(1, 4))


def test_stored_blocks_are_handed_on_before_the_values_that_they_hold() -> None:
    raw = random_rows("Q4_K", 700, 3)
    tensor = encoded_tensor(raw, ENCODINGS["Q4_K"])
    known = np.zeros(100, np.bool_)

    def encoded(first_row: int, blocks: NDArray[np.uint8]) -> None:
        np.testing.assert_array_equal(blocks, raw[200 + first_row : 200 + first_row + len(blocks)])
        known[first_row : first_row + len(blocks)] = True

    def consume(first_row: int, values: NDArray[Any]) -> None:
        assert known[first_row : first_row + len(values)].all()

    tensor.stream(consume, rows=(200, 300), encoded=encoded)
    assert known.all()
