"""``wvindex check``: what is odd about a checkpoint, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, cast

import click

from wvindex.cli.options import PATH, ChosenLayers, csv_option, json_option, layers_option
from wvindex.cli.output import emit, emit_json, note
from wvindex.cli.progress import scan_progress
from wvindex.errors import UsageError
from wvindex.sizes import format_size

if TYPE_CHECKING:
    from wvindex.inspection.linting.findings import Finding, Report, Severity

FOUND: Final = 1
"""Exit code where there is something as grave as ``--severity``."""

_STDOUT: Final = "-"


def _explain(ctx: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Print what a rule is about, or which rules a group has, and exit."""
    if name is None or ctx.resilient_parsing:
        return
    from wvindex.inspection.linting.document import explanation, group_explanation
    from wvindex.inspection.linting.table import GROUPS, rule_named

    group = name.upper()
    emit(group_explanation(group) if group in GROUPS else explanation(rule_named(name)))
    ctx.exit()


@click.command("check")
@click.argument("path", type=PATH)
@click.argument("selector", required=False)
@layers_option
@click.option(
    "--rule", "rules", multiple=True, metavar="RULE", help="This rule alone: an id, a name, or a group (WV1)."
)
@click.option("--ignore", multiple=True, metavar="RULE", help="Not this rule.")
@click.option(
    "--severity",
    type=click.Choice(("error", "warning", "info")),
    default="warning",
    show_default=True,
    help="Exit with 1 if there are findings as grave as this.",
)
@json_option
@csv_option
@click.option(
    "--sarif",
    is_flag=False,
    flag_value=_STDOUT,
    metavar="[FILE]",
    help="Print SARIF 2.1.0, or write it to a file beside what is printed.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file that --sarif names.")
@click.option(
    "--explain",
    metavar="RULE",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Tell what a rule is about, or which rules a group (WV1) has, and exit.",
)
@click.pass_context
def command(
    ctx: click.Context,
    path: str,
    selector: str | None,
    layers: ChosenLayers,
    rules: tuple[str, ...],
    ignore: tuple[str, ...],
    severity: str,
    as_json: bool,
    as_csv: bool,
    sarif: str | None,
    overwrite: bool,
) -> None:
    """Look for anomalies in PATH.

    In its weights, its scales, its configuration and its tokenizer. PATH is a store, or a bare GGUF or
    safetensors checkpoint; SELECTOR a glob for keys. Exits with 1 if there are findings as grave as
    --severity.
    """
    import wvindex as wv
    from wvindex.store.outputs import require_output

    if as_json + as_csv + (sarif == _STDOUT) > 1:
        raise UsageError("one format at a time", field="json, csv, sarif")
    if sarif is not None and sarif != _STDOUT:
        require_output(sarif, overwrite=overwrite)  # before anything is computed
    with wv.open(path) as db, scan_progress() as progress:
        report = wv.check(db, selector, layers, rules=rules, ignore=ignore, progress=progress)
    if sarif is not None and sarif != _STDOUT:
        _write(sarif, report.to_sarif(), overwrite=overwrite)
    if as_json:
        emit_json(report.to_dict())
    elif as_csv:
        click.echo(report.to_table().to_csv(), nl=False)
    elif sarif == _STDOUT:
        emit_json(report.to_sarif())
    else:
        _print(report)
    for text in report.notes:
        note(f"note: {text}")
    if report.at_least(cast("Severity", severity)):
        ctx.exit(FOUND)


def _write(file: str, document: dict[str, Any], *, overwrite: bool) -> None:
    from wvindex.store.outputs import output_file

    with output_file(file, overwrite=overwrite) as path:
        path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _print(report: Report) -> None:
    """Print findings by rule, gravest first, with a hint each, and a line of totals."""
    for text in _lines(report):
        emit(text)
    counts = [_counted(report.count("error"), "error"), _counted(report.count("warning"), "warning")]
    emit(
        f"{', '.join(counts)}, {report.count('info')} info: "
        f"{_counted(report.tensors, 'tensor')}, {format_size(report.nbytes)}, "
        f"{_counted(len(report.rules), 'rule')}"
    )
    if report.findings:
        note("wvindex check --explain RULE tells what a rule is about")


def _lines(report: Report) -> Iterator[str]:
    from wvindex.inspection.linting.table import rule_named

    width = max((len(_place(finding)) for finding in report.findings), default=0)
    for name, group in groupby(report.findings, key=lambda finding: finding.rule):
        rule = rule_named(name)
        yield f"{rule.severity:<7}  {rule.id} {rule.name}: {rule.title}"
        for finding in group:
            yield f"  {_place(finding):<{width}}  {finding.message}"
        yield f"  hint: {rule.hint}"
        yield ""


def _place(finding: Finding) -> str:
    """Say where a finding is: a tensor, and what it has of expert, row and column."""
    if finding.tensor is None:
        return "model" if finding.layer is None else f"model.layers.{finding.layer}"
    parts = [(name, getattr(finding, name)) for name in ("expert", "row", "column")]
    return " ".join([finding.tensor, *(f"{name} {index}" for name, index in parts if index is not None)])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
