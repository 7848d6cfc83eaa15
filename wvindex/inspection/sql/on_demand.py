"""Statistics of a store, subject by subject, when they are first asked for."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Final

from wvindex.errors import UsageError
from wvindex.inspection.api import GROUPINGS, spectrum_job
from wvindex.inspection.collect import Job, JobRows, Progress
from wvindex.inspection.differences import Diff, diff
from wvindex.inspection.tensor_stats import Row
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

SPECTRA: Final = "spectrum"
"""The table of spectra, beside those of `wvindex.stats`."""

_TOP: Final = 8
"""Singular values that are taken, as `wvindex.stats` does unless it is told otherwise."""


class Meter:
    """Adds up, over all stores, what was gone through, and what may yet be."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = self._total = 0

    def expect(self, nbytes: int) -> None:
        """Have so many bytes more to go through, at most."""
        self._total += nbytes

    def advance(self, nbytes: int) -> None:
        """Have gone through so many bytes more."""
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, max(self._done, self._total))


class Statistics:
    """What `wvindex.stats` gives of a store, row by row.

    Parameters
    ----------
    db : Store
    keep : bool
        Whether to take what the store has in ``stats/``, and to leave there what is new.
    meter : Meter, optional
    name : str
        Of the source, where there are several.
    reference : Statistics, optional
        What it is held against.

    Attributes
    ----------
    notes : dict of str to None
        What whoever reads a table should know, in order.
    """

    def __init__(
        self,
        db: Store,
        *,
        keep: bool = True,
        meter: Meter | None = None,
        name: str = "",
        reference: Statistics | None = None,
    ) -> None:
        self.db = db
        self.name = name
        self.reference = reference
        self.notes: dict[str, None] = {}
        self._keep = keep
        self._meter = meter or Meter(None)
        self.job = cache(self._job)
        self.subjects = cache(self._subjects)
        self._table = cache(self._new_table)
        self._opened: list[JobRows] = []
        self._rows: dict[tuple[str, str], list[Row]] = {}

    def rows(self, by: str, subject: str) -> list[Row]:
        """Give the rows of a subject: computed once, but for tables as long as a matrix is."""
        tensors = self.subjects(by)[subject]
        if not self.job(by).grouping.is_kept:
            return self._table(by).rows(subject, tensors)
        if (by, subject) not in self._rows:
            self._rows[by, subject] = self._table(by).rows(subject, tensors)
        return self._rows[by, subject]

    def expect(self, by: str) -> None:
        """Have the rows of all subjects perhaps asked for."""
        grouping = self.job(by).grouping
        self._meter.expect(sum(grouping.nbytes(tensors) for tensors in self.subjects(by).values()))

    @cached_property
    def difference(self) -> Diff:
        """How it differs from its reference.

        Raises
        ------
        UsageError
            If it has none.
        """
        if self.reference is None:
            raise UsageError("a difference is of two sources", field="sources", found=1)
        passed = 0

        def progress(done: int, total: int) -> None:
            nonlocal passed
            self._meter.advance(done - passed)
            passed = done

        found = diff(self.reference.db, self.db, progress=progress)
        self.notes |= dict.fromkeys(found.notes)
        return found

    def save(self) -> None:
        """Leave in the store what is new."""
        for table in self._opened:
            self.notes |= dict.fromkeys(table.save())

    def _job(self, by: str) -> Job:
        tensors = list(self.db.values())
        if by == SPECTRA:
            return spectrum_job("tensor", tensors, "top", _TOP)
        return Job(by, GROUPINGS[by], tensors)

    def _subjects(self, by: str) -> dict[str, list[Tensor]]:
        return self.job(by).subjects(self.db)

    def _new_table(self, by: str) -> JobRows:
        table = JobRows(self.db, self.job(by), self._meter.advance, keep=self._keep)
        self._opened.append(table)
        return table
