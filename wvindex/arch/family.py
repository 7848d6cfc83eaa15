"""What a model family is: how to read its configuration and its tensors' names. Data, walked by `naming`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wvindex.arch.config import LayerType, ModelConfig, MoE, Rope
from wvindex.arch.fields import Fields
from wvindex.arch.rope import KNOWN_TYPES, rope, rope_fields
from wvindex.limits import MAX_ELEMENTS, MAX_EXPERTS, MAX_LAYERS

RawMetadata = Mapping[str, Any]
HubForm = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Family:
    """One model family. Two are never equal: what is worked out of one may be cached by it.

    Attributes
    ----------
    name : str
    model_types : tuple of str
        ``model_type`` in config.json.
    config : callable
        Reads the hub's form of the configuration.
    gguf_arch : str
        ``general.architecture``.
    gguf_claims : callable
        Whether GGUF metadata (keys without the architecture's prefix) of `gguf_arch` is of this family.
    gguf_fields : callable or None
        Completes, in place, the hub form made from GGUF metadata.
    renames : sequence of (pattern, replacement)
        Regular expressions on the part of a Hugging Face name after ``model.layers.N.``.
    hub_names : sequence of (pattern, replacement)
        What undoes `renames`: regular expressions on the part of a standard name after
        ``model.layers.N.``, one expert's name for its part of a stack.
    splits : mapping of str to tuple of str
        Fused projections and the standard roles whose rows they hold, in order.
    interleaved : bool
        Whether the rows of a fused gate and up projection alternate, and do not follow each other.
    stacked_experts : bool
        Whether the hub's checkpoints have all experts of a layer in one tensor, gate and up together.
    transposed_experts : bool
        Whether plain stacks of experts lie [experts, in, out], as the family's module has them.
    mxfp4_experts : bool
        Whether stacks of experts may come as ``X_blocks`` and ``X_scales`` (see `wvindex.arch.mxfp4`).
    sublayers : int
        Layers here to a layer of the source; the group ``sublayer`` of a pattern in `renames` tells which.
    gguf_permuted : bool
        Whether llama.cpp's converter permutes Q and K rows for interleaved rotary embedding.
    gguf_norm_offset : float
        What the converter adds to every norm weight.
    """

    name: str
    model_types: tuple[str, ...]
    config: Callable[[Fields], ModelConfig]
    gguf_arch: str
    gguf_claims: Callable[[RawMetadata], bool] = lambda metadata: True
    gguf_fields: Callable[[HubForm, RawMetadata], None] | None = None
    renames: Sequence[tuple[str, str]] = ()
    hub_names: Sequence[tuple[str, str]] = ()
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: bool = False
    stacked_experts: bool = False
    transposed_experts: bool = False
    mxfp4_experts: bool = False
    sublayers: int = 1
    gguf_permuted: bool = False
    gguf_norm_offset: float = 0.0


def decoder_config(
    f: Fields,
    family: str,
    *,
    head_dim: int | None = None,
    rope_head_dim: int | None = None,
    layer_types: Sequence[LayerType] | None = None,
    attention_scale: float | None = None,
    **special: Any,
) -> ModelConfig:
    """Read what all Llama-shaped decoders have in common; `special` overrides single fields.

    Parameters
    ----------
    f : Fields
        Hub form.
    family : str
    head_dim : int, optional
        Where it is not ``head_dim`` or hidden_size / num_attention_heads.
    rope_head_dim : int, optional
        The dimensions that rotary embedding works in, where it is not the head's.
    layer_types : sequence, optional
        Attention of each layer; by default what ``layer_types`` says, or full attention.
    attention_scale : float, optional
        head_dim ** -0.5 where not given.
    """
    heads, layers = _positive(f, "num_attention_heads"), layer_count(f)
    hidden = _positive(f, "hidden_size")
    head_dim = head_dim or f.integer("head_dim", hidden // heads)
    kinds = tuple(layer_types) if layer_types is not None else stated_layer_types(f, layers)
    ropes, refusals = _ropes(f, kinds, rope_head_dim or head_dim)
    for one in ropes.values():
        if rope_head_dim is not None and one.rotary_dim != rope_head_dim:
            raise f.error("partial_rotary_factor", f"{rope_head_dim} rotary dimensions", one.rotary_dim)
    f.integer_or_none("vocab_size")  # if it is there it is a count
    common: dict[str, Any] = {
        "num_key_value_heads": f.integer("num_key_value_heads", heads),
        "v_head_dim": head_dim,
        "intermediate_size": f.integer_or_none("intermediate_size"),
        "rms_norm_eps": f.positive("rms_norm_eps"),
        "hidden_act": f.text("hidden_act", "silu"),
        "sliding_window": f.integer_or_none("sliding_window") if "sliding_attention" in kinds else None,
        "tie_word_embeddings": f.flag("tie_word_embeddings", False),
    }
    config = ModelConfig(
        model_type=f.text("model_type"),
        family=family,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        head_dim=head_dim,
        attention_scale=attention_scale if attention_scale is not None else head_dim**-0.5,
        layer_types=kinds,
        rope=ropes,
        refuses_to_run=refusals,
        **_general(f),
        **(common | special),
    )
    if not config.num_key_value_heads or heads % config.num_key_value_heads:
        raise f.error("num_key_value_heads", f"a divisor of {heads} heads", config.num_key_value_heads)
    if "sliding_attention" in kinds and not config.sliding_window:
        raise f.error("sliding_window", "a window for the sliding layers", config.sliding_window)
    return config


def unknown_config(f: Fields) -> ModelConfig:
    """Read what can be read of a family that is not known; nothing is required."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    stated: dict[str, Any] = {
        name: f.integer(name) for name in (*names, "intermediate_size") if _is_count(f, name)
    }
    model_type = str(f.raw.get("model_type", "unknown"))
    return ModelConfig(model_type=model_type, family=None, **stated, **_general(f))


