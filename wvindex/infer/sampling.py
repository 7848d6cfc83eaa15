"""Choosing the next token from a row of logits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UsageError


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is negative or not finite."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(
            "temperature is out of range", field="temperature", expected="0 or more", found=temperature
        )


def sample(logits: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    """Draw a token from ``softmax(logits / temperature)``; at temperature 0 take the largest logit.

    Parameters
    ----------
    logits : (vocab_size,) float32
    temperature : float
    rng : numpy.random.Generator

    Returns
    -------
    int
    """
    check_temperature(temperature)
    if temperature == 0:
        return int(np.argmax(logits))
    scores = logits.astype(np.float64)
    weights = np.exp((scores - scores.max()) / temperature)
    return int(rng.choice(len(weights), p=weights / weights.sum()))
