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

    def nbytes(self, tensors: Iterable[Tensor]) -> int:
        """Give the bytes that are gone through for a subject."""
        return self.passes * sum(tensor.nbytes for tensor in tensors)


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

    def subjects(self, db: Store) -> dict[str, list[Tensor]]:
        """Give, by subject, what its rows are computed from."""
        found: dict[str, list[Tensor]] = {}
        for tensor in self.tensors:
            name = self.grouping.subject(db, tensor)
            if name is not None:
                found.setdefault(name, []).append(tensor)
        return {name: self.grouping.reads(db, some) for name, some in found.items()}


class JobRows:
    """The rows of a job, subject by subject: taken from what a store keeps, or computed and left there.

    Parameters
    ----------
    db : Store
    job : Job
    advance : callable
        Told the encoded bytes that were gone through, or need not be.
    keep : bool
        Whether to take what the store has in ``stats/``, and to leave there what is new.
    """

    def __init__(self, db: Store, job: Job, advance: Advance, *, keep: bool) -> None:
        self._db = db
        self._grouping = job.grouping
        self._advance = advance
        self._kept = Kept.of(db, job.name, job.grouping.columns) if keep and job.grouping.is_kept else None
        self._options = {"by": job.name, **job.grouping.options(db)}

    def rows(self, subject: str, tensors: Sequence[Tensor]) -> list[Row]:
        """Give the rows of a subject.

        Raises
        ------
        SourceChanged
            If a file that some of its arrays link to is not what it was, also where the rows are kept.
        """
        if self._kept is None:
            return self._grouping.compute(self._db, tensors, self._advance)
        digest = digest_of(self._db, tensors, self._options)
        found = self._kept.get(subject, digest)
        if found is None:
            found = self._grouping.compute(self._db, tensors, self._advance)
            self._kept.put(subject, digest, found)
        else:
            for tensor in tensors:  # nothing is read of them, which would tell
                tensor.verify_link()
            self._advance(self._grouping.nbytes(tensors))
        return found

    def save(self) -> list[str]:
        """Leave in the store what is new; give what whoever reads the table should know of that."""
        if self._kept is None:
            return []
        self._kept.save()
        return self._kept.notes


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
    subjects = [job.subjects(db) for job in jobs]
    run.total = sum(
        job.grouping.nbytes(tensors)
        for job, some in zip(jobs, subjects, strict=True)
        for tensors in some.values()
    )
    rows = [run.rows(job, some) for job, some in zip(jobs, subjects, strict=True)]
    return rows, tuple(run.notes)


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
        of = JobRows(self._db, job, self._advance, keep=self._keep)
        try:
            return [row for subject, tensors in subjects.items() for row in of.rows(subject, tensors)]
        finally:  # also what was done when somebody had enough
            self.notes |= dict.fromkeys(of.save())

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self.total)
