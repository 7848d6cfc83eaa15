"""``wvindex info``: what a store or a checkpoint is, on one page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from wvindex.cli.options import PATH, config_option, json_option
from wvindex.cli.output import emit, emit_facts, emit_json, emit_table
from wvindex.cli.runnable import check_runs
from wvindex.errors import WvindexError
from wvindex.garbage import collection_paused
from wvindex.inspection.facts import model_facts
from wvindex.sizes import format_size

if TYPE_CHECKING:
    from wvindex.arch.config import ModelConfig
    from wvindex.query.database import Store
    from wvindex.query.summary import Summary
    from wvindex.store.catalog import Catalog

Facts = Iterator[tuple[str, str]]

_MOST_NAMES: Final = 20
"""Names that a list on the page has; ``--json`` has them all."""


@click.command("info")
@click.argument("path", type=PATH)
@config_option
@json_option
def command(path: str, config: str | None, as_json: bool) -> None:
    """Tell what PATH is, on one page.

    Its model, its size, how it is stored, what is odd about it, and whether it can be run.
    PATH is a store, or a bare GGUF, safetensors or MaxText checkpoint.
    """
    import wvindex as wv
    from wvindex.query.summary import summarize

    with collection_paused(), wv.open(path, config=config) as db:
        summary = summarize(db)
        refusal = _refusal(db)
        if as_json:
            emit_json(_document(db, summary, refusal))
        else:
            _print_page(db, summary, refusal)


def _refusal(db: Store) -> WvindexError | None:
    """Give what the forward pass would refuse this model for; None where it runs."""
    try:
        check_runs(db)
    except WvindexError as error:
        return error
    return None


def _document(db: Store, summary: Summary, refusal: WvindexError | None) -> dict[str, Any]:
    catalog = db.catalog
    return {
        "path": str(db.path),
        "kind": "checkpoint" if catalog is None else "store",
        "summary": summary.to_json(),
        "config": db.config.to_json(),
        "notes": list(db.notes),
        "runs": refusal is None,
        "refusal": None if refusal is None else {"kind": refusal.kind, "message": str(refusal)},
        "store": None
        if catalog is None
        else {
            "format": catalog.format,
            "generator": catalog.generator,
            "options": catalog.options,
            "source_format": catalog.source_format,
            "sources": [asdict(file) for file in catalog.sources],
            "links": catalog.links,
            "files": catalog.files,
        },
    }


def _print_page(db: Store, summary: Summary, refusal: WvindexError | None) -> None:
    emit_facts(
        [
            *_origin(db),
            *model_facts(db.config, summary),
            *_contents(summary),
            *_labelled("note", db.notes),
            ("runs", _runs(db.config) if refusal is None else f"no: {refusal}"),
        ]
    )
    emit()
    emit_table(
        ("encoding", "arrays", "parameters", "size"),
        [(e.encoding, str(e.arrays), f"{e.parameters:,}", format_size(e.nbytes)) for e in summary.encodings],
        right=("arrays", "parameters", "size"),
    )


def _runs(config: ModelConfig) -> str:
    if config.index_topk is None:
        return "yes"
    return f"yes, up to {config.index_topk} tokens: beyond, an indexer would choose among them (index_topk)"


def _origin(db: Store) -> Facts:
    catalog = db.catalog
    if catalog is None:
        yield "path", f"{db.path} (a bare checkpoint)"
        return
    yield "path", f"{db.path} (a store, format {catalog.format}, written by {catalog.generator})"
    yield from _labelled("source", [f"{f.name}, {format_size(f.size)}" for f in catalog.sources])
    yield "built with", _build_options(catalog)
    if catalog.tokenizer_files:
        yield "tokenizer", ", ".join(catalog.tokenizer_files)


def _build_options(catalog: Catalog) -> str:
    flags = ((f"--{name.replace('_', '-')}", value) for name, value in catalog.options.items())
    return " ".join(flag if value is True else f"{flag} {value}" for flag, value in flags)


def _contents(summary: Summary) -> Facts:
    yield "arrays", str(summary.arrays)
    yield "parameters", f"{summary.parameters:,}"
    yield "size", f"{format_size(summary.nbytes)}, {summary.bits_per_weight:.2f} bits a weight"
    if summary.linked:
        size = format_size(summary.linked_nbytes)
        yield "linked", f"{summary.linked} arrays, {size}, are bytes of the source's files"
    yield "exactness", ", ".join(f"{count} {label}" for label, count in summary.exactness.items())
    yield from _labelled("unmapped", summary.unmapped)
    yield from _labelled("undecodable", summary.undecodable)
    odd = [f"{one.key}: {one.nan} NaN, {one.inf} infinite" for one in summary.nonfinite or ()]
    yield from _labelled("not finite", odd)


def _labelled(label: str, values: list[str] | tuple[str, ...]) -> Facts:
    """Give a list as facts, one a line under one label; a long one is cut."""
    for position, value in enumerate(values[:_MOST_NAMES]):
        yield "" if position else label, value
    if len(values) > _MOST_NAMES:
        yield "", f"and {len(values) - _MOST_NAMES} more; --json names them"
