"""The document of two models: how far each tensor of one is from the other's, the most damaged first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from wvindex._version import __version__
from wvindex.inspection.differences import Diff
from wvindex.inspection.report.document import Block, Document, Entry, Format, Grid, Listing, Statistic
from wvindex.inspection.table import Table

_GAP: Final = "Difference, with d = a − b"
_STORED: Final = "Storage"
_WORST: Final = "Worst parts"

OF_VALUES: Final = (
    Statistic("rel_l2", "Relative L2", _GAP, "‖d‖ / ‖a‖: 0 where equal"),
    Statistic("sqnr_db", "SQNR, dB", _GAP, "20 log₁₀(‖a‖ / ‖d‖), in decibels: more is better"),
    Statistic("cosine", "Cosine", _GAP, "a·b / (‖a‖ ‖b‖): 1 where they point the same way"),
    Statistic("max_abs", "max |Δ|", _GAP, "Largest |d| of a value"),
    Statistic("mean_abs", "mean |Δ|", _GAP, "Mean of |d|"),
    Statistic("rmse", "RMSE", _GAP, "Square root of the mean of d²"),
)
"""Measures that everything that was compared has."""

OF_PAIRS: Final = (
    Statistic("rank", "Rank", _GAP, "By damage, the most first", "index"),
    Statistic(
        "status", "Status", _GAP, "Equal, equal but for the rounding of products, or different", "text"
    ),
    *OF_VALUES,
    Statistic("changed", "Changed values", _GAP, "Values that are not equal", "count"),
    Statistic("nonfinite", "Not finite", _GAP, "Changed values that are NaN or infinite on a side", "count"),
    Statistic("worst_row_rel_l2", "Worst row", _WORST, "Relative L2 of the row that suffered most"),
    Statistic("worst_row", "Number of worst row", _WORST, "From 0, in its matrix", "index"),
    Statistic("worst_expert_rel_l2", "Worst expert", _WORST, "Relative L2 of the expert that suffered most"),
    Statistic("worst_expert", "Number of worst expert", _WORST, "From 0", "index"),
    Statistic("shape", "Shape", _STORED, "Outermost dimension first", "text"),
    Statistic("a_encoding", "Encoding in a", _STORED, "How a stores the values", "text"),
    Statistic("b_encoding", "Encoding in b", _STORED, "How b stores the values", "text"),
    Statistic("a_bits", "Bits in a", _STORED, "Stored bits a weight in a, scales included"),
    Statistic("b_bits", "Bits in b", _STORED, "Stored bits a weight in b, scales included"),
)
"""Of tensors that both have."""

COLUMNS: Final = (
    *("rank", "status", "a_encoding", "b_encoding", "b_bits"),
    *("rel_l2", "sqnr_db", "cosine", "max_abs"),
)

_LISTINGS: Final = {
    "roles": ("Roles", "All values of their tensors together, the most damaged first."),
    "missing": ("Missing", "What a has and b lacks."),
    "extra": ("Extra", "What b has and a lacks."),
    "unlike": ("Of another shape", "Not compared."),
    "config": ("Configuration", "Fields that differ, and whether that changes what is computed."),
}
"""Tables that stand below that of tensors, where they have rows."""

_NAMES: Final = {"key": "Tensor", "nbytes": "Size", "a": "In a", "b": "In b"}
_COUNTS: Final = frozenset({"tensors", "different", "over", "changed", "nonfinite", "count"})
_LEFT_OUT: Final = frozenset({"count", "mean_abs", "rmse", "layer", "over"})
_LABELS: Final = {one.name: one for one in OF_PAIRS}


def comparison_document(found: Diff) -> Document:
    """Give the page of a comparison."""
    title = " → ".join(_names(found.a, found.b))
    blocks = _blocks(found)
    entries = tuple(_entry(i, row, blocks[row["key"]]) for i, row in enumerate(found.tensors))
    return Document(
        kind="Weight comparison",
        title=title,
        facts=tuple(_facts(found)),
        statistics=OF_PAIRS,
        first=found.metric,
        columns=COLUMNS if found.metric in COLUMNS else (*COLUMNS, found.metric),
        entries=entries,
        listings=tuple(_listings(found)),
        notes=found.notes,
        order="The most damaged first",
        generator=f"wvindex {__version__}",
    )


def _names(a: str, b: str) -> tuple[str, str]:
    """Give both names without the directories that lead to them, where that tells them apart."""
    names = PurePath(a).name, PurePath(b).name
    return (a, b) if names[0] == names[1] else names


def _facts(found: Diff) -> Iterator[tuple[str, str]]:
    yield from zip("ab", _names(found.a, found.b), strict=True)
    statuses = found.tensors["status"]
    yield "compared", f"{len(statuses)} tensors"
    for status, label in (
        ("same", "equal"),
        ("rounding", "equal but for rounding"),
        ("different", "different"),
    ):
        if status in statuses:
            yield label, str(statuses.count(status))
    for name, label in (("missing", "missing in b"), ("extra", "in b alone"), ("unlike", "of another shape")):
        if rows := len(getattr(found, name)):
            yield label, str(rows)
    for whole in found.model:
        yield "bits per weight", f"{whole['a_bits']:.4g} → {whole['b_bits']:.4g}"
        for one in OF_VALUES[:4]:
            yield f"{one.label}, all weights", f"{whole[one.name]:.4g}"
    if found.threshold is not None:
        yield "beyond the threshold", f"{sum(found.tensors['over'])}, of {found.metric} {found.threshold:g}"


def _entry(i: int, row: Mapping[str, Any], blocks: list[Block]) -> Entry:
    facts = [("status", row["status"]), ("shape", row["shape"]), ("compared", row["compared"])]
    facts += [
        (side, f"{row[f'{side}_encoding']}, {row[f'{side}_bits']:.4g} bits per weight") for side in "ab"
    ]
    if row["at"] is not None:
        where = ", ".join(map(str, row["at"]))
        facts.append(("largest |Δ|", f"at [{where}]: {row['a_at']:.6g} in a, {row['b_at']:.6g} in b"))
    return Entry(
        row["key"], tuple((label, str(text)) for label, text in facts), {**row, "rank": i + 1}, tuple(blocks)
    )


def _blocks(found: Diff) -> Mapping[str, list[Block]]:
    """Give what panels of tensors show: their experts, and their worst rows."""
    blocks: defaultdict[str, list[Block]] = defaultdict(list)
    for key, rows in _by_key(found.experts).items():
        rows.sort(key=lambda row: row["expert"])
        values = {one.name: tuple(row[one.name] for row in rows) for one in OF_VALUES}
        blocks[key].append(Grid("Experts", f"{len(rows)} in this stack.", "expert", OF_VALUES, values))
    for key, rows in _by_key(found.rows).items():
        columns = _columns([name for name in found.rows.columns if name not in {"key", "role"}], rows)
        cells = tuple(tuple(row[one.name] for one in columns) for row in rows)
        about = f"The {len(rows)} rows that suffered most, of their matrix."
        blocks[key].append(Listing("Worst rows", about, columns, cells))
    return blocks


def _by_key(table: Table) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault(row["key"], []).append(row)
    return groups


def _listings(found: Diff) -> Iterator[Listing]:
    for name, (title, about) in _LISTINGS.items():
        table: Table = getattr(found, name)
        if len(table):
            rows = table.to_dicts()
            columns = _columns(table.columns, rows)
            yield Listing(
                title, about, columns, tuple(tuple(_cell(row[one.name]) for one in columns) for row in rows)
            )


def _cell(value: Any) -> Any:
    """Give a value that a page has a form for; anything else, such as a list in a configuration, as text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[Statistic, ...]:
    """Give the columns that a listing shows: those that say something."""
    shown = [name for name in names if name not in _LEFT_OUT]
    return tuple(_column(name, rows) for name in shown if any(row[name] is not None for row in rows))


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> Statistic:
    known = _LABELS.get(name)
    if known is not None:
        return known
    is_text = any(isinstance(_cell(row[name]), str) for row in rows)
    kind: Format = (
        "text" if is_text else "bytes" if name == "nbytes" else "count" if name in _COUNTS else "number"
    )
    return Statistic(name, _NAMES.get(name, name.replace("_", " ").capitalize()), "", "", kind)
