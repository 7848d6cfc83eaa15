"""WV3xx: norms, routers and rotary embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig, Rope
from wvindex.inspection.linting.model import Model
from wvindex.inspection.linting.places import listed
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.inspection.linting.rules.values import nonfinite_routers

HUGE: Final = 1e4
"""Effective norm weights of trained models reach some hundreds."""

MOST_NOT_POSITIVE: Final = 0.5


def _norms(model: Model) -> Iterator[tuple[str, NDArray[Any]]]:
    """Give the norms' effective weights: what the normed values are multiplied by."""
    for key, values in model.vectors.items():
        if key.endswith("norm.weight") and np.isfinite(values).all():
            yield key, values + model.config.norm_weight_offset


def norm_range(model: Model) -> Iterator[Found]:
    """Norms that silence, flip or blow up most of what they scale."""
    for key, weights in _norms(model):
        low = np.flatnonzero(weights <= 0)
        huge = np.flatnonzero(np.abs(weights) > HUGE)
        if huge.size:
            yield _found(key, weights, huge, f"beyond {HUGE:g}")
        elif low.size > MOST_NOT_POSITIVE * weights.size:
            yield _found(key, weights, low, "zero or negative")


def negative_norms(model: Model) -> Iterator[Found]:
    """Norms with some weights that are not positive."""
    for key, weights in _norms(model):
        low = np.flatnonzero(weights <= 0)
        if 0 < low.size <= MOST_NOT_POSITIVE * weights.size and np.abs(weights).max() <= HUGE:
            yield _found(key, weights, low, "zero or negative")


def _found(key: str, weights: NDArray[Any], where: NDArray[np.intp], how: str) -> Found:
    first = int(where[0])
    return Found(
        tensor=key,
        column=first,
        message=f"{where.size} of {weights.size} weights are {how}, from {weights.min():.4g} to "
        f"{weights.max():.4g}: {listed(where.tolist(), where.size)}",
        value=float(weights[first]),
        count=int(where.size),
        indices=tuple(where[:8].tolist()),
    )


def rope_context(model: Model) -> Iterator[Found]:
    """Rotary embedding that does not reach as far as the context is said to."""
    config = model.config
    for kind, rope in config.rope.items():
        reach = _context(config, kind)
        if reach is None:
            continue
        wavelength = _longest_wavelength(rope)
        if wavelength < reach:
            yield Found(
                message=f"the context is {reach} tokens, but the slowest rotary dimension ({kind}) comes "
                f"round after {wavelength:.0f}",
                value=wavelength,
            )
        original = rope.original_max_position_embeddings
        if (
            original is not None
            and config.max_position_embeddings
            and original > config.max_position_embeddings
        ):
            yield Found(
                message=f"the long factors hold beyond {original} tokens, but the context is "
                f"{config.max_position_embeddings}",
                value=original,
            )


def rope_layers(model: Model) -> Iterator[Found]:
    """Kinds of layers that lack a rotary embedding, or rotate more than a head has."""
    config = model.config
    for kind in dict.fromkeys(config.layer_types):
        if config.rope and kind not in config.rope:
            yield Found(message=f"layers of {kind} have no rotary embedding", value=kind)
    for name, rope in config.rope.items():
        if config.head_dim is not None and rope.rotary_dim > config.head_dim:
            yield Found(
                message=f"{rope.rotary_dim} dimensions are rotated ({name}), of heads {config.head_dim} wide",
                value=rope.rotary_dim,
            )


def _context(config: ModelConfig, kind: str) -> int | None:
    """Give how far attention of a kind looks."""
    if kind == "sliding_attention" and config.sliding_window:
        return min(config.sliding_window, config.max_position_embeddings or config.sliding_window)
    return config.max_position_embeddings


def _longest_wavelength(rope: Rope) -> float:
    frequencies = rope.long_inv_freq or rope.inv_freq
    slowest = min(frequencies, default=0.0)
    return 2 * math.pi / slowest if slowest > 0 else math.inf


RULES: Final = (
    Rule(
        id="WV301",
        name="norm-range",
        severity="warning",
        title="Norm weights out of range",
        help="More than half of a norm's weights are zero or negative, or one is beyond 10,000. Meant "
        "is what the normed values are multiplied by: 1 + w for Gemma, which stores w. Where all "
        "of Gemma's are off by one, a conversion added or subtracted it once too often.",
        find=norm_range,
    ),
    Rule(
        id="WV302",
        name="negative-norms",
        severity="info",
        title="Some norm weights are zero or negative",
        help="Trained models have a few. With 1 + w for Gemma.",
        find=negative_norms,
    ),
    Rule(
        id="WV303",
        name="nonfinite-router",
        severity="error",
        title="NaN or infinity in a router, or in its correction bias",
        help="Which experts are chosen is then undefined: comparisons with NaN are false, and the same "
        "few experts, or none, are taken for every token.",
        find=nonfinite_routers,
    ),
    Rule(
        id="WV304",
        name="rope-context",
        severity="warning",
        title="Rotary embedding does not reach as far as the context",
        help="The slowest dimension must not come round within the context (within the window, of "
        "layers that slide): distances beyond its wavelength look like near ones. "
        "`max_position_embeddings` was raised without a larger `rope_theta` or a scaling, or a "
        "scaling was lost.",
        find=rope_context,
        reads_weights=False,
    ),
    Rule(
        id="WV305",
        name="rope-layers",
        severity="error",
        title="Layers without a rotary embedding, or more rotated dimensions than a head has",
        help="The configuration's rotary parameters and its layers do not belong together; the model "
        "cannot run.",
        find=rope_layers,
        reads_weights=False,
    ),
)
