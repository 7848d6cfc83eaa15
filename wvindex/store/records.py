"""Frozen dataclasses as JSON, and strict reading of it: type hints are the table that is checked."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
Parser = Callable[[Any], Any]

_LISTS = (list, tuple)
"""JSON's lists, before and after they were text."""

_SCALARS = frozenset({str, int, float, bool, types.NoneType})
"""JSON's values that hold no others."""


class Mismatch(Exception):
    """A JSON value is not of the declared type; `path` says where, innermost step last."""

    def __init__(self, expected: str, found: object, path: tuple[str, ...] = ()) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found
        self.path = path

    def within(self, step: str) -> Mismatch:
        """Give the same fault, seen from one level further out."""
        return Mismatch(self.expected, self.found, (step, *self.path))


def record_json(record: Any) -> Any:
    """Give a record as plain JSON values; `read_record` reads them back to an equal one.

    `dataclasses.asdict` takes several times as long, which a ledger of 90,000 tensors shows.
    """
    if type(record) in _SCALARS:
        return record
    if isinstance(record, tuple | list):
        return [record_json(item) for item in record]
    members = record if isinstance(record, Mapping) else vars(record)
    return {name: value if type(value) in _SCALARS else record_json(value) for name, value in members.items()}


def read_record(cls: type[Record], data: object) -> Record:
    """Make a `cls` of the JSON value `data`.

    Every member must be a field of the declared type; a field without a default must be there. Numbers
    are not taken for booleans, nor the other way round; an integer serves where a float is declared.

    Raises
    ------
    Mismatch
        Naming the member, what it should be, and what it is.
    """
    hint: Any = cls
    record: Record = _parser(hint)(data)
    return record


@cache
def _parser(hint: Any) -> Parser:
    """Make the parser of one type hint."""
    if is_dataclass(hint) and isinstance(hint, type):
        return _record_parser(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _union_parser(arguments)
    if origin is Literal:
        return _literal_parser(arguments)
    if origin is tuple:
        return _list_parser(arguments[0]) if arguments[-1] is Ellipsis else _row_parser(arguments)
    if origin in {dict, Mapping}:
        return _mapping_parser(arguments[1])
    return _any if hint is Any else _scalar_parser(hint)


def _any(value: Any) -> Any:
    return value


def _scalar_parser(kind: type) -> Parser:
    accepted = (int, float) if kind is float else (kind,)

    def parse(value: Any) -> Any:
        if type(value) not in accepted:
            raise Mismatch(kind.__name__, value)
        try:
            return kind(value)
        except OverflowError:  # an integer beyond every float
            raise Mismatch(kind.__name__, value) from None

    return parse


def _literal_parser(choices: tuple[Any, ...]) -> Parser:
    def parse(value: Any) -> Any:
        if value not in choices:
            raise Mismatch(f"one of {', '.join(map(repr, choices))}", value)
        return value

    return parse


def _union_parser(arguments: tuple[Any, ...]) -> Parser:
    """Parse ``X | None``: the records hold no other union."""
    (kind,) = (argument for argument in arguments if argument is not types.NoneType)
    parse_kind = _parser(kind)

    def parse(value: Any) -> Any:
        return None if value is None else parse_kind(value)

    return parse


def _list_parser(item: Any) -> Parser:
    parse_item = _parser(item)
    parse_records = _records_parser(item) if _is_positional(item) else None

    def parse(value: Any) -> tuple[Any, ...]:
        if type(value) not in _LISTS:
            raise Mismatch("a list", value)
        if item in {int, str} and set(map(type, value)) <= {item}:
            return tuple(value)
        records = parse_records(value) if parse_records is not None and value else None
        if records is not None:
            return records
        return tuple(_at(parse_item, one, f"[{i}]") for i, one in enumerate(value))

    return parse


def _row_parser(items: tuple[Any, ...]) -> Parser:
    parsers = tuple(_parser(item) for item in items)

    def parse(value: Any) -> tuple[Any, ...]:
        if type(value) not in _LISTS or len(value) != len(parsers):
            raise Mismatch(f"a list of {len(parsers)}", value)
        return tuple(_at(parsers[i], one, f"[{i}]") for i, one in enumerate(value))

    return parse


def _mapping_parser(item: Any) -> Parser:
    parse_item = _parser(item)

    def parse(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Mismatch("an object", value)
        return {name: _at(parse_item, one, name) for name, one in value.items()}

    return parse


def _record_parser(cls: type) -> Parser:
    hints = get_type_hints(cls)
    parsers = {field.name: _parser(hints[field.name]) for field in fields(cls)}
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]

    def parse(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("an object", value)
        for name in required:
            if name not in value:
                raise Mismatch("a value", "nothing", (name,))
        values = {}
        for name, one in value.items():
            if name not in parsers:
                raise Mismatch("no such field", one, (name,))
            values[name] = _at(parsers[name], one, name)
        return cls(**values)

    return parse


def _is_positional(kind: Any) -> TypeGuard[type]:
    """Whether it is a record that is made of its fields in their order."""
    return is_dataclass(kind) and isinstance(kind, type) and not any(field.kw_only for field in fields(kind))


def _records_parser(cls: type) -> Callable[[Sequence[Any]], tuple[Any, ...] | None]:
    """Make what parses many records a field at a time; it gives None where one may be at fault, or short."""
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    columns = [_column_parser(hints[name]) for name in names]

    def parse(values: Sequence[Any]) -> tuple[Any, ...] | None:
        if set(map(type, values)) != {dict} or set(map(len, values)) != {len(names)}:
            return None
        parsed = []
        for name, parse_column in zip(names, columns, strict=True):
            try:
                column = parse_column([value[name] for value in values])
            except KeyError:
                return None
            if column is None:
                return None
            parsed.append(column)
        return tuple(map(cls, *parsed))

    return parse


def _column_parser(hint: Any) -> Callable[[list[Any]], list[Any] | None]:
    """Make the parser of one field of many records; it gives None where a value is not of the hint's type."""
    kinds = set(get_args(hint)) if get_origin(hint) in {Union, types.UnionType} else {hint}
    if kinds <= _SCALARS - {float}:
        return lambda values: values if set(map(type, values)) <= kinds else None
    item = get_args(hint)[0] if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis else None
    if item in {int, str}:
        return partial(_plain_lists, item)
    parse = _parser(hint)

    def parse_each(values: list[Any]) -> list[Any] | None:
        try:
            return [parse(value) for value in values]
        except Mismatch:
            return None

    return parse_each


def _plain_lists(item: type, values: list[Any]) -> list[Any] | None:
    if not set(map(type, values)) <= set(_LISTS) or not set(map(type, chain.from_iterable(values))) <= {item}:
        return None
    return list(map(tuple, values))


def _at(parse: Parser, value: Any, step: str) -> Any:
    try:
        return parse(value)
    except Mismatch as fault:
        raise fault.within(step) from None
