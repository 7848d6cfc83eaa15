"""Tensors of a page as text: by the module that they belong to; and what is odd about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from wvindex.inspection.anomalies import WHAT, counted
from wvindex.inspection.table import Table
from wvindex.inspection.text_parts import Row, table

MODULES: Final = ("", "self_attn", "mlp", "mlp.experts", "mlp.shared_experts")
"""Modules under whose name their tensors stand; what is in none comes first."""

MOST_ANOMALIES: Final = 12
"""Anomalies of a kind that stand on a page; the tables have them all."""


def by_module(
    rows: Table,
    titles: Sequence[str],
    cells: Callable[[dict[str, Any]], Row],
    *,
    left: Sequence[str] = (),
    title: str = "tensor",
) -> RichTable:
    """Lay out a row for each of a table's, those of a module under its name."""
    groups: dict[str, list[dict[str, Any]]] = {module: [] for module in MODULES}
    for row in rows:
        groups.setdefault(_module(row["role"]), []).append(row)
    found: list[Row] = []
    for module, members in groups.items():
        if module and members:
            found.append((Text(module), *("" for _ in titles)))
        indent = "  " if module else ""
        for row in members:
            name = row["role"].removeprefix(f"{module}.") if module else row["role"]
            found.append((indent + name, *cells(row)))
    return table((title, *titles), found, left=left)


def _module(role: str) -> str:
    return next((module for module in reversed(MODULES) if role.startswith(f"{module}.")), "")


def anomalies(found: Table) -> RenderableType:
    """Lay out anomalies, some of each kind; say so where there are none."""
    if not len(found):
        return Text("nothing")
    cells: list[Row] = []
    for kind in WHAT:
        rows = [row for row in found if row["kind"] == kind]
        cells += [(counted(kind, r["count"]), _place(r), r["detail"]) for r in rows[:MOST_ANOMALIES]]
        if len(rows) > MOST_ANOMALIES:
            cells.append((f"and in {len(rows) - MOST_ANOMALIES} more", "the table of anomalies has them", ""))
    return table(("what", "where", "detail"), cells, left=("where", "detail"))


def _place(row: dict[str, Any]) -> str:
    prefix = f"model.layers.{row['layer']}."
    role = str(row["key"]).removeprefix(prefix).removesuffix(".weight")
    return role if row["layer"] is None else f"{row['layer']}.{role}"
