"""Names: which tensor answers to what, and which ones a selector means."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final, NamedTuple

from wvindex.arch.keys import split_layer
from wvindex.errors import AmbiguousKey, KeyNotFound, SelectionError
from wvindex.formats.arrays import ArraySpec
from wvindex.limits import MAX_EXPERTS
from wvindex.query.choice import LayerChoice, chosen_layers

_EXPERT: Final = re.compile(r"(.*\.experts)\.(0|[1-9][0-9]{0,15})\.(.+)", re.DOTALL)
_STACK: Final = re.compile(r"(.*\.experts)\.(.+)", re.DOTALL)

_MAX_COMPARED: Final = 20_000
"""Names that an unknown one is compared with: some 0.1 s; beyond, no close matches are given."""


class Target(NamedTuple):
    """What a name stands for: an array, one expert of it, or a part that was fused into it."""

    key: str
    expert: int | None = None
    part: str | None = None


def expert_key(key: str, expert: int) -> str:
    """Give the name of one expert of a stack: ``...mlp.experts.7.gate_proj.weight``."""
    match = _STACK.fullmatch(key)
    return f"{match[1]}.{expert}.{match[2]}" if match else f"{key}.{expert}"


def standard_order(specs: Iterable[ArraySpec]) -> list[ArraySpec]:
    """Sort: embedding, layers by number, final norm, head, and then what no rule maps.

    Arrays of one layer, and any others, keep their order.
    """
    return sorted(specs, key=_rank)


def _rank(spec: ArraySpec) -> tuple[int, int]:
    layer, _ = split_layer(spec.key)
    if not spec.mapped:
        return 4, 0
    if layer is not None:
        return 1, layer
    return {"model.norm": 2, "lm_head": 3}.get(spec.key.rpartition(".")[0], 0), 0


class Names:
    """Every name of a set of arrays.

    A key is its array's, or that of a part that was fused into one; an alias its array's, its part's or its
    expert's; ``...mlp.experts.7.gate_proj.weight`` is expert 7 of ``...mlp.experts.gate_proj.weight``. A key
    comes before an alias of the same spelling.

    Parameters
    ----------
    specs : iterable of ArraySpec
    """

    def __init__(self, specs: Iterable[ArraySpec]) -> None:
        self._specs: dict[str, ArraySpec] = {spec.key: spec for spec in specs}
        self._parts = {
            part.key: Target(spec.key, part=part.key) for spec in self._specs.values() for part in spec.parts
        }

    @cached_property
    def _aliases(self) -> dict[str, list[Target]]:
        """What each alias stands for, gathered for the first name that is no key: experts have thousands."""
        found: defaultdict[str, list[Target]] = defaultdict(list)
        for spec in self._specs.values():
            for part in spec.parts:
                for alias in part.aliases:
                    found[alias].append(Target(spec.key, part=part.key))
            for alias in spec.aliases:
                found[alias].append(Target(spec.key))
            for expert, alias in enumerate(spec.part_aliases):
                found[alias].append(Target(spec.key, expert))
        return dict(found)

    def find(self, name: str) -> list[Target]:
        """Give everything that answers to `name`: nothing, one, or (an ambiguous alias) several."""
        if name in self._specs:
            return [Target(name)]
        if name in self._parts:
            return [self._parts[name]]
        return list(dict.fromkeys(self._aliases.get(name, ()))) or self._find_expert(name)

    def _find_expert(self, name: str) -> list[Target]:
        match = _EXPERT.fullmatch(name)
        spec = self._specs.get(f"{match[1]}.{match[3]}") if match else None
        if match is None or spec is None or len(spec.shape) < 3 or int(match[2]) >= spec.shape[0]:
            return []
        return [Target(spec.key, int(match[2]))]

    def resolve(self, name: str) -> Target:
        """Give what answers to `name`.

        Raises
        ------
        AmbiguousKey
            If several arrays have it as an alias.
        KeyNotFound
            If none has; the message gives names that look like it.
        """
        if not isinstance(name, str):
            raise KeyNotFound("a name is a text", expected="a str", found=repr(name))
        found = self.find(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousKey(
                "several tensors answer to this name",
                tensor=name,
                found=", ".join(target.key for target in found),
            )
        close = self._close_to(name)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise KeyNotFound(f"no tensor answers to this name{hint}", tensor=name)

    def _close_to(self, name: str) -> list[str]:
        names = [*self._specs, *self._parts, *self._aliases]
        return difflib.get_close_matches(name, names, n=3) if len(names) <= _MAX_COMPARED else []

    def select(
        self, pattern: str = "*", *, layer: LayerChoice = None, role: str | None = None
    ) -> list[Target]:
        """Give what a selector means, in the arrays' order.

        A stack of experts is meant as a whole where its own names match, and otherwise by those experts
        whose names do; so are arrays that others were fused into.

        Parameters
        ----------
        pattern : str
            A glob (``*``, ``?``, ``[...]``) for the key or one of its aliases.
        layer : int, range, slice or several of them, optional
            A negative number counts from the end of the forward pass.
        role : str, optional
            A glob for what follows the layer in the key, with or without its ``.weight``.

        Raises
        ------
        SelectionError
            If `layer` is none of these or means no layer, or a pattern is no text.
        """
        for name, glob in (("pattern", pattern), ("role", role)):
            if not isinstance(glob, str) and (name == "pattern" or glob is not None):
                raise SelectionError("a pattern is a text", field=name, expected="a glob", found=repr(glob))
        wanted = chosen_layers(layer, self._specs.values())
        found: list[Target] = []
        for spec in self._specs.values():
            if wanted is not None and split_layer(spec.key)[0] not in wanted:
                continue
            if _means((spec.key, *spec.aliases), pattern, role):
                found.append(Target(spec.key))
            else:
                experts = enumerate(_expert_names(spec))
                found += [Target(spec.key, i) for i, names in experts if _means(names, pattern, role)]
                parts = ((part.key, (part.key, *part.aliases)) for part in spec.parts)
                found += [Target(spec.key, part=key) for key, names in parts if _means(names, pattern, role)]
        return found


def _means(names: tuple[str, ...], pattern: str, role: str | None) -> bool:
    """Whether a tensor, its key first among its names, is what a pattern and a role ask for."""
    return _matches(pattern, names) and (role is None or _has_role(names[0], role))


def _expert_names(spec: ArraySpec) -> Iterator[tuple[str, ...]]:
    """Give the names of each expert of a stack; nothing for any other array."""
    if len(spec.shape) == 3 and spec.shape[0] <= MAX_EXPERTS and _STACK.fullmatch(spec.key):
        for expert in range(spec.shape[0]):
            yield (expert_key(spec.key, expert), *spec.part_aliases[expert : expert + 1])


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _has_role(key: str, role: str) -> bool:
    found = split_layer(key)[1]
    return _matches(role, (found, found.removesuffix(".weight")))
