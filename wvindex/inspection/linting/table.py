"""Every rule, by id. A new rule is one function and one entry in the table of its group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from wvindex.errors import UsageError
from wvindex.inspection.linting.rule import Rule
from wvindex.inspection.linting.rules import copies, lines, naming, norms, scales, shapes, values, vocabulary

RULES: Final[tuple[Rule, ...]] = (
    *sorted((*values.RULES, *lines.RULES), key=lambda rule: rule.id),
    *scales.RULES,
    *norms.RULES,
    *copies.RULES,
    *vocabulary.RULES,
    *shapes.RULES,
    *naming.RULES,
)

GROUPS: Final = {
    "WV1": "Values",
    "WV2": "Scales",
    "WV3": "Norms, routers, rotary embedding",
    "WV4": "Experts, layers, head",
    "WV5": "Vocabulary",
    "WV6": "Configuration against tensors",
    "WV7": "Names and encodings",
}


def rule_named(name: str) -> Rule:
    """Give a rule by its id or its name.

    Raises
    ------
    UsageError
        If there is none.
    """
    found = matching(name)
    if len(found) != 1:
        raise _no_such(name)
    return found[0]


def matching(name: str) -> list[Rule]:
    """Give the rules that an id, a name, or a group's first letters (``WV1``) mean."""
    return [rule for rule in RULES if name.upper() in (rule.id, rule.id[:3]) or name == rule.name]


def chosen(only: Iterable[str], ignored: Iterable[str]) -> tuple[Rule, ...]:
    """Give the rules of `only`, or all, without those `ignored`; each an id, a name or a group.

    Raises
    ------
    UsageError
        If there is no such rule, or none is left.
    """
    wanted, unwanted = (
        [rule for name in names for rule in (matching(name) or _refuse(name))] for names in (only, ignored)
    )
    left = tuple(rule for rule in RULES if (rule in wanted or not wanted) and rule not in unwanted)
    if not left:
        raise UsageError("nothing matches: every rule is ignored", field="rules, ignore")
    return left


def _refuse(name: str) -> list[Rule]:
    raise _no_such(name)


def _no_such(name: str) -> UsageError:
    return UsageError(
        "there is no such rule", field="rule", expected="an id such as WV101, a name, or WV1", found=name
    )
