"""Exact search for the vectors most like others, over matrices that are decoded tile by tile.

Products are taken in float32, whose error has a bound: |fl(x·w) - x·w| <= n u / (1 - n u) ‖x‖ ‖w‖ in any
order of summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), u = 2**-24. Whatever
could be among the k best within that bound is kept, read again, and scored exactly: products of two float32
are exact in float64, and `math.fsum` rounds their sum once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.blas import one_thread
from wvindex.inspection.candidates import Candidates, Hit, Indices, Reals
from wvindex.inspection.residual import Side
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

Metric = Literal["cosine", "dot"]

_MAX_PRODUCTS: Final = 1 << 20
"""Products that are held at once: 8 MiB of float64, and a few times that while they are looked at."""

_READ_VALUES: Final = 1 << 21
"""Values that are read again at once: 16 MiB of float64."""

_SAFE: Final = (1e-20, 1e30)
"""Squared lengths that float32 sums hold to their bound, though some of the squares may be denormal."""

_SAFE_WIDE: Final = (1e-280, 1e300)
"""Squared lengths that float64 sums hold likewise."""


@dataclass(frozen=True)
class Field:
    """A matrix or a stack of them, and the side on which the vectors stand that are searched.

    Vectors are numbered through all matrices of a stack.
    """

    tensor: Tensor
    side: Side

    @property
    def per_matrix(self) -> int:
        """Vectors of one matrix."""
        return self.tensor.shape[-2 if self.side == "rows" else -1]

    def place(self, vector: int) -> tuple[int | None, int]:
        """Give the expert, None where there are none, and the row or column, of a vector."""
        expert, index = divmod(vector, self.per_matrix)
        return (expert if self.tensor.ndim > 2 else None), index

    def read(self, vectors: Indices) -> Reals:
        """Read some vectors, (n, length)."""
        experts, inside = np.divmod(vectors, self.per_matrix)
        found = np.empty((len(vectors), self.tensor.shape[-1 if self.side == "rows" else -2]))
        for expert in np.unique(experts).tolist():
            mine = np.flatnonzero(experts == expert)
            matrix = self.tensor.expert(expert) if self.tensor.ndim > 2 else self.tensor
            values = matrix[inside[mine]] if self.side == "rows" else matrix[:, inside[mine]].T
            with np.errstate(invalid="ignore"):  # a signaling NaN is a NaN
                found[mine] = values.astype(np.float64)
        return found


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    hits : list of list of Hit
        Of each query, best first; `place` counts the fields.
    not_finite, zero : int
        Vectors left out: those that hold NaN, infinity or what float64 does not square, and by cosine
        those that have no direction.
    """

    hits: list[list[Hit]]
    not_finite: int
    zero: int


