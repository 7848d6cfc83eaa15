"""Typed access to raw model configuration: a wrong or missing field is an error that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from wvindex.errors import MetadataError
from wvindex.limits import MAX_ELEMENTS


class Fields:
    """A configuration object in Hugging Face's form, read field by field.

    Parameters
    ----------
    raw : mapping
        The object, as parsed.
    file : path
        Named in errors.
    where : str
        Prefix of field names in errors, for nested objects.
    """

    def __init__(self, raw: Mapping[str, Any], file: Path, where: str = "") -> None:
        self.raw = raw
        self.file = file
        self.where = where

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(name) is not None

    def error(self, name: str, expected: object, found: object) -> MetadataError:
        """Make the error for a field that is not as it must be."""
        return MetadataError(
            "model configuration is not usable",
            file=self.file,
            field=f"{self.where}{name}",
            expected=expected,
            found=found,
        )

    def integer(self, name: str, default: int | None = None) -> int:
        """Read an integer that is not negative; required where there is no default."""
        value = self.raw.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_ELEMENTS:
            raise self.error(name, "an integer from 0", "nothing" if value is None else value)
        return value

    def integer_or_none(self, name: str) -> int | None:
        """Read an integer that is not negative, if there is one."""
        return self.integer(name) if name in self else None

    def number(self, name: str, default: float | None = None) -> float:
        """Read a finite number; required where there is no default."""
        value = self.raw.get(name)
        if value is None and default is not None:
            return default
        if not _is_finite(value):
            raise self.error(name, "a finite number", "nothing" if value is None else value)
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """Read a finite number above zero; required where there is no default."""
        value = self.number(name, default)
        if value <= 0:
            raise self.error(name, "a positive number", value)
        return value

    def number_or_none(self, name: str) -> float | None:
        """Read a finite number, if there is one."""
        return self.number(name) if name in self else None

    def flag(self, name: str, default: bool) -> bool:
        """Read true or false."""
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Read a string; required where there is no default."""
        value = self.raw.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "a string", "nothing" if value is None else value)
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """Read a list of finite numbers."""
        value = self.raw.get(name)
        if not isinstance(value, list | tuple) or not all(map(_is_finite, value)):
            raise self.error(name, "a list of numbers", value)
        return tuple(float(x) for x in value)

    def child(self, name: str) -> Fields | None:
        """Read a nested object; None where it is missing or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(name, "an object", value)
        return Fields(value, self.file, f"{self.where}{name}.")

    def where_absent(self, defaults: Mapping[str, Any]) -> Fields:
        """Give the same object with `defaults` where a field is absent; null stays what it says."""
        return Fields({**defaults, **self.raw}, self.file, self.where)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Fields:
        """Give the same object with `defaults` where a field is missing or null."""
        given = {name: value for name, value in self.raw.items() if value is not None}
        return Fields({**defaults, **given}, self.file, self.where)


def _is_finite(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number that a float holds; JSON's integers may be too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
