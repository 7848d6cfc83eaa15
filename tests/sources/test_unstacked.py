"""A leaf that was put apart gives what the leaf itself gives, whatever part is asked for."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.maxtext_writer import write_orbax
from wvindex.errors import StoreError
from wvindex.sources.orbax_arrays import LeafArray, context, open_arrays
from wvindex.sources.orbax_metadata import read_tree
from wvindex.sources.unstacked import UnstackedLeaf

SHAPE = (5, 3, 4, 7)
VALUES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def leaf(directory: Path, chunk: tuple[int, ...] = (2, 3, 3, 4)) -> LeafArray:
    write_orbax(directory, {"a": VALUES}, chunks={"a": chunk}, ocdbt=False)
    tree = read_tree(directory)
    (array,) = open_arrays(tree, directory, context())
    return array


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> UnstackedLeaf:
    directory = tmp_path_factory.mktemp("apart")
    return UnstackedLeaf(leaf(directory / "items"), (1, 0, 3, 2), {1}, directory)


def parts(n: int) -> st.SearchStrategy[int | slice]:
    ends = st.lists(st.integers(0, n), min_size=2, max_size=2).map(sorted)
    return st.one_of(st.integers(0, n - 1), st.just(slice(None)), ends.map(lambda e: slice(e[0], e[1])))


@given(index=st.tuples(*(parts(n) for n in SHAPE)))
def test_every_part_is_the_leafs(apart: UnstackedLeaf, index: tuple[int | slice, ...]) -> None:
    assert np.array_equal(apart.read(index), VALUES[index])


def test_the_file_has_no_name_and_goes_with_the_leaf(tmp_path: Path) -> None:
    array = leaf(tmp_path / "items")
    (tmp_path / "there").mkdir()
    held = UnstackedLeaf(array, (1, 0, 2, 3), {1}, tmp_path / "there")
    assert held.nbytes == VALUES.nbytes
    assert not list((tmp_path / "there").iterdir())
    del held
    gc.collect()


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    array = leaf(tmp_path / "items")
    with pytest.raises(StoreError, match="cannot be put beside the store"):
        UnstackedLeaf(array, (1, 0, 2, 3), {1}, tmp_path / "nowhere")
