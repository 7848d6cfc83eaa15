"""A page for a layer: its tensors, its attention, heads, feed-forward features, experts, what is odd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from wvindex.arch.config import MoE
from wvindex.arch.keys import CORRECTION_BIAS
from wvindex.inspection.anomalies import (
    ANOMALY,
    expert_anomalies,
    feature_anomalies,
    in_order,
    row_anomalies,
    tensor_anomalies,
)
from wvindex.inspection.api import GROUPINGS
from wvindex.inspection.attention import Attention, attention_of
from wvindex.inspection.collect import Grouping, Job, Progress, collect
from wvindex.inspection.distribution import Distribution
from wvindex.inspection.feature_norms import (
    FEATURES,
    block_of,
    block_tensors,
    features_rows,
    feed_forward_of,
    row_norms,
)
from wvindex.inspection.heads import HEAD
from wvindex.inspection.page import TENSORS, decodable, json_of, plain, tensors_table
from wvindex.inspection.row_norms import ROWS, rows_row
from wvindex.inspection.table import Table
from wvindex.inspection.tensor_stats import Advance, Row
from wvindex.query.database import Store
from wvindex.query.layers import Layer
from wvindex.query.lazy import Tensor
from wvindex.sizes import bits_per_weight

EXPERTS: Final = (
    *("expert", "l2", "norm_ratio", "gate_l2", "up_l2", "down_l2", "dead", "nearest", "cosine", "duplicate"),
    *("router_l2", "correction_bias"),
)

TABLES: Final[dict[str, Sequence[str]]] = {
    "tensors": TENSORS,
    "heads": HEAD,
    "features": FEATURES,
    "rows": ROWS,
    "experts": EXPERTS,
    "anomalies": ANOMALY,
}
"""Columns of a layer's tables, in the page's order."""

_ROUTER: Final = "mlp.gate.weight"


@dataclass(frozen=True, kw_only=True)
class Routing:
    """How a layer chooses experts.

    Attributes
    ----------
    rule : MoE
        The configuration's numbers.
    router_norms : Distribution or None
        Of the router's rows, one an expert; None without a router, or without statistics.
    correction_bias : (float, float) or None
        Least and largest of `e_score_correction_bias`, where there is one.
    """

    rule: MoE
    router_norms: Distribution | None
    correction_bias: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class LayerPage:
    """One layer of a model; see `wvindex.inspect`. `str` gives the page.

    Attributes
    ----------
    path : str
    model_type : str
    layer : int
    layers : int
        Layers of the forward pass.
    mtp : bool
        Whether it is a multi-token-prediction layer, no part of the forward pass.
    parameters, nbytes : int
        Of all its tensors; scales count as bytes, not as parameters.
    attention : Attention or None
    routing : Routing or None
        Of a layer with routed experts.
    tensors : Table
        Shape, encoding, exactness, sources, size, and statistics as of `wvindex.stats`.
    heads : Table
        As of ``wvindex.stats(by="head")``.
    features : Table
        For each feed-forward block a row for the norms of each projection's features, and one for their
        product: `wvindex.inspection.feature_norms.FEATURES`.
    rows : Table
        Norms of each matrix's rows, and how many rows and columns are zero or constant.
    experts : Table
        A row an expert: the norm of all its weights, also beside the median expert's, and of each projection;
        whether one is dead; the expert that it is most like, by the projection where they are most alike; the
        norm of its row of the router, its correction bias.
    anomalies : Table
        What is out of the ordinary (`wvindex.inspection.anomalies.WHAT`).
    notes : tuple of str
    """

    path: str
    model_type: str
    layer: int
    layers: int
    mtp: bool
    parameters: int
    nbytes: int
    attention: Attention | None
    routing: Routing | None
    tensors: Table
    heads: Table
    features: Table
    rows: Table
    experts: Table
    anomalies: Table
    notes: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a value; NaN where there are none."""
        return bits_per_weight(self.nbytes, self.parameters)

    def tables(self) -> dict[str, Table]:
        """Give its tables by name."""
        found = (self.tensors, self.heads, self.features, self.rows, self.experts, self.anomalies)
        return {table.name: table for table in found}

    def to_dict(self) -> dict[str, Any]:
        """Give plain values; a table is a list of dictionaries."""
        return {"page": "layer", **plain(self), "bits_per_weight": self.bits_per_weight}

    def to_json(self) -> dict[str, Any]:
        """Give what `to_dict` does as JSON values: NaN and infinity are strings."""
        return json_of(self.to_dict())

    def __str__(self) -> str:
        """Give the page, 80 columns wide."""
        from wvindex.inspection.page_text import page_text

        return page_text(self)


