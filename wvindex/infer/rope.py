"""Rotary position embedding (RoFormer, arXiv:2104.09864), half-split, from plain numbers.

Which frequencies belong to which scaling (linear, Llama-3, YaRN, LongRoPE) is decided when the
configuration is read; here a `Rope` holds them ready.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import Rope
from wvindex.errors import MetadataError


class Rotary(NamedTuple):
    """Cosines and sines, (T, rotary_dim / 2) float32 each."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]


def uses_long_frequencies(rope: Rope, total_length: int) -> bool:
    """Whether a sequence of `total_length` tokens is past LongRoPE's threshold."""
    threshold = rope.original_max_position_embeddings
    return rope.long_inv_freq is not None and threshold is not None and total_length > threshold


def rotary_tables(rope: Rope, start: int, length: int) -> Rotary:
    """Give the cosines and sines of positions [start, start + length).

    The sequence then has ``start + length`` tokens; where that is past LongRoPE's threshold, all of
    these positions take the long frequencies, as transformers does for a whole forward call.

    Angles are float32 products, as transformers has them: at position 100,000 their rounding moves an
    angle by up to 0.004, so a more exact product would be another model. The cosine of the angle is
    then as exact as float32 can hold.

    Raises
    ------
    MetadataError
        If the number of frequencies is not half of `rotary_dim`.
    """
    frequencies = rope.inv_freq
    if uses_long_frequencies(rope, start + length) and rope.long_inv_freq is not None:
        frequencies = rope.long_inv_freq
    if 2 * len(frequencies) != rope.rotary_dim:
        raise MetadataError(
            "rope has another number of frequencies than half its rotary dimensions",
            field="rope.inv_freq",
            expected=rope.rotary_dim // 2,
            found=len(frequencies),
        )
    positions = np.arange(start, start + length).astype(np.float32)
    angles = np.outer(positions, np.array(frequencies, np.float32)).astype(np.float64)
    factor = np.float32(rope.attention_factor)
    return Rotary(np.cos(angles).astype(np.float32) * factor, np.sin(angles).astype(np.float32) * factor)


def apply_rotary(x: NDArray[np.float32], rotary: Rotary, head_dim: int) -> NDArray[np.float32]:
    """Rotate the leading dimensions of every head; dimension i pairs with i + rotary_dim / 2.

    Parameters
    ----------
    x : (T, heads * head_dim) float32
    rotary : Rotary
        Its width is half of the dimensions that are rotated; the rest of a head passes through.
    head_dim : int

    Returns
    -------
    (T, heads * head_dim) float32
        A new array.
    """
    half = rotary.cos.shape[1]
    heads = x.reshape(len(x), -1, head_dim)
    out = heads.copy()
    first, second = heads[..., :half], heads[..., half : 2 * half]
    cos, sin = rotary.cos[:, None, :], rotary.sin[:, None, :]
    out[..., :half] = first * cos - second * sin
    out[..., half : 2 * half] = second * cos + first * sin
    return out.reshape(x.shape)
