"""The tables: rows that a store's headers tell, and what is computed of each where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from wvindex.building import plan
from wvindex.formats.ledger import LedgerEntry
from wvindex.inspection import difference_rows
from wvindex.inspection.experts import EXPERT
from wvindex.inspection.feature_norms import FEATURE
from wvindex.inspection.heads import HEAD, head_projections
from wvindex.inspection.spectrum import SPECTRUM
from wvindex.inspection.sql.on_demand import SPECTRA, Statistics
from wvindex.inspection.sql.schema import DIFFERENCES, Column, columns
from wvindex.inspection.table import Table
from wvindex.inspection.tensor_stats import CHANNELS, LAYER, MOMENTS, ROLE, ROW, SPREAD, Row, place
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.summary import summarize
from wvindex.sizes import bits_per_weight

Compute = Callable[[], list[Row]]


class Base(NamedTuple):
    """A row that costs nothing, and how to compute the rest.

    Attributes
    ----------
    cells : dict
        The known columns, but for the store's name.
    compute : callable or None
        Gives the computed columns: of this row, or of all rows that it stands for.
    """

    cells: Row
    compute: Compute | None = None


@dataclass(frozen=True)
class Relation:
    """A table.

    Attributes
    ----------
    name : str
    meaning : str
        What a row is.
    known : tuple of Column
        What headers or a catalog tell: no weight is read for these.
    computed : tuple of Column
        What takes a pass over weights.
    base : callable
        Gives the known columns of a store's rows.
    by : str or None
        The table of `wvindex.stats` that is computed; None where nothing is.
    many : bool
        Whether a row of `base` stands for several rows of the table.
    """

    name: str
    meaning: str
    known: tuple[Column, ...]
    base: Callable[[Statistics], Iterator[Base]]
    computed: tuple[Column, ...] = ()
    by: str | None = None
    many: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them, in order."""
        return self.known + self.computed


def _tensors(of: Statistics) -> Iterator[Base]:
    for key, tensor in of.db.items():
        yield Base(_described(tensor), _rows(of, "tensor", key))


def _described(tensor: Tensor) -> Row:
    return place(tensor) | {
        "shape": "x".join(map(str, tensor.shape)) or "scalar",
        "dims": list(tensor.shape),
        "encoding": tensor.encoding,
        "dtype": str(tensor.dtype),
        "exactness": tensor.exactness,
        "mapped": tensor.spec.mapped,
        "mtp": tensor.mtp,
        **_stored([tensor]),
    }


