"""Counting what is odd, from several threads: how many, which is the first, and what stands there."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Final

Position = tuple[int, int]
"""A row (of all dimensions but the last, flattened) and a column."""

_BEYOND: Final = (1 << 62, 0)


@dataclass
class Tally:
    """One kind of oddity in one tensor.

    Attributes
    ----------
    count : int
    first : (int, int)
        Row and column of the first one.
    value : float
        What stands there.
    """

    count: int = 0
    first: Position = _BEYOND
    value: float = 0.0

    def add(self, count: int, first: Position, value: float) -> None:
        """Count some more, the first of which is at `first`."""
        self.count += count
        if first < self.first:
            self.first, self.value = first, value

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.count > 0


@dataclass
class Tallies:
    """Tallies by kind, which several threads add to."""

    of: dict[str, Tally] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def add(self, kind: str, count: int, first: Position, value: float) -> None:
        """Count; nothing where there is nothing."""
        if count:
            with self.lock:
                self.of.setdefault(kind, Tally()).add(count, first, value)

    def __getitem__(self, kind: str) -> Tally:
        """Give a tally; an empty one where nothing was counted."""
        return self.of.get(kind, Tally())
