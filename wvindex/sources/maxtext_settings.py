"""MaxText's settings as they are stated, over the defaults of its ``base.yml``.

Names and defaults: https://github.com/AI-Hypercomputer/maxtext, ``configs/base.yml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wvindex.errors import MetadataError

BASE: Final[Mapping[str, Any]] = {
    "decoder_block": "llama2",
    "model_name": "default",
    "head_dim": 128,
    "mlp_activations": ["silu", "linear"],
    "vocab_size": 32000,
    "logits_via_embedding": False,
    "normalize_embedding_logits": True,
    "normalization_layer_epsilon": 1e-5,
    "param_scan_axis": 1,
    "mtp_num_layers": 0,
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "first_num_dense_layers": 0,
    "shared_experts": 0,
    "routed_scaling_factor": 1.0,
    "routed_score_func": "",
    "routed_bias": False,
    "n_routing_groups": -1,
    "topk_routing_group": -1,
    "sliding_window_size": 0,
    "attn_logits_soft_cap": 0.0,
    "final_logits_soft_cap": 0.0,
    "q_lora_rank": 0,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_type": "default",
    "rope_use_scale": True,
    "rope_linear_scaling_factor": 1.0,
    "rope_max_timescale": 10000,
    "max_position_embeddings": 163840,
    "original_max_position_embeddings": 4096,
    "rope_factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "rope_interleave": True,
    "rope_truncate": True,
    "rope_attention_scaling": False,
    "use_indexer": False,
}
"""``base.yml``, as far as it is mapped; sizes have no default here, and what must be neutral is elsewhere."""

ACTIVATIONS: Final = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
"""Of ``mlp_activations``; JAX's gelu is the approximation by tanh."""


class Settings:
    """Typed access to MaxText's settings, with its defaults.

    Parameters
    ----------
    raw : mapping
        As stated; null is a setting's default.
    file : Path
        Which errors name.
    """

    def __init__(self, raw: Mapping[str, Any], file: Path) -> None:
        given = {name: value for name, value in raw.items() if value is not None}
        self.raw: Mapping[str, Any] = {**BASE, **given}
        self.stated = frozenset(given)
        self.file = file

    def integer(self, name: str) -> int:
        """Give a whole number."""
        value = self.number(name)
        if value != int(value):
            raise self.error(name, "an integer", value)
        return int(value)

    def size(self, name: str, least: int = 1) -> int:
        """Give a whole number that is not less than `least`."""
        value = self.integer(name)
        if value < least:
            raise self.error(name, f"at least {least}", value)
        return value

    def number(self, name: str) -> float:
        """Give a finite number, which YAML may take for text."""
        value = self.raw.get(name)
        if isinstance(value, str) and "e" in value.lower():
            # YAML 1.1 takes 1e-6, without a point, for a string; MaxText does not.
            try:
                value = float(value)
            except ValueError:
                raise self.error(name, "a number", value) from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
            raise self.error(name, "a number", value)
        return value

    def flag(self, name: str) -> bool:
        """Give a truth value."""
        value = self.raw.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def text(self, name: str) -> str:
        """Give a string."""
        value = self.raw.get(name)
        if not isinstance(value, str):
            raise self.error(name, "a string", value)
        return value

    def activation(self) -> str:
        """Give Hugging Face's name of the gate's activation."""
        value = self.raw["mlp_activations"]
        gate = value[0] if isinstance(value, list) and len(value) == 2 and value[1] == "linear" else None
        if gate not in ACTIVATIONS:
            raise self.error("mlp_activations", f"[{' or '.join(ACTIVATIONS)}, linear]", value)
        return ACTIVATIONS[gate]

    def error(self, name: str, expected: str, found: object) -> MetadataError:
        """Give the error that a setting is not usable."""
        return MetadataError(
            "MaxText's configuration is not usable",
            file=self.file,
            field=name,
            expected=expected,
            found="nothing" if found is None else found,
        )
