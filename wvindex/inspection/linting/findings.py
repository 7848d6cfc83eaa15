"""What a check gives: findings, each with its rule, its place and its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from wvindex.inspection.table import Table, to_json

Severity = Literal["error", "warning", "info"]

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
"""Gravest first."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One anomaly: all of its kind in one tensor.

    Attributes
    ----------
    rule, name : str
        The rule's id and its name: ``WV101``, ``nonfinite-weights``.
    severity : {"error", "warning", "info"}
    message : str
    tensor : str or None
        Standard key; None for what is the whole model's.
    layer, expert, row, column : int or None
        The first, where there are several.
    value : float, int, str or None
        What stands there.
    count : int or None
        How many there are.
    indices : tuple of int
        The first few of them, where they are rows, columns, experts or layers.
    file : str or None
        Relative to what was checked; of a bare file, its name.
    source : str or None
        The source's tensor.
    """

    rule: str
    name: str
    severity: Severity
    message: str
    tensor: str | None = None
    layer: int | None = None
    expert: int | None = None
    row: int | None = None
    column: int | None = None
    value: float | int | str | None = None
    count: int | None = None
    indices: tuple[int, ...] = ()
    file: str | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give plain values by the names of the attributes."""
        return {name: getattr(self, name) for name in COLUMNS} | {"indices": list(self.indices)}


COLUMNS: Final = tuple(field.name for field in fields(Finding))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a check found; iterable, gravest findings first.

    Attributes
    ----------
    path : str
        What was checked.
    findings : tuple of Finding
    rules : tuple of str
        Ids of the rules that were applied.
    tensors : int
        How many were looked at.
    nbytes : int
        Their stored bytes.
    notes : tuple of str
        What could not be checked, and why.
    """

    path: str
    findings: tuple[Finding, ...]
    rules: tuple[str, ...]
    tensors: int
    nbytes: int
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Finding]:
        """Give the findings."""
        return iter(self.findings)

    def __len__(self) -> int:
        """Give the number of findings."""
        return len(self.findings)

    def count(self, severity: Severity) -> int:
        """Give how many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Give the findings of a severity and of graver ones."""
        worst = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) <= worst)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; floats that JSON lacks are strings."""
        return {
            "path": self.path,
            "findings": [
                {name: to_json(value) for name, value in finding.to_dict().items()}
                for finding in self.findings
            ],
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "rules": list(self.rules),
            "tensors": self.tensors,
            "nbytes": self.nbytes,
            "notes": list(self.notes),
        }

    def to_table(self) -> Table:
        """Give a row a finding."""
        return Table.of_dicts("findings", COLUMNS, [f.to_dict() for f in self.findings], self.notes)

    def to_sarif(self) -> dict[str, Any]:
        """Give a SARIF 2.1.0 log (OASIS standard), as plain JSON values."""
        from wvindex.inspection.linting.sarif import sarif_log

        return sarif_log(self)
