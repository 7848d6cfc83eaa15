"""Strict YAML: one mapping, bounded, without aliases, tags or keys that stand twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wvindex.errors import DuplicateName, LimitExceeded, MalformedHeader, UsageError
from wvindex.limits import MAX_JSON_DEPTH, MAX_YAML_BYTES


def parse_mapping(data: bytes, *, file: Path) -> dict[str, Any]:
    """Parse a YAML document that is a mapping, by PyYAML's safe loader.

    Raises
    ------
    MalformedHeader
        If it is not YAML, not one mapping, or has aliases.
    LimitExceeded
        If it is longer than `MAX_YAML_BYTES`, or nests deeper than `MAX_JSON_DEPTH`.
    DuplicateName
        If a key stands twice.
    UsageError
        If PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            "MaxText configurations are read by PyYAML",
            expected="pip install 'wvindex[maxtext]'",
            found="no module named yaml",
        ) from error
    if len(data) > MAX_YAML_BYTES:
        raise LimitExceeded(
            "a file is too long", file=file, expected=f"at most {MAX_YAML_BYTES}", found=len(data)
        )
    try:
        _check_events(yaml, data, file)
        node = yaml.compose(data, Loader=yaml.SafeLoader)
        _check_keys(yaml, node, file)
        value = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as a date of month 13
        found = " ".join(str(error).split())
        raise MalformedHeader("not YAML", file=file, expected="YAML", found=found) from error
    if not isinstance(value, dict):
        raise MalformedHeader("not a mapping", file=file, expected="a mapping", found=type(value).__name__)
    return {str(name): member for name, member in value.items()}


def _check_events(yaml: Any, data: bytes, file: Path) -> None:
    """Refuse deep nesting and aliases before anything is composed."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise MalformedHeader("aliases are not followed", file=file, found=f"*{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_JSON_DEPTH:
            raise LimitExceeded(
                "YAML is nested too deeply", file=file, expected=f"at most {MAX_JSON_DEPTH}", found="more"
            )


def _check_keys(yaml: Any, node: Any, file: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise DuplicateName("a key stands twice", file=file, field=twice)
        for _, value in node.value:
            _check_keys(yaml, value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(yaml, value, file)
