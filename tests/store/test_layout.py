"""Keys become paths and back, whatever they are; rows are cut into whole-row chunks that cover them once."""

from __future__ import annotations

import math
import unicodedata

import pytest
import zarr.core.chunk_key_encodings as zarr_keys
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.arrays import MemoryArray, memory_arrays
from wvindex.errors import LimitExceeded, UnsafePath
from wvindex.formats.arrays import ArraySpec
from wvindex.formats.encodings import ENCODINGS, with_scale_block
from wvindex.store.layout import ChunkGrid, array_key, array_path, chunk_rows

PIECES = st.sampled_from(
    [
        "model.layers.",
        "3",
        "03",
        ".",
        "..",
        "/",
        "%",
        "%2e",
        "c",
        "C",
        "zarr.json",
        "layers",
        "Layers/3/",
        "é",
        "é",
        "readme",
        "README",
        "__",
        "\x00",
        "�",
    ]
)
KEYS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=6).map("".join))


def path_of(key: str) -> str:
    try:
        return array_path(key)
    except LimitExceeded:
        assume(False)
        raise


@given(key=KEYS)
@settings(max_examples=500)
def test_a_path_leads_back_to_its_key(key: str) -> None:
    assert array_key(path_of(key)) == key


@given(keys=st.lists(KEYS, min_size=2, max_size=2, unique=True))
@settings(max_examples=500)
def test_no_two_keys_meet_where_case_or_unicode_form_is_ignored(keys: list[str]) -> None:
    a, b = (unicodedata.normalize("NFC", path_of(key).casefold()) for key in keys)
    assert a != b


@given(key=KEYS)
@settings(max_examples=500)
def test_a_path_stays_in_the_store_and_shadows_nothing(key: str) -> None:
    path = path_of(key)
    parts = path.split("/")
    assert path.isascii()
    assert len(parts) == 1 or (len(parts) == 3 and parts[0] == "layers" and parts[1].isdecimal())
    assert parts[-1] not in {"", ".", "..", "zarr.json", "catalog.json", "c", "layers", "tokenizer"}
    assert not parts[-1].startswith((".", "__", "readme"))
    assert not set(parts[-1]) - set("abcdefghijklmnopqrstuvwxyz0123456789._-%")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "layers/3/self_attn.q_proj.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.layers.03.x", "model.layers.03.x"),
        ("model.layers.3.", "model.layers.3."),
        ("model.layers.0.c", "layers/0/%63"),
        ("h.0.A_log", "h.0.%41_log"),
        ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd"),
        ("zarr.json", "%7aarr.json"),
        ("", "%"),
    ],
)
def test_paths_in_the_format(key: str, path: str) -> None:
    assert array_path(key) == path


@pytest.mark.parametrize(
    "path",
    ["A", "%41%", "%6", "%zz", "%61", "a/b", "layers/3", "layers/03/x", "layers/3/", "../x", "c", "%C3"],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        array_key(path)


def test_a_name_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="240"):
        array_path("A" * 81)
    assert len(array_path("A" * 80)) == 240


def spec_of(
    shape: tuple[int, ...], encoding: str = "F32", scale_block: tuple[int, int] | None = None
) -> ArraySpec:
    table = ENCODINGS[encoding]
    table = with_scale_block(table, scale_block) if scale_block else table
    return ArraySpec(key="x", shape=shape, encoding=table, exactness="bit", sources=())


@pytest.mark.parametrize(
    ("shape", "encoding", "rows"),
    [
        ((4096, 4096), "F16", 512),
        ((14336, 4096), "Q4_K", 1792),
        ((151936, 4096), "F16", 512),
        ((128256, 4096), "Q6_K", 1336),
        ((256, 2048, 7168), "Q4_K", 1024),
        ((100, 64), "F32", 100),
        ((7,), "F32", 1),
        ((), "F32", 1),
        ((524287, 1024), "F32", 1024),
        ((0, 5), "F32", 1),
        ((8192, 1, 4), "F32", 8192),
        ((1152, 3, 14, 14), "F32", 1152 * 3 * 14),
    ],
)
def test_rows_of_a_chunk(shape: tuple[int, ...], encoding: str, rows: int) -> None:
    assert chunk_rows(spec_of(shape, encoding)) == rows


