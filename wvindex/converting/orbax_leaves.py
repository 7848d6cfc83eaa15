"""Leaves of an Orbax tree that a conversion makes of others, and which of them are down-projections.

MaxText calls them ``wq_a`` and ``wkv_a``, and the one that ``fused_mla_lora_proj`` makes of both ``wq_kv_a``:
their columns one after another, the query's first. A segment of a leaf's path is compared whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wvindex.sources.orbax_arrays import LeafArray
from wvindex.sources.orbax_metadata import OPTIMIZER

QUERY: Final = "wq_a"
BELOW: Final = "wkv_a"
FUSED: Final = "wq_kv_a"

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """Columns of a leaf that are columns of a new one.

    Attributes
    ----------
    array : LeafArray
    start, stop : int
        In `array`, along its last axis.
    at : int
        Where they begin in the new leaf.
    """

    array: LeafArray
    start: int
    stop: int
    at: int


@dataclass(frozen=True)
class NewLeaf:
    """A leaf that the result has and the source has not.

    Attributes
    ----------
    path : tuple of str
    shape : tuple of int
    pieces : tuple of Piece
    """

    path: Path_
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """As Orbax joins it."""
        return ".".join(self.path)

    @property
    def model(self) -> LeafArray:
        """The leaf that it is stored like."""
        return self.pieces[0].array

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(
            (piece.stop - piece.start) * piece.array.nbytes // max(piece.array.shape[-1], 1)
            for piece in self.pieces
        )


@dataclass(frozen=True)
class Step:
    """Leaves that become others."""

    inputs: tuple[LeafArray, ...]
    outputs: tuple[NewLeaf, ...]


def place_of(path: Path_) -> int | None:
    """Find the segment that names a down-projection."""
    return next((place for place, part in enumerate(path) if part in (QUERY, BELOW, FUSED)), None)


def renamed(path: Path_, name: str) -> Path_:
    """Give a path with another down-projection's name."""
    place = place_of(path)
    return path if place is None else (*path[:place], name, *path[place + 1 :])


def is_optimizers(path: Path_) -> bool:
    """Whether a leaf is state of an optimizer."""
    return path[0] in OPTIMIZER
