"""Feed-forward features: the norms of what each reads, and of what it writes.

Feature i of a gated feed-forward writes ``act(gate_i x) (up_i x) down_i``: rows i of the gate and of the up
projection, column i of the down projection. The product of the three norms says how strongly it can write;
the norm of one alone does not, for what is taken from the up row may be given to the down column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.keys import layer_key, split_layer
from wvindex.inspection import kernels
from wvindex.inspection.distribution import DISTRIBUTION, Distribution
from wvindex.inspection.scan import column_states, scan
from wvindex.inspection.tensor_stats import Row
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

PARTS: Final = ("gate", "up", "down")
BLOCKS: Final = ("mlp.shared_experts", "mlp.experts", "mlp")

FEATURE: Final = ("layer", "role", "expert", "feature", *(f"{part}_l2" for part in PARTS), "strength")
FEATURES: Final = ("layer", "role", "features", "experts", "zeros", *DISTRIBUTION)

Norms = NDArray[np.float64]


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward block: a layer's own, its shared experts, or its stack of routed ones.

    Attributes
    ----------
    layer : int
    role : str
        One of `BLOCKS`.
    projections : dict of str to Tensor
        Those of `PARTS` that are there; as many features in each.
    has_bias : frozenset of str
        Parts to which a number is added, a bias or GPT-OSS's 1: a row of zeros does not silence those.
    """

    layer: int
    role: str
    projections: dict[str, Tensor]
    has_bias: frozenset[str]

    @property
    def experts(self) -> int | None:
        """How many are stacked; None where it is a single one."""
        down = self.projections["down"]
        return len(down) if down.ndim > 2 else None

    def norms(self) -> dict[str, Norms]:
        """Take each feature's norms; each array is (features,) long.

        Features of a stack stand one expert after another. ``strength`` is the product of all parts. What
        holds NaN has a norm of NaN, what holds infinity an infinite one.
        """
        found = {
            part: column_norms(tensor) if part == "down" else row_norms(tensor)
            for part, tensor in self.projections.items()
        }
        with np.errstate(over="ignore", invalid="ignore"):
            return found | {"strength": reduce(np.multiply, found.values())}

    def dead(self, norms: dict[str, Norms]) -> NDArray[np.bool_]:
        """Tell which features write nothing whatever they read: a part is zero, and no bias is added.

        None of those whose other parts hold NaN or infinity, for zero times these is NaN.
        """
        silent = [norms[part] == 0 for part in self.projections if part not in self.has_bias]
        finite = [np.isfinite(norms[part]) for part in self.projections]
        dead: NDArray[np.bool_] = np.logical_or.reduce(silent) & np.logical_and.reduce(finite)
        return dead


def block_of(db: Store, tensor: Tensor) -> str | None:
    """Name the block that a projection belongs to, as ``3 mlp.experts``; None where it is none's."""
    number, role = split_layer(tensor.key)
    block, _, name = role.removesuffix(".weight").rpartition(".")
    if number is None or block not in BLOCKS or name not in {f"{part}_proj" for part in PARTS}:
        return None
    return f"{number} {block}" if feed_forward(db, number, block) else None


def feed_forward(db: Store, number: int, block: str) -> FeedForward | None:
    """Give a block of a layer; None where it has no down-projection, or its parts do not fit."""
    keys = {part: layer_key(number, f"{block}.{part}_proj") for part in PARTS}
    found = {part: db[f"{key}.weight"] for part, key in keys.items() if f"{key}.weight" in db}
    if "down" not in found or len(found) < 2 or not all(t.ndim in (2, 3) and t.size for t in found.values()):
        return None
    counts = {(t.shape[:-2], t.shape[-1] if part == "down" else t.shape[-2]) for part, t in found.items()}
    biased = {part for part, key in keys.items() if f"{key}.bias" in db and part != "down"}
    moe = db.config.moe
    if moe is not None and moe.swiglu_limit is not None and block == "mlp.experts":
        biased.add("up")
    return FeedForward(number, block, found, frozenset(biased)) if len(counts) == 1 else None


def feed_forward_of(db: Store, tensors: Sequence[Tensor]) -> FeedForward | None:
    """Give the block that some projections belong to."""
    number, role = split_layer(tensors[0].key)
    return feed_forward(db, number or 0, role.removesuffix(".weight").rpartition(".")[0])


def block_tensors(db: Store, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Give all projections of a block, whichever were chosen."""
    block = feed_forward_of(db, tensors)
    return list(block.projections.values()) if block else []


def feature_rows(block: FeedForward) -> list[Row]:
    """Give a row for each feature: the columns `FEATURE`."""
    norms = block.norms()
    n_features, per_expert = len(norms["strength"]), len(norms["strength"]) // (block.experts or 1)
    columns = {f"{part}_l2": norms[part].tolist() for part in block.projections}
    columns["strength"] = norms["strength"].tolist()
    place: dict[str, Any] = {"layer": block.layer, "role": block.role}
    return [
        place
        | {"expert": i // per_expert if block.experts else None, "feature": i % per_expert}
        | {name: values[i] for name, values in columns.items()}
        for i in range(n_features)
    ]


def features_rows(block: FeedForward) -> list[Row]:
    """Give a row for the norms of each part and one for their product: the columns `FEATURES`.

    ``zeros`` counts norms of zero, and in the row of the product, whose role is the block's, features that
    write nothing.
    """
    norms = block.norms()
    rows = []
    for part, values in norms.items():
        is_whole = part == "strength"
        zeros = block.dead(norms) if is_whole else values == 0
        rows.append(
            {
                "layer": block.layer,
                "role": block.role if is_whole else f"{block.role}.{part}_proj",
                "features": values.size,
                "experts": block.experts,
                "zeros": int(np.count_nonzero(zeros)),
            }
            | Distribution.of(values).to_row()
        )
    return rows


def row_norms(tensor: Tensor) -> Norms:
    """Take the norm of each row of a matrix, or of each matrix of a stack, one after another."""
    return np.concatenate([norms_of(scan(one, rows_per_group=1).states) for one in matrices(tensor)])


def column_norms(tensor: Tensor) -> Norms:
    """Take the norm of each column likewise."""
    return np.concatenate([norms_of(column_states(one)) for one in matrices(tensor)])


def matrices(tensor: Tensor) -> list[Tensor]:
    """Give a matrix alone, or the matrices of a stack: what is known of all rows of one fits in memory."""
    if tensor.ndim == 2:
        return [tensor]
    return [one for i in range(len(tensor)) for one in matrices(tensor.expert(i))]


def norms_of(states: NDArray[np.float64]) -> Norms:
    """Give the norms that states of moments tell (`wvindex.inspection.kernels.STATE`), as NumPy gives them.

    NaN where a value is, else infinite where one is. Squares that are denormal may be lost, but no norm is
    below the largest magnitude: a norm of 0 is one of zeros.
    """
    n, mean, m2 = (states[:, i] for i in (kernels.N, kernels.MEAN, kernels.M2))
    largest = np.maximum(np.abs(states[:, kernels.LEAST]), np.abs(states[:, kernels.MOST]))
    with np.errstate(over="ignore"):
        norms: Norms = np.maximum(np.sqrt(m2 + n * mean * mean), largest)
    norms[states[:, kernels.INF] > 0] = np.inf
    norms[states[:, kernels.NAN] > 0] = np.nan
    return norms
