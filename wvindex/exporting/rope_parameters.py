"""Rotary parameters between the two ways of saying them: formulas in config.json, factors in GGUF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import Rope
from wvindex.arch.fields import Fields
from wvindex.arch.rope import rope, rope_fields
from wvindex.errors import UnsupportedError, WvindexError
from wvindex.exporting.held import Held

FULL: Final = "full_attention"

_CONTEXTS: Final = tuple(1 << power for power in range(4, 22))
_TURNS: Final = (1.0, 4.0)
"""Turns within the original context between which Llama 3.1 blends; every published model has these."""

_TOLERANCE: Final = 2e-6


def hub_fields(held: Held) -> Fields:
    """Give a Hugging Face configuration, a multimodal one's part for language."""
    fields = Fields(held.source_config, Path(held.name))
    return fields.child("text_config") or fields


def stated_rope(held: Held) -> Mapping[str, Any]:
    """Give the parameters of a Hugging Face configuration for layers of full attention."""
    return rope_fields(hub_fields(held), FULL).raw


def rope_tensors(held: Held) -> dict[str, Sequence[float]]:
    """Give the factors that GGUF keeps as tensors: Llama 3's and LongRoPE's."""
    found = held.config.rope.get(FULL)
    if found is None:
        return {}
    if found.rope_type == "llama3":
        factors = _plain(found) / np.asarray(found.inv_freq, np.float64)
        return {"rope_freqs.weight": factors.tolist()}
    if found.long_inv_freq is not None:
        stated = stated_rope(held)
        return {
            "rope_factors_long.weight": stated["long_factor"],
            "rope_factors_short.weight": stated["short_factor"],
        }
    return {}


def llama3_scaling(found: Rope, head_dim: int) -> dict[str, Any]:
    """Find the ``rope_scaling`` of Llama 3.1 whose frequencies these are.

    Raises
    ------
    UnsupportedError
        If there is none: config.json has no other way to say factors.
    """
    factors = _plain(found) / np.asarray(found.inv_freq, np.float64)
    factor = round(float(factors.max()), 4)
    for context in _CONTEXTS:
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": _TURNS[0],
            "high_freq_factor": _TURNS[1],
            "original_max_position_embeddings": context,
        }
        stated = {
            **scaling,
            "rope_theta": found.rope_theta,
            "partial_rotary_factor": found.rotary_dim / head_dim,
        }
        try:
            made = rope(Fields(stated, Path()), head_dim=head_dim, max_positions=None)
        except WvindexError:
            continue
        if all(
            math.isclose(a, b, rel_tol=_TOLERANCE) for a, b in zip(made.inv_freq, found.inv_freq, strict=True)
        ):
            return scaling
    raise UnsupportedError(
        "config.json has no formula for the rotary factors of this file",
        field="rope_scaling",
        expected="those of Llama 3.1",
        found=f"factors up to {factor:g}",
    )


def _plain(found: Rope) -> NDArray[np.float64]:
    return found.rope_theta ** -(np.arange(0, found.rotary_dim, 2, dtype=np.float64) / found.rotary_dim)
