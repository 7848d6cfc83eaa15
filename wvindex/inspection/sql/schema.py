"""Columns of the tables: their types in SQL, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from wvindex.inspection.outliers import CHANNEL_RATIO, SIGMAS
from wvindex.inspection.quantiles import PROBABILITIES

SQLType = Literal["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DOUBLE[]", "BIGINT[]"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : str
    type : {"VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DOUBLE[]", "BIGINT[]"}
    meaning : str
    """

    name: str
    type: SQLType
    meaning: str


def _columns(kind: SQLType, /, **meanings: str) -> dict[str, Column]:
    return {name: Column(name, kind, meaning) for name, meaning in meanings.items()}


_LETTERS: Final = {"q": "queries", "k": "keys", "v": "values", "o": "output"}

COLUMNS: Final[dict[str, Column]] = {
    **_columns(
        "VARCHAR",
        store="the name that the source was given, or its file's",
        path="where it is",
        kind="store, or checkpoint for a bare file",
        model_type="the model's family, as its source names it",
        key="standard key of the tensor",
        role="what the tensor is in its layer: the rest of its key, without .weight",
        shape="outermost first: 4x256x256; or scalar",
        encoding="how values are stored: Q4_K, BF16, F8_E4M3",
        dtype="of the values that reading gives",
        exactness="bit, reordered, cast or derived: how values relate to the source's",
        value="text, or a JSON value; NULL where the source says nothing",
        alias="another name that the tensor answers to",
        source="name of the tensor in its source",
        file="the source's file that it stood in",
        reason="where it went if no array holds it, or what it is to its array",
    ),
    **_columns(
        "BIGINT",
        layer="number of the layer; NULL outside of layers",
        head="number of the query head",
        kv_head="the head of keys and values that it uses",
        expert="number in the stack",
        feature="number of the feed-forward feature",
        channel="input column of the matrix or stack",
        row="row, of all dimensions but the last",
        layers="layers of the forward pass",
        tensors="how many tensors",
        nbytes="stored bytes, scales included",
        count="how many values",
        nan="values that are NaN",
        inf="values that are infinite",
        zeros="values that are 0",
        outliers=f"values with a magnitude above {SIGMAS:g} std; of matrices only",
        outlier_channels=f"columns whose absmax is {CHANNEL_RATIO:g} times the median column's, or more",
        top_channel="the column with the largest magnitude",
        nearest="the expert that it is most like",
    ),
    **_columns("BIGINT[]", dims="the shape as a list"),
    **_columns(
        "BOOLEAN",
        mapped="whether a rule maps it to a standard key",
        mtp="whether it belongs to a multi-token-prediction layer",
        dead="whether its norm is 0, or a thousandth of the median expert's or less",
        duplicate="whether the cosine to the nearest is 0.99 or more",
    ),
    **_columns(
        "DOUBLE",
        bits_per_weight="stored bits a value, scales included",
        mean="mean",
        std="standard deviation of the population",
        rms="root of the mean square",
        min="least value",
        max="largest value",
        absmax="largest magnitude",
        l2="Euclidean (Frobenius) norm",
        skewness="third standardized moment",
        kurtosis="fourth standardized moment less 3: 0 for a normal distribution; NaN where values are equal",
        outlier_share="outliers of all finite values",
        top_channel_ratio="absmax of that column over the median column's",
        absmax_ratio="absmax over the median column's",
        norm_ratio="l2 over the median expert's",
        cosine="to the nearest expert, of all weights",
        qk_norm="Frobenius norm of W_q^T W_k",
        ov_norm="Frobenius norm of W_o W_v",
        gate_l2="l2 of the feature's row of the gate projection",
        up_l2="l2 of its row of the up projection",
        down_l2="l2 of its column of the down projection",
        strength="product of these: how strongly it can write",
        stable_rank="(l2 / spectral_norm)^2",
        effective_rank="exp(entropy) of the singular values' shares; NULL where not all are known",
        spectral_norm="largest singular value",
    ),
    **_columns("DOUBLE[]", singular_values="the 8 largest, falling"),
    **_columns(
        "DOUBLE",
        **{name: f"quantile {share:g}: the weight itself" for name, share in PROBABILITIES.items()},
        **{f"{letter}_l2": f"l2 of its {what}" for letter, what in _LETTERS.items()},
        **{f"{letter}_absmax": f"absmax of its {what}" for letter, what in _LETTERS.items()},
        **{f"{letter}_kurtosis": f"kurtosis of its {what}" for letter, what in _LETTERS.items()},
    ),
}
"""Columns of a source's tables by name: one name means the same in every one."""


DIFFERENCES: Final[dict[str, Column]] = {
    **COLUMNS,
    **_columns(
        "VARCHAR",
        reference="the source that the store is held against: the first",
        status="same, rounding (of a product) or different",
        a_encoding="how the reference stores it",
        b_encoding="how the store does",
        compared="stored, moved or factors: what was compared of a tensor that is stored in two ways",
    ),
    **_columns(
        "BIGINT",
        count="how many pairs of values",
        different="tensors that are",
        changed="values that are not equal",
        nonfinite="of these, NaN or infinity on one side, or another on each",
        worst_row="the row that suffered most",
        worst_expert="the expert that suffered most",
    ),
    **_columns("BIGINT[]", at_index="where the largest difference is"),
    **_columns(
        "DOUBLE",
        a_bits="stored bits a value of the reference",
        b_bits="stored bits a value of the store",
        rel_l2="l2 of the differences over the reference's l2",
        max_abs="largest |difference|",
        mean_abs="mean |difference|",
        rmse="root of the mean square difference",
        cosine="of all values of one and of the other",
        sqnr_db="signal to quantization noise: -20 log10(rel_l2)",
        a_at="the reference's value there",
        b_at="the store's",
        worst_row_rel_l2="rel_l2 of that row",
        worst_expert_rel_l2="rel_l2 of that expert",
        rounding="rel_l2 that the rounding of products explains",
    ),
}
"""Columns of the tables that hold one source against another."""


def columns(*names: str, among: Mapping[str, Column] = COLUMNS) -> tuple[Column, ...]:
    """Give columns by name."""
    return tuple(among[name] for name in names)


def json_structure(some: Iterable[Column]) -> str:
    """Give what DuckDB's ``from_json`` takes for an object of these columns."""
    return json.dumps({one.name: _json_type(one.type) for one in some})


def _json_type(kind: SQLType) -> str | list[str]:
    return [kind.removesuffix("[]")] if kind.endswith("[]") else kind
