"""Pieces are the rows that a stream has, in order, of any range; runs part the rows where chunks end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.packed import assert_same_values, random_rows, reference_decode
from tests.support.tensors import encoded_tensor, plain_tensor
from wvindex.formats.arrays import Heads
from wvindex.formats.encodings import ENCODINGS
from wvindex.query.stream import STREAM_VALUES


@pytest.mark.parametrize(("start", "stop"), [(0, 3000), (17, 2500), (2999, 3000)])
def test_values_of_a_range(start: int, stop: int) -> None:
    raw = random_rows("Q5_K", 3000, 2)
    pieces = encoded_tensor(raw, ENCODINGS["Q5_K"]).pieces()
    at = start
    found: list[NDArray[Any]] = []
    for first, values in pieces.values(start, stop):
        assert first == at
        assert values.size <= STREAM_VALUES
        at += len(values)
        found.append(values.copy())
    assert at == stop
    assert_same_values(np.concatenate(found), reference_decode(raw[start:stop], "Q5_K"))


def test_blocks_are_the_bytes() -> None:
    raw = random_rows("Q8_0", 40_000, 8)
    found = list(encoded_tensor(raw, ENCODINGS["Q8_0"]).pieces().blocks(100, 39_000))
    assert len(found) > 1
    sizes = np.cumsum([0] + [len(block) for _, block in found])
    assert [first for first, _ in found] == (100 + sizes[:-1]).tolist()
    for first, block in encoded_tensor(raw, ENCODINGS["Q8_0"]).pieces().blocks(100, 39_000):
        np.testing.assert_array_equal(block, raw[first : first + len(block)])


def test_runs_follow_one_another() -> None:
    pieces = plain_tensor(np.zeros((3000, 4096), np.float32)).pieces()
    runs = pieces.runs
    assert len(runs) > 1
    assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
    assert runs[-1][1] == pieces.n_rows == 3000


def test_runs_end_where_chunks_do(tmp_path: Path) -> None:
    from wvindex.query.tiles import ChunkedReader

    source = Path(__file__).parents[2] / "examples" / "tiny-kjv-Q8_0.gguf"
    with wv.open(wv.build(source, tmp_path / "kjv.zarr")) as db:
        for tensor in db.values():
            pieces = tensor.pieces()
            assert isinstance(pieces.reader, ChunkedReader)
            assert all(pieces.reader.chunk_range(start)[0] == start for start, _ in pieces.runs)


def test_columns_of_a_view() -> None:
    values = np.random.default_rng(1).standard_normal((48, 64), np.float32)
    head = plain_tensor(values, heads=Heads(axis=1, count=4)).head(2)
    (piece,) = head.pieces().values(3, 9)
    assert piece[0] == 3
    np.testing.assert_array_equal(piece[1], values[3:9, 32:48])


def test_nothing_of_an_empty_tensor() -> None:
    pieces = plain_tensor(np.zeros((0, 5), np.float32)).pieces()
    assert (pieces.runs, list(pieces.values(0, 0)), list(pieces.blocks(0, 0))) == ([], [], [])
    some = plain_tensor(np.zeros((7, 5), np.float32)).pieces()
    assert (list(some.values(5, 5)), list(some.blocks(5, 5))) == ([], [])
