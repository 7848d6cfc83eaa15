"""Odd arguments are refused by kind, with what was expected and found; nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import wvindex as wv
from tests.support.arrays import CONFIG, memory_array, same
from wvindex.errors import (
    AmbiguousKey,
    KeyNotFound,
    NotAStore,
    SelectionError,
    SourceError,
    UsageError,
)
from wvindex.formats.arrays import Heads
from wvindex.query.database import Store, open_store
from wvindex.query.lazy import Tensor
from wvindex.query.select import Names

ARRAY = memory_array("w", (6, 256), "Q4_K", heads=Heads(axis=0, count=3))
STACK = memory_array("model.layers.0.mlp.experts.up_proj.weight", (2, 3, 256), "Q4_K")


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"x"


@pytest.fixture
def tensor() -> Tensor:
    return Tensor(ARRAY.spec, ARRAY)


@pytest.fixture
def db() -> Store:
    return Store("memory", CONFIG, {a.spec.key: (a.spec, a) for a in (ARRAY, STACK)})


@pytest.mark.parametrize("opening", [wv.open, open_store])
@pytest.mark.parametrize("path", [3, None, b"x.zarr", "", ["x"], {}, object(), BytesPath(), 1.5, Path])
def test_what_is_no_path_is_refused(opening: Callable[[Any], Any], path: Any) -> None:
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        opening(path)
    assert caught.value.expected == "a path, a URL or a Zarr store"
    assert type(path).__name__ in str(caught.value.found)


@pytest.mark.parametrize("path", ["a\0b", "nothing here", "n" * 300, "x" * 5000])
def test_a_path_to_nothing_is_named(path: str, tmp_path: Path) -> None:
    for opening in (wv.open, open_store):
        with pytest.raises((SourceError, NotAStore)):
            opening(tmp_path / path)


@pytest.mark.parametrize("check", ["sometimes", None, 3, True, []])
def test_an_unknown_check_is_refused(check: Any, tmp_path: Path) -> None:
    for opening in (wv.open, open_store):
        with pytest.raises(UsageError) as caught:
            opening(tmp_path / "x.gguf", check=check)
        assert caught.value.field == "check"


READ_ONLY = np.broadcast_to(np.float32(0), (6, 256))


@pytest.mark.parametrize(
    ("out", "found"),
    [
        ([1], "list"),
        ("x", "str"),
        (3, "int"),
        (memoryview(b"x"), "memoryview"),
        (bytearray(6), "bytearray"),
        (np.float32(1), "float32"),
        (READ_ONLY, "read-only"),
        (np.empty((6, 256), np.int32), "int32"),
        (np.empty((6, 256), ">f4"), ">f4"),
        (np.empty((6, 256), np.float64), "float64"),
        (np.empty((6, 256), object), "object"),
    ],
)
def test_what_cannot_be_filled_is_refused(tensor: Tensor, out: Any, found: str) -> None:
    with pytest.raises(UsageError) as caught:
        tensor.read(out)
    assert found in str(caught.value.found)
    assert caught.value.tensor == "w"
    assert caught.value.expected is not None


@pytest.mark.parametrize("shape", [(), (6,), (6, 255), (1, 6, 256), (7, 256)])
def test_a_buffer_of_another_shape_is_refused(tensor: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(SelectionError, match="shape"):
        tensor.read(np.empty(shape, np.float32))


def test_a_buffer_may_lie_anywhere(tensor: Tensor) -> None:
    aside = np.frombuffer(bytearray(6 * 256 * 4 + 1), np.uint8)[1:].view("<f4").reshape(6, 256)
    assert not aside.flags.aligned
    for out in (aside, np.empty((6, 512), np.float32)[:, ::2], np.empty((256, 6), np.float32).T):
        assert tensor.read(out) is out
        assert same(np.ascontiguousarray(out), ARRAY.values)


@pytest.mark.parametrize(
    "dtype", ["nonsense", "f16x", int, np.int32, "complex64", object, 3, [("a", "f4")], ">f4"]
)
def test_a_dtype_that_is_none_is_refused(tensor: Tensor, dtype: Any) -> None:
    with pytest.raises(UsageError, match="dtype") as caught:
        tensor.read(dtype=dtype)
    assert caught.value.found is not None


ROWS = [3, 1.5, "ab", (1.5, 2), (0, 1, 2), (0, 7), (3, 1), [0, 1], range(0, 4, 2)]
SLICES = [slice("a"), slice(0, 1, 2), slice(0, 2, 0)]


@pytest.mark.parametrize("rows", [*ROWS, *SLICES])
def test_rows_that_are_none_are_refused(tensor: Tensor, rows: Any) -> None:
    for call in (tensor.read, tensor.raw):
        with pytest.raises(SelectionError):
            call(rows=rows)


INDICES = [object(), np.array("a"), np.array(1.5), [[1], [2, 3]], [2**70], {}, b"x", (0, "a"), 2**70, 1j]


@pytest.mark.parametrize("index", [*INDICES, slice(None, None, "x")])
def test_an_index_that_is_none_is_refused(tensor: Tensor, index: Any) -> None:
    with pytest.raises(SelectionError):
        tensor[index]


@pytest.mark.parametrize("number", ["1", 1.0, None, -1, 3, 2**70, True, [1]])
def test_a_head_or_expert_that_is_none_is_refused(db: Store, number: Any) -> None:
    with pytest.raises(SelectionError, match="no such head"):
        db["w"].head(number)
    with pytest.raises(SelectionError, match="no such expert"):
        db[STACK.spec.key].expert(number)


@pytest.mark.parametrize(
    "x", ["a", [[1], [2, 3]], np.ones(256, complex), [None] * 256, object(), np.array(["a"] * 256)]
)
def test_what_is_no_vector_is_refused(tensor: Tensor, x: Any) -> None:
    with pytest.raises(UsageError, match="numbers"):
        tensor.matmul(x)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, bool, ml_dtypes.bfloat16, np.float16])
def test_vectors_of_any_real_dtype_are_taken(tensor: Tensor, dtype: Any) -> None:
    x = np.ones(256, dtype)
    np.testing.assert_allclose(tensor.matmul(x), ARRAY.values.sum(1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(tensor.matmul(x.tolist()), ARRAY.values.sum(1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [3, None, ["w"], {}, b"w", ("w",), 1.5])
def test_a_name_that_is_no_text_is_no_key(db: Store, name: Any) -> None:
    with pytest.raises(KeyNotFound):
        db[name]
    assert name not in db
    assert db.get(name) is None


def test_a_name_with_a_huge_number_is_no_key(db: Store) -> None:
    with pytest.raises(KeyNotFound):
        db[f"model.layers.0.mlp.experts.{'9' * 5000}.up_proj.weight"]


@pytest.mark.parametrize("pattern", [3, None, b"*", ["*"]])
def test_a_pattern_that_is_no_text_is_refused(db: Store, pattern: Any) -> None:
    with pytest.raises(UsageError):
        db.select(pattern)
    if pattern is not None:
        with pytest.raises(UsageError):
            db.select("*", role=pattern)


@pytest.mark.parametrize("layer", [1.5, "0", slice("a"), object(), True, [1.5], slice(0, 1, 0)])
def test_a_layer_that_is_none_is_refused(db: Store, layer: Any) -> None:
    with pytest.raises(SelectionError):
        db.select("*", layer=layer)
    if layer is not True:  # an integer, as Python has it
        with pytest.raises(SelectionError):
            db.layers[layer]


def test_layers_far_apart_are_sliced_at_once() -> None:
    far = 10**15
    arrays = [memory_array(f"model.layers.{n}.w", (2, 2), "F32") for n in (0, 3, far)]
    db = Store("memory", CONFIG, {a.spec.key: (a.spec, a) for a in arrays})
    assert [layer.number for layer in db.layers[:]] == [0, 3, far]
    assert [layer.number for layer in db.layers[::-1]] == [far, 3, 0]
    assert [layer.number for layer in db.layers[1:far]] == [3]
    assert [layer.number for layer in db.layers[::3]] == [0, 3]
    assert len(db.select(layer=slice(1, None))) == 2


def test_an_alias_that_many_share_is_ambiguous_and_takes_no_time() -> None:
    many = replace(STACK.spec, shape=(60_000, 3, 256), part_aliases=("same",) * 60_000)
    with pytest.raises(AmbiguousKey):
        Names([many]).resolve("same")
