"""Quantiles in one pass: what a sample is right about is read once, and no result depends on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.support.tensors import plain_tensor
from wvindex.inspection import guess as guess_module
from wvindex.inspection.quantiles import PROBABILITIES
from wvindex.inspection.tensor_stats import Summary, summarize
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Consumer

Floats = NDArray[np.float32]

FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def require_exact(found: Summary, arrays: Sequence[Floats]) -> None:
    """Compare with NumPy's sorting of all of them together."""
    flat = np.concatenate([values.reshape(-1) for values in arrays]).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        assert all(map(math.isnan, found.quantiles))
        return
    expected = np.quantile(finite, list(PROBABILITIES.values()), method="inverted_cdf")
    np.testing.assert_array_equal(found.quantiles, expected)
    if any(values.ndim > 1 for values in arrays):
        assert found.outliers == (np.abs(finite) > 6 * found.moments.std).sum()


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the values of each time that a tensor is gone through."""
    seen: list[int] = []
    stream = Tensor.stream

    def counted(tensor: Tensor, consume: Consumer, *, rows: tuple[int, int] | None = None) -> None:
        n_rows = math.prod(tensor.shape[:-1]) if rows is None else rows[1] - rows[0]
        seen.append(n_rows * (tensor.shape[-1] if tensor.shape else 1))
        stream(tensor, consume, rows=rows)

    monkeypatch.setattr(Tensor, "stream", counted)
    return seen


def normal(n_rows: int = 1500, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n_rows, 1000)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-30, 0.02, 1e30])
def test_ordinary_weights_are_read_once(scale: float, streamed: list[int]) -> None:
    values = normal() * np.float32(scale)
    values[700, 3] = 50 * scale
    found = summarize([plain_tensor(values)])
    assert sum(streamed) <= values.size * (1 + 2 / 64)
    require_exact(found, [values])


def test_heavy_tails_unlike_rows_and_stacks_are_read_once(streamed: list[int]) -> None:
    random = np.random.default_rng(1)
    values = random.standard_t(4, (4, 400, 1000)).astype(np.float32)
    values *= random.lognormal(0, 0.3, (4, 400, 1)).astype(np.float32)
    found = summarize([plain_tensor(values)])
    assert sum(streamed) <= values.size * (1 + 2 / 64)
    require_exact(found, [values])


def test_several_tensors_together(streamed: list[int]) -> None:
    arrays = [normal(800), normal(900, seed=1) * np.float32(0.1), np.ones(64, np.float32)]
    found = summarize([plain_tensor(values) for values in arrays])
    assert sum(streamed) <= 1.1 * sum(values.size for values in arrays)
    require_exact(found, arrays)


def test_a_sample_that_is_wrong_costs_a_pass_and_nothing_else(streamed: list[int]) -> None:
    """The sampled rows are the only ones that are large."""
    values = normal()
    for start, stop in guess_module._spans(plain_tensor(values)):
        values[start:stop] *= 1e6
    found = summarize([plain_tensor(values)])
    assert streamed.count(values.size) == 2
    require_exact(found, [values])


def test_too_many_values_to_set_aside(streamed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As where half of the weights are the same number; known before the pass, or in its course."""
    values = normal()
    values[:, ::2] = 0
    monkeypatch.setattr(guess_module, "MAX_KEPT", values.size // 4)
    require_exact(summarize([plain_tensor(values)]), [values])
    assert streamed.count(values.size) == 2
    streamed.clear()
    late = normal(seed=3)
    (first, stop), *_ = guess_module._spans(plain_tensor(late))
    late[stop + 1 : stop + 20] = 0
    assert first == 0
    monkeypatch.setattr(guess_module, "MAX_KEPT", 1 + int(0.09 * late.size))
    monkeypatch.setattr(guess_module.Guess, "__init__", with_little_room)
    require_exact(summarize([plain_tensor(late)]), [late])
    assert streamed.count(late.size) == 2


_init = guess_module.Guess.__init__


def with_little_room(self: guess_module.Guess, is_kept: NDArray[np.bool_]) -> None:
    _init(self, is_kept)
    self._room = 100


@given(
    st.lists(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=40), elements=FLOAT32),
        min_size=1,
        max_size=3,
    )
)
def test_any_values_of_any_shape(arrays: list[Floats]) -> None:
    require_exact_of_few(arrays)


def test_a_limit_beyond_float32() -> None:
    require_exact_of_few([np.array([1e38, 0], np.float32)])


def require_exact_of_few(arrays: list[Floats]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guess_module, "MIN_VALUES", 1)
        require_exact(summarize([plain_tensor(values) for values in arrays]), arrays)
