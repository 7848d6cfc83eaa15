"""Findings as SARIF 2.1.0 (OASIS Standard, https://docs.oasis-open.org/sarif/sarif/v2.1.0/), for code hosts
and other viewers.

Tensors are logical locations; files are named relative to what was checked, so that a log says nothing of the
machine. A finding's fingerprint is of its rule and its place, not of its numbers: it stays the same when a
model is trained on, or another expert is found first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from wvindex._version import __version__
from wvindex.inspection.linting.findings import Finding, Report, Severity
from wvindex.inspection.linting.rule import Rule
from wvindex.inspection.linting.table import RULES
from wvindex.inspection.table import to_json

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

BASE: Final = "MODEL"

LEVELS: Final[dict[Severity, str]] = {"error": "error", "warning": "warning", "info": "note"}
"""SARIF's names of severities (section 3.27.10)."""

_NUMBERS: Final = ("layer", "expert", "row", "column", "value", "count")


def sarif_log(report: Report) -> dict[str, Any]:
    """Give a log of one run, as plain JSON values."""
    rules = [rule for rule in RULES if rule.id in report.rules]
    places = {rule.id: i for i, rule in enumerate(rules)}
    base = "The store's directory, or the directory of the checkpoint's files."
    invocation: dict[str, Any] = {"executionSuccessful": True}
    if report.notes:
        invocation["toolExecutionNotifications"] = [
            {"level": "note", "message": {"text": note}} for note in report.notes
        ]
    run = {
        "tool": {
            "driver": {
                "name": "wvindex",
                "semanticVersion": __version__,
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "invocations": [invocation],
        "originalUriBaseIds": {BASE: {"description": {"text": base}}},
        "columnKind": "unicodeCodePoints",
        "results": _results(report.findings, places),
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.title}. {rule.help}"},
        "help": {"text": rule.help},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _results(findings: Sequence[Finding], places: dict[str, int]) -> list[dict[str, Any]]:
    """Give the results; findings of one rule at one place are told apart by their order."""
    seen: dict[str, int] = {}
    results = []
    for finding in findings:
        place = "/".join((finding.rule, finding.tensor or "", str(finding.layer)))
        seen[place] = seen.get(place, 0) + 1
        print_of = hashlib.sha256(f"{place}/{seen[place]}".encode()).hexdigest()[:32]
        results.append(
            {
                "ruleId": finding.rule,
                "ruleIndex": places[finding.rule],
                "level": LEVELS[finding.severity],
                "message": {"text": _text(finding)},
                "locations": [_location(finding)],
                "partialFingerprints": {"placeHash/v1": print_of},
                "properties": _properties(finding),
            }
        )
    return results


def _text(finding: Finding) -> str:
    """Give a message, in which braces and brackets are no placeholders and links (section 3.11)."""
    text = f"{finding.tensor}: {finding.message}." if finding.tensor else f"{finding.message}."
    return text.translate({ord("{"): "{{", ord("}"): "}}", ord("["): "\\[", ord("]"): "\\]"})


def _location(finding: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if finding.file is not None:
        artifact = {"uri": quote(finding.file), "uriBaseId": BASE}
        location["physicalLocation"] = {"artifactLocation": artifact}
    if finding.tensor is not None:
        name = {
            "name": finding.source or finding.tensor,
            "fullyQualifiedName": finding.tensor,
            "kind": "array",
        }
        location["logicalLocations"] = [name]
    return location


def _properties(finding: Finding) -> dict[str, Any]:
    known = {name: to_json(getattr(finding, name)) for name in _NUMBERS}
    properties = {name: value for name, value in known.items() if value is not None}
    return properties | ({"indices": list(finding.indices)} if finding.indices else {})
