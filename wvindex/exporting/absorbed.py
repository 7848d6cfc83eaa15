"""The dense arrays of absorbed attention as a checkpoint of their own kind.

Nothing else computes what they say, for the norms between the factors are left in `row_scale`: so the result
names no architecture that others know, and its tensors keep the store's keys.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from wvindex.arch.keys import split_layer
from wvindex.errors import UnsupportedError
from wvindex.exporting.held import Held
from wvindex.exporting.rows import ScaleRows
from wvindex.exporting.tensors import OutTensor
from wvindex.formats.encodings import F32
from wvindex.transform.mla_plan import FACTORS
from wvindex.transform.scales import SUFFIX

MODEL_TYPE: Final = "wvindex_absorbed"
BLOCK: Final = "wvindex_absorbed"
_FORMAT: Final = 1

_ABSORBED: Final = "absorb_mla"
_DENSE: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.latent_proj")


def has_dense(held: Held) -> bool:
    """Whether absorbed attention is held."""
    return any(_ABSORBED in spec.transforms for spec in held.specs)


def has_factors(held: Held) -> bool:
    """Whether everything that is needed to make factors again is held; so for models without any."""
    return held.config.mla is None or any(
        split_layer(spec.key)[1].startswith("self_attn.kv_a_proj_with_mqa.") for spec in held.specs
    )


def dense_tensors(held: Held) -> list[OutTensor]:
    """Give the arrays of the dense form under their keys; factors that are held besides are left out."""
    tensors = []
    for rows in held.arrays.values():
        spec = rows.spec
        if _is_factor(spec.key):
            continue
        tensors.append(OutTensor(spec.key, spec.shape, rows))
        if spec.encoding.scale_block is not None:
            scales = ScaleRows(rows, F32)
            shape = (*spec.shape[:-2], scales.n_rows // max(spec.n_matrices, 1), scales.row_values)
            tensors.append(OutTensor(f"{spec.key}{SUFFIX}", shape, scales, scales_of=spec.key))
    return tensors


def _is_factor(key: str) -> bool:
    module = split_layer(key)[1].rpartition(".")[0]
    return module in FACTORS and module not in _DENSE


def absorbed_block(held: Held) -> dict[str, Any]:
    """Give what says how to compute with dense arrays: the model as plain numbers, and every row scale."""
    return {
        "format": _FORMAT,
        "source_model_type": held.config.model_type,
        "config": held.config.to_json(),
        "scale_block": {
            spec.key: list(spec.encoding.scale_block)
            for spec in held.specs
            if spec.encoding.scale_block is not None and not _is_factor(spec.key)
        },
        "row_scale": {spec.key: asdict(spec.row_scale) for spec in held.specs if spec.row_scale is not None},
    }


def absorbed_config(held: Held) -> dict[str, Any]:
    """Give a config.json that does not pretend to be the original architecture."""
    return {
        "architectures": ["WvindexAbsorbedForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": held.config.vocab_size,
        BLOCK: absorbed_block(held),
    }


def require_dense(held: Held) -> None:
    """Refuse to export a form that is not held.

    Raises
    ------
    UnsupportedError
    """
    if not has_dense(held):
        raise UnsupportedError(
            "the store holds no absorbed attention: build with mla='absorb' or 'both'"
            if held.config.mla is not None
            else "this model has no latent attention to absorb",
            file=held.name,
            field="mla",
            expected="dense projections",
            found="factors" if held.config.mla is not None else held.config.model_type,
        )


def require_factors(held: Held) -> None:
    """Refuse to export factors that were multiplied out.

    Raises
    ------
    UnsupportedError
    """
    if not has_factors(held):
        raise UnsupportedError(
            "the store holds the absorbed form alone: a product does not say which factors it is of, so they "
            "cannot be exported. Build with mla='keep' or 'both'",
            file=held.name,
            field="mla",
            expected="factors of latent attention",
            found="dense projections",
        )
