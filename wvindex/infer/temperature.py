"""Queries that sharpen with their position, in steps: Llama 4's and Mistral 4's temperature tuning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wvindex.infer.layout import Dimensions


def query_temperature(dims: Dimensions, start: int, length: int) -> NDArray[np.float32] | None:
    """Give what the queries at positions [start, start + length) are multiplied by.

    ``1 + attn_temperature_scale * log(1 + floor(position / attn_temperature_length))``, as transformers'
    Llama 4 and Mistral 4 have it.

    Returns
    -------
    (length, 1) float32, or None
        None where the model has no such temperature.
    """
    if not dims.attn_temperature_scale or not dims.attn_temperature_length:
        return None
    steps = np.arange(start, start + length) // dims.attn_temperature_length
    factors = 1 + dims.attn_temperature_scale * np.log1p(steps.astype(np.float64))
    return factors.astype(np.float32)[:, None]
