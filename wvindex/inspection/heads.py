"""Attention head by head: norms of its projections, and of the products that it makes of them.

A head's scores are ``x_i^T (W_q^T W_k) x_j``, what it writes ``(W_o W_v) x_j``. The Frobenius norms of those
hidden x hidden products come from Gram matrices of head_dim x head_dim, as the trace is cyclic:
``||W_q^T W_k||^2 = <W_q W_q^T, W_k W_k^T>``. The products themselves are never made. Rotary
embedding, norms on queries and keys, and per-token factors (`row_scale`) are left aside: these are norms of
the stored matrices, or of those that stored factors of latent attention stand for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.blas import one_thread
from wvindex.inspection.factored import factor_grams, find_factors
from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import Parts, read_floats, scan, widened
from wvindex.query.database import Store
from wvindex.query.layers import Layer
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

PROJECTIONS: Final = ("q", "k", "v", "o")
_OUT: Final = "self_attn.o_proj.weight"
_OF_EACH: Final = ("l2", "absmax", "kurtosis")

HEAD: Final = (
    *("layer", "head", "kv_head", "qk_norm", "ov_norm"),
    *(f"{name}_{what}" for what in _OF_EACH for name in PROJECTIONS),
)


def head_projections(layer: Layer) -> dict[str, Tensor] | None:
    """Give a layer's q, k, v and o, where all are there, are matrices, and divide into heads; else None."""
    try:
        found = {name: layer[f"self_attn.{name}_proj.weight"] for name in PROJECTIONS}
    except KeyError:
        return None
    ok = all(tensor.heads and tensor.ndim == 2 and tensor.size for tensor in found.values())
    return found if ok else None


def head_tensors(db: Store, number: int) -> list[Tensor]:
    """Give what the heads of a layer are read from: its dense projections, or the factors of latent ones."""
    layer = db.layers[number]
    projections = head_projections(layer)
    if projections is not None:
        return list(projections.values())
    factors, out = find_factors(db, layer), _out_projection(layer)
    return [*factors.tensors, out] if factors and out and out.heads == factors.heads else []


def head_rows(db: Store, number: int) -> list[dict[str, Any]]:
    """Give a row for each query head of a layer: the columns `HEAD`; nothing where its attention is neither
    dense nor latent.

    Heads of keys and values that several query heads share stand in each of their rows. Where queries, keys
    and values are factors, their largest magnitude and kurtosis are left open: their values are not stored.
    """
    if not head_tensors(db, number):
        return []
    parts = _parts(db, db.layers[number])
    n_heads = len(parts["q"].grams)
    rows = []
    for head in range(n_heads):
        of = {name: head * len(part.grams) // n_heads for name, part in parts.items()}
        grams = {name: part.grams[of[name]] for name, part in parts.items()}
        row: dict[str, Any] = {
            "layer": number,
            "head": head,
            "kv_head": of["k"],
            "qk_norm": _product_norm(grams["q"], grams["k"]),
            "ov_norm": _product_norm(grams["o"], grams["v"]),
        }
        for name, part in parts.items():
            row |= {f"{name}_{what}": value for what, value in part.facts(of[name]).items()}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Part:
    """What is known of the heads of one projection; moments only where its values are stored."""

    grams: NDArray[np.float64]
    moments: list[Moments] | None = None

    def facts(self, head: int) -> dict[str, float]:
        if self.moments is not None:
            return {what: getattr(self.moments[head], what) for what in _OF_EACH}
        return {"l2": math.sqrt(max(float(np.trace(self.grams[head])), 0.0))}


def _parts(db: Store, layer: Layer) -> dict[str, _Part]:
    stored = head_projections(layer)
    factors = find_factors(db, layer) if stored is None else None
    found = {} if factors is None else {n: _Part(grams) for n, grams in factor_grams(factors).items()}
    if stored is None:
        stored = {"o": layer[_OUT]}
    return found | {name: _Part(head_grams(tensor), head_moments(tensor)) for name, tensor in stored.items()}


def _out_projection(layer: Layer) -> Tensor | None:
    try:
        out = layer[_OUT]
    except KeyError:
        return None
    return out if out.heads and out.ndim == 2 and out.size else None


def head_moments(tensor: Tensor) -> list[Moments]:
    """Take the moments of each head of a projection, in one pass."""
    count, by_rows = _division(tensor)
    seen = scan(tensor, rows_per_group=len(tensor) // count) if by_rows else scan(tensor, n_segments=count)
    return [Moments.of_state(state) for state in seen.states]


def head_grams(tensor: Tensor) -> NDArray[np.float64]:
    """Give each head's Gram matrix over its own dimensions: ``W W^T`` of its rows, ``W^T W`` of its columns.

    Returns
    -------
    array of float64, shape (heads, head_dim, head_dim)
    """
    count, by_rows = _division(tensor)
    if by_rows:
        return np.stack([_gram(tensor.head(i)) for i in range(count)])
    width = tensor.shape[-1] // count
    parts = Parts(lambda: np.zeros((count, width, width)))

    def consume(first_row: int, values: Values) -> None:
        heads = np.moveaxis(widened(values).reshape(-1, count, width), 0, 1)  # (heads, rows, width)
        sums = parts.take()
        with np.errstate(invalid="ignore", over="ignore"):  # infinity times zero, in a head that has one
            sums += heads.transpose(0, 2, 1) @ heads
        parts.give(sums)

    with one_thread():
        tensor.stream(consume)
    return sum(parts.all(), np.zeros((count, width, width)))


def _gram(head: Tensor) -> NDArray[np.float64]:
    values = widened(read_floats(head))
    with np.errstate(invalid="ignore", over="ignore"):
        product: NDArray[np.float64] = values @ values.T
    return product


def _division(tensor: Tensor) -> tuple[int, bool]:
    """Give the number of heads, and whether they divide rows (else columns)."""
    heads = tensor.spec.heads
    return (heads.count, heads.axis == 0) if heads else (1, True)


def _product_norm(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if one.shape != other.shape:
        return math.nan
    scales = [math.frexp(float(np.abs(gram).max()))[1] for gram in (one, other)]
    odd = sum(scales) % 2
    with np.errstate(all="ignore"):
        product = float(np.vdot(np.ldexp(one, odd - scales[0]), np.ldexp(other, -scales[1])))
        return float(np.ldexp(math.sqrt(max(product, 0.0)), (sum(scales) - odd) // 2))
