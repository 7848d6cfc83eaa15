"""Standard keys: Hugging Face's Llama-style names, and what GGUF calls the same tensors.

The GGUF names come from the ``gguf`` package's TensorNameMap; there is no second table of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Final

IN_A_LAYER: Final = "model.layers."
"""Before a layer's number and a dot; the rest of a key may be anything: also a tensor's own name."""

_NUMBER: Final = re.compile(r"0|[1-9]\d*", re.ASCII)

GGUF_LAYER: Final = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(.+)", re.ASCII)

ROOT_MODULES: Final = ("model.embed_tokens", "model.norm", "lm_head")

EXPERT_MODULES: Final = tuple(f"mlp.experts.{name}_proj" for name in ("gate", "up", "down"))

LAYER_MODULES: Final = (
    "input_layernorm",
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
    *(f"self_attn.{name}" for name in ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa")),
    *(f"self_attn.{name}" for name in ("kv_a_layernorm", "kv_b_proj", "k_b_proj", "v_b_proj")),
    *(f"self_attn.indexer.{name}" for name in ("wq_b", "wk", "k_norm", "weights_proj")),
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "mlp.gate",
    *EXPERT_MODULES,
    *(f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")),
    # The multi-token-prediction layer of DeepSeek-V3 has these besides.
    *("enorm", "hnorm", "eh_proj", "embed_tokens", "shared_head.norm", "shared_head.head"),
)
"""Modules of a layer that have standard keys, in the order in which listings show them."""

LATENT_DOWN: Final = ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa")
"""The two down-projections of latent attention, in the order in which their rows stand when fused."""

FUSED_LATENT: Final = "self_attn.fused_qkv_a_proj"
"""Module of both down-projections as one matrix, rows q_lora_rank | kv_lora_rank | qk_rope_head_dim."""

FUSED_LATENT_NAMES: Final = (f"{FUSED_LATENT}_with_mqa", FUSED_LATENT)
"""What checkpoints call it: SGLang's parameter, and vLLM's."""

CORRECTION_BIAS: Final = "mlp.gate.e_score_correction_bias"

SINKS: Final = "self_attn.sinks"

PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    CORRECTION_BIAS: ("mlp.gate.e_score_correction", "bias"),
    SINKS: ("self_attn.sinks", "weight"),
}
"""Roles of tensors that are no module's weight or bias; TensorNameMap's name for them, and what GGUF adds."""

STANDARD_ROLES: Final = frozenset(
    {f"{module}.{kind}" for module in LAYER_MODULES for kind in ("weight", "bias")} | set(PARAMETERS)
)
"""Everything that may stand after ``model.layers.N.`` in a standard key."""

STANDARD_ROOTS: Final = frozenset(
    f"{module}.{kind}" for module in ROOT_MODULES for kind in ("weight", "bias")
)
"""Standard keys outside the layers."""


SAME_NAMES: Final[Mapping[str, str]] = {"deepseek32": "glm-dsa"}
"""Architectures that the package's release may lack, and one that has the same names for the same tensors."""


def split_layer(key: str) -> tuple[int | None, str]:
    """Split ``model.layers.N.role`` into (N, role); (None, key) for anything else."""
    if key.startswith(IN_A_LAYER):
        number, _, role = key[len(IN_A_LAYER) :].partition(".")
        layer = _layer_number(number)
        if role and layer is not None:
            return layer, role
    return None, key


@lru_cache(maxsize=1 << 10)
def _layer_number(text: str) -> int | None:
    """Read a layer's number, written as `layer_key` writes it; None where it is none."""
    return int(text) if _NUMBER.fullmatch(text) else None


def layer_key(layer: int, role: str) -> str:
    """Join what `split_layer` splits."""
    return f"model.layers.{layer}.{role}"


def is_standard(key: str) -> bool:
    """Whether `key` is one of the names that every family shares."""
    layer, role = split_layer(key)
    return role in (STANDARD_ROOTS if layer is None else STANDARD_ROLES)


def gguf_name(key: str, arch: str) -> str | None:
    """Give GGUF's name of a standard key, or None where the architecture has none."""
    layer, role = split_layer(key)
    if layer is None:
        return _root_names(arch).get(key)
    name = _layer_names(arch).get(role)
    return f"blk.{layer}.{name}" if name else None


def fused_gguf_name(key: str, arch: str) -> str | None:
    """Give GGUF's name of a tensor of a fused module (``self_attn.qkv_proj``); None where it has none."""
    layer, role = split_layer(key)
    module, _, kind = role.rpartition(".")
    name = _module_names(arch).get(f"model.layers.0.{module}")
    return f"blk.{layer}.{name.removeprefix('blk.0.')}.{kind}" if name and layer is not None else None


def standard_key(name: str, arch: str, fused: tuple[str, ...] = ()) -> str | None:
    """Give the standard key of a GGUF tensor, or None where no rule maps it.

    Parameters
    ----------
    name : str
        ``blk.3.attn_q.weight``.
    arch : str
        ``general.architecture``.
    fused : tuple of str
        Modules that hold several projections, which go before the plain ones: Phi-3's ``ffn_up`` is
        its ``gate_up_proj``. The key then names the fused module.
    """
    match = GGUF_LAYER.fullmatch(name)
    if match is None:
        return _roles(arch, fused, in_layer=False).get(name)
    role = _roles(arch, fused, in_layer=True).get(match[2])
    return layer_key(int(match[1]), role) if role else None


@cache
def _roles(arch: str, fused: tuple[str, ...], *, in_layer: bool) -> Mapping[str, str]:
    names = _layer_names(arch) if in_layer else _root_names(arch)
    roles = {name: role for role, name in reversed(list(names.items()))}
    table = _module_names(arch)
    for module in fused:
        name = table.get(f"model.layers.0.{module}", "").removeprefix("blk.0.")
        roles |= {f"{name}.{kind}": f"{module}.{kind}" for kind in ("weight", "bias") if name and in_layer}
    return roles


@cache
def _layer_names(arch: str) -> Mapping[str, str]:
    table = _module_names(arch)
    names: dict[str, str] = {}
    for module in LAYER_MODULES:
        name = table.get(f"model.layers.0.{module}")
        if name is not None:
            names |= {
                f"{module}.{kind}": f"{name.removeprefix('blk.0.')}.{kind}" for kind in ("weight", "bias")
            }
    for role, (module, kind) in PARAMETERS.items():
        name = table.get(f"model.layers.0.{module}")
        if name is not None:
            names[role] = f"{name.removeprefix('blk.0.')}.{kind}"
    return names


@cache
def _root_names(arch: str) -> Mapping[str, str]:
    table = _module_names(arch)
    found = {module: table[module] for module in ROOT_MODULES if module in table}
    return {
        f"{module}.{kind}": f"{name}.{kind}" for module, name in found.items() for kind in ("weight", "bias")
    }


@cache
def _module_names(arch: str) -> Mapping[str, str]:
    """Give every name that TensorNameMap knows for an architecture's roots and its layer 0."""
    import gguf

    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    arch = arch if arch in known else SAME_NAMES.get(arch, arch)
    table = gguf.get_tensor_name_map(known[arch], 1).mapping if arch in known else {}
    return {source: target for source, (_, target) in table.items()}
