"""Singular values of a matrix: all of them, or the largest ones without ever holding it decoded.

The largest ones come from Lanczos's method (ARPACK, through SciPy) on ``W^T W``, whose product with a vector
takes one pass over the encoded tiles: ``tile^T (tile x)``, decoded once for both. Products are float32, which
leaves singular values below about 1e-3 of the largest to rounding; where that keeps the method from
converging, they are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import SelectionError, SpectrumNotFound, UsageError
from wvindex.extras import install_hint
from wvindex.formats.blas import one_thread
from wvindex.inspection.moments import Moments
from wvindex.inspection.scan import Parts, is_wide
from wvindex.query.lazy import Tensor
from wvindex.query.stream import Values

Kind = Literal["top", "full"]

SMALL_SIDE: Final = 512
"""A matrix with no more rows or columns than this has all its singular values taken in any case."""

TOLERANCE: Final = 1e-6
"""Relative error that is allowed to the squares of the largest singular values."""

_UNSCALED: Final = 20
"""Largest magnitudes within 2**-20 to 2**20 need no scale: squares of such values, and their sums, are far
from where float32 ends."""

_FULL_VALUES: Final = 32 << 20
"""Values of a matrix that is decoded where Lanczos's method fails: 256 MiB of float64, and as much again."""

SPECTRUM: Final = ("stable_rank", "effective_rank", "spectral_norm", "singular_values")


