"""WV6xx: the configuration against what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from wvindex.arch.keys import layer_key, split_layer
from wvindex.inspection.linting.model import EMBEDDING, HEAD, Model
from wvindex.inspection.linting.places import listed
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.query.lazy import Tensor

_SIBLINGS: Final = (
    tuple(f"self_attn.{name}_proj.weight" for name in "kqvo"),
    *(
        tuple(f"{part}.{name}_proj.weight" for name in ("gate", "up", "down"))
        for part in ("mlp", "mlp.experts", "mlp.shared_experts")
    ),
    ("mlp.experts.gate_proj.weight", "mlp.gate.weight"),
    ("self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight", "self_attn.q_b_proj.weight"),
    ("self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight"),
    ("self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight"),
)
"""Roles that stand together: a layer that has the first has the others; of a layer's MLPs, that has any."""

Shape = tuple[int | None, ...]


def missing_layers(model: Model) -> Iterator[Found]:
    """Layers that the configuration counts, and the checkpoint lacks."""
    count = model.config.num_hidden_layers
    if model.config.family is None or count is None:
        return
    missing = [number for number in range(count) if number not in model.layers]
    if missing:
        yield Found(
            message=f"{len(missing)} of {count} layers are missing: {listed(missing, len(missing))}",
            count=len(missing),
            indices=tuple(missing[:8]),
            layer=missing[0],
        )


def extra_layers(model: Model) -> Iterator[Found]:
    """Layers beyond those that the configuration counts."""
    config = model.config
    if config.family is None or config.num_hidden_layers is None:
        return
    last = config.num_hidden_layers + config.num_nextn_predict_layers
    extra = [number for number in model.layers if number >= last]
    if extra:
        yield Found(
            tensor=next(iter(model.layers[extra[0]].values())).key,
            message=f"the configuration has layers 0 to {last - 1}, but there are also "
            f"{listed(extra, len(extra))}",
            count=len(extra),
            indices=tuple(extra[:8]),
        )


def missing_tensors(model: Model) -> Iterator[Found]:
    """Tensors without which a layer, or the model, does not work."""
    if model.config.family is None:
        return
    usual = _usual_roles(model)
    for number, there in model.layers.items():
        if _is_extra(there):
            continue
        wanted = [*_siblings(there), *usual[_is_routed(there)]]
        missing = [role for role in dict.fromkeys(wanted) if layer_key(number, role) not in model.db]
        if missing:
            yield Found(
                layer=number,
                message=f"layer {number} lacks {listed(missing, len(missing))}",
                count=len(missing),
                value=missing[0],
            )
    roots = [EMBEDDING, "model.norm.weight", *(() if model.config.tie_word_embeddings else (HEAD,))]
    for key in roots:
        if key not in model.db:
            yield Found(message=f"{key} is missing", value=key)


def _siblings(there: Mapping[str, Tensor]) -> Iterator[str]:
    for group in _SIBLINGS:
        named = group if group[0].startswith("mlp.") else group[:1]
        if any(role in there for role in named):
            yield from group


def _usual_roles(model: Model) -> dict[bool, list[str]]:
    """Give norms and roles of attention that more than half of the layers have, with and without experts."""
    usual = {}
    for routed in (False, True):
        layers = [t for t in model.layers.values() if not _is_extra(t) and _is_routed(t) == routed]
        counts = Counter(role for there in layers for role in there if _is_everywhere(role))
        usual[routed] = [role for role, count in counts.items() if 2 * count > len(layers)]
    return usual


def _is_everywhere(role: str) -> bool:
    """Whether a role is a norm, or a part of attention itself: not of an indexer that layers may share."""
    return role.count(".") <= 2 and (role.endswith("norm.weight") or role.startswith("self_attn."))


def _is_extra(there: Mapping[str, Tensor]) -> bool:
    """Whether a layer takes no part in the forward pass."""
    return any(tensor.mtp for tensor in there.values())


def _is_routed(there: Mapping[str, Tensor]) -> bool:
    return any(role.startswith("mlp.experts.") for role in there)


def shape_mismatch(model: Model) -> Iterator[Found]:
    """Shapes that contradict the configuration, or the tensors that they belong to."""
    if model.config.family is None:
        return
    for key, tensor in model.tensors.items():
        expected = _expected(key, model) if tensor.spec.mapped else ()
        if expected and not any(_fits(tensor.shape, shape) for shape in expected):
            shown = " or ".join(dict.fromkeys(map(_shape_text, expected)))
            found = _shape_text(tensor.shape)
            yield Found(tensor=key, message=f"the shape is {found}, expected {shown}", value=found)


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(n in (None, m) for n, m in zip(expected, shape, strict=True))


