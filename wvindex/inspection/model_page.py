"""A page for a model: what it is, where its parameters and bytes are, its layers, what is odd."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wvindex.arch.config import ModelConfig
from wvindex.arch.keys import split_layer
from wvindex.errors import WvindexError
from wvindex.inspection.anomalies import ANOMALY, in_order, tensor_anomalies
from wvindex.inspection.api import GROUPINGS
from wvindex.inspection.collect import Job, Progress, collect
from wvindex.inspection.moments import Moments
from wvindex.inspection.page import TENSORS, decodable, json_of, plain, tensors_table
from wvindex.inspection.table import Table
from wvindex.inspection.tensor_stats import Row, role_of
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.summary import Summary, summarize
from wvindex.sizes import bits_per_weight

_SIZES: Final = ("tensors", "parameters", "nbytes", "bits_per_weight", "encodings")
_NUMBERS: Final = ("mean", "std", "absmax", "kurtosis", "outliers", "outlier_channels")

LAYERS: Final = ("layer", "mtp", *_SIZES, *_NUMBERS, "anomalies")
ROLES: Final = ("role", *_SIZES, *_NUMBERS)
ENCODINGS: Final = ("encoding", "tensors", "parameters", "nbytes", "bits_per_weight")
EXACTNESS: Final = ("exactness", "tensors", "parameters", "nbytes")
ELSEWHERE: Final = ("tensor", "file", "encoding", "reason")

TABLES: Final[dict[str, Sequence[str]]] = {
    "tensors": TENSORS,
    "layers": LAYERS,
    "roles": ROLES,
    "encodings": ENCODINGS,
    "exactness": EXACTNESS,
    "elsewhere": ELSEWHERE,
    "anomalies": ANOMALY,
}
"""Columns of a model's tables, in the page's order."""

OF_HEADERS: Final = frozenset({"encodings", "exactness", "elsewhere"})
"""Tables that no weight is read for."""

_EXPERTS: Final = "mlp.experts."
_SCALES: Final = "scales"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How many weights there are. Scales of quantized blocks are none.

    Attributes
    ----------
    stored : int
    active : int
        That one token takes part in: without layers for multi-token prediction, and with as many of the
        routed experts as are chosen. The embedding counts whole.
    source, source_active : int or None
        The same of the tensors that a store was made from: absorbed attention is stored larger than its
        factors. None for a bare checkpoint, where that is `stored`.
    """

    stored: int
    active: int
    source: int | None
    source_active: int | None


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What a model's tokenizer is; or the `problem` with it.

    Attributes
    ----------
    files : tuple of str
        That a store keeps of it.
    vocab_size, bos_token_id, eos_token_id : int or None
    problem : str or None
    """

    files: tuple[str, ...]
    vocab_size: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelPage:
    """A whole model; see `wvindex.inspect`. `str` gives the page.

    Attributes
    ----------
    path : str
    kind : {"store", "checkpoint"}
    built : mapping or None
        For a store: what wrote it, with which options, from which files.
    config : ModelConfig
    summary : Summary
        Counts, unmapped and undecodable keys, multi-token-prediction layers.
    parameters : Parameters
    tokenizer : TokenizerFacts
    layers : Table
        A row a layer, and one for what is in none; statistics are of all values of its tensors, outliers
        and outlier channels those of each tensor, summed.
    roles, encodings, exactness : Table
        The same by role; sizes by encoding and by exactness.
    elsewhere : Table
        Source tensors that are no array of the store, and where they went.
    tensors : Table
        Shape, encoding, exactness, sources, size, and statistics as of `wvindex.stats`.
    anomalies : Table
        What is out of the ordinary (`wvindex.inspection.anomalies.WHAT`), as far as tensors' statistics show.
    notes : tuple of str
    """

    path: str
    kind: str
    built: Mapping[str, Any] | None
    config: ModelConfig
    summary: Summary
    parameters: Parameters
    tokenizer: TokenizerFacts
    layers: Table
    roles: Table
    encodings: Table
    exactness: Table
    elsewhere: Table
    tensors: Table
    anomalies: Table
    notes: tuple[str, ...]

    def tables(self) -> dict[str, Table]:
        """Give its tables by name."""
        parts = (self.layers, self.roles, self.encodings, self.exactness)
        return {table.name: table for table in (self.tensors, *parts, self.elsewhere, self.anomalies)}

    def to_dict(self) -> dict[str, Any]:
        """Give plain values; a table is a list of dictionaries."""
        return {"page": "model", **plain(self)}

    def to_json(self) -> dict[str, Any]:
        """Give what `to_dict` does as JSON values: NaN and infinity are strings."""
        return json_of(self.to_dict())

    def __str__(self) -> str:
        """Give the page, 80 columns wide."""
        from wvindex.inspection.page_text import page_text

        return page_text(self)


def model_page(
    db: Store, *, stats: bool = True, keep: bool = True, progress: Progress | None = None
) -> ModelPage:
    """Make the page of a model; `wvindex.inspect` documents the rest."""
    tensors = list(db.values())
    known, unknown = decodable(tensors)
    jobs = [Job("tensor", GROUPINGS["tensor"], known)] if stats else []
    found, notes = collect(db, jobs, keep=keep, progress=progress)
    rows = {row["key"]: row for part in found for row in part}
    summary = summarize(db)
    anomalies = in_order(tensor_anomalies(rows.values(), unknown))
    odd = Counter(row["layer"] for row in anomalies)
    layers = [
        {"layer": number, "mtp": number in summary.mtp_layers, "anomalies": odd[number]} | _group(some, rows)
        for number, some in _grouped(tensors, lambda t: split_layer(t.key)[0]).items()
    ]
    return ModelPage(
        path=str(db.path),
        kind="checkpoint" if db.catalog is None else "store",
        built=_built(db),
        config=db.config,
        summary=summary,
        parameters=_parameters(db),
        tokenizer=_tokenizer(db),
        layers=Table.of_dicts("layers", LAYERS, sorted(layers, key=_layer_order)),
        roles=_table("roles", ROLES, "role", tensors, rows, lambda t: role_of(t.key)),
        encodings=_table("encodings", ENCODINGS, "encoding", tensors, rows, lambda t: t.encoding),
        exactness=_table("exactness", EXACTNESS, "exactness", tensors, rows, lambda t: t.exactness),
        elsewhere=Table.of_dicts("elsewhere", ELSEWHERE, _elsewhere(db)),
        tensors=tensors_table(tensors, rows.values()),
        anomalies=Table.of_dicts("anomalies", ANOMALY, anomalies),
        notes=(*db.notes, *notes),
    )


def _table(
    name: str,
    columns: Sequence[str],
    what: str,
    tensors: Iterable[Tensor],
    rows: Mapping[str, Row],
    group: Callable[[Tensor], str],
) -> Table:
    """Give a row for each group of tensors, most bytes first."""
    found = [{what: one} | _group(some, rows) for one, some in _grouped(tensors, group).items()]
    return Table.of_dicts(name, columns, sorted(found, key=lambda row: -row["nbytes"]))


def _grouped(tensors: Iterable[Tensor], group: Callable[[Tensor], Hashable]) -> dict[Any, list[Tensor]]:
    found: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(group(tensor), []).append(tensor)
    return found


def _group(tensors: Sequence[Tensor], rows: Mapping[str, Row]) -> Row:
    """Give sizes of some tensors, and statistics of all their values together, from those of each."""
    nbytes, size = sum(t.nbytes for t in tensors), sum(t.size for t in tensors)
    encodings: Counter[str] = Counter()
    for tensor in tensors:
        encodings[tensor.encoding] += tensor.nbytes
    row: Row = {
        "tensors": len(tensors),
        "parameters": size,
        "nbytes": nbytes,
        "bits_per_weight": bits_per_weight(nbytes, size),
        "encodings": [name for name, _ in encodings.most_common()],
    }
    some = [rows[tensor.key] for tensor in tensors if tensor.key in rows]
    if not some:
        return row
    moments = Moments.merged(_moments(one) for one in some)
    row |= {name: getattr(moments, name) for name in ("mean", "std", "absmax", "kurtosis")}
    return row | {name: sum(one.get(name) or 0 for one in some) for name in ("outliers", "outlier_channels")}


def _moments(row: Row) -> Moments:
    """Give the moments that the statistics of a tensor tell."""
    n, std = row["count"] - row["nan"] - row["inf"], row["std"]
    if not n:
        return Moments(nan=row["nan"], inf=row["inf"])
    third = row["skewness"] * n * std**3 if math.isfinite(row["skewness"]) else 0.0
    fourth = (row["kurtosis"] + 3) * n * std**4 if math.isfinite(row["kurtosis"]) else 0.0
    seen = {name: row[name] for name in ("mean", "min", "max", "zeros", "nan", "inf")}
    return Moments(finite=n, m2=n * std**2, m3=third, m4=fourth, **seen)


def _layer_order(row: Mapping[str, Any]) -> tuple[bool, int]:
    """Put what is in no layer last."""
    return row["layer"] is None, row["layer"] or 0


def _parameters(db: Store) -> Parameters:
    stored = [((tensor.key,), tensor.size) for tensor in db.values()]
    if db.catalog is None:
        return Parameters(
            stored=sum(size for _, size in stored),
            active=_active(db, stored),
            source=None,
            source_active=None,
        )
    source = [
        (entry.keys, math.prod(entry.shape))
        for entry in db.catalog.ledger
        if entry.keys and entry.reason != _SCALES
    ]
    return Parameters(
        stored=sum(size for _, size in stored),
        active=_active(db, stored),
        source=sum(size for _, size in source),
        source_active=_active(db, source),
    )


def _active(db: Store, weights: Iterable[tuple[Sequence[str], int]]) -> int:
    """Count what one token takes part in, of weights that are (a part of) the arrays of some keys."""
    always = routed = 0
    for keys, size in weights:
        if all(db[key].mtp for key in keys):
            continue
        if any(split_layer(key)[1].startswith(_EXPERTS) for key in keys):
            routed += size
        else:
            always += size
    moe = db.config.moe
    chosen = min(moe.num_experts_per_tok, moe.n_routed_experts) if moe else 1
    return always + routed * chosen // max(moe.n_routed_experts if moe else 1, 1)


def _elsewhere(db: Store) -> list[Row]:
    ledger = db.catalog.ledger if db.catalog else ()
    entries = (entry for entry in ledger if not entry.keys)
    return [{name: getattr(entry, name) for name in ELSEWHERE} for entry in entries]


def _built(db: Store) -> Mapping[str, Any] | None:
    catalog = db.catalog
    if catalog is None:
        return None
    return {
        "generator": catalog.generator,
        "format": catalog.format,
        "options": dict(catalog.options),
        "source_format": catalog.source_format,
        "files": [{"name": file.name, "size": file.size} for file in catalog.sources],
        "linked": bool(catalog.links),
    }


def _tokenizer(db: Store) -> TokenizerFacts:
    files = db.catalog.tokenizer_files if db.catalog else ()
    try:
        found = db.tokenizer
    except WvindexError as error:
        return TokenizerFacts(files=files, problem=error.message)
    return TokenizerFacts(
        files=files,
        vocab_size=found.vocab_size,
        bos_token_id=found.bos_token_id,
        eos_token_id=found.eos_token_id,
    )