@given(
    rows=st.integers(1, 400),
    columns=st.integers(1, 40),
    target=st.integers(1, 4000),
    block=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=300)
def test_chunks_are_near_the_target_and_part_no_scale_block(
    rows: int, columns: int, target: int, block: tuple[int, int] | None
) -> None:
    spec = spec_of((rows, columns), "F8_E4M3" if block else "F32", block)
    found = chunk_rows(spec, target)
    unit = block[0] if block else 1
    assert 1 <= found <= rows
    assert found == rows or found % unit == 0
    assert found * spec.row_bytes <= max(2 * target, unit * 2 * spec.row_bytes)
    ideal = max(target // spec.row_bytes // unit, 1) * unit
    if any(
        rows % n == 0
        for n in range(1, rows + 1)
        if ideal / 2 <= n <= 2 * ideal and (n % unit == 0 or n == rows)
    ):
        assert rows % found == 0


@given(array=memory_arrays(), target=st.integers(1, 600))
@settings(max_examples=300, deadline=None)
def test_chunks_cover_every_row_and_scale_once(array: MemoryArray, target: int) -> None:
    spec = array.spec
    grid = ChunkGrid(spec, chunk_rows(spec, target))
    if 0 in spec.shape:
        assert grid.n_chunks == 0
        return
    ranges = [grid.row_range(i) for i in range(grid.n_chunks)]
    assert [row for a, b in ranges for row in range(a, b)] == list(range(spec.n_rows))
    assert all(grid.chunk_at(row) == i for i, (a, b) in enumerate(ranges) for row in range(a, b))
    scales = [grid.scale_range(i) for i in range(grid.n_chunks)]
    n_scales = spec.scale_shape[0] if spec.scale_shape else 0
    assert [row for a, b in scales for row in range(a, b)] == list(range(n_scales))
    assert all(grid.chunk_at_scale(row) == i for i, (a, b) in enumerate(scales) for row in range(a, b))
    padding = sum(grid.padding_nbytes(i) for i in range(grid.n_chunks))
    assert sum(grid.chunk_nbytes(i) for i in range(grid.n_chunks)) == spec.nbytes + padding


@given(array=memory_arrays(), target=st.integers(1, 600))
@settings(max_examples=200, deadline=None)
def test_names_and_shapes_are_zarrs(array: MemoryArray, target: int) -> None:
    spec = array.spec
    grid = ChunkGrid(spec, chunk_rows(spec, target))
    counts = [-(-n // size) for n, size in zip(spec.shape, grid.shape, strict=True)]
    assert math.prod(counts) == grid.n_chunks
    encoding = zarr_keys.DefaultChunkKeyEncoding(separator=".")
    for index in range(grid.n_chunks):
        coordinates: list[int] = []
        rest = index
        for count in reversed(counts):
            rest, position = divmod(rest, count)
            coordinates.insert(0, position)
        assert grid.name(index) == encoding.encode_chunk_key(tuple(coordinates))
        assert grid.index(grid.name(index)) == index


@given(array=memory_arrays(), target=st.integers(1, 600), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_name_outside_the_grid_is_no_chunks(array: MemoryArray, target: int, data: st.DataObject) -> None:
    spec = array.spec
    grid = ChunkGrid(spec, chunk_rows(spec, target))
    names = {grid.name(index) for index in range(grid.n_chunks)}
    number = st.one_of(
        st.integers(0, 20).map(str), st.sampled_from(["", "01", "-1", "+1", "x", "٣", "9" * 40])
    )
    numbers = data.draw(st.lists(number, max_size=len(spec.shape) + 1))
    name = ".".join([data.draw(st.sampled_from("cd")), *numbers])
    assert (grid.index(name) is not None) == (name in names)


def test_experts_have_chunks_of_their_own() -> None:
    spec = spec_of((3, 40, 256), "Q8_0")
    grid = ChunkGrid(spec, chunk_rows(spec, 4000))
    assert grid.shape == (1, 10, 256)
    assert grid.name(5) == "c.1.1.0"
