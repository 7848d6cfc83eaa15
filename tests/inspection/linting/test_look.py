"""One look sees what NumPy sees in the decoded values, however a tensor is cut into tiles."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.tensors import plain_tensor
from wvindex.inspection.linting.eye import look_at
from wvindex.inspection.linting.look import Lines
from wvindex.inspection.linting.sketch import are_equal, candidates, cosine
from wvindex.query import stream

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


def lines(found: NDArray[np.bool_]) -> Lines:
    """Give the first eight of (n_matrices, n_lines), by brute force."""
    places = [(int(i), int(j)) for i, j in np.argwhere(found)]
    return Lines(len(places), tuple(places[:8]))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(2, 9)),
    dtype=st.sampled_from(DTYPES),
    tile=st.integers(1, 40),
    data=st.data(),
)
def test_rows_columns_and_values(shape: tuple[int, ...], dtype: Any, tile: int, data: st.DataObject) -> None:
    numbers = st.sampled_from([0.0, -0.0, 1.0, 1.0, -2.0, np.nan, np.inf, 65504.0])
    values = np.array(data.draw(st.lists(numbers, min_size=189, max_size=189)))[: np.prod(shape)]
    values = values.reshape(shape).astype(dtype)
    for i in data.draw(st.lists(st.integers(0, shape[1] - 1), max_size=2)):
        values[0, i] = data.draw(numbers)
    for i in data.draw(st.lists(st.integers(0, shape[2] - 1), max_size=2)):
        values[-1, :, i] = data.draw(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "STREAM_VALUES", tile)
        look = look_at(plain_tensor(values, key="mlp.experts.w"))
    wide = values.astype(np.float64)
    dead = (wide == 0).all(axis=(1, 2))
    alive = ~dead[:, None]
    finite = np.isfinite(wide)
    np.testing.assert_array_equal(look.dead, dead)
    for axis, zero, constant in (
        (2, look.zero_rows, look.constant_rows),
        (1, look.zero_columns, look.constant_columns),
    ):
        zeros = (wide == 0).all(axis=axis)
        same = (wide == np.take(wide, [0], axis=axis)).all(axis=axis) & finite.all(axis=axis) & ~zeros
        assert zero == lines(zeros & alive)
        assert constant == lines(same & alive)
    assert look.tallies["nan"].count == np.isnan(wide).sum()
    assert look.tallies["inf"].count == np.isinf(wide).sum()
    flat = wide.reshape(-1, shape[2])
    for kind, odd in (("nan", np.isnan(flat)), ("inf", np.isinf(flat))):
        if odd.any():
            assert look.tallies[kind].first == tuple(map(int, np.argwhere(odd)[0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_squares_and_the_largest(dtype: Any) -> None:
    values = np.random.default_rng(0).standard_normal((3, 40, 50)).astype(dtype)
    look = look_at(plain_tensor(values, key="mlp.experts.w"))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(look.squares, (wide**2).sum(axis=(1, 2)), rtol=1e-12)
    rows = np.abs(wide).max(axis=2).reshape(-1)
    assert (look.absmax, look.absmax_row) == (rows.max(), rows.argmax())
    assert look.row_absmax == np.median(rows)


@pytest.mark.parametrize("tile", [50, 50 * 7, 1 << 20])
def test_sketches_do_not_depend_on_tiles(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((3, 40, 50), np.float32)
    expected = look_at(plain_tensor(values, key="mlp.experts.w")).sketches
    monkeypatch.setattr(stream, "STREAM_VALUES", tile)
    np.testing.assert_allclose(
        look_at(plain_tensor(values, key="mlp.experts.w")).sketches, expected, rtol=1e-4, atol=1e-4
    )


def test_nearly_equal_matrices_are_candidates_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((40, 60, 70), np.float32)
    values[7] = values[3]
    noise = rng.standard_normal((60, 70))
    values[30] = values[20] + 0.14 * noise  # a cosine of 0.99
    tensor = plain_tensor(values, key="mlp.experts.w")
    found = candidates(look_at(tensor).sketches)
    assert found == [(3, 7), (20, 30)]
    for i, j in found:
        one, other = (values[k].reshape(-1).astype(np.float64) for k in (i, j))
        expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine([tensor.expert(i)], [tensor.expert(j)]) == pytest.approx(expected, abs=1e-6)
    assert are_equal(tensor.expert(3), tensor.expert(7))
    assert not are_equal(tensor.expert(20), tensor.expert(30))
