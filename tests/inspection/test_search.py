"""Search is exact: its ranks and scores are those of rational arithmetic over the decoded values."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.support.packed import BY_GGUF, random_rows, reference_decode
from tests.support.tensors import encoded_tensor, plain_tensor
from wvindex.formats.encodings import ENCODINGS, with_scale_block
from wvindex.inspection import search as module
from wvindex.inspection.candidates import Hit
from wvindex.inspection.residual import Side
from wvindex.inspection.search import Field, Found, Metric, search
from wvindex.query.lazy import Tensor

Vectors = list[NDArray[np.float64]]


def vectors_of(values: NDArray[Any], side: Side) -> NDArray[np.float64]:
    """Give all vectors of a matrix or a stack, in order, from its decoded values."""
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64)
    wide = wide if side == "rows" else wide.swapaxes(-1, -2)
    return np.ascontiguousarray(wide).reshape(-1, wide.shape[-1])


def score_of(vector: NDArray[np.float64], query: NDArray[np.float64], metric: Metric) -> float:
    """Score by sums that are rounded once."""
    dot = math.fsum((vector * query).tolist())
    if metric == "dot":
        return dot
    return dot / math.sqrt(math.fsum((vector * vector).tolist()) * math.fsum((query * query).tolist()))


def brute_force(
    stacks: Vectors, query: NDArray[np.float64], k: int, metric: Metric
) -> list[tuple[float, int, int]]:
    scored = [
        (score_of(vector, query, metric), place, number)
        for place, vectors in enumerate(stacks)
        for number, vector in enumerate(vectors)
        if np.isfinite(vector).all() and (metric == "dot" or vector.any())
    ]
    return sorted(scored, key=lambda one: (-one[0], one[1:]))[:k]


def require_hits(hits: list[Hit], expected: list[tuple[float, int, int]]) -> None:
    assert [(hit.place, hit.vector) for hit in hits] == [(place, number) for _, place, number in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for score, _, _ in expected], rel=1e-15, abs=0)


def require_exact(
    fields: list[tuple[Tensor, Side, NDArray[Any]]], queries: NDArray[Any], k: int, metric: Metric
) -> Found:
    """Search, and compare with brute force over the values that came with each tensor."""
    found = search([Field(t, side) for t, side, _ in fields], queries.astype(np.float64), k, metric)
    stacks = [vectors_of(values, side) for _, side, values in fields]
    for hits, query in zip(found.hits, queries.astype(np.float64), strict=True):
        require_hits(hits, brute_force(stacks, query, k, metric))
    return found


@given(
    st.data(),
    st.sampled_from(["rows", "columns"]),
    st.sampled_from(get_args(Metric)),
    st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.int8]),
)
def test_any_shape_and_small_integers_full_of_ties(
    data: st.DataObject, side: Side, metric: Metric, dtype: Any
) -> None:
    length = data.draw(st.integers(1, 9))
    values, fields = st.integers(-3, 3), []
    for _ in range(data.draw(st.integers(1, 3))):
        outer = data.draw(st.sampled_from([(), (0,), (1,), (3,)]))
        n = data.draw(st.integers(0, 12))
        shape = (*outer, n, length) if side == "rows" else (*outer, length, n)
        drawn = data.draw(hnp.arrays(np.float32, shape, elements=values.map(float))).astype(dtype)
        fields.append((plain_tensor(drawn), side, drawn))
    n_queries = data.draw(st.integers(1, 3))
    queries = data.draw(hnp.arrays(np.float32, (n_queries, length), elements=values.map(float)))
    queries[:, 0] = 1  # none is zero
    require_exact(fields, queries, data.draw(st.integers(1, 40)), metric)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 8), st.just(4)),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True),
    ),
    hnp.arrays(np.float32, (1, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.sampled_from(get_args(Metric)),
)
def test_any_magnitude(values: NDArray[np.float32], query: NDArray[np.float32], metric: Metric) -> None:
    query[0, 1] = 1
    fields = (
        Field(plain_tensor(values), "rows"),
        Field(plain_tensor(np.ascontiguousarray(values.T)), "columns"),
    )
    for field in fields:
        found = search([field], query.astype(np.float64), 20, metric)
        is_finite = np.isfinite(values).all(axis=1)
        assert found.not_finite == (~is_finite).sum()
        assert found.zero == (0 if metric == "dot" else (is_finite & ~values.any(axis=1)).sum())
        require_ranks_of_rationals(found.hits[0], values, query[0], metric)


def require_ranks_of_rationals(
    hits: list[Hit], values: NDArray[np.float32], query: NDArray[np.float32], metric: Metric
) -> None:
    """Compare scores with rational arithmetic, and see that they fall."""
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        row, x = ([Fraction(float(v)) for v in one] for one in (values[hit.vector], query))
        dot = sum(a * b for a, b in zip(row, x, strict=True))
        if metric == "dot":
            assert hit.score == float(dot)
        else:
            square = dot * dot / (sum(a * a for a in row) * sum(b * b for b in x))
            assert hit.score == pytest.approx(math.copysign(math.sqrt(square), float(dot)), rel=1e-15)


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("name", BY_GGUF)
def test_packed_types_by_rows_and_columns(name: str, metric: Metric) -> None:
    raw = random_rows(name, 24, 2, seed=3)
    tensor, values = encoded_tensor(raw, ENCODINGS[name]), reference_decode(raw, name)
    random = np.random.default_rng(4)
    for side in get_args(Side):
        length = values.shape[1 if side == "rows" else 0]
        queries = random.standard_normal((2, length)).astype(np.float32)
        require_exact([(tensor, side, values)], queries, 7, metric)


def test_fp8_with_scales() -> None:
    random = np.random.default_rng(1)
    codes = random.standard_normal((300, 200)).astype(ml_dtypes.float8_e4m3fn)
    scales = random.random((3, 2), np.float32)
    tensor = encoded_tensor(codes.view(np.uint8), with_scale_block(ENCODINGS["F8_E4M3"], (128, 128)), scales)
    values = codes.astype(np.float32) * np.kron(scales, np.ones((128, 128), np.float32))[:300, :200]
    require_exact([(tensor, "rows", values)], random.standard_normal((1, 200)), 9, "cosine")
    require_exact([(tensor, "columns", values)], random.standard_normal((1, 300)), 9, "cosine")


def test_wide_types_are_searched_in_float64() -> None:
    random = np.random.default_rng(5)
    near = 1 + random.integers(0, 9, (40, 30)) * 2.0**-50  # all alike in float32
    whole = random.integers(-(2**40), 2**40, (20, 30))
    query = random.standard_normal((1, 30))
    for values in (near, whole):
        require_exact([(plain_tensor(values), "rows", values)], query, 12, "dot")
        require_exact([(plain_tensor(values.T.copy()), "columns", values.T)], query, 12, "cosine")


@pytest.mark.parametrize("side", get_args(Side))
def test_nearly_equal_scores_that_float32_does_not_tell_apart(side: Side) -> None:
    random = np.random.default_rng(6)
    base = random.standard_normal(3000).astype(np.float32)
    values = np.repeat(base[None], 200, axis=0)
    values[np.arange(200), random.integers(0, 3000, 200)] *= 1 + np.float32(2**-20)
    matrix = values if side == "rows" else np.ascontiguousarray(values.T)
    require_exact([(plain_tensor(matrix), side, matrix)], base[None], 20, "cosine")
    require_exact([(plain_tensor(matrix), side, matrix)], base[None], 20, "dot")


@pytest.mark.parametrize("side", get_args(Side))
def test_planted_duplicates_come_first_in_the_order_of_the_store(side: Side) -> None:
    random = np.random.default_rng(7)
    stacks = [random.standard_normal((4, 500, 64)).astype(np.float32) for _ in range(3)]
    query = random.standard_normal(64).astype(np.float32)
    planted = [(2, 3, 499), (0, 1, 17), (0, 0, 400), (1, 2, 0)]
    for scale, (place, expert, row) in enumerate(planted, 1):
        stacks[place][expert, row] = query * 2**scale  # a power of two: the very same direction
    if side == "columns":
        stacks = [np.ascontiguousarray(stack.swapaxes(1, 2)) for stack in stacks]
    fields = [Field(plain_tensor(stack), side) for stack in stacks]
    found = search(fields, query[None].astype(np.float64), 5, "cosine").hits[0]
    places = [(hit.place, *fields[hit.place].place(hit.vector)) for hit in found]
    assert places[:4] == sorted(planted)
    assert [hit.score for hit in found[:4]] == [1.0] * 4
    assert found[4].score < 0.8


def test_many_queries_are_worked_on_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PRODUCTS", 50)
    monkeypatch.setattr(module, "_READ_VALUES", 64)
    random = np.random.default_rng(8)
    stack = random.standard_normal((3, 16, 16)).astype(np.float32)
    stack[1, 3, 4], stack[2, 5] = np.nan, 0
    queries = random.standard_normal((9, 16))
    found = [
        require_exact([(plain_tensor(stack), side, stack)], queries, 4, "cosine") for side in get_args(Side)
    ]
    assert [(one.not_finite, one.zero) for one in found] == [(1, 1), (1, 0)]


def test_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(9).standard_normal((3000, 1100)).astype(np.float32)
    fields = [Field(plain_tensor(values), "rows"), Field(plain_tensor(values.T.copy()), "columns")]
    found = []
    for n_threads in ("1", "2", "5"):
        monkeypatch.setenv("WVINDEX_THREADS", n_threads)
        found.append(search(fields, values[:2].astype(np.float64), 10, "dot").hits)
    assert found[0] == found[1] == found[2]


def test_encoded_bytes_are_told_as_they_are_gone_through() -> None:
    told: list[int] = []
    matrices = [plain_tensor(np.ones((n, 4), np.float32)) for n in (3, 5)]
    search([Field(matrix, "rows") for matrix in matrices], np.ones((1, 4)), 1, "dot", told.append)
    assert told == [matrix.nbytes for matrix in matrices]
