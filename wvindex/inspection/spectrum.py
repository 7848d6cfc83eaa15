"""Singular values of a matrix: all of them, or the largest ones without ever holding it decoded.

The largest ones come from Lanczos's method (ARPACK, through SciPy) on ``W^T W``, whose product with a vector
takes one pass over the encoded tiles: ``tile^T (tile x)``, decoded once for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import SelectionError, UsageError
from wvindex.extras import install_hint
from wvindex.formats.blas import one_thread
from wvindex.inspection.scan import Parts, is_wide
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

Kind = Literal["top", "full"]

SMALL_SIDE: Final = 512
"""A matrix with no more rows or columns than this has all its singular values taken in any case."""

TOLERANCE: Final = 1e-6
"""Relative error that is allowed to the squares of the largest singular values."""

SPECTRUM: Final = ("stable_rank", "effective_rank", "spectral_norm", "singular_values")


@dataclass(frozen=True)
class Spectrum:
    """Singular values, and what they tell.

    Attributes
    ----------
    top : tuple of float
        The largest, falling.
    stable_rank : float
        ``||W||_F^2 / sigma_1^2``; NaN for zeros.
    effective_rank : float or None
        ``exp(-sum p log p)`` with ``p = sigma / sum(sigma)`` (Roy & Vetterli 2007); None where not all are
        known.
    """

    top: tuple[float, ...]
    stable_rank: float
    effective_rank: float | None

    def to_row(self) -> dict[str, Any]:
        """Give the columns `SPECTRUM`."""
        return {
            "stable_rank": self.stable_rank,
            "effective_rank": self.effective_rank,
            "spectral_norm": self.top[0] if self.top else math.nan,
            "singular_values": list(self.top),
        }


def spectrum(
    tensor: Tensor, sum_of_squares: float, kind: Kind = "top", *, top: int = 8, small: int = SMALL_SIDE
) -> Spectrum:
    """Find singular values of a finite matrix.

    Parameters
    ----------
    tensor : Tensor
    sum_of_squares : float
        Of all its values (`Moments.sum_of_squares`).
    kind : {"top", "full"}
        ``full`` decodes the whole matrix to float64, and its SVD takes the cube of the smaller side.
    top : int
        How many of the largest to give.
    small : int
        Up to this smaller side all are taken for ``top`` too.

    Raises
    ------
    SelectionError
        If it is no matrix.
    UsageError
        If `kind` or `top` is not one of these, or SciPy is not installed.
    """
    if tensor.ndim != 2:
        raise SelectionError("singular values are a matrix's", tensor=tensor.key, found=tensor.shape)
    if kind not in {"top", "full"} or top < 1:
        raise UsageError("no such spectrum", field="spectrum", expected="top or full", found=(kind, top))
    if not tensor.size:
        return Spectrum((), math.nan, None)
    if kind == "full" or min(tensor.shape) <= max(small, 2 * top):
        dtype = tensor.dtype if is_wide(tensor) else np.float32
        values = np.linalg.svd(np.asarray(tensor.read(dtype=dtype), np.float64), compute_uv=False)
        effective: float | None = _effective_rank(values)
    else:
        values, effective = _largest(tensor, top), None
    largest = float(values[0])
    stable = sum_of_squares / largest**2 if largest > 0 else math.nan
    return Spectrum(tuple(values[:top].tolist()), stable, effective)


def _effective_rank(values: NDArray[np.float64]) -> float:
    whole = values.sum()
    if not whole > 0:
        return math.nan
    share = values[values > 0] / whole
    return float(np.exp(-(share * np.log(share)).sum()))


def _largest(tensor: Tensor, top: int) -> NDArray[np.float64]:
    """Give the largest singular values, falling, by Lanczos's method."""
    linalg = _scipy_linalg()
    n = tensor.shape[1]

    def product(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return gram_product(tensor, x.reshape(-1))

    operator = linalg.LinearOperator((n, n), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n)  # the same values every time
    squares = linalg.eigsh(operator, k=top, which="LA", tol=TOLERANCE, v0=start, return_eigenvectors=False)
    values: NDArray[np.float64] = np.sqrt(np.maximum(np.sort(squares)[::-1], 0))
    return values


def gram_product(tensor: Tensor, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give ``W^T (W x)`` in one pass; products of a tile are float32, sums over tiles float64."""
    parts = Parts(lambda: np.zeros(tensor.shape[1]))
    vector: NDArray[Any] = x.astype(np.float64 if is_wide(tensor) else np.float32)

    def consume(first_row: int, values: Values) -> None:
        found = (values @ vector) @ values
        sums = parts.take()
        sums += found
        parts.give(sums)

    with one_thread():
        tensor.stream(consume)
    return sum(parts.all(), np.zeros(tensor.shape[1]))


def _scipy_linalg() -> Any:
    try:
        return import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise UsageError(
            f"the largest singular values need SciPy: {install_hint('scipy')}; or ask for all of them",
            field="spectrum",
        ) from error