@dataclass(frozen=True)
class Spectrum:
    """Singular values, and what they tell.

    Attributes
    ----------
    top : tuple of float
        The largest, falling.
    stable_rank : float
        ``(||W||_F / sigma_1)^2``, which is 1 or more; NaN for zeros.
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
    tensor: Tensor, moments: Moments, kind: Kind = "top", *, top: int = 8, small: int = SMALL_SIDE
) -> Spectrum:
    """Find singular values of a finite matrix.

    Parameters
    ----------
    tensor : Tensor
    moments : Moments
        Of all its values.
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
    SpectrumNotFound
        If no method finds them within memory.
    UsageError
        If `kind` or `top` is not one of these, or SciPy is not installed.
    """
    if tensor.ndim != 2:
        raise SelectionError("singular values are a matrix's", tensor=tensor.key, found=tensor.shape)
    if kind not in {"top", "full"} or top < 1:
        raise UsageError("no such spectrum", field="spectrum", expected="top or full", found=(kind, top))
    if not tensor.size:
        return Spectrum((), math.nan, None)
    side = min(tensor.shape)
    if kind == "full" or side <= max(small, 2 * top):
        return _of_all(_svd(tensor), top)
    if not moments.absmax:
        return Spectrum((0.0,) * top, math.nan, None)
    values = _largest(tensor, top, _exponent(moments.absmax))
    if values is None:
        return replace(_of_all(_svd(tensor), top), effective_rank=None)
    largest = float(values[0])
    exponent = _exponent(moments.absmax)
    l2 = _l2(tensor, exponent) if exponent and is_wide(tensor) else moments.l2
    return Spectrum(tuple(values.tolist()), _stable_rank(l2 / largest), None)


def _of_all(values: NDArray[np.float64], top: int) -> Spectrum:
    """Tell the ranks from all singular values, falling, as shares of the largest: no square overflows."""
    largest = values[0]
    first = tuple(values[:top].tolist())
    if not largest > 0:
        return Spectrum(first, math.nan, math.nan)
    shares = values / largest
    return Spectrum(first, _stable_rank(float(np.linalg.norm(shares))), _effective_rank(shares))


def _stable_rank(ratio: float) -> float:
    """Square the Frobenius norm over the largest singular value, which it never is below but by rounding."""
    return max(ratio**2, 1.0)


def _effective_rank(values: NDArray[np.float64]) -> float:
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _svd(tensor: Tensor) -> NDArray[np.float64]:
    dtype = tensor.dtype if is_wide(tensor) else np.float32
    values: NDArray[np.float64] = np.linalg.svd(
        np.asarray(tensor.read(dtype=dtype), np.float64), compute_uv=False
    )
    return values


def _exponent(absmax: float) -> int:
    """Give the power of two that values are divided by, so that their products stay within float32."""
    exponent = math.frexp(absmax)[1]
    return exponent if abs(exponent) > _UNSCALED else 0


def _largest(tensor: Tensor, top: int, exponent: int) -> NDArray[np.float64] | None:
    """Give the largest singular values, falling, by Lanczos's method; None where all are to be taken.

    Rounding of float32 makes an operator that is not quite symmetric. Where little but rounding is left
    beside the first few values, that keeps the method from converging: then products are float64.

    Raises
    ------
    SpectrumNotFound
        If it does not converge with those either, and the matrix is too large to be decoded.
    """
    linalg = _scipy_linalg()
    n = tensor.shape[1]
    start = np.random.default_rng(0).standard_normal(n)  # the same values every time
    for precise in (False, True):

        def product(x: NDArray[np.float64], precise: bool = precise) -> NDArray[np.float64]:
            return gram_product(tensor, x.reshape(-1), exponent=exponent, precise=precise)

        operator = linalg.LinearOperator((n, n), matvec=product, dtype=np.float64)
        try:
            squares = linalg.eigsh(
                operator, k=top, which="LA", tol=TOLERANCE, v0=start, return_eigenvectors=False
            )
        except linalg.ArpackError:
            continue
        values = np.sqrt(np.maximum(np.sort(squares)[::-1], 0))
        if values[0] > 0:
            with np.errstate(over="ignore"):  # beyond float64 is infinite
                scaled: NDArray[np.float64] = np.ldexp(values, exponent)
            return scaled
    if tensor.size <= _FULL_VALUES:
        return None
    raise SpectrumNotFound(
        "the largest singular values are not found, and there are too many weights to take all",
        tensor=tensor.key,
        expected=f"at most {_FULL_VALUES}",
        found=tensor.size,
    )


def gram_product(
    tensor: Tensor, x: NDArray[np.float64], *, exponent: int = 0, precise: bool = False
) -> NDArray[np.float64]:
    """Give ``V^T (V x)`` with ``V = W / 2**exponent`` in one pass; sums over tiles are float64.

    Products of a tile are float32, unless the values are wider, or `precise`.
    """
    parts = Parts(lambda: np.zeros(tensor.shape[1]))
    dtype = np.float64 if precise or is_wide(tensor) else np.float32
    vector: NDArray[Any] = x.astype(dtype)

    def consume(first_row: int, values: Values) -> None:
        tile: NDArray[Any] = values.astype(dtype, copy=False)
        if exponent:
            tile = np.ldexp(tile, -exponent)
        found = (tile @ vector) @ tile
        sums = parts.take()
        sums += found
        parts.give(sums)

    with one_thread():
        tensor.stream(consume)
    return sum(parts.all(), np.zeros(tensor.shape[1]))


def _l2(tensor: Tensor, exponent: int) -> float:
    """Give the Frobenius norm of values whose squares are beyond float64."""
    parts = Parts(lambda: np.zeros(1))

    def consume(first_row: int, values: Values) -> None:
        flat = np.ldexp(values.astype(np.float64, copy=False).reshape(-1), -exponent)
        sums = parts.take()
        sums += flat @ flat
        parts.give(sums)

    with one_thread():
        tensor.stream(consume)
    root = math.sqrt(sum(float(part[0]) for part in parts.all()))
    with np.errstate(over="ignore"):
        return float(np.ldexp(root, exponent))


def _scipy_linalg() -> Any:
    try:
        return import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise UsageError(
            f"the largest singular values need SciPy: {install_hint('scipy')}; or ask for all of them",
            field="spectrum",
        ) from error
