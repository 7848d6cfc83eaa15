"""The document of one model: its tensors with all statistics, and what lies behind each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex._version import __version__
from wvindex.arch.config import ModelConfig
from wvindex.inspection.heads import head_tensors
from wvindex.inspection.outliers import CHANNEL_RATIO
from wvindex.inspection.report.document import Bars, Block, Document, Entry, Grid, Histogram
from wvindex.inspection.report.statistics import OF_EXPERTS, OF_HEADS, OF_TENSORS
from wvindex.inspection.tensor_stats import Row
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


@dataclass(frozen=True)
class Findings:
    """The tables that a report is made of.

    Attributes
    ----------
    tensors, heads, experts : list of dict
        Rows of `wvindex.stats`.
    distributions : mapping of str to mapping
        Rows of `wvindex.inspection.report.distributions`, by key.
    columns : frozenset of str
        What was computed: with singular values or without.
    unknown : tuple of str
        Keys whose encoding nobody decodes.
    notes : tuple of str
    """

    tensors: list[Row]
    heads: list[Row]
    experts: list[Row]
    distributions: Mapping[str, Row]
    columns: frozenset[str]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def model_document(db: Store, findings: Findings) -> Document:
    """Give the report of a store or a bare checkpoint."""
    heads, experts = _head_grids(findings.heads), _expert_grids(findings.experts)
    grids = {one.key: grid for layer, grid in heads.items() for one in head_tensors(db, layer)} | experts
    entries = tuple(_entry(db[row["key"]], row, findings, grids) for row in findings.tensors)
    notes = dict.fromkeys((*db.notes, *findings.notes))
    if findings.unknown:
        notes[f"nobody decodes {_some(findings.unknown)}: left out"] = None
    return Document(
        kind="Weight report",
        title=title_of(db),
        facts=tuple(_facts(db.config, summarize(db), db)),
        statistics=tuple(one for one in OF_TENSORS if one.name in findings.columns),
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


def _entry(tensor: Tensor, row: Row, findings: Findings, grids: Mapping[str, Grid]) -> Entry:
    distribution = findings.distributions[tensor.key]
    blocks: list[Block] = [*_distribution(distribution, tensor), *_singular_values(row)]
    if tensor.key in grids:
        blocks.append(grids[tensor.key])
    return Entry(tensor.key, tuple(_tensor_facts(tensor)), row, tuple(blocks), tensor.aliases)


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


def _head_grids(every: list[Row]) -> dict[int, Grid]:
    """Give a grid for each layer whose heads are known; what they are read from shares it."""
    layers: defaultdict[int, list[Row]] = defaultdict(list)
    for row in every:
        layers[row["layer"]].append(row)
    about = "Of the stored matrices: rotary embedding, norms and per-token factors are left aside."
    return {
        layer: Grid("Heads", about, "head", OF_HEADS, _columns(rows, OF_HEADS))
        for layer, rows in layers.items()
    }


def _expert_grids(every: list[Row]) -> dict[str, Grid]:
    stacks: defaultdict[str, list[Row]] = defaultdict(list)
    for row in every:
        stacks[row["key"]].append(row)
    return {key: _expert_grid(rows) for key, rows in stacks.items()}


def _expert_grid(rows: list[Row]) -> Grid:
    marks = {row["expert"]: "dead" for row in rows if row["dead"]}
    marks |= {row["expert"]: f"duplicate of {row['nearest']}" for row in rows if row["duplicate"]}
    kinds = [sum(mark.startswith(kind) for mark in marks.values()) for kind in ("dead", "duplicate")]
    about = f"{len(rows)} in this stack; {kinds[0]} dead, {kinds[1]} near-duplicate."
    return Grid("Experts", about, "expert", OF_EXPERTS, _columns(rows, OF_EXPERTS), marks)


def _columns(rows: list[Row], measures: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    return {one.name: tuple(row[one.name] for row in rows) for one in measures}


def _facts(config: ModelConfig, summary: Summary, db: Store) -> Iterator[tuple[str, str]]:
    yield "family", config.family or f"unknown ({config.model_type})"
    mtp = f" and {len(summary.mtp_layers)} for multi-token prediction" if summary.mtp_layers else ""
    yield "layers", f"{summary.layers}{mtp}"
    yield "parameters", f"{summary.parameters:,}"
    yield "size", format_size(summary.nbytes)
    if summary.parameters:
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
