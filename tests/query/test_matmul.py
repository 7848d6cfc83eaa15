"""A tensor's product is its decoded matrix's, and neither reads nor holds more than it must."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.arrays import MemoryArray, memory_array, write_store
from wvindex.errors import ChecksumError, SelectionError, UndecodableType, UsageError
from wvindex.formats.arrays import ArraySpec, Heads
from wvindex.formats.encodings import Encoding
from wvindex.query import tiles
from wvindex.query.database import open_store
from wvindex.query.lazy import Tensor

ENCODINGS = ["F32", "F16", "BF16", "F8_E4M3", "I32", "BOOL", "Q8_0", "Q4_K", "FP8"]
ROOT = Path(__file__).parents[2]


def vectors(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def assert_product(found: Any, weights: Any, x: Any) -> None:
    """As in float64, within some roundings of the sum of absolute products."""
    x, weights = np.asarray(x, np.float64), np.asarray(weights).astype(np.float64)
    assert found.dtype == np.float32
    assert found.shape == (*x.shape[:-1], len(weights))
    assert (np.abs(found - x @ weights.T) <= 2e-6 * (np.abs(x) @ np.abs(weights).T)).all()


@given(
    encoding=st.sampled_from(ENCODINGS),
    rows=st.integers(0, 40),
    count=st.integers(0, 20),
    chunk_bytes=st.integers(1, 2000),
    tile_bytes=st.integers(1, 3000),
    check=st.sampled_from(["never", "chunks", "always"]),
)
@settings(max_examples=100, deadline=None)
def test_a_stored_matrix(
    encoding: str, rows: int, count: int, chunk_bytes: int, tile_bytes: int, check: Any
) -> None:
    array = memory_array("x", (rows, 256), encoding)
    x = vectors(count, 256)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_BYTES", tile_bytes)
        patch.setattr(tiles, "PARALLEL_BYTES", 1)
        path = write_store(Path(directory, "x.zarr"), [array], chunk_bytes=chunk_bytes)
        with open_store(path, check=check) as db:
            assert_product(db["x"].matmul(x), array.values, x)
            assert_product(db["x"].encoded().matmul(x), array.values, x)


@pytest.mark.parametrize("shape", [(256,), (1, 256), (2, 3, 4, 256), (0, 256), (3, 0, 256)])
def test_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    array = memory_array("x", (6, 256), "Q4_K")
    x = vectors(*shape)
    assert_product(Tensor(array.spec, array).matmul(x), array.values, x)


def test_x_is_taken_as_float32_and_may_stride() -> None:
    array = memory_array("x", (6, 256), "Q8_0")
    x = vectors(256, 20).astype(np.float16).T[::2]
    assert_product(Tensor(array.spec, array).matmul(x), array.values, x)


class TestViews:
    COUNTS = (1, 20)

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("encoding", ["F32", "BF16", "Q8_0", "FP8"])
    def test_heads_of_rows(self, encoding: str, count: int) -> None:
        array = memory_array("q", (12, 64), encoding, heads=Heads(axis=0, count=3))
        head, x = Tensor(array.spec, array).head(2), vectors(count, 64)
        assert_product(head.matmul(x), array.values[8:], x)
        assert_product(head.encoded().matmul(x), array.values[8:], x)

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("encoding", ["F32", "BF16", "Q8_0", "Q4_K", "FP8"])
    def test_heads_of_columns(self, encoding: str, count: int) -> None:
        array = memory_array("o", (6, 768), encoding, heads=Heads(axis=1, count=8))
        head, x = Tensor(array.spec, array).head(5), vectors(count, 96)
        assert_product(head.matmul(x), array.values[:, 480:576], x)

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("encoding", ["F32", "Q4_K", "FP8"])
    def test_experts(self, encoding: str, count: int) -> None:
        array = memory_array("mlp.experts.up_proj.weight", (4, 7, 256), encoding)
        expert, x = Tensor(array.spec, array).expert(2), vectors(count, 256)
        assert_product(expert.matmul(x), array.values[2], x)
        assert_product(expert.encoded().matmul(x), array.values[2], x)

    @pytest.mark.parametrize("encoding", ["Q4_K", "FP8"])
    def test_columns_inside_blocks_have_no_encoded_form(self, encoding: str) -> None:
        array = memory_array("o", (6, 768), encoding, heads=Heads(axis=1, count=8))
        with pytest.raises(SelectionError, match="columns of this view"):
            Tensor(array.spec, array).head(1).encoded()


@pytest.mark.parametrize("shape", [(), (256,), (2, 3, 256)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    array = memory_array("x", shape, "F32")
    tensor = Tensor(array.spec, array)
    with pytest.raises(SelectionError, match="takes a matrix"):
        tensor.matmul(vectors(1, 256))
    with pytest.raises(SelectionError, match="takes a matrix"):
        tensor.encoded()


@pytest.mark.parametrize("shape", [(), (255,), (256, 1)])
def test_x_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    array = memory_array("x", (6, 256), "F32")
    with pytest.raises(SelectionError, match=r"does not fit.*256"):
        Tensor(array.spec, array).matmul(vectors(*shape))


@pytest.mark.parametrize("count", [1, 20])
def test_blocks_that_nobody_decodes_are_refused(count: int) -> None:
    spec = ArraySpec(
        key="x", shape=(4, 64), encoding=Encoding("Q9_X", 32, 8), exactness="bit", sources=("x",)
    )
    array = MemoryArray(spec, np.zeros((4, 16), np.uint8), np.empty((0, 0), np.float32), np.empty(0))
    with pytest.raises(UndecodableType):
        Tensor(spec, array).matmul(vectors(count, 64))


@pytest.mark.parametrize("count", [1, 20])
def test_a_view_reads_its_own_bytes_once(tmp_path: Path, count: int) -> None:
    array = memory_array("w", (4, 64, 256), "Q4_K")
    with open_store(write_store(tmp_path / "x.zarr", [array], chunk_bytes=3000)) as db:
        db["w"].expert(1).matmul(vectors(count, 256))
        assert db.stats is not None
        assert db.stats.bytes_read == 64 * 144


@pytest.mark.parametrize("count", [1, 20])
def test_damage_is_found_on_the_way(tmp_path: Path, count: int) -> None:
    array = memory_array("w", (64, 256), "Q4_K")
    path = write_store(tmp_path / "x.zarr", [array], chunk_bytes=1000)
    chunk = max((path / "w").rglob("c.*.0"))
    data = bytearray(chunk.read_bytes())
    data[17] ^= 1
    chunk.write_bytes(data)
    with open_store(path) as db, pytest.raises(ChecksumError):
        db["w"].matmul(vectors(count, 256))
    with open_store(path, check="never") as db:
        db["w"].matmul(vectors(count, 256))


# The matrix is 512 MiB in float32, 72 MiB in Q4_K. Kernels and BLAS are loaded before the count begins.
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from tests.support.memory import peak_memory
from wvindex.query.database import open_store

with open_store(Path(sys.argv[1])) as db:
    x = np.ones((int(sys.argv[2]), 8192), np.float32)
    db["small"].matmul(x)
    before = peak_memory()
    db["large"].matmul(x)
    print(peak_memory() - before)
"""


