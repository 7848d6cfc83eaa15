"""``wvindex stats``: statistics of weights, exact over all of them."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import click

from wvindex.cli.options import PATH, ChosenLayers, layers_option, table_options
from wvindex.cli.output import emit, emit_result, note, require_result
from wvindex.cli.progress import scan_progress
from wvindex.errors import UsageError

if TYPE_CHECKING:
    from wvindex.inspection.api import By
    from wvindex.inspection.plot import Bars
    from wvindex.inspection.spectrum import Kind
    from wvindex.inspection.table import Table
    from wvindex.query.database import Store

BY: Final = ("tensor", "layer", "role", "head", "expert", "feature", "row", "column")

_OF_MOST: Final = ("mean", "std", "absmax", "kurtosis")
_RANKS: Final = ("stable_rank", "effective_rank", "spectral_norm")

SHOWN: Final = {
    "tensor": ("key", "encoding", *_OF_MOST, "outliers", *_RANKS),
    "layer": ("layer", "tensors", "bits_per_weight", *_OF_MOST, "outliers"),
    "role": ("role", "tensors", "bits_per_weight", *_OF_MOST, "outliers"),
    "head": ("layer", "head", "kv_head", "qk_norm", "ov_norm", "q_l2", "k_l2", "v_l2", "o_l2"),
    "expert": ("key", "expert", "l2", "norm_ratio", "dead", "nearest", "cosine", "duplicate", *_RANKS),
    "feature": ("layer", "role", "expert", "feature", "gate_l2", "up_l2", "down_l2", "strength"),
    "row": ("key", "row", *_OF_MOST, "l2"),
    "column": ("key", "column", *_OF_MOST, "absmax_ratio"),
}
"""Columns that fit a terminal; --columns, --json and --csv have the others."""

PARTS: Final = ("head", "expert", "feature", "row", "column")
"""What of a tensor or a layer a row may be."""

PLOTTED: Final = {"head": "qk_norm", "expert": "l2", "feature": "strength"}
"""What a plot without --sort shows, where it is not the standard deviation."""

_PRODUCTS: Final = ("qk_norm", "ov_norm", "strength")
"""Norms to which whatever is not finite spreads, of heads and features."""

_BINS: Final = 33
_TERMINAL: Final = "-"


@click.command("stats")
@click.argument("path", type=PATH)
@click.argument("selector", required=False)
@layers_option
@click.option("--role", metavar="GLOB", help="Of this role in a layer: 'self_attn.*', 'mlp.down_proj'.")
@click.option(
    "--by", type=click.Choice(BY), default="tensor", show_default=True, help="What a row of the table is."
)
@click.option(
    "--spectrum",
    type=click.Choice(("top", "full")),
    help="Also singular values of matrices, or by expert of each one: the largest, or all of them for the "
    "effective rank.",
)
@click.option(
    "--plot",
    is_flag=False,
    flag_value=_TERMINAL,
    metavar="[FILE]",
    help="Draw the sorted column, or one tensor's histogram, here or to FILE.png or FILE.svg.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file that --plot names.")
@click.option("--no-keep", is_flag=True, help="Compute all of it, and leave the store's stats/ alone.")
@table_options
def command(
    path: str,
    selector: str | None,
    layers: ChosenLayers,
    role: str | None,
    by: str,
    spectrum: str | None,
    plot: str | None,
    overwrite: bool,
    no_keep: bool,
    **printing: Any,
) -> None:
    """Show statistics of the weights of PATH, exact over all of them.

    PATH is a store, or a bare GGUF or safetensors checkpoint. SELECTOR is a glob for keys, as in `wvindex
    ls`. A store keeps what was computed.
    """
    import wvindex as wv
    from wvindex.inspection.api import columns_of

    require_result(columns_of(cast("By", by), cast("Kind | None", spectrum)), printing)
    if plot is not None:
        _require_plot(plot, printing, overwrite=overwrite)
    with wv.open(path) as db:
        with scan_progress() as progress:
            table = wv.stats(
                db,
                selector,
                layers,
                cast("By", by),
                role=role,
                spectrum=cast("Kind | None", spectrum),
                keep=not no_keep,
                progress=progress,
            )
        if plot is None:
            emit_result(table, shown=SHOWN[by], **printing)
            _note_nonfinite(table)
        else:
            _plot(db, table, by, plot, printing, overwrite=overwrite)


def _note_nonfinite(table: Table) -> None:
    if "nan" in table.columns and "inf" in table.columns:
        odd = sum(bool(nan or inf) for nan, inf in zip(table["nan"], table["inf"], strict=True))
        if odd:
            note(f"note: {odd} of {len(table)} {table.name} hold NaN or infinity, which are left out")
        return
    norms = [table[name] for name in _PRODUCTS if name in table.columns]
    odd = sum(
        any(value is not None and not math.isfinite(value) for value in row)
        for row in zip(*norms, strict=True)
    )
    if odd:
        note(f"note: {odd} of {len(table)} {table.name} have a norm that is NaN or infinite")


def _require_plot(target: str, printing: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a plot that cannot be drawn before anything is computed for it."""
    from wvindex.inspection.plot import require_picture

    if printing["as_json"] or printing["as_csv"]:
        raise UsageError("a plot is neither JSON nor CSV", field="plot")
    if target != _TERMINAL:
        require_picture(target, overwrite=overwrite)


def _plot(
    db: Store, table: Table, by: str, target: str, printing: dict[str, Any], *, overwrite: bool
) -> None:
    from wvindex.inspection.plot import text_bars, write_bars

    bars = _bars(db, table, by, printing["sort"], ascending=printing["ascending"])
    if bars is None:
        note("there is nothing to plot")
    elif target == _TERMINAL:
        emit(text_bars(bars, shutil.get_terminal_size().columns if sys.stdout.isatty() else 80))
    else:
        write_bars(bars, target, overwrite=overwrite)
        emit(target)


def _bars(db: Store, table: Table, by: str, sort: str | None, *, ascending: bool) -> Bars | None:
    """Give a single tensor's histogram, from its 0.1% to its 99.9% quantile; else a column of the table.

    None where there is nothing to draw: no rows, no finite weight, or a column without numbers.
    """
    from wvindex.inspection.plot import histogram_bars, table_bars

    if not len(table):
        return None
    if by == "tensor" and len(table) == 1 and sort is None:
        (row,) = table
        low, high = row["p0_1"], row["p99_9"]
        if math.isnan(low):
            return None
        return histogram_bars(db[row["key"]], low, high, _BINS if low < high else 1)
    column = sort or PLOTTED.get(by, "std")
    if sort is not None:
        table = table.sorted(sort, descending=False if ascending else None)
    labels = [_label(row) for row in table]
    bars = table_bars(f"{column} of {table.name}", labels, table[column])
    return None if all(map(math.isnan, bars.values)) else bars


def _label(row: Mapping[str, Any]) -> str:
    """Say what a row of a table is."""
    if "role" in row and not {"key", "feature"} & row.keys():
        return str(row["role"])
    number = "" if row.get("layer") is None else f"layer {row['layer']}"
    parts = [str(row.get("key", number or "no layer"))]
    parts += [str(row["role"])] if "feature" in row else []
    parts += [f"{name} {row[name]}" for name in PARTS if row.get(name) is not None]
    return " ".join(parts)