def layer_page(
    db: Store, number: int, *, stats: bool = True, keep: bool = True, progress: Progress | None = None
) -> LayerPage:
    """Make the page of a layer; `wvindex.inspect` documents the rest.

    Raises
    ------
    SelectionError
        If there is no such layer.
    """
    layer = db.layers[number]
    tensors = list(layer)
    known, unknown = decodable(tensors)
    jobs = [
        Job("tensor", GROUPINGS["tensor"], known),
        Job("head", GROUPINGS["head"], known),
        Job("feature-norms", _FEATURES, known),
        Job("row-norms", _ROWS, known),
        Job("expert", GROUPINGS["expert"], known),
    ]
    found, notes = collect(db, jobs if stats else [], keep=keep, progress=progress)
    rows, heads, features, norms, stacks = found or ([], [], [], [], [])
    anomalies = [
        *tensor_anomalies(rows, unknown),
        *row_anomalies(norms),
        *expert_anomalies(stacks),
        *feature_anomalies(features),
    ]
    routing, routers = _routing(db, layer, stats=stats)
    return LayerPage(
        path=str(db.path),
        model_type=db.config.model_type,
        layer=layer.number,
        layers=len(db.layers),
        mtp=layer.mtp,
        parameters=sum(tensor.size for tensor in tensors),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        attention=attention_of(db, layer),
        routing=routing,
        tensors=tensors_table(tensors, rows),
        heads=Table.of_dicts("heads", HEAD, heads),
        features=Table.of_dicts("features", FEATURES, features),
        rows=Table.of_dicts("rows", ROWS, norms),
        experts=Table.of_dicts("experts", EXPERTS, _experts(stacks, routers)),
        anomalies=Table.of_dicts("anomalies", ANOMALY, in_order(anomalies)),
        notes=notes,
    )


def _block_rows(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    block = feed_forward_of(db, tensors)
    advance(sum(tensor.nbytes for tensor in tensors))
    return features_rows(block) if block else []


def _biases(db: Store) -> dict[str, Any]:
    return {"biases": sorted(key for key in db if ".mlp." in key and key.endswith("_proj.bias"))}


def _matrix_rows(db: Store, tensors: Sequence[Tensor], advance: Advance) -> list[Row]:
    advance(sum(tensor.nbytes for tensor in tensors))
    return [rows_row(tensor) for tensor in tensors]


def _matrix_key(db: Store, tensor: Tensor) -> str | None:
    return tensor.key if tensor.ndim > 1 and tensor.size else None


_FEATURES: Final = Grouping(FEATURES, _block_rows, block_of, 1, reads=block_tensors, options=_biases)
_ROWS: Final = Grouping(ROWS, _matrix_rows, _matrix_key, 1)


def _routing(db: Store, layer: Layer, *, stats: bool) -> tuple[Routing | None, list[Row]]:
    """Give how a layer chooses experts, and for each expert what the router has of it."""
    rule = db.config.moe
    roles = {tensor.key.removeprefix(f"model.layers.{layer.number}."): tensor for tensor in layer}
    if rule is None or not any(role.startswith("mlp.experts.") or role == _ROUTER for role in roles):
        return None, []
    known = {
        role: tensor for role, tensor in roles.items() if stats and tensor.size and decodable([tensor])[0]
    }
    router, bias = known.get(_ROUTER), known.get(CORRECTION_BIAS)
    norms = None if router is None else row_norms(router)
    values = None if bias is None else np.asarray(bias.read(), np.float64).reshape(-1)
    columns = {"router_l2": norms, "correction_bias": values}
    length = max((len(column) for column in columns.values() if column is not None), default=0)
    rows = [
        {name: float(column[i]) for name, column in columns.items() if column is not None and i < len(column)}
        for i in range(length)
    ]
    found = Routing(
        rule=rule,
        router_norms=None if norms is None else Distribution.of(norms),
        correction_bias=None if values is None else (float(values.min()), float(values.max())),
    )
    return found, rows


def _experts(stacks: Sequence[Row], routers: Sequence[Row]) -> list[Row]:
    """Put the rows of an expert's projections into one, with its row of the router."""
    experts: dict[int, list[Row]] = {}
    for part in stacks:
        if part["role"].startswith("mlp.experts."):
            experts.setdefault(part["expert"], []).append(part)
    norms = {number: math.hypot(*(part["l2"] for part in parts)) for number, parts in experts.items()}
    median = float(np.median(list(norms.values()))) if norms else 0.0
    found = []
    for number, parts in sorted(experts.items()):
        alike = max(parts, key=lambda part: -2.0 if math.isnan(part["cosine"]) else part["cosine"])
        row: Row = {"expert": number, "l2": norms[number]}
        row["norm_ratio"] = norms[number] / median if median > 0 else math.nan
        row |= {name: any(part[name] for part in parts) for name in ("dead", "duplicate")}
        row |= {name: alike[name] for name in ("nearest", "cosine")}
        row |= {part["role"].rpartition(".")[2].replace("_proj", "_l2"): part["l2"] for part in parts}
        found.append(row | (routers[number] if number < len(routers) else {}))
    return found
