"""Experts of a stack: their statistics, which are dead, and which are nearly the same as another."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import scan
from wvindex.inspection.tensor_stats import MOMENTS, moments_row, place
from wvindex.query.lazy import Tensor

DUPLICATE: Final = 0.99
"""Cosine from which two experts are called near-duplicates."""

DEAD: Final = 1e-3
"""An expert is called dead where its norm is below this share of the median expert's, or is zero."""

BLOCK_VALUES: Final = 4 << 20
"""Values of all experts together that are held at once: 16 MiB."""

EXPERT: Final = (
    *("key", "layer", "role", "expert", *MOMENTS),
    *("norm_ratio", "dead", "nearest", "cosine", "duplicate"),
)


def expert_rows(stack: Tensor) -> list[dict[str, Any]]:
    """Give a row for each expert of a stack, in two passes: the columns `EXPERT`."""
    count = len(stack)
    states = scan(stack, rows_per_group=max(math.prod(stack.shape[1:-1]), 1)).states
    moments = [Moments.of_state(state) for state in states]
    median = float(np.median([m.l2 for m in moments])) if moments else 0.0
    cosine = cosines(expert_products(stack))
    np.fill_diagonal(cosine, -np.inf)
    rows = []
    for i, one in enumerate(moments):
        nearest = int(np.argmax(np.where(np.isnan(cosine[i]), -np.inf, cosine[i]))) if count > 1 else None
        near = float(cosine[i, nearest]) if nearest is not None else math.nan
        known = math.isfinite(near)
        row = place(stack) | {"expert": i} | moments_row(one)
        row |= {
            "norm_ratio": one.l2 / median if median > 0 else math.nan,
            "dead": one.l2 <= DEAD * median or one.l2 == 0,
            "nearest": nearest if known else None,
            "cosine": near if known else math.nan,
            "duplicate": known and near >= DUPLICATE,
        }
        rows.append(row)
    return rows


def expert_products(stack: Tensor) -> NDArray[np.float64]:
    """Give the inner products of all pairs of experts, each taken as one vector.

    Blocks of a few rows of every expert are multiplied in float32 and summed in float64: the error of a
    cosine is about 1e-6. NaN and infinity spread to the experts that hold them.

    Returns
    -------
    array of float64, shape (experts, experts)
    """
    count, n_rows = len(stack), stack.shape[1]
    products = np.zeros((count, count))
    step = max(BLOCK_VALUES // max(count * math.prod(stack.shape[2:]), 1), 1)
    experts = [stack.expert(e) for e in range(count)]
    for start in range(0, n_rows, step):
        rows = (start, min(start + step, n_rows))
        block = np.stack([one.read(rows=rows, dtype=np.float32).reshape(-1) for one in experts])
        with np.errstate(invalid="ignore", over="ignore"):
            products += block @ block.T
    return products


def cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give cosines from inner products; NaN beside a vector that is zero or not finite."""
    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = products / np.outer(norms, norms)
    return found
