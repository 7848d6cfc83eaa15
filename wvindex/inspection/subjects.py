"""What rows of statistics are about, and the rows: taken from what a store keeps, or computed and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from wvindex.inspection.kept import Kept, digest_of
from wvindex.inspection.tensor_stats import Advance, Row
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor

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
    """

    columns: tuple[str, ...]
    compute: Compute
    subject: Callable[[Store, Tensor], str | None]
    passes: int = 2
    is_kept: bool = True
    reads: Callable[[Store, list[Tensor]], list[Tensor]] = lambda db, tensors: tensors

    def subjects(self, db: Store, tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """Give, by subject, the tensors that its rows are computed from."""
        found: dict[str, list[Tensor]] = {}
        for tensor in tensors:
            name = self.subject(db, tensor)
            if name is not None:
                found.setdefault(name, []).append(tensor)
        return {name: self.reads(db, some) for name, some in found.items()}

    def nbytes(self, tensors: Iterable[Tensor]) -> int:
        """Give the bytes that are gone through for a subject."""
        return self.passes * sum(tensor.nbytes for tensor in tensors)


class SubjectRows:
    """The rows of one table of a store, subject by subject.

    Parameters
    ----------
    db : Store
    name : str
        Of the table, as it is kept.
    grouping : Grouping
    advance : callable
        Told the encoded bytes that were gone through, or need not be.
    keep : bool
        Whether to take what the store has in ``stats/``, and to leave there what is new.
    """

    def __init__(self, db: Store, name: str, grouping: Grouping, advance: Advance, *, keep: bool) -> None:
        self._db = db
        self._name = name
        self._grouping = grouping
        self._advance = advance
        self._kept = Kept.of(db, name, grouping.columns) if keep and grouping.is_kept else None

    def rows(self, subject: str, tensors: Sequence[Tensor]) -> list[Row]:
        """Give the rows of a subject."""
        if self._kept is None:
            return self._grouping.compute(self._db, tensors, self._advance)
        digest = digest_of(self._db, tensors, {"by": self._name})
        found = self._kept.get(subject, digest)
        if found is None:
            found = self._grouping.compute(self._db, tensors, self._advance)
            self._kept.put(subject, digest, found)
        else:
            self._advance(self._grouping.nbytes(tensors))
        return found

    def save(self) -> list[str]:
        """Leave in the store what is new; give what whoever reads the table should know of that."""
        if self._kept is None:
            return []
        self._kept.save()
        return self._kept.notes