def _stored(tensors: list[Tensor]) -> Row:
    count, nbytes = sum(tensor.size for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
    return {
        "tensors": len(tensors),
        "count": count,
        "nbytes": nbytes,
        "bits_per_weight": bits_per_weight(nbytes, count),
    }


def _spectra(of: Statistics) -> Iterator[Base]:
    for key, tensor in of.db.items():
        if tensor.ndim == 2:
            yield Base(_described(tensor), _rows(of, SPECTRA, key))


def _grouped(by: str) -> Callable[[Statistics], Iterator[Base]]:
    """Give the base of layers or roles."""

    def base(of: Statistics) -> Iterator[Base]:
        for subject, tensors in of.subjects(by).items():
            yield Base(place(tensors[0]) | _stored(tensors), _rows(of, by, subject))

    return base


def _heads(of: Statistics) -> Iterator[Base]:
    for subject, tensors in of.subjects("head").items():
        number = int(subject)
        dense = head_projections(of.db.layers[number])
        n_heads = (dense["q"] if dense else tensors[-1]).heads or 1  # of latent attention, the output's
        n_kv_heads = (dense["k"].heads or 1) if dense else n_heads
        for head in range(n_heads):
            cells = {"layer": number, "head": head, "kv_head": head * n_kv_heads // n_heads}
            yield Base(cells, _rows(of, "head", subject, head))


def _experts(of: Statistics) -> Iterator[Base]:
    for subject, (stack,) in of.subjects("expert").items():
        cells = place(stack) | {"count": stack.size // len(stack)}
        for expert in range(len(stack)):
            yield Base(cells | {"expert": expert}, _rows(of, "expert", subject, expert))


def _row_tables(of: Statistics) -> Iterator[Base]:
    for subject, (tensor,) in of.subjects("row").items():
        yield Base(place(tensor), _rows(of, "row", subject))


def _features(of: Statistics) -> Iterator[Base]:
    for subject, tensors in of.subjects("feature").items():
        cells = place(tensors[0])
        yield Base(cells | {"role": cells["role"].rpartition(".")[0]}, _rows(of, "feature", subject))


def _rows(of: Statistics, by: str, subject: str, index: int | None = None) -> Compute:
    """Give what computes the rows of a subject, or one of them."""

    def compute() -> list[Row]:
        rows = of.rows(by, subject)
        return rows if index is None else [rows[index]]

    return compute


def _channels(of: Statistics) -> Iterator[Base]:
    for subject, (tensor,) in of.subjects("column").items():
        compute = _rows(of, "column", subject)
        yield Base(place(tensor), partial(_named_channels, compute))


def _named_channels(compute: Compute) -> list[Row]:
    return [row | {"channel": row["column"]} for row in compute()]


def _stores(of: Statistics) -> Iterator[Base]:
    db, summary = of.db, summarize(of.db)
    yield Base(
        {
            "path": str(db.path),
            "kind": "store" if db.catalog is not None else "checkpoint",
            "model_type": db.config.model_type,
            "layers": summary.layers,
            **_stored(list(db.values())),
        }
    )


def _config(of: Statistics) -> Iterator[Base]:
    for key, value in _flat(of.db.config.to_json()):
        text = value if value is None or isinstance(value, str) else json.dumps(value)
        yield Base({"key": key, "value": text})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the members of nested mappings, by their paths with dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _aliases(of: Statistics) -> Iterator[Base]:
    for key, tensor in of.db.items():
        for alias in tensor.aliases:
            yield Base({"key": key, "alias": alias})


def _sources(of: Statistics) -> Iterator[Base]:
    for entry in _ledger(of.db):
        for key in entry.keys or (None,):
            yield Base(
                {
                    "source": entry.tensor,
                    "key": key,
                    "file": entry.file,
                    "encoding": entry.encoding,
                    "shape": "x".join(map(str, entry.shape)) or "scalar",
                    "reason": entry.reason,
                }
            )


def _ledger(db: Store) -> tuple[LedgerEntry, ...]:
    """Give a store's ledger, or that of the store that would be built from a checkpoint as it is seen."""
    return plan(Path(db.path), mla="keep").ledger if db.catalog is None else db.catalog.ledger


_PLACE: Final = ("store", "key", "layer", "role")
_STORED: Final = ("count", "nbytes", "bits_per_weight")
_SHAPE: Final = ("shape", "dims", "encoding", "dtype", "exactness", "mapped", "mtp", *_STORED)
_CHANNEL: Final = ("channel", *MOMENTS, "absmax_ratio")


def _differences(table: Literal["tensors", "roles", "layers"]) -> Callable[[Statistics], Iterator[Base]]:
    """Give the base of a table of differences: a row for each source but the first."""

    def rows(of: Statistics) -> list[Row]:
        found: Table = getattr(of.difference, table)
        return [row | {"at_index": row.get("at")} for row in found]  # AT is a word of SQL's own

    def base(of: Statistics) -> Iterator[Base]:
        if of.reference is not None:
            yield Base({"reference": of.reference.name}, partial(rows, of))

    return base


def _relation(
    name: str,
    meaning: str,
    known: tuple[str, ...],
    base: Callable[[Statistics], Iterator[Base]],
    computed: tuple[str, ...] = (),
    by: str | None = None,
    *,
    many: bool = False,
) -> Relation:
    """Name the columns of a table; what is known is not computed."""
    return Relation(
        name,
        meaning,
        columns(*known),
        base,
        columns(*(one for one in computed if one not in known)),
        by,
        many,
    )


_ALL: Final = (
    _relation("tensors", "a tensor", (*_PLACE, *_SHAPE), _tensors, (*MOMENTS, *SPREAD, *CHANNELS), "tensor"),
    _relation("spectra", "a matrix", (*_PLACE, *_SHAPE), _spectra, SPECTRUM, SPECTRA),
    _relation(
        "layers", "a layer", ("store", "layer", "tensors", *_STORED), _grouped("layer"), LAYER, "layer"
    ),
    _relation("roles", "a role", ("store", "role", "tensors", *_STORED), _grouped("role"), ROLE, "role"),
    _relation("heads", "a query head", ("store", "layer", "head", "kv_head"), _heads, HEAD, "head"),
    _relation("experts", "an expert", (*_PLACE, "expert", "count"), _experts, EXPERT, "expert"),
    _relation(
        "features",
        "a feature of a feed-forward block",
        ("store", "layer", "role"),
        _features,
        FEATURE,
        "feature",
        many=True,
    ),
    _relation("channels", "an input column", _PLACE, _channels, _CHANNEL, "column", many=True),
    _relation("rows", "a row of a tensor", _PLACE, _row_tables, ROW, "row", many=True),
    _relation(
        "stores", "a source", ("store", "path", "kind", "model_type", "layers", "tensors", *_STORED), _stores
    ),
    _relation("config", "a setting of the model", ("store", "key", "value"), _config),
    _relation("aliases", "another name of a tensor", ("store", "key", "alias"), _aliases),
    _relation(
        "sources",
        "a source tensor, and an array that holds it",
        ("store", "source", "key", "file", "encoding", "shape", "reason"),
        _sources,
    ),
)

RELATIONS: Final[dict[str, Relation]] = {relation.name: relation for relation in _ALL}
"""The tables of one source, by name. A new one is one entry."""


def _difference(
    name: str, meaning: str, table: Literal["tensors", "roles", "layers"], names: tuple[str, ...]
) -> Relation:
    """Make a table of `wvindex.diff`; what is over a threshold is the query's to say."""
    return Relation(
        name,
        meaning,
        columns("reference", "store", among=DIFFERENCES),
        _differences(table),
        columns(*({"at": "at_index"}.get(one, one) for one in names if one != "over"), among=DIFFERENCES),
        many=True,
    )


_PAIRED: Final = (
    _difference("diff", "a tensor that both have", "tensors", difference_rows.TENSOR),
    _difference("diff_roles", "a role, all tensors that both have", "roles", difference_rows.ROLE),
    _difference("diff_layers", "a layer, all tensors that both have", "layers", difference_rows.LAYER),
)

DIFFERENCE_RELATIONS: Final[dict[str, Relation]] = {relation.name: relation for relation in _PAIRED}
"""The tables that hold every source but the first against the first."""

TABLES: Final[dict[str, Relation]] = RELATIONS | DIFFERENCE_RELATIONS
"""All that queries may name."""
