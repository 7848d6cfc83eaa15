"""The rules as people read them: one rule in a terminal, all of them in docs/check.md."""

from __future__ import annotations

import textwrap
from typing import Final

from wvindex.inspection.linting.rule import Rule
from wvindex.inspection.linting.table import GROUPS, RULES

WIDTH: Final = 80


def explanation(rule: Rule) -> str:
    """Give a rule's text for a terminal."""
    head = f"{rule.id} {rule.name} ({rule.severity})"
    return "\n\n".join((head, f"{rule.title}.", textwrap.fill(rule.help, WIDTH)))


def group_explanation(prefix: str) -> str:
    """Give the rules of a group (``WV1``), a line each, for a terminal."""
    rules = [rule for rule in RULES if rule.id.startswith(prefix)]
    width = max(len(rule.name) for rule in rules)
    lines = [f"{rule.id}  {rule.severity:<7}  {rule.name:<{width}}  {rule.title}" for rule in rules]
    return "\n".join((f"{prefix}xx: {GROUPS[prefix]}", "", *lines))


def rules_markdown() -> str:
    """Give the sections of docs/check.md: a group a section, a rule a subsection."""
    parts = []
    for prefix, title in GROUPS.items():
        parts.append(f"## {prefix}xx: {title}\n")
        for rule in RULES:
            if rule.id.startswith(prefix):
                headline = f"### {rule.id} {rule.name}"
                parts.append(f"{headline}\n\n**{rule.severity}**: {rule.title}.\n\n{rule.help}\n")
    return "\n".join(parts)