@pytest.mark.parametrize("count", [1, 64])
def test_the_whole_matrix_is_never_held(tmp_path: Path, count: int) -> None:
    small = memory_array("small", (64, 8192), "Q4_K")
    spec = ArraySpec(
        key="large", shape=(16384, 8192), encoding=small.spec.encoding, exactness="bit", sources=("large",)
    )
    large = MemoryArray(spec, np.tile(small.raw, (256, 1)), small.scales, small.values)
    path = write_store(tmp_path / "x.zarr", [small, large], chunk_bytes=4 << 20, workspace=32 << 20)
    command = [sys.executable, "-c", MEMORY, str(path), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert int(done.stdout) <= 64 << 20


@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_matrix_without_columns_gives_zeros(count: int) -> None:
    array = memory_array("x", (8, 0), "F32")
    found = Tensor(array.spec, array).matmul(np.empty((2, count, 0), np.float32))
    np.testing.assert_array_equal(found, np.zeros((2, count, 8), np.float32))


@pytest.mark.parametrize("count", [1, 20])
def test_what_overflows_float32_is_no_floating_point_error(count: int) -> None:
    array = memory_array("x", (6, 256), "BF16")
    with np.errstate(all="raise"):
        found = Tensor(array.spec, array).matmul(np.full((count, 256), 1e300))
    assert not np.isfinite(found).any()


def test_tiles_are_read_on_this_thread_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(tiles, "TILE_BYTES", 700)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    array, x = memory_array("x", (40, 256), "Q8_0"), vectors(20, 256)
    assert_product(Tensor(array.spec, array).matmul(x), array.values, x)


@pytest.mark.parametrize("strides", [(0, 4), (1024, 0), (4, 4), (-1024, 0)])
def test_a_buffer_that_overlaps_itself_is_refused(strides: tuple[int, int]) -> None:
    array = memory_array("x", (6, 256), "Q8_0")
    memory = np.zeros((12, 256), np.float32)
    out = np.lib.stride_tricks.as_strided(memory[3:], (6, 256), strides)
    if strides[0] < 0:
        out = np.lib.stride_tricks.as_strided(memory, (6, 256), (1024, 0))[::-1]
    with pytest.raises(UsageError, match="share memory"):
        Tensor(array.spec, array).read(out)


@pytest.mark.parametrize(
    "view",
    [np.empty((256, 6), np.float32).T, np.empty((12, 512), np.float32)[::-2, ::2]],
    ids=["transposed", "strided"],
)
def test_a_buffer_that_strides_is_filled(view: Any) -> None:
    array = memory_array("x", (6, 256), "Q8_0")
    assert Tensor(array.spec, array).read(view) is view
    np.testing.assert_array_equal(view, array.values)
