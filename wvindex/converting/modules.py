"""Lists of module names in a quantization's configuration, rewritten so that they mean the same modules.

The tools spell them in many ways: ``modules_to_not_convert``, ``ignore``, ``exclude_modules``, ``targets``;
full names, their ends, shell patterns (ModelOpt), regular expressions with ``re:`` before them
(compressed-tensors), ``-:`` or ``+:`` (GPTQModel's ``dynamic``) or nothing (transformers); some as keys of an
object. All of them are looked at, whatever they are called.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from wvindex.converting.arrange import rearranged
from wvindex.converting.pairs import BELOW, FUSED, QUERY, Attention
from wvindex.converting.plan import Direction
from wvindex.errors import UnsupportedError

_REGEX: Final = ("re:", "-:", "+:")
"""What tools write before a regular expression."""

_PLAIN: Final = re.compile(r"[\w./:-]*")
"""A name, or an end of one; anything else is a pattern."""

_BARE_REGEX: Final = re.compile(r"\A\.|[\\^$(){}|+]")
"""What no shell pattern for a module's name has: an entry with it is a regular expression."""


class ModuleNames:
    """Rewrites names of down-projections.

    Parameters
    ----------
    attentions : sequence of Attention
    direction : {"fuse", "unfuse"}
    file : Path
        For messages.
    """

    def __init__(self, attentions: Sequence[Attention], direction: Direction, file: Path) -> None:
        self._file = file
        self._before: list[tuple[str, ...]] = []
        self._after: list[tuple[str, ...]] = []
        for one in attentions:
            apart, fused = (one.query_name, one.below_name), (one.fused_name,)
            self._before.append(apart if direction == "fuse" else fused)
            self._after.append(fused if direction == "fuse" else apart)
        written = attentions[0].fused_name.rpartition(".")[2] if attentions else FUSED[0]
        self._segments: dict[str, tuple[str, ...]] = (
            {QUERY: (written,), BELOW: (written,)}
            if direction == "fuse"
            else dict.fromkeys(FUSED, (QUERY, BELOW))
        )

    def rewritten(self, value: Any, where: str) -> Any:
        """Give a JSON value in which every list and every object names the modules as they are afterwards.

        Raises
        ------
        UnsupportedError
            If a list means one half and not the other, or cannot be made to mean the same.
        """
        if isinstance(value, str):
            self._require_read([value], where, is_list=False)
        if isinstance(value, list):
            if value and all(isinstance(item, str) for item in value):
                return self._list(value, where)
            return [self.rewritten(item, f"{where}[{place}]") for place, item in enumerate(value)]
        if isinstance(value, dict):
            members = {name: self.rewritten(item, f"{where}.{name}") for name, item in value.items()}
            return self._object(members, where)
        return value

    def _require_read(self, entries: Sequence[str], where: str, *, is_list: bool = True) -> None:
        """Refuse an entry that names a down-projection in a way that is not known."""
        modules = [module for one in (*self._before, *self._after) for module in one]
        for entry in entries:
            named = any(name in entry for name in (QUERY, BELOW, *FUSED))
            is_read = is_list and (not _is_pattern(entry) or any(_matches(entry, one) for one in modules))
            if named and not is_read:
                raise self._refusal(where, "a name, or a pattern that fits a module of this model", entry)

    def _list(self, old: list[str], where: str) -> list[str]:
        self._require_read(old, where)
        replaced = {entry: names for entry in old if (names := self._renamed(entry)) != (entry,)}
        kept = [entry for entry in old if entry not in replaced]
        meant = [self._meant(old, modules, where) for modules in self._before]
        given: set[str] = set()
        for entry, names in replaced.items():
            # What another entry means anyway, a pattern for all modules, need not be said again.
            fresh = [
                name for name in dict.fromkeys(names) if name not in given and not self._is_said(name, kept)
            ]
            given.update(fresh)
            replaced[entry] = tuple(fresh)
        added = [
            module
            for modules, is_meant in zip(self._after, meant, strict=True)
            for module in modules
            if is_meant and not _matches_any([*kept, *given], module)
        ]
        new = rearranged(old, replaced, added, name=str)
        for modules, is_meant in zip(self._after, meant, strict=True):
            for module in modules:
                if not is_meant and _matches_any(new, module):
                    raise self._refusal(where, f"an entry that does not mean {module}", new)
        return new

    def _is_said(self, name: str, kept: Sequence[str]) -> bool:
        is_whole = any(name in modules for modules in self._after)
        return is_whole and _matches_any(kept, name)

    def _meant(self, entries: Sequence[str], modules: Sequence[str], where: str) -> bool:
        """Whether a list means some modules, which it must mean alike."""
        found = [_matches_any(entries, module) for module in modules]
        if len(set(found)) > 1:
            expected = f"{' and '.join(modules)}, or neither"
            raise self._refusal(where, expected, modules[found.index(True)])
        return found[0]

    def _object(self, old: dict[str, Any], where: str) -> dict[str, Any]:
        """Rename members that are named after modules."""
        self._require_read(list(old), where)
        for name in old:
            if _is_pattern(name) and any(
                _matches(name, module) != _matches(name, other)
                for before, after in zip(self._before, self._after, strict=True)
                for module in before
                for other in after
            ):
                raise self._refusal(where, "a pattern that means both forms alike", name)
        new: dict[str, Any] = {}
        for name, value in old.items():
            for renamed in self._renamed(name):
                if renamed in new and new[renamed] != value:
                    raise self._refusal(where, f"one value for both halves of {renamed}", value)
                new[renamed] = value
        order = rearranged(list(old), {name: self._renamed(name) for name in old}, name=str)
        return {name: new[name] for name in dict.fromkeys(order)}

    def _renamed(self, entry: str) -> tuple[str, ...]:
        """Give what a plain name of a module becomes; a pattern stays."""
        if _is_pattern(entry):
            return (entry,)
        segments = entry.split(".")
        for place, segment in enumerate(segments):
            if segment in self._segments:
                before, after = segments[:place], segments[place + 1 :]
                return tuple(".".join([*before, name, *after]) for name in self._segments[segment])
        return (entry,)

    def _refusal(self, where: str, expected: str, found: object) -> UnsupportedError:
        return UnsupportedError(
            "a list of modules cannot be made to mean the same",
            file=self._file,
            field=where,
            expected=expected,
            found=found,
        )


def _is_pattern(entry: str) -> bool:
    return entry.startswith(_REGEX) or _PLAIN.fullmatch(entry) is None


def _matches_any(entries: Sequence[str], module: str) -> bool:
    return any(_matches(entry, module) for entry in entries)


def _matches(entry: str, module: str) -> bool:
    """Whether an entry means a module: as a pattern, or as a run of the segments of its name."""
    if not _is_pattern(entry):
        return f".{entry}." in f".{module}."
    prefix = next((one for one in _REGEX if entry.startswith(one)), "")
    if not prefix and _BARE_REGEX.search(entry) is None:
        return fnmatchcase(module, entry)
    try:
        return re.match(entry.removeprefix(prefix), module) is not None
    except re.error:
        return False
