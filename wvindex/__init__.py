"""wvindex: a weight database. Any model checkpoint to an exact, queryable Zarr store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wvindex._after_zarr import after_zarr
from wvindex._version import __version__
from wvindex.errors import WvindexError

if TYPE_CHECKING:
    from wvindex.building import Progress, build, plan
    from wvindex.converting.api import convert
    from wvindex.converting.plan import Conversion
    from wvindex.exporting.api import export, plan_export
    from wvindex.exporting.outline import Export
    from wvindex.inspection.api import stats
    from wvindex.inspection.differences import Diff, diff
    from wvindex.inspection.frame import frame
    from wvindex.inspection.layer_page import LayerPage
    from wvindex.inspection.linting.api import check
    from wvindex.inspection.linting.findings import Finding, Report
    from wvindex.inspection.model_page import ModelPage
    from wvindex.inspection.pages import inspect
    from wvindex.inspection.report.api import report
    from wvindex.inspection.sql.api import export_sql, sql, sql_schema
    from wvindex.inspection.sql.recipes import sql_recipes
    from wvindex.inspection.table import Table
    from wvindex.opening import open
    from wvindex.query.database import Store
    from wvindex.query.lazy import Tensor
    from wvindex.transform.plan import Plan
    from wvindex.verifying import Verification, verify

__all__ = [
    "Conversion",
    "Diff",
    "Export",
    "Finding",
    "LayerPage",
    "ModelPage",
    "Plan",
    "Progress",
    "Report",
    "Store",
    "Table",
    "Tensor",
    "Verification",
    "WvindexError",
    "__version__",
    "build",
    "check",
    "convert",
    "diff",
    "errors",
    "export",
    "export_sql",
    "frame",
    "inspect",
    "open",
    "plan",
    "plan_export",
    "report",
    "sql",
    "sql_recipes",
    "sql_schema",
    "stats",
    "verify",
]

_HOMES = {
    "Conversion": "wvindex.converting.plan",
    "Diff": "wvindex.inspection.differences",
    "Export": "wvindex.exporting.outline",
    "Finding": "wvindex.inspection.linting.findings",
    "LayerPage": "wvindex.inspection.layer_page",
    "ModelPage": "wvindex.inspection.model_page",
    "Plan": "wvindex.transform.plan",
    "Progress": "wvindex.building",
    "Report": "wvindex.inspection.linting.findings",
    "Store": "wvindex.query.database",
    "Table": "wvindex.inspection.table",
    "Tensor": "wvindex.query.lazy",
    "Verification": "wvindex.verifying",
    "build": "wvindex.building",
    "convert": "wvindex.converting.api",
    "check": "wvindex.inspection.linting.api",
    "diff": "wvindex.inspection.differences",
    "errors": "wvindex",
    "export": "wvindex.exporting.api",
    "export_sql": "wvindex.inspection.sql.api",
    "frame": "wvindex.inspection.frame",
    "inspect": "wvindex.inspection.pages",
    "open": "wvindex.opening",
    "plan": "wvindex.building",
    "plan_export": "wvindex.exporting.api",
    "report": "wvindex.inspection.report.api",
    "sql": "wvindex.inspection.sql.api",
    "sql_recipes": "wvindex.inspection.sql.recipes",
    "sql_schema": "wvindex.inspection.sql.api",
    "stats": "wvindex.inspection.api",
    "verify": "wvindex.verifying",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import wvindex`` stays light."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'wvindex' has no attribute {name!r}")
    if name == "errors":
        return importlib.import_module("wvindex.errors")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def _register_data_types() -> None:
    from wvindex.formats.dtypes import register_data_types

    register_data_types()


after_zarr(_register_data_types)
