"""How strongly embeddings excite the features of each layer's MLP.

The input of a layer's MLP is taken to be the token's embedding and nothing else: no attention, and nothing
that layers before have written. What is found is what the weights alone connect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import MoE
from wvindex.arch.keys import layer_key
from wvindex.errors import UnsupportedModel
from wvindex.formats.blas import one_thread
from wvindex.infer.layout import is_routed
from wvindex.infer.mlp import ACTIVATIONS, check_routing, expert_features, route
from wvindex.infer.norm import rms_norm
from wvindex.infer.projection import LayerInput
from wvindex.infer.weights import Weights
from wvindex.inspection.progress import Progress
from wvindex.inspection.residual import has_branch_norms
from wvindex.query.database import Store

EMBEDDING: Final = "model.embed_tokens.weight"

Activations = NDArray[np.float32]


@dataclass(frozen=True)
class Excited:
    """A feature of a layer that a token excites.

    Attributes
    ----------
    position : int
        Which of the tokens.
    layer : int
    part : str
        ``mlp``, ``mlp.experts`` or ``mlp.shared_experts``.
    expert : int or None
    feature : int
        Its row of gate_proj and up_proj, and its column of down_proj.
    weight : float
        The router's weight for the expert; 1 elsewhere.
    activation : float
    """

    position: int
    layer: int
    part: str
    expert: int | None
    feature: int
    weight: float
    activation: float


class Part(NamedTuple):
    """Activations of an MLP, or of one expert: those of some tokens, with the router's weights.

    `values` is (n_tokens, intermediate_size) float32.
    """

    name: str
    expert: int | None
    tokens: Sequence[int]
    weights: Sequence[float]
    values: Activations


def excited(
    db: Store, ids: Sequence[int], numbers: Sequence[int], k: int, progress: Progress | None = None
) -> Iterator[Excited]:
    """Give the k strongest features of each layer for each token.

    Parameters
    ----------
    db : Store
    ids : sequence of int
        Tokens.
    numbers : sequence of int
        Layers.
    k : int
    progress : callable, optional

    Yields
    ------
    Excited
        Strongest first, layer by layer, token by token.

    Raises
    ------
    UnsupportedModel, MetadataError, KeyNotFound
        If the model lacks what this takes.
    """
    weights = Weights(db, 0)
    mlps = [_MLP(db, weights, number) for number in numbers]
    x = weights.rows(EMBEDDING, np.array(ids)) * np.float32(db.config.embedding_multiplier)
    sizes = [sum(tensor.nbytes for tensor in db.select(layer=number, role="mlp.*")) for number in numbers]
    of_token: list[list[Excited]] = [[] for _ in ids]
    for place, mlp in enumerate(mlps):
        with one_thread(), np.errstate(all="ignore"):  # Products divide their work among threads themselves.
            of_layer = mlp.excited(x, k)
        for position, found in enumerate(of_layer):
            of_token[position] += found
        if progress is not None:
            progress(sum(sizes[: place + 1]), sum(sizes))
    for found in of_token:
        yield from found


class _MLP:
    """The MLP of a layer, up to the activations of its features.

    Raises
    ------
    UnsupportedModel
        If a number that it needs is missing, or its activation function is not known; MetadataError if the
        numbers of experts contradict each other.
    """

    def __init__(self, db: Store, weights: Weights, layer: int) -> None:
        config = db.config
        for name, known in (("hidden_act", config.hidden_act in ACTIVATIONS), ("rms_norm_eps", True)):
            if getattr(config, name) is None or not known:
                raise UnsupportedModel(
                    "activations need this of the configuration",
                    field=name,
                    expected=" or ".join(ACTIVATIONS) if name == "hidden_act" else "a number",
                    found=getattr(config, name),
                )
        self._db = db
        self._weights = weights
        self._layer = layer
        self._activation = ACTIVATIONS[config.hidden_act or ""]
        self._moe = config.moe if is_routed(db, layer) else None
        if self._moe is not None:
            check_routing(self._moe)

    def excited(self, embedded: Activations, k: int) -> list[list[Excited]]:
        """Give the k strongest features of each token, strongest first, for (T, hidden_size)."""
        x = self._normed(embedded)
        found: list[list[Excited]] = [[] for _ in x]
        for part, expert, of, weights, values in self._activations(x):
            for position, weight, row in zip(of, weights, values, strict=True):
                best = np.argsort(-np.abs(row), kind="stable")[:k]  # NaN last
                found[position] += [
                    Excited(position, self._layer, part, expert, int(i), weight, float(row[i])) for i in best
                ]
        return [sorted(some, key=_weakness)[:k] for some in found]

    def _normed(self, x: Activations) -> Activations:
        db = self._db
        before = (
            "pre_feedforward_layernorm" if has_branch_norms(db, self._layer) else "post_attention_layernorm"
        )
        weight = self._weights.vector(layer_key(self._layer, f"{before}.weight"))
        return rms_norm(x, weight, db.config.rms_norm_eps or 0.0, db.config.norm_weight_offset)

    def _activations(self, x: Activations) -> Iterator[Part]:
        stem = layer_key(self._layer, "mlp")
        everything = (range(len(x)), [1.0] * len(x))
        if self._moe is None or self._moe.shortcut:
            yield Part("mlp", None, *everything, self._dense(stem, x))
        if self._moe is None:
            return
        experts, weights = self._routes(x, self._moe)
        for expert in np.unique(experts[experts < self._moe.n_routed_experts]).tolist():
            of, slots = np.nonzero(experts == expert)
            values = self._expert(f"{stem}.experts", expert, x[of], self._moe)
            yield Part("mlp.experts", expert, of.tolist(), weights[of, slots].tolist(), values)
        if self._moe.n_shared_experts:
            yield Part("mlp.shared_experts", None, *everything, self._dense(f"{stem}.shared_experts", x))

    def _routes(self, x: Activations, moe: MoE) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        stem = layer_key(self._layer, "mlp.gate")
        bias = f"{stem}.e_score_correction_bias"
        logits = LayerInput(self._weights, x).project(stem)
        return route(logits, moe, self._weights.vector(bias) if bias in self._weights else None)

    def _dense(self, stem: str, x: Activations) -> Activations:
        source = LayerInput(self._weights, x)
        return self._activation(source.project(f"{stem}.gate_proj")) * source.project(f"{stem}.up_proj")

    def _expert(self, stem: str, expert: int, x: Activations, moe: MoE) -> Activations:
        def project(name: str, values: Activations) -> Activations:
            return LayerInput(self._weights, values).project_expert(f"{stem}.{name}_proj", expert)

        return expert_features(x, project, moe, self._activation)


def _weakness(one: Excited) -> float:
    """Sort by the magnitude that the column is multiplied by, largest first, and NaN last."""
    strength = abs(one.weight * one.activation)
    return math.inf if math.isnan(strength) else -strength
