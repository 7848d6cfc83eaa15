"""Experts of a stack: their statistics, which are dead, and which are nearly the same as another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import is_wide, read_floats, scan
from wvindex.inspection.tensor_stats import MOMENTS, moments_row, place
from wvindex.query.lazy import Tensor

DUPLICATE: Final = 0.99
"""Cosine from which two experts are called near-duplicates."""

DEAD: Final = 1e-3
"""An expert is called dead where its norm is below this share of the median expert's, or is zero."""

BLOCK_VALUES: Final = 4 << 20
"""Values of all experts together that are held at once: 16 MiB."""

_LARGEST: Final = {False: 126, True: 1022}
"""Powers of two up to which float32, and float64, hold both the power and its inverse exactly."""

_LEAST_NORM: Final = 1e-140
"""Below, squares in float64 lose digits."""

EXPERT: Final = (
    *("key", "layer", "role", "expert", *MOMENTS),
    *("norm_ratio", "dead", "nearest", "cosine", "duplicate"),
)


def expert_rows(stack: Tensor) -> list[dict[str, Any]]:
    """Give a row for each expert of a stack, in two passes: the columns `EXPERT`."""
    count = len(stack)
    states = scan(stack, rows_per_group=max(math.prod(stack.shape[1:-1]), 1)).states
    moments = [Moments.of_state(state) for state in states]
    exponents = [_exponent(one, _LARGEST[is_wide(stack)]) for one in moments]
    products = expert_products(stack, exponents)
    ratios = _norm_ratios(moments, products, exponents)
    cosine = cosines(products)
    np.fill_diagonal(cosine, -np.inf)
    rows = []
    for i, one in enumerate(moments):
        nearest = int(np.argmax(np.where(np.isnan(cosine[i]), -np.inf, cosine[i]))) if count > 1 else None
        near = float(cosine[i, nearest]) if nearest is not None else math.nan
        known = math.isfinite(near)
        row = place(stack) | {"expert": i} | moments_row(one)
        row |= {
            "norm_ratio": float(ratios[i]),
            "dead": one.finite == one.count and bool(ratios[i] <= DEAD or not one.absmax > 0),
            "nearest": nearest if known else None,
            "cosine": near if known else math.nan,
            "duplicate": known and near >= DUPLICATE,
        }
        rows.append(row)
    return rows


def _exponent(moments: Moments, largest: int) -> int:
    """Give the power of two that is above all finite magnitudes; 0 where there are none but zero."""
    return min(max(math.frexp(moments.absmax)[1], -largest), largest) if moments.absmax > 0 else 0


def _norm_ratios(
    moments: Sequence[Moments], products: NDArray[np.float64], exponents: Sequence[int]
) -> NDArray[np.float64]:
    """Give each expert's norm over the median one's; NaN where that is zero.

    Norms are those of moments, unless float64 does not hold their squares.
    """
    norms = np.array([one.l2 for one in moments])
    if any(one.absmax > 0 and not _LEAST_NORM < one.l2 < math.inf for one in moments):
        with np.errstate(under="ignore"):
            norms = np.ldexp(np.sqrt(np.diag(products)), np.array(exponents) - max(exponents))
    finite = norms[np.isfinite(norms)]
    median = float(np.median(finite)) if finite.size else 0.0
    with np.errstate(over="ignore"):
        return norms / median if median > 0 else np.full(len(norms), math.nan)


def expert_products(stack: Tensor, exponents: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Give the inner products of all pairs of experts, each taken as one vector.

    Blocks of a few rows of every expert are multiplied in float32 (float64 weights in float64) and summed in
    float64: the error of a cosine is about 1e-6. NaN and infinity spread to the experts that hold them.

    Parameters
    ----------
    stack : Tensor
    exponents : sequence of int, optional
        Powers of two that experts are divided by, so that no product leaves float32; 0 by default.

    Returns
    -------
    array of float64, shape (experts, experts)
    """
    count, n_rows = len(stack), stack.shape[1]
    products = np.zeros((count, count))
    factors = np.ldexp(1.0, [-e for e in exponents or [0] * count])[:, None]
    step = max(BLOCK_VALUES // max(count * math.prod(stack.shape[2:]), 1), 1)
    experts = [stack.expert(e) for e in range(count)]
    for start in range(0, n_rows, step):
        rows = (start, min(start + step, n_rows))
        block: NDArray[Any] = np.stack([read_floats(one, rows).reshape(-1) for one in experts])
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            block *= factors.astype(block.dtype)
            products += block @ block.T
    return products


def cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give cosines from inner products; NaN beside a vector that is zero or not finite."""
    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.clip(products / np.outer(norms, norms), -1.0, 1.0)
    return found
