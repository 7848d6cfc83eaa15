"""Which tensors of Hugging Face's form a leaf of MaxText's tree holds, and along which of its axes.

The rules are those of MaxText's own export (``checkpoint_conversion/utils/param_mapping.py``): kernels are
``[in, out]`` with the heads as an axis of their own, experts ``[experts, in, out]``, and a scanned stack has
its layers as one more axis. Names are matched by segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Layout:
    """The axes of a leaf, without its layers.

    Attributes
    ----------
    rows : tuple of int
        Those that together count the rows of Hugging Face's matrix; none for a vector.
    columns : tuple of int
        Those that count its columns, or a vector's values.
    experts : int or None
        That which counts matrices.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    experts: int | None = None

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.rows) + len(self.columns) + (self.experts is not None)


VECTOR: Final = Layout((), (0,))
HEAD_BIAS: Final = Layout((), (0, 1))
EMBEDDING: Final = Layout((0,), (1,))
KERNEL: Final = Layout((1,), (0,))
HEADS_OUT: Final = Layout((1, 2), (0,))
HEADS_IN: Final = Layout((2,), (0, 1))
EXPERTS: Final = Layout((2,), (1,), experts=0)

ROOTS: Final[Mapping[tuple[str, ...], tuple[str, Layout]]] = {
    ("token_embedder", "embedding"): ("model.embed_tokens.weight", EMBEDDING),
    ("decoder", "decoder_norm", "scale"): ("model.norm.weight", VECTOR),
    ("decoder", "logits_dense", "kernel"): ("lm_head.weight", KERNEL),
}

_ATTENTION: Final = {
    "query.kernel": ("q_proj.weight", HEADS_OUT),
    "key.kernel": ("k_proj.weight", HEADS_OUT),
    "value.kernel": ("v_proj.weight", HEADS_OUT),
    "out.kernel": ("o_proj.weight", HEADS_IN),
    "query.bias": ("q_proj.bias", HEAD_BIAS),
    "key.bias": ("k_proj.bias", HEAD_BIAS),
    "value.bias": ("v_proj.bias", HEAD_BIAS),
    "out.bias": ("o_proj.bias", VECTOR),
    "query_norm.scale": ("q_norm.weight", VECTOR),
    "key_norm.scale": ("k_norm.weight", VECTOR),
    "wq_a.kernel": ("q_a_proj.weight", KERNEL),
    "q_norm.scale": ("q_a_layernorm.weight", VECTOR),
    "wq_b.kernel": ("q_b_proj.weight", HEADS_OUT),
    "wkv_a.kernel": ("kv_a_proj_with_mqa.weight", KERNEL),
    "kv_norm.scale": ("kv_a_layernorm.weight", VECTOR),
    "wkv_b.kernel": ("kv_b_proj.weight", HEADS_OUT),
    "wq_kv_a.kernel": ("fused_qkv_a_proj.weight", KERNEL),
}
_MLP: Final = {
    "wi_0.kernel": ("gate_proj.weight", KERNEL),
    "wi_1.kernel": ("up_proj.weight", KERNEL),
    "wo.kernel": ("down_proj.weight", KERNEL),
}
_ROUTED: Final = {
    "gate.kernel": ("gate.weight", KERNEL),
    "gate.bias": ("gate.e_score_correction_bias", VECTOR),
    "wi_0": ("experts.gate_proj.weight", EXPERTS),
    "wi_1": ("experts.up_proj.weight", EXPERTS),
    "wo": ("experts.down_proj.weight", EXPERTS),
}
_MODULES: Final = (
    ("self_attention", "self_attn", _ATTENTION),
    ("mlp", "mlp", _MLP),
    ("MoeBlock_0", "mlp", _ROUTED),
    ("moe_block", "mlp", _ROUTED),
    ("DeepSeekMoeBlock_0.MoeBlock_0", "mlp", _ROUTED),
    ("DeepSeekMoeBlock_0.shared_experts", "mlp.shared_experts", _MLP),
)
FUSED: Final = "self_attn.fused_qkv_a_proj.weight"
"""What ``fused_mla_lora_proj`` makes of both down-projections; it is shown as the two that it holds."""

LAYER: Final[Mapping[str, tuple[str, Layout]]] = {
    "pre_self_attention_layer_norm.scale": ("input_layernorm.weight", VECTOR),
    "post_self_attention_layer_norm.scale": ("post_attention_layernorm.weight", VECTOR),
} | {
    f"{module}.{leaf}": (f"{theirs}.{role}", layout)
    for module, theirs, table in _MODULES
    for leaf, (role, layout) in table.items()
}
"""By what follows the layer in a leaf's name: the role in Hugging Face's layer."""

