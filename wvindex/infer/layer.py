"""One decoder layer: attention and a gated MLP, each a residual branch behind a norm.

What a layer has beyond Llama's is told by the tensors that are there: biases, norms over Q and K heads
(Qwen3, Gemma 3), attention sinks, a second pair of norms around the branches (Gemma), a router. The
configuration says what tensors cannot: an expert's activation, experts that are a layer's shortcut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import MoE
from wvindex.infer.attention import gqa_attention_asym
from wvindex.infer.cache import KVCache
from wvindex.infer.capture import Captures
from wvindex.infer.layout import Dimensions, is_routed, takes_shortcut
from wvindex.infer.mlp import ACTIVATIONS, expert_features, gated_mlp, mixture, route
from wvindex.infer.norm import rms_norm
from wvindex.infer.projection import LayerInput
from wvindex.infer.rope import Rotary, apply_rotary
from wvindex.infer.weights import Weights

Activations = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the layers of one forward pass share.

    Attributes
    ----------
    rotary : mapping of str to Rotary
        Cosines and sines of the tokens' positions, by layer type.
    cache : KVCache or None
        Holds the tokens before these, and takes these in; None where these are all.
    capture : Captures
    temperature : (T, 1) float32 or None
        What each token's query is multiplied by.
    shortcuts : dict of int to (T, hidden_size) float32
        What is still to be added to the residual stream, by the layer after which it is.
    """

    rotary: Mapping[str, Rotary]
    cache: KVCache | None
    capture: Captures
    temperature: NDArray[np.float32] | None = None
    shortcuts: dict[int, Activations] = field(default_factory=dict)


