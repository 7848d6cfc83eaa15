"""Goes through the subjects of tables, and takes from the store what it has of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wvindex.inspection.kept import Kept, digest_of
from wvindex.inspection.tensor_stats import Advance, Row
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

Progress = Callable[[int, int], None]
"""Told the encoded bytes that were gone through, and of how many."""

Compute = Callable[[Store, Sequence[Tensor], Advance], list[Row]]


@dataclass(frozen=True)
class Grouping:
    """What a row of a table is.

    Attributes
    ----------
    columns : tuple of str
    compute : callable
        Gives the rows of one subject.
    subject : callable
        What a tensor belongs to; None where it has no part in such a table.
    passes : int
        How often the subject's bytes are gone through, and `advance` told.
    is_kept : bool
        Whether the rows are kept in a store: not where they are as many as a matrix has rows.
    reads : callable
        What of the store the rows of a subject are computed from.
    options : callable
        What else they depend on, as JSON values.
    """

    columns: tuple[str, ...]
    compute: Compute
    subject: Callable[[Store, Tensor], str | None]
    passes: int = 2
    is_kept: bool = True
    reads: Callable[[Store, list[Tensor]], list[Tensor]] = lambda db, tensors: tensors
    options: Callable[[Store], Mapping[str, Any]] = lambda db: {}


@dataclass(frozen=True)
class Job:
    """A table to be filled.

    Attributes
    ----------
    name : str
        Of the file in ``stats/``, without its suffix.
    grouping : Grouping
    tensors : sequence of Tensor
    """

    name: str
    grouping: Grouping
    tensors: Sequence[Tensor]


def collect(
    db: Store, jobs: Sequence[Job], *, keep: bool = True, progress: Progress | None = None
) -> tuple[list[list[Row]], tuple[str, ...]]:
    """Give the rows of each job, in the store's order, and what whoever reads them should know.

    Parameters
    ----------
    db : Store
    jobs : sequence of Job
    keep : bool
        Whether to take what a store in a directory has in ``stats/``, and to leave there what is new.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``, of all jobs together.

    Raises
    ------
    UndecodableType
        If nobody decodes the encoding of a tensor.
    """
    run = _Run(db, keep, progress)
    subjects = [_subjects(db, job) for job in jobs]
    run.total = sum(
        job.grouping.passes * _nbytes(tensors)
        for job, some in zip(jobs, subjects, strict=True)
        for tensors in some.values()
    )
    rows = [run.rows(job, some) for job, some in zip(jobs, subjects, strict=True)]
    return rows, tuple(run.notes)


def _subjects(db: Store, job: Job) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for tensor in job.tensors:
        name = job.grouping.subject(db, tensor)
        if name is not None:
            found.setdefault(name, []).append(tensor)
    return {name: job.grouping.reads(db, some) for name, some in found.items()}


class _Run:
    """Works jobs, and counts the bytes that they go through."""

    def __init__(self, db: Store, keep: bool, progress: Progress | None) -> None:
        self._db = db
        self._keep = keep
        self._progress = progress
        self._done = 0
        self.total = 0
        self.notes: dict[str, None] = {}

    def rows(self, job: Job, subjects: Mapping[str, Sequence[Tensor]]) -> list[Row]:
        grouping, is_kept = job.grouping, self._keep and job.grouping.is_kept
        kept = Kept.of(self._db, job.name, grouping.columns) if is_kept else None
        options = {"by": job.name, **grouping.options(self._db)}
        rows: list[Row] = []
        try:
            for subject, tensors in subjects.items():
                digest = digest_of(self._db, tensors, options) if kept else None
                found = kept.get(subject, digest) if kept else None
                if found is None:
                    found = grouping.compute(self._db, tensors, self._advance)
                    if kept:
                        kept.put(subject, digest, found)
                else:
                    self._advance(grouping.passes * _nbytes(tensors))
                rows += found
        finally:
            if kept:  # also what was done when somebody had enough
                kept.save()
                self.notes |= dict.fromkeys(kept.notes)
        return rows

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self.total)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