_GEMMA_NORMS: Final = {
    "pre_self_attention_norm": "input_layernorm.weight",
    "post_self_attention_norm": "post_attention_layernorm.weight",
    "pre_ffw_norm": "pre_feedforward_layernorm.weight",
    "post_ffw_norm": "post_feedforward_layernorm.weight",
}
GEMMA_PAIR: Final[Mapping[str, tuple[int, str, Layout]]] = {
    f"{norm}_{half}.scale": (place, role, VECTOR)
    for place, half in enumerate(("local", "global"))
    for norm, role in _GEMMA_NORMS.items()
} | {
    f"{module}_{half}.{leaf}": (place, f"{theirs}.{role}", layout)
    for place, half in enumerate(("local", "global"))
    for module, theirs, table in (("self_attention", "self_attn", _ATTENTION), ("mlp", "mlp", _MLP))
    for leaf, (role, layout) in table.items()
}
"""Gemma 2: one of MaxText's layers is two of Hugging Face's, the first with a window."""

STACKS: Final = ("layers", "dense_layers", "moe_layers")
"""Modules of the decoder that hold layers, all together where scanned; else ``layers_0``, ``layers_1``."""

_MTP_BLOCK: Final = "mtp_block"


@dataclass(frozen=True)
class Holding:
    """What a leaf of the model holds.

    Attributes
    ----------
    role : str
        A root's name, or what follows ``model.layers.N.``.
    layout : Layout
    stack : str or None
        Which of `STACKS`; ``mtp`` for layers that predict further tokens; None for a root.
    layer : int or None
        Counted in its stack; None where the leaf is scanned and holds them all.
    step, first : int
        Hugging Face's layers for one of MaxText's, and which of them this is.
    """

    role: str
    layout: Layout
    stack: str | None = None
    layer: int | None = None
    step: int = 1
    first: int = 0


def normalized(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Give a leaf's path below the model's root, as Linen has it; None where it is no part of the model.

    Linen: ``params/params/decoder/...`` or ``params/decoder/...``. NNX: ``decoder/...``, below ``base`` or
    ``model`` or not, its leaves ``.../value``, its lists of layers ``layers/0``.
    """
    parts = list(path)
    if parts[:2] == ["params", "params"]:
        parts = parts[2:]
    elif parts[:1] in (["params"], ["base"], ["model"]):
        parts = parts[1:]
    elif parts[:1] not in (["decoder"], ["token_embedder"], [_MTP_BLOCK]):
        return None
    if any(part in ("rngs", "dropout", "to_nnx__rngs") or part.endswith("_rngs") for part in parts):
        return None
    if parts[-1:] == ["value"]:
        parts = parts[:-1]
    joined: list[str] = []
    for part in parts:
        if part.isascii() and part.isdigit() and joined:
            joined[-1] = f"{joined[-1]}_{part}"
        else:
            joined.append(part)
    return tuple(joined)


def holding(path: tuple[str, ...], model_type: str) -> Holding | None:
    """Find what the leaf of a normalized path holds; None where no rule knows it."""
    if path in ROOTS:
        role, layout = ROOTS[path]
        return Holding(role, layout)
    if path[:1] == (_MTP_BLOCK,):
        return _predicting(path[1:])
    if path[:1] != ("decoder",) or len(path) < 3:
        return None
    stack, layer = _numbered(path[1], STACKS)
    if stack is None:
        return None
    name = ".".join(path[2:])
    if model_type == "gemma2":
        pair = GEMMA_PAIR.get(name)
        return Holding(pair[1], pair[2], stack, layer, step=2, first=pair[0]) if pair else None
    known = LAYER.get(name)
    return Holding(known[0], known[1], stack, layer) if known else None


def _numbered(segment: str, names: tuple[str, ...]) -> tuple[str | None, int | None]:
    """Split ``layers_3`` into its name and number; a name alone has none."""
    if segment in names:
        return segment, None
    stem, _, number = segment.rpartition("_")
    if (
        stem in names
        and number.isascii()
        and number.isdigit()
        and len(number) < 6
        and number == str(int(number))
    ):
        return stem, int(number)
    return None, None


def _predicting(path: tuple[str, ...]) -> Holding | None:
    """Find what a leaf of ``mtp_block/mtp_layer_1`` holds; these are counted from 1 and never scanned."""
    if len(path) < 3:
        return None
    stack, number = _numbered(path[0], ("mtp_layer",))
    if stack is None or not number:
        return None
    name = ".".join(path[1:])
    inner = name.removeprefix(f"mtp_{number}_transformer_layer.")
    known = predicting_names(number).get(name) or LAYER.get(inner)
    return Holding(known[0], known[1], "mtp", number - 1) if known else None


def predicting_names(number: int) -> dict[str, tuple[str, Layout]]:
    """Give what the layer that predicts the `number`-th further token has beside a layer."""
    prefix = f"mtp_{number}_"
    return {
        f"{prefix}embedding_norm.scale": ("enorm.weight", VECTOR),
        f"{prefix}hidden_state_norm.scale": ("hnorm.weight", VECTOR),
        f"{prefix}projection.kernel": ("eh_proj.weight", KERNEL),
    }