class DecoderLayer:
    """Layer `index` of a model, its weights fetched when they are needed.

    Parameters
    ----------
    weights : Weights
    dimensions : Dimensions
    index : int
    """

    def __init__(self, weights: Weights, dimensions: Dimensions, index: int) -> None:
        self.weights = weights
        self.dims = dimensions
        self.index = index
        self.key = f"model.layers.{index}"
        self.name = f"layers.{index}"
        self.takes_shortcut = takes_shortcut(weights.db, index)
        # With a norm of its own before the MLP, the one after attention is on the branch, before the sum.
        self.sandwich = f"{self.key}.pre_feedforward_layernorm.weight" in weights

    def __call__(self, x: Activations, step: Step) -> Activations:
        """Give the residual stream after this layer, (T, hidden_size) for (T, hidden_size)."""
        multiplier = np.float32(self.dims.residual_multiplier)
        branch = self._attention(self._norm("input_layernorm", x), step)
        if self.sandwich:
            branch = self._norm("post_attention_layernorm", branch)
        x = x + branch * multiplier
        before = "pre_feedforward_layernorm" if self.sandwich else "post_attention_layernorm"
        branch = self._mlp(self._norm(before, x), step)
        if self.sandwich:
            branch = self._norm("post_feedforward_layernorm", branch)
        x = x + branch * multiplier
        if self.takes_shortcut:
            x = x + step.shortcuts.pop(self.index)
        step.capture(f"{self.name}.residual", x)
        return x

    def _attention(self, x: Activations, step: Step) -> Activations:
        dims, attn = self.dims, f"{self.key}.self_attn"
        step.capture(f"{self.name}.attn.in", x)
        q, k, v = self._heads(x, step)
        start = step.cache.length if step.cache else 0
        all_k, all_v = step.cache.store(self.index, k, v) if step.cache else (k, v)
        sliding = dims.layer_types[self.index] == "sliding_attention"
        heads = gqa_attention_asym(
            q,
            all_k,
            all_v,
            num_q_heads=dims.num_attention_heads,
            num_kv_heads=dims.num_key_value_heads,
            qk_head_dim=dims.head_dim,
            v_head_dim=dims.v_head_dim,
            scale=dims.attention_scale,
            q_offset=start,
            softcap=dims.attn_logit_softcapping,
            window=dims.sliding_window if sliding else None,
            sinks=self.weights.vector(f"{attn}.sinks") if f"{attn}.sinks" in self.weights else None,
        )
        step.capture(f"{self.name}.attn.heads", heads)
        out = LayerInput(self.weights, heads).project(f"{attn}.o_proj")
        step.capture(f"{self.name}.attn.out", out)
        return out

    def _heads(self, x: Activations, step: Step) -> tuple[Activations, Activations, Activations]:
        """Give q, k and v as attention takes them, (T, heads * head width) each."""
        dims, attn = self.dims, f"{self.key}.self_attn"
        source = LayerInput(self.weights, x)
        q = source.project(f"{attn}.q_proj", dims.head_dim)
        k = source.project(f"{attn}.k_proj", dims.head_dim)
        v = source.project(f"{attn}.v_proj", dims.v_head_dim)
        rotary = step.rotary[dims.layer_types[self.index]]
        q = apply_rotary(self._head_norm("q_norm", q), rotary, dims.head_dim)
        if step.temperature is not None:
            q *= step.temperature
        k = apply_rotary(self._head_norm("k_norm", k), rotary, dims.head_dim)
        for part, heads in (("q", q), ("k", k), ("v", v)):
            step.capture(f"{self.name}.attn.{part}", heads)
        return q, k, v

    def _head_norm(self, name: str, heads: Activations) -> Activations:
        """Norm each head by itself, where the layer has a weight for it."""
        if f"{self.key}.self_attn.{name}.weight" not in self.weights:
            return heads
        split = heads.reshape(len(heads), -1, self.dims.head_dim)
        return self._norm(f"self_attn.{name}", split).reshape(heads.shape)

    def _mlp(self, x: Activations, step: Step) -> Activations:
        step.capture(f"{self.name}.mlp.in", x)
        moe = self.dims.moe if is_routed(self.weights.db, self.index) else None
        if moe is not None and moe.shortcut:
            step.shortcuts[self.index + 1] = self._mixture(x, moe, step)
            moe = None
        out = self._dense("mlp", x) if moe is None else self._mixture(x, moe, step)
        step.capture(f"{self.name}.mlp.out", out)
        return out

    def _dense(self, part: str, x: Activations) -> Activations:
        def project(name: str, values: Activations) -> Activations:
            return LayerInput(self.weights, values).project(f"{self.key}.{part}.{name}_proj")

        return gated_mlp(x, project, ACTIVATIONS[self.dims.hidden_act])

    def _expert(self, index: int, x: Activations, moe: MoE) -> Activations:
        if index >= moe.n_routed_experts:
            return x

        def project(name: str, values: Activations) -> Activations:
            source = LayerInput(self.weights, values)
            return source.project_expert(f"{self.key}.mlp.experts.{name}_proj", index)

        return project("down", expert_features(x, project, moe, ACTIVATIONS[self.dims.hidden_act]))

    def _mixture(self, x: Activations, moe: MoE, step: Step) -> Activations:
        logits = LayerInput(self.weights, x).project(f"{self.key}.mlp.gate")
        bias = f"{self.key}.mlp.gate.e_score_correction_bias"
        experts, weights = route(logits, moe, self.weights.vector(bias) if bias in self.weights else None)
        for part, values in (("logits", logits), ("experts", experts), ("weights", weights)):
            step.capture(f"{self.name}.mlp.router.{part}", values)
        out = mixture(x, experts, weights, lambda index, tokens: self._expert(index, tokens, moe))
        return out + self._dense("mlp.shared_experts", x) if moe.n_shared_experts else out

    def _norm(self, name: str, x: Activations) -> Activations:
        weight = self.weights.vector(f"{self.key}.{name}.weight")
        return rms_norm(x, weight, self.dims.rms_norm_eps, self.dims.norm_weight_offset)
