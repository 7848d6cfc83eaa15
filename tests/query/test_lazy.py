"""A tensor's slices are NumPy's slices of the decoded array, and read no more bytes than they need."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.arrays import MemoryArray, memory_array, memory_arrays, same, write_store
from wvindex.errors import SelectionError, UndecodableType, UsageError
from wvindex.formats.arrays import Heads, RowScale
from wvindex.query import gather, tiles
from wvindex.query.database import open_store
from wvindex.query.lazy import Tensor

FEW = settings(max_examples=150, deadline=None)


@st.composite
def fancy_indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Draw one array of integers or booleans on one axis; slices and integers on the others."""
    axis = draw(st.integers(0, len(shape) - 1))
    size = shape[axis]
    booleans = hnp.arrays(np.bool_, (size,))
    if size:
        array = draw(
            st.one_of(
                booleans, hnp.arrays(np.int64, st.integers(0, 6), elements=st.integers(-size, size - 1))
            )
        )
    else:
        array = draw(booleans)
    index: list[Any] = []
    for i, n in enumerate(shape):
        plain = st.slices(n) if not n else st.one_of(st.slices(n), st.integers(-n, n - 1))
        index.append(array if i == axis else draw(plain))
    return tuple(index)


@given(data=st.data(), array=memory_arrays())
@FEW
def test_basic_index_is_numpys(data: st.DataObject, array: MemoryArray) -> None:
    index = data.draw(hnp.basic_indices(array.values.shape, allow_newaxis=False))
    expected = array.values[index]
    found = Tensor(array.spec, array)[index]
    assert same(found, expected)
    assert isinstance(found, np.ndarray) == isinstance(expected, np.ndarray) or found.ndim == 0


@given(data=st.data(), array=memory_arrays().filter(lambda a: a.values.ndim > 0))
@FEW
def test_array_index_is_numpys(data: st.DataObject, array: MemoryArray) -> None:
    index = data.draw(fancy_indices(array.values.shape))
    assert same(Tensor(array.spec, array)[index], array.values[index])


