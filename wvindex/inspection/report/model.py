"""The document of one model: its tensors with all statistics, and what lies behind each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex._version import __version__
from wvindex.arch.config import ModelConfig
from wvindex.arch.keys import split_layer
from wvindex.inspection.heads import PROJECTIONS
from wvindex.inspection.outliers import CHANNEL_RATIO
from wvindex.inspection.report.document import Bars, Block, Document, Entry, Grid, Histogram
from wvindex.inspection.report.statistics import OF_EXPERTS, OF_HEADS, OF_TENSORS
from wvindex.inspection.table import Table
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.summary import Summary, summarize
from wvindex.sizes import format_size

FIRST: Final = "kurtosis"
COLUMNS: Final = (
    *("shape", "encoding", "nbytes", "bits_per_weight"),
    *("mean", "std", "absmax", "kurtosis", "outliers"),
)

_MOST_NAMES: Final = 4
"""Names that a fact has; how many more there are is said."""

_OF_HEADS: Final = frozenset(f"self_attn.{name}_proj.weight" for name in PROJECTIONS)


@dataclass(frozen=True)
class Findings:
    """The tables that a report is made of.

    Attributes
    ----------
    tensors, heads, experts : Table
        Of `wvindex.stats`.
    distributions : mapping of str to mapping
        Rows of `wvindex.inspection.report.distributions`, by key.
    spectrum : bool
        Whether singular values were computed.
    """

    tensors: Table
    heads: Table
    experts: Table
    distributions: Mapping[str, Mapping[str, Any]]
    spectrum: bool


def model_document(db: Store, findings: Findings) -> Document:
    """Give the report of a store or a bare checkpoint."""
    names = set(findings.tensors.columns)
    heads, experts = _head_grids(findings.heads), _expert_grids(findings.experts)
    entries = tuple(_entry(db[row["key"]], row, findings, heads, experts) for row in findings.tensors)
    tables = (findings.tensors, findings.heads, findings.experts)
    notes = dict.fromkeys(note for notes in (db.notes, *(t.notes for t in tables)) for note in notes)
    return Document(
        kind="Weight report",
        title=title_of(db),
        facts=tuple(_facts(db.config, summarize(db), db)),
        statistics=tuple(one for one in OF_TENSORS if one.name in names),
        first=FIRST,
        columns=COLUMNS,
        entries=entries,
        notes=tuple(notes),
        generator=f"wvindex {__version__}",
    )


def title_of(db: Store) -> str:
    """Give the name of what was opened, without the directories that lead to it."""
    text = str(db.path).rstrip("/")
    return Path(text).absolute().name if "://" not in text else text.rpartition("/")[2]


def _entry(
    tensor: Tensor,
    row: Mapping[str, Any],
    findings: Findings,
    heads: Mapping[int, Grid],
    experts: Mapping[str, Grid],
) -> Entry:
    layer, role = split_layer(tensor.key)
    blocks: list[Block] = [
        *_distribution(findings.distributions[tensor.key], tensor),
        *_singular_values(row),
    ]
    if layer is not None and layer in heads and role in _OF_HEADS:
        blocks.append(heads[layer])
    if tensor.key in experts:
        blocks.append(experts[tensor.key])
    facts = tuple(_tensor_facts(tensor))
    return Entry(tensor.key, facts, row, tuple(blocks), tensor.aliases)


def _tensor_facts(tensor: Tensor) -> Iterator[tuple[str, str]]:
    yield "shape", " × ".join(map(str, tensor.shape)) or "scalar"
    yield "encoding", tensor.encoding
    yield "exactness", tensor.exactness
    if tensor.heads:
        yield "heads", str(tensor.heads)
    if tensor.mtp:
        yield "part", "multi-token prediction"
    yield "from", _some(tensor.source)
    if tensor.transforms:
        yield "by", ", ".join(tensor.transforms)
    if tensor.aliases:
        yield "also", _some(tensor.aliases)


def _some(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _distribution(found: Mapping[str, Any], tensor: Tensor) -> Iterator[Block]:
    if found["counts"]:
        yield Histogram(found["low"], found["high"], tuple(found["counts"]), found["below"], found["above"])
    if found["channels"]:
        shown, of = len(found["channels"]), tensor.shape[-1]
        about = (
            f"Largest magnitude of an input column over the median column's. The {shown} furthest of {of:,}; "
            f"the line is at {CHANNEL_RATIO:g}, from which a column is called an outlier."
        )
        labels = tuple(map(str, found["channels"]))
        ratios = tuple(found["channel_ratios"])
        yield Bars("Outlier channels", about, "column", labels, ratios, CHANNEL_RATIO)


def _singular_values(row: Mapping[str, Any]) -> Iterator[Block]:
    values = row.get("singular_values") or ()
    if values:
        labels = tuple(str(i + 1) for i in range(len(values)))
        yield Bars("Singular values", f"The {len(values)} largest.", "σ", labels, tuple(values))


def _head_grids(table: Table) -> dict[int, Grid]:
    """Give a grid for each layer whose attention is dense; its four projections share it."""
    layers: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in table:
        layers[row["layer"]].append(row)
    about = "Of the stored matrices: rotary embedding, norms and per-token factors are left aside."
    return {
        layer: Grid("Heads", about, "head", OF_HEADS, _columns(rows, OF_HEADS))
        for layer, rows in layers.items()
    }


def _expert_grids(table: Table) -> dict[str, Grid]:
    stacks: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table:
        stacks[row["key"]].append(row)
    return {key: _expert_grid(rows) for key, rows in stacks.items()}


def _expert_grid(rows: list[dict[str, Any]]) -> Grid:
    marks = {row["expert"]: "dead" for row in rows if row["dead"]}
    marks |= {row["expert"]: f"duplicate of {row['nearest']}" for row in rows if row["duplicate"]}
    kinds = [sum(mark.startswith(kind) for mark in marks.values()) for kind in ("dead", "duplicate")]
    about = f"{len(rows)} in this stack; {kinds[0]} dead, {kinds[1]} near-duplicate."
    return Grid("Experts", about, "expert", OF_EXPERTS, _columns(rows, OF_EXPERTS), marks)


def _columns(rows: list[dict[str, Any]], measures: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    return {one.name: tuple(row[one.name] for row in rows) for one in measures}


def _facts(config: ModelConfig, summary: Summary, db: Store) -> Iterator[tuple[str, str]]:
    yield "family", config.family or f"unknown ({config.model_type})"
    mtp = f" and {len(summary.mtp_layers)} for multi-token prediction" if summary.mtp_layers else ""
    yield "layers", f"{summary.layers}{mtp}"
    yield "parameters", f"{summary.parameters:,}"
    yield "size", format_size(summary.nbytes)
    yield "bits per weight", f"{summary.bits_per_weight:.2f}"
    yield "tensors", str(summary.arrays)
    yield from _geometry(config)
    yield "encodings", ", ".join(f"{one.encoding} {_share(one.nbytes, summary)}" for one in summary.encodings)
    yield "exactness", ", ".join(f"{count} {label}" for label, count in summary.exactness.items())
    if summary.unmapped:
        yield "unmapped", f"{len(summary.unmapped)} under their own names"
    if db.catalog is not None:
        yield "source", _some(tuple(file.name for file in db.catalog.sources))


def _geometry(config: ModelConfig) -> Iterator[tuple[str, str]]:
    if config.hidden_size:
        yield "hidden size", str(config.hidden_size)
    if config.vocab_size:
        yield "vocabulary", f"{config.vocab_size:,}"
    if config.num_attention_heads:
        grouped = config.num_key_value_heads not in {None, config.num_attention_heads}
        shared = f", {config.num_key_value_heads} key/value" if grouped else ""
        yield "heads", f"{config.num_attention_heads}{shared}"
    if config.moe is not None:
        yield "experts", f"{config.moe.n_routed_experts}, {config.moe.num_experts_per_tok} a token"


def _share(nbytes: int, summary: Summary) -> str:
    return f"{100 * nbytes / summary.nbytes:.0f}%" if summary.nbytes else "0%"
