"""WV6xx: the configuration against what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from wvindex.arch.config import ModelConfig
from wvindex.inspection.linting.model import EMBEDDING, HEAD, Model
from wvindex.inspection.linting.places import listed
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.query.lazy import Tensor

_NORMS: Final = ("input_layernorm.weight", "post_attention_layernorm.weight")
_DENSE: Final = tuple(f"self_attn.{name}_proj.weight" for name in "qkvo")
_MLP: Final = tuple(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
_EXPERTS: Final = ("mlp.gate.weight", *(f"mlp.experts.{name}_proj.weight" for name in ("gate", "up", "down")))
_SHARED: Final = tuple(f"mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up", "down"))

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
    uniform = _uniform_roles(model)
    for number, there in model.layers.items():
        missing = [role for role in (*_required(model.config, there), *uniform) if role not in there]
        missing = list(dict.fromkeys(missing))
        if missing and not any(tensor.mtp for tensor in there.values()):
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


def _required(config: ModelConfig, there: dict[str, Tensor]) -> Iterator[str]:
    yield from _NORMS
    if config.attention_form == "factored" and config.mla is not None:
        yield from ("self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight", _DENSE[3])
        yield from (
            ("self_attn.q_proj.weight",)
            if config.mla.q_lora_rank is None
            else (*(f"self_attn.q_{part}.weight" for part in ("a_proj", "a_layernorm", "b_proj")),)
        )
        if "self_attn.k_b_proj.weight" in there or "self_attn.v_b_proj.weight" in there:
            yield from ("self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight")
        else:
            yield "self_attn.kv_b_proj.weight"
    else:
        yield from _DENSE
    is_routed = config.moe is not None and not any(role in there for role in _MLP)
    if is_routed and config.moe is not None:
        yield from _EXPERTS
        yield from _SHARED if config.moe.n_shared_experts else ()
    else:
        yield from _MLP


def _uniform_roles(model: Model) -> list[str]:
    """Give norms and biases of attention that more than half of the layers have."""
    main = [there for there in model.layers.values() if not any(t.mtp for t in there.values())]
    counts = Counter(role for there in main for role in there)
    return [
        role
        for role, count in counts.items()
        if 2 * count > len(main) and (role.endswith("norm.weight") or role.startswith("self_attn."))
    ]


def shape_mismatch(model: Model) -> Iterator[Found]:
    """Shapes that contradict the configuration, or the tensors that they belong to."""
    if model.config.family is None:
        return
    for key, tensor in model.tensors.items():
        expected = _expected(key, model)
        if expected is None or not tensor.spec.mapped:
            continue
        if len(expected) != tensor.ndim or any(
            n not in (None, m) for n, m in zip(expected, tensor.shape, strict=True)
        ):
            shown = "x".join("any" if n is None else str(n) for n in expected)
            found = "x".join(map(str, tensor.shape)) or "scalar"
            yield Found(tensor=key, message=f"the shape is {found}, expected {shown}", value=found)


def _expected(key: str, model: Model) -> Shape | None:
    """Give the shape of a tensor as far as something else tells it; None where nothing does."""
    config = model.config
    role = key.split(".", 3)[-1] if key.startswith("model.layers.") else key
    if role.endswith(".bias"):
        weight = model.db.get(f"{key.removesuffix('.bias')}.weight")
        return None if weight is None or weight.ndim < 2 else weight.shape[:-1]
    experts = config.moe.n_routed_experts if config.moe else None
    rank = config.mla
    shapes: dict[str, Shape] = {
        "model.norm.weight": (config.hidden_size,),
        "self_attn.q_norm.weight": (config.head_dim,),
        "self_attn.k_norm.weight": (config.head_dim,),
        "mlp.gate.weight": (experts, config.hidden_size),
        "mlp.gate.e_score_correction_bias": (experts,),
        "self_attn.q_a_layernorm.weight": (rank.q_lora_rank if rank else None,),
        "self_attn.kv_a_layernorm.weight": (rank.kv_lora_rank if rank else None,),
        HEAD: (len(model.db[EMBEDDING]) if EMBEDDING in model.db else None, config.hidden_size),
        **dict.fromkeys(_SHARED[:2], (None, config.hidden_size)),
        _SHARED[2]: (config.hidden_size, None),
    }
    return shapes.get(role)


def lone_biases(model: Model) -> Iterator[Found]:
    """Biases of weights that are not there."""
    for key in model.tensors:
        if key.endswith(".bias") and f"{key.removesuffix('.bias')}.weight" not in model.db:
            yield Found(tensor=key, message=f"there is no {key.removesuffix('.bias')}.weight")


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
)
