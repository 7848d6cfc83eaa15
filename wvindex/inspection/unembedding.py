"""``Store.tokens``: what a vector of the residual stream says through the unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import NonFiniteWeights, UsageError
from wvindex.infer.layout import head_key
from wvindex.inspection.asking import EVIDENCE, advance_of, count, left_out, query_vectors, spelling
from wvindex.inspection.candidates import Hit
from wvindex.inspection.progress import Progress
from wvindex.inspection.residual import hidden_size, norm_gain, side_of
from wvindex.inspection.search import Field, Found, search
from wvindex.inspection.table import Table
from wvindex.query.database import Store

TOKENS: Final = ("end", "rank", "token", "text", "logit")

NORM: Final = "model.norm.weight"


class Said(NamedTuple):
    """A token, and its product with a vector."""

    token: int
    text: str | None
    logit: float


class Unembedding:
    """The matrix that makes logits, with the final norm's weight before it.

    Parameters
    ----------
    db : Store
    norm : bool
        Whether to fold in the final norm's weight.

    Attributes
    ----------
    notes : list of str
        What whoever reads logits of it should know.

    Raises
    ------
    KeyNotFound
        If the store has no unembedding; UsageError if it has no final norm, and that was asked for.
    """

    def __init__(self, db: Store, *, norm: bool) -> None:
        if norm and NORM not in db:
            raise UsageError("there is no final norm to fold in", tensor=NORM, expected="norm=False")
        tensor = db[head_key(db)]
        self.hidden = hidden_size(db)
        self.field = Field(tensor, side_of(tensor, self.hidden))
        self._gain = norm_gain(db, NORM) if norm else np.ones(self.hidden)
        self._text, problem = spelling(db)
        formula = "W_U · (γ ⊙ v), γ the final norm's weight, without its RMS" if norm else "W_U · v, no norm"
        self.notes = [f"logits are {formula}; W_U is {tensor.key}", *problem, *_caps(db)]

    def says(
        self, vectors: NDArray[np.float64], k: int, progress: Progress | None = None
    ) -> tuple[list[list[Said]], Found]:
        """Give the k tokens with the highest logits for each vector, (n, hidden_size), best first.

        Raises
        ------
        NonFiniteWeights
            If the norm's weight makes them NaN or infinite.
        """
        directions = vectors * self._gain
        if not np.isfinite(directions).all():
            raise NonFiniteWeights("a vector times the final norm's weight is NaN or infinite", tensor=NORM)
        found = search([self.field], directions, k, "dot", advance_of([self.field], progress))
        return [[self._said(hit) for hit in hits] for hits in found.hits], found

    def _said(self, hit: Hit) -> Said:
        return Said(hit.vector, self._text(hit.vector), hit.score)


def tokens(
    db: Store,
    vector: NDArray[Any],
    k: int = 10,
    *,
    norm: bool = True,
    progress: Progress | None = None,
) -> Table:
    """Give the tokens at both ends of a vector's logits: see `Store.tokens`."""
    k = count("k", k)
    unembedding = Unembedding(db, norm=norm)
    vectors = query_vectors(vector, unembedding.hidden)
    said, found = unembedding.says(np.concatenate((vectors, -vectors)), k, progress)
    many = np.ndim(vector) > 1
    n = len(vectors)
    rows: list[dict[str, Any]] = []
    for query in range(n):
        start: dict[str, Any] = {"query": query} if many else {}
        rows += _rows(start | {"end": "top"}, said[query], 1)
        rows += _rows(start | {"end": "bottom"}, said[n + query], -1)
    columns = ("query", *TOKENS) if many else TOKENS
    return Table.of_dicts("tokens", columns, rows, (EVIDENCE, *unembedding.notes, *left_out(found)))


def _rows(start: dict[str, Any], said: Sequence[Said], sign: int) -> list[dict[str, Any]]:
    return [
        start | {"rank": rank, "token": one.token, "text": one.text, "logit": sign * one.logit + 0.0}
        for rank, one in enumerate(said, 1)
    ]


def _caps(db: Store) -> list[str]:
    cap, factor = db.config.final_logit_softcapping, db.config.logits_multiplier
    notes = (
        []
        if cap is None
        else [f"the model caps logits, {cap:g} · tanh(x / {cap:g}), which keeps their order"]
    )
    return notes + ([] if factor == 1 else [f"the model multiplies logits by {factor:g}, which is left out"])