def search(
    fields: Sequence[Field],
    vectors: Reals,
    k: int,
    metric: Metric,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> Found:
    """Find the k vectors with the highest scores for each of several.

    Parameters
    ----------
    fields : sequence of Field
        Their vectors as long as the queries.
    vectors : array of float64, shape (n, length)
        The queries: finite, and by cosine none of them zero.
    k : int
    metric : {"cosine", "dot"}
    advance : callable, optional
        Told the encoded bytes of each field that was gone through.

    Returns
    -------
    Found
        Dot products are exact, rounded once to float64, where both vectors hold in float32; else each
        product is rounded to float64 before. A cosine is that over the root of the product of the squared
        lengths. Equal scores are in the order of the fields, and of the vectors in each.
    """
    with one_thread():
        return _Search(fields, _Queries.of(vectors), k, metric).run(advance)


class _Queries(NamedTuple):
    """Queries divided by powers of two, so that their largest magnitudes lie between 1/2 and 1."""

    exact: Reals
    single: NDArray[np.float32]
    exponents: NDArray[Any]
    squares: Reals

    @classmethod
    def of(cls, vectors: Reals) -> _Queries:
        largest = np.abs(vectors).max(axis=1, initial=0)
        exponents = np.frexp(largest)[1]
        exact = np.ldexp(vectors, -exponents[:, None])
        squares = np.array([math.fsum(row) for row in (exact * exact).tolist()])
        return cls(exact, exact.astype(np.float32), exponents, squares)

    def like(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        return self.exact if dtype == np.float64 else self.single


class _Products(NamedTuple):
    """Products of some queries with vectors from a first one on, and the vectors' squared lengths."""

    queries: range
    first: int
    dots: Reals
    squares: Reals


class _Search:
    """Goes through fields, keeping candidates for each query."""

    def __init__(self, fields: Sequence[Field], queries: _Queries, k: int, metric: Metric) -> None:
        self._fields = fields
        self._queries = queries
        self._metric = metric
        n_terms = queries.exact.shape[1]
        self._bound = 2 * (n_terms + 8) * 2.0**-24  # twice the bound: of the product, and of the length
        self._candidates = [Candidates(k, self._scorer(i)) for i in range(len(queries.exact))]
        self._not_finite = self._zero = 0

    def run(self, advance: Callable[[int], None]) -> Found:
        for place, field in enumerate(self._fields):
            products = self._of_rows if field.side == "rows" else self._of_columns
            for part in products(field.tensor) if field.tensor.size else ():
                self._take(place, part)
            advance(field.tensor.nbytes)
        hits = [
            [hit._replace(score=self._unscaled(hit.score, i)) for hit in candidates.best()]
            for i, candidates in enumerate(self._candidates)
        ]
        return Found(hits, self._not_finite, self._zero)

    def _unscaled(self, score: float, query: int) -> float:
        if self._metric == "cosine":
            return score
        with np.errstate(over="ignore"):
            return float(np.ldexp(score, self._queries.exponents[query]))

    def _of_rows(self, tensor: Tensor) -> Iterator[_Products]:
        """Multiply rows by all queries, some rows at a time."""
        n_queries, n_rows = len(self._queries.exact), math.prod(tensor.shape[:-1])
        step = max(_MAX_PRODUCTS // n_queries, 1)
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            dots = np.empty((n_queries, stop - start))
            squares = np.empty(stop - start)

            def consume(first: int, values: Values, dots: Reals = dots, squares: Reals = squares) -> None:
                rows = slice(first, first + len(values))
                with np.errstate(all="ignore"):
                    dots[:, rows] = self._queries.like(values.dtype) @ values.T
                    squares[rows] = np.vecdot(values, values)

            tensor.stream(consume, rows=(start, stop))
            yield _Products(range(n_queries), start, dots, squares)

    def _of_columns(self, tensor: Tensor) -> Iterator[_Products]:
        """Multiply the columns of each matrix by some queries at a time, summing over tiles in float64."""
        width = tensor.shape[-1]
        step = max(_MAX_PRODUCTS // width, 1)
        for number in range(len(tensor) if tensor.ndim > 2 else 1):
            matrix = tensor.expert(number) if tensor.ndim > 2 else tensor
            for start in range(0, len(self._queries.exact), step):
                queries = range(start, min(start + step, len(self._queries.exact)))
                yield self._products_of_columns(matrix, queries, number * width)

    def _products_of_columns(self, matrix: Tensor, queries: range, first: int) -> _Products:
        dots = np.zeros((len(queries), matrix.shape[-1]))
        squares = np.zeros(matrix.shape[-1])
        lock = threading.Lock()

        def consume(first_row: int, values: Values) -> None:
            mine = self._queries.like(values.dtype)[queries.start : queries.stop]
            with np.errstate(all="ignore"):
                products = mine[:, first_row : first_row + len(values)] @ values
                lengths = np.einsum("ij,ij->j", values, values)
                with lock:
                    np.add(dots, products, out=dots)
                    np.add(squares, lengths, out=squares)

        matrix.stream(consume)
        return _Products(queries, first, dots, squares)

    def _take(self, place: int, part: _Products) -> None:
        """Hand products to the candidates of each query, as scores with their slack."""
        vectors = np.arange(part.first, part.first + len(part.squares), dtype=np.int64)
        odd = np.flatnonzero(~((part.squares >= _SAFE[0]) & (part.squares <= _SAFE[1])))
        usable = np.ones(len(vectors), np.bool_)
        if odd.size:
            usable[odd] = self._mend(place, part, odd)
            vectors, part = (
                vectors[usable],
                part._replace(dots=part.dots[:, usable], squares=part.squares[usable]),
            )
        lengths = np.sqrt(part.squares)
        for i, dots in zip(part.queries, part.dots, strict=True):
            own = math.sqrt(self._queries.squares[i])
            if self._metric == "dot":
                self._candidates[i].add(place, vectors, dots, self._bound * own * lengths)
            else:
                bound = np.full(len(dots), self._bound)
                self._candidates[i].add(place, vectors, dots / (own * lengths), bound)

    def _mend(self, place: int, part: _Products, odd: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Take in float64 what float32 does not hold; give whether each has a score at all."""
        usable = np.zeros(len(odd), np.bool_)
        for chunk in _chunks(len(odd), self._queries.exact.shape[1]):
            values = self._fields[place].read(odd[chunk] + part.first)
            with np.errstate(all="ignore"):
                squares = np.einsum("ij,ij->i", values, values)
                dots = self._queries.exact[part.queries.start : part.queries.stop] @ values.T
            is_zero = ~values.any(axis=1)
            is_odd = ~is_zero & ~((squares >= _SAFE_WIDE[0]) & (squares <= _SAFE_WIDE[1]))
            usable[chunk] = ~is_odd & ~(is_zero & (self._metric == "cosine"))
            part.squares[odd[chunk]] = squares
            part.dots[:, odd[chunk]] = dots
            if part.queries.start == 0:  # once, though there be more queries than are worked on together
                self._not_finite += int(is_odd.sum())
                self._zero += int(is_zero.sum()) if self._metric == "cosine" else 0
        return usable

    def _scorer(self, query: int) -> Callable[[Indices, Indices], Reals]:
        """Give what scores vectors exactly for a query."""

        def score(places: Indices, vectors: Indices) -> Reals:
            scores = np.empty(len(places))
            for place in np.unique(places).tolist():
                mine = np.flatnonzero(places == place)
                for chunk in _chunks(len(mine), self._queries.exact.shape[1]):
                    rows = self._fields[place].read(vectors[mine[chunk]])
                    scores[mine[chunk]] = [self._exact(row, query) for row in rows]
            return scores

        return score

    def _exact(self, row: Reals, query: int) -> float:
        dot = math.fsum((row * self._queries.exact[query]).tolist())
        if self._metric == "dot":
            return dot
        return dot / math.sqrt(math.fsum((row * row).tolist()) * self._queries.squares[query])


def _chunks(count: int, length: int) -> Iterator[slice]:
    """Cut a number of vectors into what is read at once."""
    step = max(_READ_VALUES // max(length, 1), 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