@given(
    data=st.data(),
    array=memory_arrays(),
    chunk_bytes=st.integers(1, 600),
    check=st.sampled_from(["never", "chunks", "always"]),
)
@settings(max_examples=60, deadline=None)
def test_slices_of_a_store_are_numpys(
    data: st.DataObject, array: MemoryArray, chunk_bytes: int, check: Any
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = write_store(Path(directory, "x.zarr"), [array], chunk_bytes=chunk_bytes)
        with open_store(path, check=check) as db:
            tensor = db["x"]
            assert same(np.asarray(tensor), array.values)
            for _ in range(4):
                index = data.draw(hnp.basic_indices(array.values.shape, allow_newaxis=False))
                assert same(tensor[index], array.values[index])
            assert np.array_equal(tensor.raw(), array.raw)


@given(array=memory_arrays(), tile=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_tiles_do_not_show(array: MemoryArray, tile: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_BYTES", tile)
        patch.setattr(tiles, "PARALLEL_BYTES", tile)
        patch.setattr(gather, "TILE_VALUES", tile)
        tensor = Tensor(array.spec, array)
        assert same(tensor.read(), array.values)
        if array.values.ndim:
            assert same(tensor[..., ::2], array.values[..., ::2])


@pytest.mark.parametrize(
    "index", [5, -5, (0, 0, 0), slice(0, 1, 0), "a", 1.0, True, None, ([0], [1]), [4], [[0]], [0.5]]
)
def test_wrong_index_is_named_with_the_shape(index: Any) -> None:
    array = memory_array("x", (4, 3), "F32")
    with pytest.raises(SelectionError, match=r"\(4, 3\)|2 for"):
        Tensor(array.spec, array)[index]


def test_wrong_boolean_length_is_refused() -> None:
    array = memory_array("x", (4, 3), "F32")
    with pytest.raises(SelectionError):
        Tensor(array.spec, array)[np.ones(3, bool)]


def test_wrong_index_is_an_index_error() -> None:
    array = memory_array("x", (4, 3), "F32")
    with pytest.raises(IndexError):
        Tensor(array.spec, array)[4]


class TestBytesRead:
    """Only what an index needs is read of a store's chunks."""

    @pytest.fixture(scope="class")
    @staticmethod
    def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
        arrays = [
            memory_array("f32", (64, 512), "F32"),
            memory_array("q4_k", (64, 2048), "Q4_K"),
            memory_array("q8_0", (64, 512), "Q8_0"),
            memory_array("fp8", (64, 500), "FP8"),
            memory_array("stack", (5, 16, 256), "Q4_K"),
        ]
        return write_store(tmp_path_factory.mktemp("bytes") / "x.zarr", arrays, chunk_bytes=8192)

    @pytest.mark.parametrize(
        ("key", "index", "expected"),
        [
            ("f32", np.s_[7:30], 23 * 2048),
            ("f32", np.s_[7], 2048),
            ("f32", np.s_[3:13:5, 10], 2 * 4),
            ("f32", np.s_[:, 100:200], 64 * 400),
            ("f32", np.s_[[60, 2, 2, 61]], 3 * 2048),
            ("f32", np.s_[5:5], 0),
            ("q4_k", np.s_[10:12], 2 * 8 * 144),
            ("q4_k", np.s_[:, 300:310], 64 * 144),
            ("q4_k", np.s_[63, 255:257], 2 * 144),
            ("q4_k", np.s_[:], 64 * 8 * 144),
            ("q8_0", np.s_[:4, 31:33], 4 * 2 * 34),
            ("q8_0", np.s_[::-8], 8 * 16 * 34),
            ("fp8", np.s_[4:6], 2 * 500 + 100 * 4),
            ("fp8", np.s_[4, 3:7], 10 + 100 * 4),
            ("stack", np.s_[3], 16 * 144),
            ("stack", np.s_[1:3, 2], 2 * 144),
        ],
    )
    def test_exactly(self, path: Path, key: str, index: Any, expected: int) -> None:
        with open_store(path) as db:
            assert db.stats is not None
            db[key][index]
            assert db.stats.bytes_read == expected

    def test_one_expert_is_read_alone(self, path: Path) -> None:
        with open_store(path) as db:
            assert db.stats is not None
            db["stack"].expert(4).read()
            assert db.stats.bytes_read == 16 * 144

    def test_opening_reads_no_chunk(self, path: Path) -> None:
        with open_store(path) as db:
            assert db.stats is not None
            assert [tensor.shape for tensor in db.values()]
            assert (db.stats.bytes_read, db.stats.files_opened) == (0, 0)


class TestRead:
    """`read` fills the caller's buffer, in the dtype that is asked for."""

    @pytest.mark.parametrize("encoding", ["F32", "BF16", "Q4_K", "FP8"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, "float32", "bfloat16"])
    def test_dtypes(self, encoding: str, dtype: Any) -> None:
        array = memory_array("x", (9, 512), encoding)
        found = Tensor(array.spec, array).read(dtype=dtype)
        assert same(found, array.values.astype(np.float32).astype(dtype))

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_out(self, order: Any) -> None:
        array = memory_array("x", (9, 256), "Q4_K")
        out = np.empty((4, 256), np.float32, order=order)
        assert Tensor(array.spec, array).read(out, rows=(2, 6)) is out
        assert same(out, array.values[2:6])

    def test_rows_of_a_stack_are_experts(self) -> None:
        array = memory_array("x", (5, 4, 256), "Q4_K")
        assert same(Tensor(array.spec, array).read(rows=slice(3, None)), array.values[3:])

    def test_wrong_buffers_and_rows_are_refused(self) -> None:
        array = memory_array("x", (9, 32), "Q8_0")
        tensor = Tensor(array.spec, array)
        with pytest.raises(SelectionError, match="shape"):
            tensor.read(np.empty((9, 31), np.float32))
        with pytest.raises(UsageError, match="dtype"):
            tensor.read(np.empty((9, 32), np.float32), dtype="float16")
        with pytest.raises(UsageError, match="dtype"):
            tensor.read(dtype=np.int32)
        with pytest.raises(SelectionError, match="out of range"):
            tensor.read(rows=(3, 10))

    def test_numpy_protocol(self) -> None:
        array = memory_array("x", (3, 4), "F16")
        tensor = Tensor(array.spec, array)
        assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
        with pytest.raises(ValueError, match="new memory"):
            np.asarray(tensor, copy=False)

    def test_unknown_blocks_are_served_raw_and_refuse_only_decoding(self) -> None:
        good = memory_array("x", (2, 32), "Q8_0")
        strange = replace(good.spec, encoding=replace(good.spec.encoding, name="Q9_9"))
        tensor = Tensor(strange, good)
        assert np.array_equal(tensor.raw(), good.raw)
        with pytest.raises(UndecodableType):
            tensor[0]


class TestViews:
    """Heads and experts are tensors of their own, over their part of the bytes."""

    SCALE = RowScale(weight="w", rows=(0, 2), eps=1e-6, head_slice=(0, 2))

    @pytest.mark.parametrize("encoding", ["F32", "BF16", "Q8_0", "FP8"])
    def test_heads_of_rows(self, encoding: str) -> None:
        array = memory_array("q", (12, 64), encoding, heads=Heads(axis=0, count=3), row_scale=self.SCALE)
        head = Tensor(array.spec, array).head(2)
        assert head.shape == (4, 64)
        assert same(head[:], array.values[8:12])
        assert same(head[1:3, ::7], array.values[9:11, ::7])
        assert np.array_equal(head.raw(), array.raw[8:12])
        assert (head.row_scale, head.heads) == (self.SCALE, None)

    @pytest.mark.parametrize("encoding", ["F32", "Q8_0", "FP8", "Q4_K"])
    def test_heads_of_columns(self, encoding: str) -> None:
        array = memory_array("o", (6, 768), encoding, heads=Heads(axis=1, count=8))
        head = Tensor(array.spec, array).head(5)
        assert head.shape == (6, 96)
        assert same(head[:], array.values[:, 480:576])
        assert same(head[2, -1], array.values[2, 575])
        assert same(head.read(rows=(1, 3)), array.values[1:3, 480:576])

    def test_columns_inside_blocks_have_no_raw_form(self) -> None:
        array = memory_array("o", (6, 768), "Q4_K", heads=Heads(axis=1, count=8))
        with pytest.raises(SelectionError, match="whole blocks"):
            Tensor(array.spec, array).head(0).raw()

    def test_heads_of_a_bias(self) -> None:
        array = memory_array("q.bias", (12,), "F32", heads=Heads(axis=0, count=3), row_scale=self.SCALE)
        head = Tensor(array.spec, array).head(1)
        assert same(head[:], array.values[4:8])
        assert same(head.read(rows=(1, 2)), array.values[5:6])
        assert head.row_scale == self.SCALE

    @pytest.mark.parametrize("encoding", ["F32", "Q4_K", "FP8"])
    def test_experts(self, encoding: str) -> None:
        key = "model.layers.0.mlp.experts.gate_proj.weight"
        names = tuple(f"e{i}" for i in range(4))
        array = memory_array(key, (4, 7, 256), encoding, sources=names, part_aliases=names)
        tensor = Tensor(array.spec, array)
        expert = tensor.expert(2)
        assert expert.key == "model.layers.0.mlp.experts.2.gate_proj.weight"
        assert (expert.source, expert.aliases, expert.shape) == (("e2",), ("e2",), (7, 256))
        assert same(expert[:], array.values[2])
        assert same(expert[-2:, 3], array.values[2, -2:, 3])
        assert sum(tensor.expert(e).nbytes for e in range(4)) == tensor.nbytes == array.spec.nbytes

    def test_views_of_views(self) -> None:
        array = memory_array("s", (3, 8, 20), "F32", heads=Heads(axis=2, count=2))
        head = Tensor(array.spec, array).expert(1).head(1)
        assert same(head[:], array.values[1, :, 10:])

    def test_fp8_scales(self) -> None:
        array = memory_array("s", (2, 7, 12), "FP8")
        tensor = Tensor(array.spec, array)
        assert np.array_equal(tensor.scales(), array.scales)
        assert np.array_equal(tensor.expert(1).scales(), array.scales[3:])
        assert np.array_equal(tensor.expert(1).scales(rows=(3, 5)), array.scales[4:5])
        assert (tensor.encoding, tensor.scale_block) == ("F8_E4M3", (3, 5))

    def test_what_is_not_there_is_refused(self) -> None:
        array = memory_array("q", (12, 64), "F32", heads=Heads(axis=0, count=3))
        tensor = Tensor(array.spec, array)
        for wrong in (3, -1, True):
            with pytest.raises(SelectionError, match="no such head"):
                tensor.head(wrong)
        with pytest.raises(SelectionError, match="no stack"):
            tensor.expert(0)
        with pytest.raises(SelectionError, match="not divide"):
            tensor.head(0).head(0)
        with pytest.raises(UsageError, match="no scales"):
            tensor.scales()


def test_facts_of_a_tensor() -> None:
    array = memory_array("a", (4, 512), "Q4_K", aliases=("b",), transforms=("permute",), mtp=True)
    tensor = Tensor(array.spec, array)
    assert (tensor.key, tensor.shape, tensor.ndim, tensor.size, len(tensor)) == ("a", (4, 512), 2, 2048, 4)
    assert (tensor.encoding, tensor.dtype, tensor.nbytes) == ("Q4_K", np.dtype(np.float32), 4 * 2 * 144)
    assert (tensor.aliases, tensor.transforms, tensor.mtp, tensor.heads) == (("b",), ("permute",), True, None)
    assert repr(tensor) == "<Tensor a (4, 512) Q4_K float32>"
    assert same(np.stack(list(tensor)), array.values)
