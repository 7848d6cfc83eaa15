"""``wvindex diff``: how two models differ, whatever files they came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import click

from wvindex.cli.options import PATH, ChosenLayers, layers_option, table_options
from wvindex.cli.output import arranged, emit, emit_facts, emit_json, emit_result, note, number_text
from wvindex.cli.progress import scan_progress
from wvindex.errors import UsageError

if TYPE_CHECKING:
    from wvindex.inspection.differences import Diff, Metric
    from wvindex.inspection.table import Table

DIFFERENT: Final = 1
"""Exit code where the models differ."""

METRICS: Final = ("rel_l2", "max_abs", "mean_abs", "rmse", "cosine", "sqnr_db")

_OF_MOST: Final = ("rel_l2", "sqnr_db", "cosine", "max_abs")

TABLES: Final = {
    "tensor": "tensors",
    "role": "roles",
    "layer": "layers",
    "expert": "experts",
    "row": "rows",
    "missing": "missing",
    "extra": "extra",
    "shape": "unlike",
    "config": "config",
}
"""Tables of a `Diff` by the word for what a row of them is."""

SHOWN: Final = {
    "tensor": (
        "key",
        "a_encoding",
        "b_encoding",
        "b_bits",
        *_OF_MOST,
        "nonfinite",
        "worst_row",
        "worst_expert",
    ),
    "role": ("role", "tensors", "different", "a_bits", "b_bits", *_OF_MOST, "nonfinite"),
    "layer": ("layer", "tensors", "different", "a_bits", "b_bits", *_OF_MOST, "nonfinite"),
    "expert": ("key", "expert", *_OF_MOST, "nonfinite"),
    "row": ("key", "expert", "row", *_OF_MOST, "nonfinite"),
    "missing": ("key", "shape", "encoding", "nbytes"),
    "extra": ("key", "shape", "encoding", "nbytes"),
    "shape": ("key", "a_shape", "b_shape", "a_encoding", "b_encoding"),
    "config": ("field", "a", "b", "matters"),
}
"""Columns that fit a terminal; --columns, --json and --csv have the others."""

_IF_ANY: Final = frozenset({"nonfinite", "worst_row", "worst_expert", "expert"})
"""Columns that are not shown where nothing stands in them."""


@click.command("diff")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.argument("selector", required=False)
@layers_option
@click.option("--role", metavar="GLOB", help="Of this role in a layer: 'self_attn.*', 'mlp.down_proj'.")
@click.option(
    "--by", type=click.Choice(tuple(TABLES)), default="tensor", show_default=True, help="What a row is."
)
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="rel_l2",
    show_default=True,
    help="What damage is ranked by, and held against the threshold.",
)
@click.option(
    "--threshold",
    type=float,
    metavar="X",
    help="How bad a tensor's metric may be: at most X, or at least X of 'cosine' and 'sqnr_db'. "
    "Without it any difference is too much.",
)
@click.option(
    "--worst", type=click.IntRange(0), default=5, show_default=True, help="Rows of each tensor to name."
)
@click.option("--html", type=click.Path(), metavar="FILE", help="Also write a page for a browser: FILE.html.")
@click.option("--overwrite", is_flag=True, help="Replace the file that --html names.")
@table_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    a: str,
    b: str,
    selector: str | None,
    layers: ChosenLayers,
    role: str | None,
    by: str,
    metric: str,
    threshold: float | None,
    worst: int,
    html: str | None,
    overwrite: bool,
    **printing: Any,
) -> None:
    """Show how the weights of B differ from those of A.

    A and B are stores, or bare GGUF or safetensors checkpoints. They are compared value by value, decoded,
    by standard key: packing, row order, stacking or a tied head are no difference. SELECTOR is a glob for
    keys, as in `wvindex ls`. The most damaged tensors come first.

    Exits with 1 if a tensor is beyond the threshold (by default, if any value differs), if a key is missing
    or extra, if a shape differs, or a field of the configuration that changes what is computed.
    """
    import wvindex as wv
    from wvindex.inspection.report.page import require_output
    from wvindex.query.summary import summarize

    _require_printable(by, printing)
    if html is not None:
        require_output(html, overwrite=overwrite)  # before anything is computed
    with wv.open(a) as left, wv.open(b) as right, scan_progress() as progress:
        found = wv.diff(
            left,
            right,
            selector,
            layers,
            role=role,
            metric=cast("Metric", metric),
            threshold=threshold,
            worst=worst,
            progress=progress,
        )
        bits = [summarize(db).bits_per_weight for db in (left, right)]
    if html is not None:
        note(f"written: {wv.report(found, html, overwrite=overwrite)}")
    _print(found, by, bits, printing)
    if found.differs:
        ctx.exit(DIFFERENT)


def _require_printable(by: str, printing: dict[str, Any]) -> None:
    """Refuse what cannot be printed before hours are spent on it."""
    from wvindex.inspection.differences import COLUMNS
    from wvindex.inspection.table import Table

    if printing["as_json"] and printing["as_csv"]:
        raise UsageError("one format at a time", field="csv", found="--json and --csv")
    _arranged(Table(TABLES[by], COLUMNS[TABLES[by]], ()), printing)


def _arranged(table: Table, printing: dict[str, Any]) -> Table:
    return arranged(table, **{name: printing[name] for name in ("columns", "sort", "ascending")})


def _print(found: Diff, by: str, bits: Sequence[float], printing: dict[str, Any]) -> None:
    table: Table = getattr(found, TABLES[by])
    if printing["as_json"]:
        emit_json(found.to_json() | {TABLES[by]: _arranged(table, printing).to_json()})
    elif printing["as_csv"]:
        emit_result(table, shown=(), **printing)
    else:
        emit_facts(_facts(found, bits))
        shown = _changed(table)
        if len(shown):
            emit()
            emit_result(shown, shown=_columns(shown, by), **printing)
        for text in found.notes:
            note(f"note: {text}")


def _changed(table: Table) -> Table:
    """Leave out tensors that are the same, if but for rounding."""
    if "status" not in table.columns:
        return table
    rows = tuple(
        row for row, status in zip(table.rows, table["status"], strict=True) if status == "different"
    )
    return replace(table, rows=rows)


def _columns(table: Table, by: str) -> list[str]:
    """Give the columns that are shown; some of them only where something stands there."""
    nothing = {"nonfinite": {0}}
    return [
        name for name in SHOWN[by] if name not in _IF_ANY or not {*table[name]} <= nothing.get(name, {None})
    ]


def _facts(found: Diff, bits: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Say on a few lines what was compared, and what came of it."""
    whole = next(iter(found.model), None)
    for name, path, stored in zip("ab", (found.a, found.b), bits, strict=True):
        yield name, f"{path}, {number_text(stored)} bits per weight"
    yield "tensors", ", ".join(_counts(found))
    if whole is not None:
        measures = [f"{name} {number_text(whole[name])}" for name in _OF_MOST]
        if whole["nonfinite"]:
            measures.append(f"but for {whole['nonfinite']} not finite on one side")
        yield "all weights", ", ".join(measures)
    for i, row in enumerate(row for row in found.config if row["matters"]):
        yield "" if i else "config", f"{row['field']}: {row['a']} in a, {row['b']} in b"


def _counts(found: Diff) -> Iterator[str]:
    statuses = found.tensors["status"]
    yield f"{len(statuses)} compared"
    for status in ("same", "rounding", "different"):
        if status in statuses:
            yield f"{statuses.count(status)} {'equal but for rounding' if status == 'rounding' else status}"
    if found.threshold is not None:
        sign = "<" if found.metric in ("cosine", "sqnr_db") else ">"
        yield f"{sum(found.tensors['over'])} with {found.metric} {sign} {found.threshold:g}"
    for name, text in (("missing", "missing in b"), ("extra", "in b alone"), ("unlike", "of another shape")):
        if len(table := getattr(found, name)):
            yield f"{len(table)} {text}"