def _shape_text(shape: Shape) -> str:
    return "x".join("any" if n is None else str(n) for n in shape) or "scalar"


def _expected(key: str, model: Model) -> tuple[Shape, ...]:
    """Give the shapes that a tensor may have, as far as something else tells; none where nothing does."""
    config, role = model.config, split_layer(key)[1]
    if role.endswith(".bias"):
        return _bias_shapes(model.db.get(f"{key.removesuffix('.bias')}.weight"))
    if role == "mlp.gate.e_score_correction_bias":
        return _bias_shapes(model.db.get(key.replace("e_score_correction_bias", "weight")))
    if role in {"self_attn.q_norm.weight", "self_attn.k_norm.weight"} and config.head_dim:
        counts = (1, config.num_attention_heads, config.num_key_value_heads)  # of a head, or of all
        return tuple((count * config.head_dim,) for count in counts if count)
    latent = config.mla
    shapes: dict[str, Shape] = {
        "model.norm.weight": (config.hidden_size,),
        "mlp.gate.weight": (None, config.hidden_size),
        "self_attn.q_a_layernorm.weight": (latent.q_lora_rank if latent else None,),
        "self_attn.kv_a_layernorm.weight": (latent.kv_lora_rank if latent else None,),
        HEAD: (len(model.db[EMBEDDING]) if EMBEDDING in model.db else None, config.hidden_size),
        "mlp.shared_experts.gate_proj.weight": (None, config.hidden_size),
        "mlp.shared_experts.up_proj.weight": (None, config.hidden_size),
        "mlp.shared_experts.down_proj.weight": (config.hidden_size, None),
    }
    return (shapes[role],) if role in shapes else ()


def _bias_shapes(weight: Tensor | None) -> tuple[Shape, ...]:
    return (weight.shape[:-1],) if weight is not None and weight.ndim > 1 else ()


def small_routers(model: Model) -> Iterator[Found]:
    """Routers with fewer rows than there are experts. More may be there: some models route to nothing."""
    for key, tensor in model.tensors.items():
        number, role = split_layer(key)
        stack = model.layers[number].get("mlp.experts.gate_proj.weight") if number is not None else None
        if role != "mlp.gate.weight" or stack is None or min(tensor.ndim, stack.ndim - 1) < 2:
            continue
        if len(tensor) < len(stack):
            message = f"{len(tensor)} rows for {len(stack)} experts"
            yield Found(tensor=key, message=message, value=len(tensor))


def lone_biases(model: Model) -> Iterator[Found]:
    """Biases of weights that are not there."""
    if model.config.family is None:
        return
    for key, tensor in model.tensors.items():
        weight = f"{key.removesuffix('.bias')}.weight"
        if key.endswith(".bias") and tensor.ndim == 1 and weight not in model.db:
            yield Found(tensor=key, message=f"there is no {weight}")


RULES: Final = (
    Rule(
        id="WV601",
        name="missing-layers",
        severity="error",
        title="Layers are missing",
        help="`num_hidden_layers` counts more than there are: a shard was left out, or layers were cut "
        "away without a change of the configuration. GGUF files of which this is true are refused "
        "when opened.",
        find=missing_layers,
        reads_weights=False,
    ),
    Rule(
        id="WV602",
        name="extra-layers",
        severity="warning",
        title="Layers beyond the configuration's",
        help="They are stored, and take no part in the forward pass. Layers for multi-token prediction "
        "are counted by `num_nextn_predict_layers`.",
        find=extra_layers,
        reads_weights=False,
    ),
    Rule(
        id="WV603",
        name="missing-tensors",
        severity="error",
        title="A tensor that the model needs is missing",
        help="Projections, norms, embedding and head of a known family; also a norm or a bias of "
        "attention that most layers have, and one lacks.",
        find=missing_tensors,
        reads_weights=False,
    ),
    Rule(
        id="WV604",
        name="shape-mismatch",
        severity="error",
        title="A shape contradicts the configuration",
        help="Norms of heads, routers, biases, shared experts, and the head beside the embedding. A "
        "contradiction in a projection or the embedding is refused when the file is opened.",
        find=shape_mismatch,
        reads_weights=False,
    ),
    Rule(
        id="WV605",
        name="lone-bias",
        severity="warning",
        title="A bias without a weight",
        help="Nothing applies it. Its weight was renamed, replaced or left out.",
        find=lone_biases,
        reads_weights=False,
    ),
    Rule(
        id="WV606",
        name="small-router",
        severity="error",
        title="A router with fewer rows than there are experts",
        help="The experts beyond are never chosen. Experts were added, or the router is another model's.",
        find=small_routers,
        reads_weights=False,
    ),
)
