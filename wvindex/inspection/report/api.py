"""``wvindex.report``: everything that statistics tell of a model, in one file that a browser opens."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from wvindex.arch.keys import split_layer
from wvindex.inspection.api import GROUPINGS, By, spectrum_job
from wvindex.inspection.collect import Job, Progress, collect
from wvindex.inspection.differences import Diff
from wvindex.inspection.page import decodable
from wvindex.inspection.report.comparison import comparison_document
from wvindex.inspection.report.distributions import distribution_job
from wvindex.inspection.report.document import Document
from wvindex.inspection.report.model import Findings, model_document, title_of
from wvindex.inspection.report.page import SUFFIX, require_output, write_page
from wvindex.inspection.spectrum import Kind
from wvindex.opening import open as open_any
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor


def report(
    source: Store | Diff | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    spectrum: Kind | None = None,
    top: int = 8,
    keep: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
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
    note : callable, optional
        Told each of the notes at the page's end, once it is written.

    Returns
    -------
    Path
        The file. The same store gives the same bytes. Tensors whose encoding nobody decodes are left out,
        and named in a note.

    Raises
    ------
    TargetExists
        If `out` is taken and not to be replaced.
    UsageError
        If `out` does not end in ``.html``, or `spectrum` is none of these.
    StoreError
        If `out` cannot be written.
    """
    if isinstance(source, Diff):
        path = require_output(out if out is not None else "diff.html", overwrite=overwrite)
        return _written(comparison_document(source), path, note, overwrite=overwrite)
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        path = require_output(out if out is not None else _default(db), overwrite=overwrite)
        document = model_document(db, _findings(db, spectrum, top, keep, progress))
        return _written(document, path, note, overwrite=overwrite)


def _written(document: Document, path: Path, note: Callable[[str], None], *, overwrite: bool) -> Path:
    write_page(document, path, overwrite=overwrite)
    for text in document.notes:
        note(text)
    return path


def _default(db: Store) -> str:
    return f"{Path(title_of(db)).stem}{SUFFIX}"


def _findings(db: Store, spectrum: Kind | None, top: int, keep: bool, progress: Progress | None) -> Findings:
    """Fill all tables, in the store's order; histograms last, for they go by quantiles."""
    known, unknown = decodable(db.values())
    jobs = [Job(by, GROUPINGS[by], some) for by, some in _chosen(known, unknown).items()]
    if spectrum is not None:
        jobs.append(spectrum_job("tensor", known, spectrum, top))
    last = sum(tensor.nbytes for tensor in known)
    begun, tell = 0, progress or (lambda done, total: None)

    def before(done: int, total: int) -> None:
        nonlocal begun
        begun = total
        tell(done, total + last)

    (tensors, heads, experts, *spectra), notes = collect(db, jobs, keep=keep, progress=before)
    for rows in spectra:
        tensors = [row | more for row, more in zip(tensors, rows, strict=True)]
    job = distribution_job(known, {row["key"]: row for row in tensors})
    (distributions,), more_notes = collect(
        db, [job], keep=keep, progress=lambda done, total: tell(begun + done, begun + total)
    )
    return Findings(
        tensors=tensors,
        heads=heads,
        experts=experts,
        distributions={row["key"]: row for row in distributions},
        columns=frozenset(name for one in jobs for name in one.grouping.columns),
        unknown=tuple(tensor.key for tensor in unknown),
        notes=(*notes, *more_notes),
    )


def _chosen(known: list[Tensor], unknown: list[Tensor]) -> dict[By, list[Tensor]]:
    """Give what each table is of; heads are read from several tensors of a layer, and need all of them."""
    odd = {split_layer(tensor.key)[0] for tensor in unknown}
    whole = [tensor for tensor in known if split_layer(tensor.key)[0] not in odd]
    return {"tensor": known, "head": whole, "expert": known}