def moe(f: Fields, *experts: str, width: str = "moe_intermediate_size", **special: Any) -> MoE:
    """Read the routing that all families have in common.

    `experts` are the names that the number of experts goes by (the first that is there counts), `width` the
    field of an expert's hidden width, `special` further fields of `MoE`.
    """
    count = next((name for name in experts if name in f), experts[0])
    routing = MoE(
        n_routed_experts=_positive(f, count),
        num_experts_per_tok=_positive(f, "num_experts_per_tok"),
        moe_intermediate_size=_positive(f, width),
        **special,
    )
    if routing.n_routed_experts > MAX_EXPERTS:
        raise f.error(count, f"at most {MAX_EXPERTS}", routing.n_routed_experts)
    if routing.num_experts_per_tok > routing.n_routed_experts + routing.n_zero_experts:
        raise f.error(
            "num_experts_per_tok",
            f"at most {routing.n_routed_experts + routing.n_zero_experts}",
            routing.num_experts_per_tok,
        )
    if not routing.n_group or routing.n_routed_experts % routing.n_group:
        raise f.error("n_group", f"a divisor of {routing.n_routed_experts} experts", routing.n_group)
    if not 0 < routing.topk_group <= routing.n_group:
        raise f.error("topk_group", f"1 to {routing.n_group}", routing.topk_group)
    return routing


def layer_count(f: Fields) -> int:
    """Read ``num_hidden_layers``, bounded, for tables are made with an entry a layer."""
    layers = _positive(f, "num_hidden_layers")
    if layers > MAX_LAYERS:
        raise f.error("num_hidden_layers", f"at most {MAX_LAYERS}", layers)
    return layers


def stated_layer_types(f: Fields, layers: int) -> tuple[LayerType, ...]:
    """Read ``layer_types``; full attention everywhere where it is missing."""
    stated = f.raw.get("layer_types")
    if stated is None:
        return tuple(_layer_type(f, "full_attention") for _ in range(layers))
    if not isinstance(stated, list | tuple) or len(stated) < layers:
        raise f.error("layer_types", f"a list of {layers}", stated)
    return tuple(_layer_type(f, kind) for kind in stated[:layers])


def _layer_type(f: Fields, kind: object) -> LayerType:
    if kind == "full_attention":
        return "full_attention"
    if kind == "sliding_attention":
        return "sliding_attention"
    raise f.error("layer_types", "full_attention or sliding_attention", kind)


def window_everywhere(f: Fields) -> tuple[LayerType, ...]:
    """Mistral's rule: a ``sliding_window`` holds for every layer."""
    layers = layer_count(f)
    if f.raw.get("layer_types") is not None:
        return stated_layer_types(f, layers)
    kind: LayerType = "sliding_attention" if f.integer_or_none("sliding_window") else "full_attention"
    return (kind,) * layers


def _ropes(f: Fields, kinds: Sequence[LayerType], head_dim: int) -> tuple[dict[str, Rope], tuple[str, ...]]:
    ropes: dict[str, Rope] = {}
    refusals: list[str] = []
    for kind in dict.fromkeys(kinds):
        parameters = rope_fields(f, kind)
        rope_type = parameters.text("rope_type", "default")
        if rope_type not in KNOWN_TYPES:
            refusals.append(f"rope_type {rope_type!r}")
            continue
        positions = f.integer_or_none("max_position_embeddings")
        ropes[kind] = rope(parameters, head_dim=head_dim, max_positions=positions)
    return ropes, tuple(dict.fromkeys(refusals))


def _general(f: Fields) -> dict[str, Any]:
    eos = f.raw.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [eos]
    return {
        **{name: f.raw[name] for name in ("vocab_size", "max_position_embeddings") if _is_count(f, name)},
        "bos_token_id": f.raw["bos_token_id"] if _is_count(f, "bos_token_id") else None,
        "eos_token_ids": tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0),
    }


def _is_count(f: Fields, name: str) -> bool:
    value = f.raw.get(name)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_ELEMENTS


def _positive(f: Fields, name: str) -> int:
    value = f.integer(name)
    if value == 0:
        raise f.error(name, "a positive integer", value)
    return value
