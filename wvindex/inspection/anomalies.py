"""What in the numbers of a page is out of the ordinary: facts, not judgements; none need be a fault."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from wvindex.arch.keys import split_layer
from wvindex.inspection.tensor_stats import Row
from wvindex.query.lazy import Tensor

ANOMALY: Final = ("kind", "layer", "key", "count", "detail")

WHAT: Final = {
    "undecodable": "values that nobody decodes",
    "nan": "NaN",
    "inf": "infinite values",
    "constant": "tensors of one value",
    "outlier_channels": "outlier channels",
    "zero_rows": "rows of zeros",
    "constant_rows": "rows of one value",
    "zero_columns": "columns of zeros",
    "dead_experts": "dead experts",
    "duplicate_experts": "experts much like another",
    "dead_features": "dead features",
}
"""Every kind of anomaly, in the order of a page, and what is counted."""


_PLURAL: Final = re.compile(r"\b(value|tensor|channel|row|column|expert|feature)s\b")


def counted(kind: str, count: int) -> str:
    """Say how many there are: ``2 rows of zeros``, ``1 row of zeros``."""
    what = _PLURAL.sub(r"\1", WHAT[kind], count=1) if count == 1 else WHAT[kind]
    return f"{count:,} {what}"


def tensor_anomalies(rows: Iterable[Row], undecodable: Iterable[Tensor] = ()) -> list[Row]:
    """Find what the statistics of tensors show: the columns `ANOMALY`."""
    found = [_of(t.key, "undecodable", t.size, f"{t.encoding}: no statistics") for t in undecodable]
    for row in rows:
        found += [_of(row["key"], *one) for one in _of_tensor(row)]
    return found


def _of_tensor(row: Row) -> Iterator[tuple[str, int, str]]:
    for kind in ("nan", "inf"):
        if row[kind]:
            yield kind, row[kind], f"of {row['count']:,} values"
    if row["count"] > 1 and row["min"] == row["max"]:
        yield "constant", row["count"], f"all {row['min'] + 0.0:.6g}"  # no -0
    if row.get("outlier_channels"):
        most, ratio = row["top_channel"], row["top_channel_ratio"]
        yield "outlier_channels", row["outlier_channels"], f"input {most} at {ratio:.1f} times the median"


def row_anomalies(rows: Iterable[Row]) -> list[Row]:
    """Find rows and columns of matrices that say nothing (`wvindex.inspection.row_norms.ROWS`)."""
    return [
        _of(row["key"], kind, row[kind], f"of {row['rows']:,} rows" if kind != "zero_columns" else "")
        for row in rows
        for kind in ("zero_rows", "constant_rows", "zero_columns")
        if row[kind]
    ]


def expert_anomalies(rows: Iterable[Row]) -> list[Row]:
    """Find dead experts and near-duplicates of each stack (`wvindex.inspection.experts.EXPERT`)."""
    stacks: dict[str, list[Row]] = {}
    for row in rows:
        stacks.setdefault(row["key"], []).append(row)
    found = []
    for key, experts in stacks.items():
        dead = [row["expert"] for row in experts if row["dead"]]
        if dead:
            found.append(_of(key, "dead_experts", len(dead), _numbers(dead)))
        alike = [row for row in experts if row["duplicate"]]
        if alike:
            pairs = sorted({tuple(sorted((row["expert"], row["nearest"]))) for row in alike})
            detail = _numbers([f"{one} and {other}" for one, other in pairs])
            found.append(_of(key, "duplicate_experts", len(alike), detail))
    return found


def feature_anomalies(rows: Iterable[Row]) -> list[Row]:
    """Find blocks with features that write nothing (`wvindex.inspection.feature_norms.FEATURES`)."""
    return [
        _place(row["layer"], row["role"])
        | {"kind": "dead_features", "count": row["zeros"], "detail": f"of {row['features']:,}"}
        for row in rows
        if row["zeros"] and not row["role"].endswith("_proj")
    ]


def in_order(found: Iterable[Row]) -> list[Row]:
    """Put anomalies in the order of `WHAT`; those of a kind stay as they are."""
    kinds = list(WHAT)
    return sorted(found, key=lambda row: kinds.index(row["kind"]))


def _of(key: str, kind: str, count: int, detail: str) -> Row:
    layer, _ = split_layer(key)
    return {"kind": kind, "layer": layer, "key": key, "count": count, "detail": detail}


def _place(layer: int, role: str) -> Row:
    return {"layer": layer, "key": f"model.layers.{layer}.{role}"}


def _numbers(found: list[Any], most: int = 6) -> str:
    shown = ", ".join(map(str, found[:most]))
    return f"{shown} and {len(found) - most} more" if len(found) > most else shown
