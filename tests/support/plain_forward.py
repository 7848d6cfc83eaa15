"""A forward pass in float64, whole matrices at once: slow, obvious, sharing no code with wvindex.infer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.fake_db import FakeDatabase
from wvindex.arch.config import ModelConfig, MoE, Rope

Array = NDArray[Any]


class PlainForward:
    """All activations of a model on some tokens, by the names that wvindex captures them under."""

    def __init__(self, db: FakeDatabase, tokens: list[int]) -> None:
        self.db, self.config = db, db.config
        self.seen: dict[str, Array] = {}
        x = self.weight("model.embed_tokens.weight")[tokens] * self.config.embedding_multiplier
        self.seen["embed"] = x
        for layer in range(self.config.num_hidden_layers or 0):
            x = self.layer(layer, x)
        x = self.seen["norm"] = self.norm("model.norm", x)
        head = "lm_head" if "lm_head.weight" in db else "model.embed_tokens"
        logits = x * self.config.logits_multiplier @ self.weight(f"{head}.weight").T
        cap = self.config.final_logit_softcapping
        self.logits = cap * np.tanh(logits / cap) if cap else logits

    def weight(self, key: str) -> Array:
        return self.db.arrays[key].astype(np.float64)

    def norm(self, stem: str, x: Array) -> Array:
        gain = self.weight(f"{stem}.weight") + self.config.norm_weight_offset
        eps = self.config.rms_norm_eps or 0.0
        normed: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain
        return normed

    def linear(self, stem: str, x: Array, head_dim: int | None = None) -> Array:
        y = x @ self.weight(f"{stem}.weight").T
        if f"{stem}.bias" in self.db:
            y = y + self.weight(f"{stem}.bias")
        scale = self.db.row_scales.get(f"{stem}.weight")
        if scale is None:
            return y
        c = self.linear(scale.weight.removesuffix(".weight"), x)[:, slice(*scale.rows)]
        factor = 1 / np.sqrt((c**2).mean(1) + scale.eps)
        heads = y.reshape(len(y), -1, head_dim or y.shape[1]).copy()
        for t in range(len(y)):
            heads[t, :, slice(*scale.head_slice)] *= factor[t]
        return heads.reshape(y.shape)

    def layer(self, layer: int, x: Array) -> Array:
        stem, name = f"model.layers.{layer}", f"layers.{layer}"
        sandwich = f"{stem}.pre_feedforward_layernorm.weight" in self.db
        branch = self.attention(layer, self.norm(f"{stem}.input_layernorm", x))
        if sandwich:
            branch = self.norm(f"{stem}.post_attention_layernorm", branch)
        x = x + self.config.residual_multiplier * branch
        before = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
        normed = self.seen[f"{name}.mlp.in"] = self.norm(f"{stem}.{before}", x)
        routed = self.config.moe is not None and f"{stem}.mlp.gate.weight" in self.db
        branch = self.experts(layer, normed) if routed else self.mlp(f"{stem}.mlp", normed)
        self.seen[f"{name}.mlp.out"] = branch
        if sandwich:
            branch = self.norm(f"{stem}.post_feedforward_layernorm", branch)
        x = self.seen[f"{name}.residual"] = x + self.config.residual_multiplier * branch
        return x

    def attention(self, layer: int, x: Array) -> Array:
        config, attn, name = self.config, f"model.layers.{layer}.self_attn", f"layers.{layer}.attn"
        kind, width = config.layer_types[layer], config.head_dim or 0
        q, k = (self.linear(f"{attn}.{part}_proj", x, width).reshape(len(x), -1, width) for part in "qk")
        v = self.linear(f"{attn}.v_proj", x, config.v_head_dim).reshape(len(x), -1, config.v_head_dim or 0)
        if f"{attn}.q_norm.weight" in self.db:
            q, k = self.norm(f"{attn}.q_norm", q), self.norm(f"{attn}.k_norm", k)
        q, k = turn(q, config.rope[kind]), turn(k, config.rope[kind])
        window = config.sliding_window if kind == "sliding_attention" else None
        heads = np.stack([self.head(attn, h, q, k, v, window) for h in range(q.shape[1])], axis=1)
        heads = heads.reshape(len(x), -1)
        out = self.linear(f"{attn}.o_proj", heads)
        flat = {part: a.reshape(len(x), -1) for part, a in (("q", q), ("k", k), ("v", v))}
        for part, value in ({"in": x} | flat | {"heads": heads, "out": out}).items():
            self.seen[f"{name}.{part}"] = value
        return out

    def head(self, attn: str, h: int, q: Array, k: Array, v: Array, window: int | None) -> Array:
        g = h // (q.shape[1] // k.shape[1])
        scores = q[:, h] @ k[:, g].T * (self.config.attention_scale or 0.0)
        cap = self.config.attn_logit_softcapping
        scores = cap * np.tanh(scores / cap) if cap else scores
        distance = np.subtract.outer(np.arange(len(q)), np.arange(len(q)))
        p = np.where((distance >= 0) & (distance < (window or len(q))), np.exp(scores), 0.0)
        sink = np.exp(self.weight(f"{attn}.sinks")[h]) if f"{attn}.sinks" in self.db else 0.0
        out: Array = p @ v[:, g] / (p.sum(1, keepdims=True) + sink)
        return out

    def mlp(self, stem: str, x: Array) -> Array:
        hidden = activate(self.config, self.linear(f"{stem}.gate_proj", x))
        return self.linear(f"{stem}.down_proj", hidden * self.linear(f"{stem}.up_proj", x))

    def experts(self, layer: int, x: Array) -> Array:
        mlp, name, moe = f"model.layers.{layer}.mlp", f"layers.{layer}.mlp.router", self.config.moe
        assert moe is not None
        logits = self.linear(f"{mlp}.gate", x)
        chosen, weights = choose(logits, self.weight(f"{mlp}.gate.e_score_correction_bias"), moe)
        self.seen |= {f"{name}.logits": logits, f"{name}.experts": chosen, f"{name}.weights": weights}
        gate, up, down = (self.weight(f"{mlp}.experts.{part}_proj.weight") for part in ("gate", "up", "down"))
        out = self.mlp(f"{mlp}.shared_experts", x)
        for t in range(len(x)):
            for e, w in zip(chosen[t], weights[t], strict=True):
                out[t] += w * (down[e] @ (activate(self.config, gate[e] @ x[t]) * (up[e] @ x[t])))
        return out


def choose(logits: Array, bias: Array, moe: MoE) -> tuple[Array, Array]:
    """Route as DeepSeek-V3 does, token by token."""
    size = moe.n_routed_experts // moe.n_group
    chosen, weights = [], []
    for scores in 1 / (1 + np.exp(-logits)):
        biased = scores + bias
        group_score = [np.sort(biased[g * size : (g + 1) * size])[-2:].sum() for g in range(moe.n_group)]
        groups = np.argsort(group_score)[-moe.topk_group :]
        candidates = [e for e in range(len(biased)) if e // size in groups]
        best = sorted(candidates, key=dict(enumerate(-biased)).__getitem__)[: moe.num_experts_per_tok]
        chosen.append(best)
        weights.append(scores[best] / scores[best].sum() * moe.routed_scaling_factor)
    return np.array(chosen), np.array(weights)


def activate(config: ModelConfig, x: Array) -> Array:
    y: Array = x / (1 + np.exp(-x))
    if config.hidden_act == "gelu_pytorch_tanh":
        y = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return y


def turn(x: Array, rope: Rope) -> Array:
    """Rotate (T, heads, head_dim) as complex numbers."""
    half = rope.rotary_dim // 2
    phases = rope.attention_factor * np.exp(1j * np.outer(np.arange(len(x)), rope.inv_freq))[:, None]
    turned = (x[..., :half] + 1j * x[..., half : 2 * half]) * phases
    return np.concatenate([turned.real, turned.imag, x[..., 2 * half :]], axis=-1)
