"""``wvindex.report``: everything that statistics tell of a model, in one file that a browser opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from wvindex.inspection.api import GROUPINGS, By, Progress, stats
from wvindex.inspection.differences import Diff
from wvindex.inspection.kept import Kept, digest_of
from wvindex.inspection.report.comparison import comparison_document
from wvindex.inspection.report.distributions import DISTRIBUTION, N_BINS, N_CHANNELS, distribution_row
from wvindex.inspection.report.model import Findings, model_document, title_of
from wvindex.inspection.report.page import SUFFIX, require_output, write_page
from wvindex.inspection.spectrum import Kind
from wvindex.inspection.table import Table
from wvindex.opening import open as open_any
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

_CHOICES: Final = {"by": "distribution", "bins": N_BINS, "channels": N_CHANNELS}
"""What kept histograms depend on besides the weights."""


def report(
    source: Store | Diff | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    spectrum: Kind | None = None,
    top: int = 8,
    keep: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML file, to be opened offline: of a model's statistics, or of how two models differ.

    Parameters
    ----------
    source : Store, Diff, path or URL
        A store, or a bare GGUF or safetensors checkpoint; or what `wvindex.diff` found, to which `overwrite`
        alone applies.
    out : path, optional
        Ends in ``.html``; by default the source's name with it, in the working directory, or ``diff.html``.
    spectrum : {"top", "full"}, optional
        Also singular values, as in `wvindex.stats`.
    top : int
        How many of them.
    keep : bool
        Whether to take what a store in a directory has in ``stats/``, and to leave there what is new.
    overwrite : bool
        Whether to replace a file.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``, of all passes together.

    Returns
    -------
    Path
        The file. The same store gives the same bytes.

    Raises
    ------
    TargetExists
        If `out` is taken and not to be replaced.
    UsageError
        If `out` does not end in ``.html``, or `spectrum` is none of these.
    StoreError
        If `out` cannot be written.
    UndecodableType
        If nobody decodes the encoding of a tensor.
    """
    if isinstance(source, Diff):
        path = require_output(out if out is not None else "diff.html", overwrite=overwrite)
        return write_page(comparison_document(source), path, overwrite=overwrite)
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        path = require_output(out if out is not None else _default(db), overwrite=overwrite)
        document = model_document(db, _findings(db, spectrum, top, keep, progress))
        return write_page(document, path, overwrite=overwrite)


def _default(db: Store) -> str:
    return f"{Path(title_of(db)).stem}{SUFFIX}"


def _findings(db: Store, spectrum: Kind | None, top: int, keep: bool, progress: Progress | None) -> Findings:
    tensors = list(db.values())
    stages = _Stages(progress, [*(_bytes_of(db, by) for by in ("tensor", "head", "expert")), _sum(tensors)])
    if spectrum is not None:
        stages.weights[0] += 2 * _sum(tensors)

    def table(by: By, **options: Any) -> Table:
        return stats(db, by=by, keep=keep, progress=stages.next(), **options)

    of_tensors = table("tensor", spectrum=spectrum, top=top)
    of_heads, of_experts = table("head"), table("expert")
    distributions = _distributions(db, of_tensors, keep, stages.next())
    return Findings(of_tensors, of_heads, of_experts, distributions, spectrum is not None)


def _bytes_of(db: Store, by: By) -> int:
    """Give how many bytes a table's passes will go through."""
    grouping = GROUPINGS[by]
    subjects: dict[str, list[Tensor]] = {}
    for tensor in db.values():
        name = grouping.subject(db, tensor)
        if name is not None:
            subjects.setdefault(name, []).append(tensor)
    return grouping.passes * sum(_sum(grouping.reads(db, some)) for some in subjects.values())


def _sum(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class _Stages:
    """One progress of several tables: what each tells is moved behind those before it."""

    def __init__(self, progress: Progress | None, weights: list[int]) -> None:
        self._progress = progress
        self.weights = weights
        self._begun = 0

    def next(self) -> Callable[[int, int], None]:
        """Give the progress of the next table."""
        before = sum(self.weights[: self._begun])
        self._begun += 1

        def advance(done: int, total: int) -> None:
            if self._progress is not None:
                self._progress(before + done, sum(self.weights))

        return advance


def _distributions(db: Store, table: Table, keep: bool, progress: Progress) -> dict[str, dict[str, Any]]:
    """Give the rows of histograms and channels, kept in the store as its statistics are."""
    kept = Kept.of(db, "distribution", DISTRIBUTION) if keep else None
    rows: dict[str, dict[str, Any]] = {}
    done = 0
    try:
        for row in table:
            tensor = db[row["key"]]
            digest = digest_of(db, [tensor], _CHOICES) if kept else None
            found = kept.get(tensor.key, digest) if kept else None
            if found is None:
                found = [distribution_row(tensor, row)]
                if kept:
                    kept.put(tensor.key, digest, found)
            rows[tensor.key] = found[0]
            done += tensor.nbytes
            progress(done, 0)
    finally:
        if kept:  # also what was done when somebody had enough
            kept.save()
    return rows
