"""``wvindex.check``: what is odd about a checkpoint, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from wvindex.arch.keys import split_layer
from wvindex.inspection.linting.findings import SEVERITIES, Finding, Report
from wvindex.inspection.linting.model import Model
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.inspection.linting.table import chosen
from wvindex.inspection.progress import Progress, advance_of
from wvindex.inspection.selected import nothing_matches
from wvindex.opening import open as open_any
from wvindex.query.choice import LayerChoice
from wvindex.query.database import Store


def check(
    source: Store | str | os.PathLike[str],
    selector: str | None = None,
    layers: LayerChoice = None,
    *,
    rules: Iterable[str] = (),
    ignore: Iterable[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Look for anomalies in a checkpoint: in its weights, its scales, its configuration, its tokenizer.

    All rules share one pass over the weights, and only candidates for copies are read again; where no
    rule asks for weights, headers alone are read.

    Parameters
    ----------
    source : Store, path or URL
        A store, or a bare GGUF or safetensors checkpoint.
    selector : str, optional
        A glob for keys or aliases, as `Store.select` takes it. With one, or with `layers`, findings are
        of the chosen tensors alone.
    layers : int, range, slice or several of them, optional
    rules, ignore : iterable of str
        The rules to apply (all by default), and those not to: ids, names or groups (``WV1``).
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``.

    Returns
    -------
    Report

    Raises
    ------
    UsageError
        If there is no such rule, or none is left to apply.
    SelectionError
        If `layers` is no choice of layers, or means none that there is, or nothing matches.
    """
    applied = chosen(rules, ignore)
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        whole = selector is None and layers is None
        keys = list(dict.fromkeys(t.key for t in db.select(selector or "*", layer=layers)))
        tensors = {key: db[key] for key in keys if key in db}
        if not whole and not tensors:
            raise nothing_matches(db, selector=selector, layers=layers)
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        model = Model(db, tensors, advance=advance_of(nbytes, progress))
        findings = [
            _finding(model, rule, found)
            for rule in applied
            for found in rule.find(model)
            if whole or found.tensor in tensors
        ]
        return Report(
            path=str(db.path),
            findings=tuple(sorted(findings, key=_order)),
            rules=tuple(rule.id for rule in applied),
            tensors=len(tensors),
            nbytes=nbytes,
            notes=tuple(dict.fromkeys(model.notes)),
        )


def _order(finding: Finding) -> tuple[int, str]:
    """Sort gravest first, then by rule; findings of one rule stay in the store's order."""
    return SEVERITIES.index(finding.severity), finding.rule


def _finding(model: Model, rule: Rule, found: Found) -> Finding:
    layer = found.layer
    if layer is None and found.tensor is not None:
        layer = split_layer(found.tensor)[0]
    file, source = _file(model.db, found)
    return Finding(
        rule=rule.id,
        name=rule.name,
        severity=rule.severity,
        message=found.message,
        tensor=found.tensor,
        layer=layer,
        expert=found.expert,
        row=found.row,
        column=found.column,
        value=found.value,
        count=found.count,
        indices=found.indices,
        file=file,
        source=source,
    )


def _file(db: Store, found: Found) -> tuple[str | None, str | None]:
    """Give the file that holds a finding's tensor, and the tensor's name in the source."""
    spec = db[found.tensor].spec if found.tensor is not None and found.tensor in db else None
    name = None
    if spec is not None and spec.sources:
        one_each = found.expert is not None and len(spec.sources) == spec.shape[0]
        name = spec.sources[found.expert if one_each and found.expert is not None else 0]
    if db.catalog is not None:
        entry = db.catalog.arrays.get(found.tensor or "")
        copied = entry is not None and entry.link is None
        return (f"{entry.path}/zarr.json" if entry is not None and copied else "catalog.json"), name
    path = Path(db.path)
    held = next((entry.file for entry in db.ledger if entry.tensor == name), None)
    return held or (path.name if path.is_file() else "config.json"), name
