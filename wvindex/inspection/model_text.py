"""The page of a model as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from wvindex.inspection.facts import model_facts
from wvindex.inspection.model_page import ModelPage
from wvindex.inspection.tensor_text import anomalies, by_module
from wvindex.inspection.text_parts import Row, facts, few, listed, number, section, short, shown, table
from wvindex.sizes import format_size

Facts = Iterator[tuple[str, str]]

_MOST_NAMES: Final = 12
_SIZES: Final = ("parameters", "size", "bits")


def model_text(page: ModelPage) -> RenderableType:
    """Lay out the page."""
    parts = [_head(page), section("Model", facts(model_facts(page.config, page.summary)))]
    parts.append(section("Contents", facts(_contents(page))))
    parts.append(section("Layers", _layers(page)))
    parts.append(section("Roles", _roles(page)))
    parts.append(section("Encodings", _sizes(page, "encodings", "encoding")))
    parts.append(section("Exactness", _sizes(page, "exactness", "exactness"), facts(_ledger(page))))
    if any(row["std"] is not None for row in page.layers):
        parts.append(section("Out of the ordinary", anomalies(page.anomalies)))
    return Group(*parts)


def _head(page: ModelPage) -> RenderableType:
    title = Text.assemble(shown(page.path), "  ", "a store" if page.kind == "store" else "a bare checkpoint")
    title.stylize("bold", 0, len(shown(page.path)))
    if page.built is None:
        return title
    options = " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in page.built["options"].items()
    )
    files = listed([file["name"] for file in page.built["files"]], 3)
    linked = ", linked" if page.built["linked"] else ""
    return Group(title, shown(f"built by {page.built['generator']} from {files}{linked}: {options}"))


def _contents(page: ModelPage) -> Facts:
    one, summary = page.parameters, page.summary
    active = f", {one.active:,} active a token" if one.active != one.stored else ""
    yield "parameters", f"{one.stored:,}{active}"
    if one.source is not None and one.source != one.stored:
        active = f", {one.source_active:,} active" if one.source_active != one.source else ""
        yield "", f"of its source: {one.source:,}{active}"
    yield "size", f"{format_size(summary.nbytes)}, {few(summary.bits_per_weight)} bits a weight"
    yield "arrays", str(summary.arrays)
    if summary.mtp_layers:
        yield "prediction", f"layers {', '.join(map(str, summary.mtp_layers))}: no part of the forward pass"
    yield from _tokenizer(page)
    if summary.unmapped:
        yield "unmapped", listed(summary.unmapped, _MOST_NAMES)
    for text in page.notes:
        yield "note", text


def _tokenizer(page: ModelPage) -> Facts:
    one = page.tokenizer
    if one.problem is not None:
        yield "tokenizer", f"none: {one.problem}"
        return
    ends = [
        f"{name} {number}"
        for name, number in (("begin", one.bos_token_id), ("end", one.eos_token_id))
        if number is not None
    ]
    yield "tokenizer", ", ".join([f"{one.vocab_size} tokens", *ends, *one.files])


def _layers(page: ModelPage) -> RenderableType:
    def cells(row: dict[str, Any]) -> Row:
        name = "none" if row["layer"] is None else f"{row['layer']}{' mtp' if row['mtp'] else ''}"
        sizes = (short(row["parameters"]), format_size(row["nbytes"]), few(row["bits_per_weight"]))
        numbers = (number(row[name]) for name in ("std", "kurtosis", "outliers", "outlier_channels"))
        return (name, *sizes, *numbers)

    titles = ("layer", *_SIZES, "std", "kurtosis", "outliers", "channels")
    return table(titles, [cells(row) for row in page.layers])


def _roles(page: ModelPage) -> RenderableType:
    def cells(row: dict[str, Any]) -> Row:
        sizes = (short(row["parameters"]), format_size(row["nbytes"]), few(row["bits_per_weight"]))
        return (*sizes, listed(row["encodings"], 2, " "), number(row["std"]))

    return by_module(page.roles, (*_SIZES, "type", "std"), cells, left=("type",), title="role")


def _sizes(page: ModelPage, name: str, what: str) -> RenderableType:
    rows = page.tables()[name].to_dicts()
    cells = [
        (
            row[what],
            str(row["tensors"]),
            f"{row['parameters']:,}",
            format_size(row["nbytes"]),
            few(row["bits_per_weight"]) if row["parameters"] else "",
        )
        for row in rows
    ]
    return table((what, "arrays", *_SIZES), cells)


def _ledger(page: ModelPage) -> Facts:
    reasons: dict[str, list[str]] = {}
    for row in page.elsewhere:
        reasons.setdefault(row["reason"] or "nowhere", []).append(row["tensor"])
    for reason, names in reasons.items():
        yield f"in {reason}", listed(names, _MOST_NAMES)
