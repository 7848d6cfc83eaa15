"""Rotary embeddings worked out to plain numbers, from either form of Hugging Face's parameters.

The formulas are those of the papers, with the conventions of ``modeling_rope_utils`` in Hugging Face
transformers: linear interpolation (arXiv:2306.15595), YaRN (arXiv:2309.00071), LongRoPE
(arXiv:2402.13753), and Llama 3.1's frequency-dependent scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import Rope
from wvindex.arch.fields import Fields
from wvindex.limits import MAX_ROTARY_DIM

Frequencies = NDArray[np.float64]


def rope_fields(config: Fields, layer_type: str | None = None) -> Fields:
    """Give one flat parameter object for a layer type, whichever form the configuration has.

    Hub form: ``rope_theta`` and ``rope_scaling`` (``type`` or ``rope_type``) at the top level.
    Transformers 5: ``rope_parameters``, flat or nested by layer type.
    """
    shared = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    given = {name: config.raw[name] for name in shared if name in config}
    nested = config.child("rope_parameters") or config.child("rope_scaling")
    if nested is not None and layer_type is not None and isinstance(nested.raw.get(layer_type), Mapping):
        nested = nested.child(layer_type)
    if nested is None:
        return Fields({"rope_type": "default", **given}, config.file)
    rope_type = nested.raw.get("rope_type") or nested.raw.get("type") or "default"
    own = {name: value for name, value in nested.raw.items() if value is not None}
    return Fields({**given, **own, "rope_type": rope_type}, config.file, nested.where)


def rope(parameters: Fields, *, head_dim: int, max_positions: int | None, theta: float = 10000.0) -> Rope:
    """Work out frequencies and the cos/sin factor.

    Parameters
    ----------
    parameters : Fields
        As `rope_fields` gives them.
    head_dim : int
        Width of the part of a head that ``partial_rotary_factor`` refers to.
    max_positions : int or None
        ``max_position_embeddings``, for the types that use its ratio to the original context.
    theta : float
        Base where the parameters give none.

    Raises
    ------
    MetadataError
        If the type is unknown to the formulas, or a parameter is missing or impossible.
    """
    rope_type = parameters.text("rope_type", "default")
    base = parameters.positive("rope_theta", theta)
    fraction = parameters.positive("partial_rotary_factor", 1.0)
    rotary_dim = int(head_dim * min(fraction, 2.0) + 1e-6)
    if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > min(head_dim, MAX_ROTARY_DIM):
        expected = f"an even part of {head_dim} dimensions, at most {MAX_ROTARY_DIM}"
        raise parameters.error("partial_rotary_factor", expected, rotary_dim)
    build = _TYPES.get(rope_type)
    if build is None:
        raise parameters.error("rope_type", f"one of {', '.join(_TYPES)}", rope_type)
    with np.errstate(all="ignore"):  # what is not finite is refused below
        plain = base ** -(np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
        made = build(parameters, plain, base, max_positions)
    if not np.isfinite([*made.inv_freq, *(made.long_inv_freq or ())]).all():
        raise parameters.error("rope_type", "parameters that give finite frequencies", rope_type)
    if not 0 < made.attention_factor < math.inf:
        raise parameters.error("attention_factor", "a positive number", made.attention_factor)
    return made


def _rope(
    parameters: Fields,
    theta: float,
    inv_freq: Frequencies,
    attention_factor: float = 1.0,
    long_inv_freq: Frequencies | None = None,
) -> Rope:
    original = parameters.integer("original_max_position_embeddings") if long_inv_freq is not None else None
    return Rope(
        rope_type=parameters.text("rope_type", "default"),
        rope_theta=theta,
        rotary_dim=2 * inv_freq.size,
        inv_freq=_as_float32(inv_freq),
        attention_factor=attention_factor,
        long_inv_freq=_as_float32(long_inv_freq) if long_inv_freq is not None else None,
        original_max_position_embeddings=original,
    )


def _as_float32(values: Frequencies) -> tuple[float, ...]:
    """Round to float32, the precision that models are trained and run with."""
    return tuple(float(value) for value in values.astype(np.float32))


def _default(parameters: Fields, plain: Frequencies, theta: float, max_positions: int | None) -> Rope:
    return _rope(parameters, theta, plain)


def _linear(parameters: Fields, plain: Frequencies, theta: float, max_positions: int | None) -> Rope:
    return _rope(parameters, theta, plain / parameters.positive("factor"))


def _llama3(parameters: Fields, plain: Frequencies, theta: float, max_positions: int | None) -> Rope:
    factor = parameters.positive("factor")
    low, high = parameters.positive("low_freq_factor"), parameters.positive("high_freq_factor")
    original = _original_positions(parameters)
    turns = original * plain / (2 * math.pi)  # how often each dimension turns within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0) if high != low else (turns > high).astype(float)
    return _rope(parameters, theta, (1 - smooth) * plain / factor + smooth * plain)


def _yarn(parameters: Fields, plain: Frequencies, theta: float, max_positions: int | None) -> Rope:
    original = _original_positions(parameters)
    factor = _context_factor(parameters, original, max_positions)
    rotary_dim = 2 * plain.size

    if theta == 1:
        raise parameters.error("rope_theta", "another base than 1 for YaRN", theta)

    def dimension(name: str, default: float) -> float:
        """Give the (fractional) pair of dimensions that turns so often within the original context."""
        turns = parameters.positive(name, default)
        ratio = original / (turns * 2 * math.pi)
        if not 0 < ratio < math.inf:
            raise parameters.error(name, f"how often a dimension turns within {original} positions", turns)
        return rotary_dim * math.log(ratio) / (2 * math.log(theta))

    low, high = dimension("beta_fast", 32.0), dimension("beta_slow", 1.0)
    if parameters.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    ramp = np.clip((np.arange(plain.size) - low) / ((high - low) or 0.001), 0.0, 1.0)
    inv_freq = plain / factor * ramp + plain * (1 - ramp)
    return _rope(parameters, theta, inv_freq, _yarn_attention_factor(parameters, factor))


def _yarn_attention_factor(parameters: Fields, factor: float) -> float:
    given = parameters.number_or_none("attention_factor")
    if given is not None:
        return given
    mscale, all_dim = (yarn_mscale_field(parameters, name) for name in ("mscale", "mscale_all_dim"))
    if mscale and all_dim:
        return yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim)
    return yarn_mscale(factor, 1.0)


def yarn_mscale_field(parameters: Fields, name: str) -> float:
    """Read ``mscale`` or ``mscale_all_dim``; 0 where it is missing."""
    value = parameters.number(name, 0.0)
    if value < 0:
        raise parameters.error(name, "a number from 0", value)
    return value


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's attention temperature: 0.1 * mscale * ln(factor) + 1 (arXiv:2309.00071, equation 22)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(parameters: Fields, plain: Frequencies, theta: float, max_positions: int | None) -> Rope:
    original = _original_positions(parameters)
    factor = _context_factor(parameters, original, max_positions)
    attention_factor = parameters.number_or_none("attention_factor")
    if attention_factor is None:
        attention_factor = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = (_divided(parameters, plain, name) for name in ("short_factor", "long_factor"))
    return _rope(parameters, theta, short, attention_factor, long)


def _frequency_factors(
    parameters: Fields, plain: Frequencies, theta: float, max_positions: int | None
) -> Rope:
    """GGUF's ``rope_freqs.weight``: the scaling, worked out by the converter, as a divisor a dimension."""
    return _rope(parameters, theta, _divided(parameters, plain, "frequency_factors"))


def _divided(parameters: Fields, plain: Frequencies, name: str) -> Frequencies:
    factors = np.asarray(parameters.numbers(name), dtype=np.float64)
    if factors.shape != plain.shape or not (factors > 0).all():
        raise parameters.error(name, f"{plain.size} positive numbers", f"{factors.size} numbers")
    return plain / factors


def _original_positions(parameters: Fields) -> int:
    original = parameters.integer("original_max_position_embeddings")
    if original < 2:
        raise parameters.error("original_max_position_embeddings", "more than 1 position", original)
    return original


def _context_factor(parameters: Fields, original: int, max_positions: int | None) -> float:
    if "factor" in parameters:
        return parameters.positive("factor")
    if not max_positions:
        raise parameters.error("factor", "a factor, or max_position_embeddings to derive it", "neither")
    return max_positions / original


_TYPES: Final[dict[str, Callable[[Fields, Frequencies, float, int | None], Rope]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,  # LongRoPE's first name, in early Phi-3 configurations
    "frequency_factors": _frequency_factors,
}

KNOWN_TYPES: Final = frozenset(_TYPES)
"""Every ``rope_type`` that `rope` has a formula for."""
