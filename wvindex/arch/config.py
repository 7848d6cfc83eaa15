"""ModelConfig: one frozen description of a model, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LayerType = Literal["full_attention", "sliding_attention"]

_YOUNGER: Final = frozenset(
    {
        *("attn_temperature_scale", "attn_temperature_length", "index_topk"),
        *("n_zero_experts", "shortcut", "swiglu_limit", "swiglu_alpha"),
        *("q_lora_scale", "kv_lora_scale"),
    }
)
"""Fields that format 1's first stores did not have."""


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary embedding as plain numbers: the forward pass needs no formula.

    Attributes
    ----------
    rope_type : str
        Where the numbers come from: ``default``, ``linear``, ``llama3``, ``yarn``, ``longrope``.
    rope_theta : float
    rotary_dim : int
        Leading dimensions of a head that are rotated, half-split: i pairs with i + rotary_dim / 2.
    inv_freq : tuple of float
        rotary_dim / 2 angular frequencies, radians per position.
    attention_factor : float
        Multiplies cos and sin.
    long_inv_freq : tuple of float or None
        LongRoPE: the frequencies for sequences longer than `original_max_position_embeddings`.
    original_max_position_embeddings : int or None
        LongRoPE's threshold.
    """

    rope_type: str
    rope_theta: float
    rotary_dim: int
    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0
    long_inv_freq: tuple[float, ...] | None = None
    original_max_position_embeddings: int | None = None


@dataclass(frozen=True, kw_only=True)
class MoE:
    """Mixture-of-experts routing, with Hugging Face's (DeepSeek's) field names.

    Attributes
    ----------
    scoring_func : {"softmax", "sigmoid"}
        Over all experts, before the choice.
    topk_method : {"greedy", "group_limited_greedy", "noaux_tc"}
        How groups are scored: ``group_limited_greedy`` by their best expert, ``noaux_tc`` by the sum
        of their best two, with `e_score_correction_bias` added for the choice alone.
    n_zero_experts : int
        Experts without weights, numbered after the routed ones, which give back what they are given
        (LongCat-Flash, arXiv:2509.01322: zero-computation experts).
    shortcut : bool
        Whether experts stand beside a layer's dense MLP, on the same input, and what they give is added to
        the residual stream after the next layer (the same: shortcut-connected experts).
    swiglu_limit : float or None
        Where given, experts compute ``(up + 1) * gate * sigmoid(swiglu_alpha * gate)``, gate clamped from
        above and up on both sides (GPT-OSS).
    """

    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int = 0
    scoring_func: Literal["softmax", "sigmoid"] = "softmax"
    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"] = "greedy"
    norm_topk_prob: bool = True
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 1.0
    n_zero_experts: int = 0
    shortcut: bool = False
    swiglu_limit: float | None = None
    swiglu_alpha: float = 1.702


@dataclass(frozen=True, kw_only=True)
class MLA:
    """Geometry of Multi-head Latent Attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Attributes
    ----------
    q_lora_rank : int or None
        None where Q has no low-rank factors (V2-Lite).
    norm_eps : float
        Epsilon of the RMSNorms between the factors; the family's own, not `rms_norm_eps`.
    interleaved_rope : bool
        Whether the rope rows come as interleaved pairs (DeepSeek) and must become half-split.
    q_lora_scale, kv_lora_scale : float
        Multiply what the norms between the factors give (LongCat-Flash).
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    norm_eps: float = 1e-6
    interleaved_rope: bool = True
    q_lora_scale: float = 1.0
    kv_lora_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is, as numbers, with Hugging Face's field names.

    For a family that wvindex does not know, `family` is None and what the source does not say in
    Llama's terms is None; such a model can be stored and read, not run.

    Attributes
    ----------
    head_dim : int or None
        Width of a query and key head.
    v_head_dim : int or None
        Width of a value head; equal to `head_dim` in ordinary attention.
    attention_scale : float or None
        Multiplies q·k before the softmax, all factors worked out.
    layer_types : tuple of str
        ``full_attention`` or ``sliding_attention`` for each layer.
    rope : mapping of str to Rope
        By layer type.
    norm_weight_offset : float
        Added to every RMSNorm weight: 1 for Gemma, which stores w - 1.
    embedding_multiplier, residual_multiplier, logits_multiplier : float
        Scale the embedding's output, each residual branch, and the final hidden state before the head.
    attention_form : {"dense", "factored"}
        ``factored`` where the projections are kept as low-rank factors, which the forward pass does not run.
    mla : MLA or None
        The low-rank geometry that the source had, also after absorption.
    attn_temperature_scale : float
        Multiplies the query at position p by ``1 + scale * log(1 + floor(p / attn_temperature_length))``
        (Llama 4's and Mistral 4's temperature tuning); 0 where it does not.
    attn_temperature_length : int or None
        Positions between the steps of that temperature.
    index_topk : int or None
        Keys that a sparse attention's indexer leaves for each query. The forward pass attends to all, which
        is the same for as many tokens, and takes no more.
    """

    model_type: str
    family: str | None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    v_head_dim: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    rms_norm_eps: float | None = None
    hidden_act: str | None = None
    attention_scale: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window: int | None = None
    layer_types: tuple[LayerType, ...] = ()
    rope: Mapping[str, Rope] = field(default_factory=dict)
    norm_weight_offset: float = 0.0
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    tie_word_embeddings: bool = False
    attention_form: Literal["dense", "factored"] = "dense"
    moe: MoE | None = None
    mla: MLA | None = None
    num_nextn_predict_layers: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    refuses_to_run: tuple[str, ...] = ()
    attn_temperature_scale: float = 0.0
    attn_temperature_length: int | None = None
    index_topk: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values; `from_json` reads them back to an equal object.

        Fields that are younger than the store's format are written only where they say something, so that
        the catalogs of other models stay as they were.
        """
        values = _without_silent(asdict(self), self)
        for name, part in (("moe", self.moe), ("mla", self.mla)):
            if part is not None:
                values[name] = _without_silent(values[name], part)
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Read what `to_json` gave. Unknown fields are an error of the caller's catalog check."""
        values = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        ropes = {name: Rope(**_tuples(rope)) for name, rope in values.get("rope", {}).items()}
        moe, mla = values.get("moe"), values.get("mla")
        return cls(
            **_tuples(values)
            | {"rope": ropes, "moe": MoE(**moe) if moe else None, "mla": MLA(**mla) if mla else None}
        )


def _without_silent(values: dict[str, Any], described: DataclassInstance) -> dict[str, Any]:
    silent = {f.name for f in fields(described) if f.name in _YOUNGER and values[f.name] == f.default}
    return {name: value for name, value in values.items() if name not in silent}


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
