"""What a report says, apart from how it looks: facts, statistics of tensors, and what lies behind each.

A page of a model and a page of a comparison are both a `Document`: the heat map, the table and the panels
are drawn from the same entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wvindex.arch.keys import LAYER_MODULES, split_layer

Format = Literal["number", "count", "share", "bytes", "index", "text"]
"""How a value is written; ``index`` is the number of a column or an expert, and has no colour."""

DIGITS: Final = 4
"""Significant digits of floats on a page."""

_MODULES: Final = {module: i for i, module in enumerate(LAYER_MODULES)}

FORMAT: Final = 1
"""Of the data that the page's script reads."""


@dataclass(frozen=True)
class Statistic:
    """A number that tensors have, or a head, or an expert.

    Attributes
    ----------
    name : str
        The column of a table of `wvindex`.
    label : str
    group : str
        Under which lists show it.
    about : str
        What it is, with its unit.
    format : Format
    """

    name: str
    label: str
    group: str
    about: str
    format: Format = "number"


@dataclass(frozen=True)
class Histogram:
    """Values of a tensor in equal bins, and how many lie outside on either side.

    Attributes
    ----------
    low, high : float
        Edges of the first and the last bin.
    counts : tuple of int
    below, above : int
        Finite values beyond the edges.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True)
class Bars:
    """Numbers with a label each, falling from the left.

    Attributes
    ----------
    title, about : str
    item : str
        What a bar is: ``column``.
    labels : tuple of str
    values : tuple of float
    mark : float or None
        A threshold to draw.
    """

    title: str
    about: str
    item: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    mark: float | None = None


@dataclass(frozen=True)
class Grid:
    """Numbers of the parts of a tensor or a layer, a cell a part: heads, experts.

    Attributes
    ----------
    title, about : str
    item : str
        What a cell is: ``head``.
    measures : tuple of Statistic
    values : mapping of str to tuple
        Of each measure by name, a value a part.
    marks : mapping of int to str
        What is odd about a part.
    """

    title: str
    about: str
    item: str
    measures: tuple[Statistic, ...]
    values: Mapping[str, tuple[Any, ...]]
    marks: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """A plain table: the worst rows of a tensor, keys that are missing.

    Attributes
    ----------
    title, about : str
    columns : tuple of Statistic
    rows : tuple of tuple
    """

    title: str
    about: str
    columns: tuple[Statistic, ...]
    rows: tuple[tuple[Any, ...], ...]


Block = Histogram | Bars | Grid | Listing


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes
    ----------
    key : str
    facts : tuple of (str, str)
        Labels and text, for its panel.
    values : mapping of str to value
        By the names of the document's statistics; None and NaN where there is none.
    blocks : tuple of Block
        What its panel shows below its statistics; one that several tensors share is stored once.
    aliases : tuple of str
        Other names that a search finds it by.
    """

    key: str
    facts: tuple[tuple[str, str], ...]
    values: Mapping[str, Any]
    blocks: tuple[Block, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes
    ----------
    kind : str
        Above the title: ``Weight report``.
    title : str
    facts : tuple of (str, str)
        Labels and text at its head.
    statistics : tuple of Statistic
        What the heat map can show, and panels do.
    first : str
        The statistic that it shows first.
    columns : tuple of str
        The statistics that the table of all tensors has.
    entries : tuple of Entry
        In the order of the table, until that is sorted.
    listings : tuple of Listing
        Below the table.
    notes : tuple of str
    order : str
        What order the entries are in.
    generator : str
        What wrote it.
    """

    kind: str
    title: str
    facts: tuple[tuple[str, str], ...]
    statistics: tuple[Statistic, ...]
    first: str
    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    listings: tuple[Listing, ...] = ()
    notes: tuple[str, ...] = ()
    order: str = "In the model's order"
    generator: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give what the page's script reads: columns of values, floats with `DIGITS` significant digits."""
        blocks: dict[int, int] = {}
        shared: list[dict[str, Any]] = []
        for entry in self.entries:
            for block in entry.blocks:
                if id(block) not in blocks:
                    blocks[id(block)] = len(shared)
                    shared.append(block_json(block))
        layers, roles, places = _places(self.entries)
        return {
            "format": FORMAT,
            "kind": self.kind,
            "title": self.title,
            "facts": [list(fact) for fact in self.facts],
            "statistics": [vars(one) for one in self.statistics],
            "first": self.first,
            "columns": list(self.columns),
            "order": self.order,
            "layers": layers,
            "roles": roles,
            "keys": [entry.key for entry in self.entries],
            "places": places,
            "aliases": [list(entry.aliases) for entry in self.entries],
            "tensorFacts": [[list(fact) for fact in entry.facts] for entry in self.entries],
            "values": {
                one.name: [rounded(entry.values.get(one.name)) for entry in self.entries]
                for one in self.statistics
            },
            "tensorBlocks": [[blocks[id(block)] for block in entry.blocks] for entry in self.entries],
            "blocks": shared,
            "listings": [block_json(listing) for listing in self.listings],
            "notes": list(self.notes),
            "generator": self.generator,
        }


def block_json(block: Block) -> dict[str, Any]:
    """Give a block as JSON values, with the name of its type."""
    fields = {name: _json(value) for name, value in vars(block).items()}
    return {"type": type(block).__name__.lower()} | fields


def rounded(value: Any) -> Any:
    """Give a value with at most `DIGITS` significant digits; integers whole, None for NaN."""
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(f"{value:.{DIGITS}g}")


def _json(value: Any) -> Any:
    if isinstance(value, Statistic):
        return vars(value)
    if isinstance(value, Mapping):
        return {str(name): _json(one) for name, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, tuple | list) else rounded(value)


def _places(entries: Sequence[Entry]) -> tuple[list[str], list[str], list[list[Any]]]:
    """Give the layers as text, the roles in them, and for each entry the index of its layer, and its role.

    The index is -1 outside layers. The role is without ``.weight``, unless that is another
    tensor's of the layer. Roles come in the order in which values flow through a layer, others after them.
    """
    split = [split_layer(entry.key) for entry in entries]
    numbers = sorted({layer for layer, _ in split if layer is not None})
    index = {layer: i for i, layer in enumerate(numbers)}
    taken = set(split)
    places: list[list[Any]] = []
    for layer, rest in split:
        role = rest.removesuffix(".weight")
        places.append([-1 if layer is None else index[layer], rest if (layer, role) in taken else role])
    roles = dict.fromkeys(role for column, role in places if column >= 0)
    return [str(number) for number in numbers], sorted(roles, key=_flow), places


def _flow(role: str) -> tuple[float, str]:
    """Give the place of a role's module in a layer, for sorting; one that is not known follows its kin."""
    module = role if role in _MODULES else role.rpartition(".")[0]
    kin = [place for name, place in _MODULES.items() if name.partition(".")[0] == role.partition(".")[0]]
    return _MODULES.get(module, max(kin, default=len(_MODULES)) + 0.5), role
