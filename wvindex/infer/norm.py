"""Root-mean-square layer normalization (Zhang and Sennrich, arXiv:1910.07467)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def inverse_rms(x: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """Give ``1 / sqrt(mean(x ** 2) + eps)`` over the last axis, which is kept with length 1."""
    mean_square: NDArray[np.float32] = np.mean(np.square(x), axis=-1, keepdims=True)
    inverse: NDArray[np.float32] = 1 / np.sqrt(mean_square + np.float32(eps))
    return inverse


def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, offset: float = 0.0
) -> NDArray[np.float32]:
    """Scale `x` to a root mean square of 1 along its last axis, then by ``weight + offset``.

    Parameters
    ----------
    x : (..., D) float32
    weight : (D,) float32
    eps : float
        Added to the mean square.
    offset : float
        1 for families that store their weights minus one (Gemma).

    Returns
    -------
    (..., D) float32
    """
    gain = weight + np.float32(offset) if offset else weight
    return x * inverse_rms(x, eps) * gain
