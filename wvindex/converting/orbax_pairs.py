"""The down-projections of latent attention in an Orbax tree: which leaves become which.

MaxText calls them ``wq_a`` and ``wkv_a``, and the one that ``fused_mla_lora_proj`` makes of both ``wq_kv_a``:
their columns one after another, the query's first. A segment of a leaf's path is compared whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wvindex.converting.plan import Direction
from wvindex.errors import DuplicateName, MetadataError, UnsupportedError
from wvindex.sources.maxtext_names import OPTIMIZER
from wvindex.sources.orbax_arrays import LeafArray

QUERY: Final = "wq_a"
BELOW: Final = "wkv_a"
FUSED: Final = "wq_kv_a"
_NORM: Final = ("q_norm", "scale")

_KERNELS: Final = (("kernel",), ("kernel", "value"))

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


def steps(arrays: Sequence[LeafArray], direction: Direction, file: Path) -> list[Step]:
    """Plan what becomes of every down-projection, moments of an optimizer included.

    Raises
    ------
    UnsupportedError
        If there is nothing to fuse or to take apart, or a leaf that no concatenation of columns fits.
    MetadataError
        If one half is missing.
    DuplicateName
        If an attention has both forms.
    """
    groups: dict[Path_, dict[str, LeafArray]] = {}
    for array in arrays:
        path = array.leaf.path
        if place_of(path) is not None:
            groups.setdefault(renamed(path, FUSED), {})[path[place_of(path) or 0]] = array
    _require_form(groups, arrays, direction, file)
    by_path = {array.leaf.path: array for array in arrays}
    make = _fused if direction == "fuse" else _split
    return [make(path, members, by_path, file) for path, members in groups.items()]


def _require_form(
    groups: Mapping[Path_, Mapping[str, LeafArray]],
    arrays: Iterable[LeafArray],
    direction: Direction,
    file: Path,
) -> None:
    both = next((path for path, members in groups.items() if FUSED in members and len(members) > 1), None)
    if both is not None:
        raise DuplicateName("one attention is fused and unfused", file=file, tensor=".".join(both))
    of_model = {name for path, members in groups.items() if not is_optimizers(path) for name in members}
    if direction == "unfuse":
        if FUSED not in of_model:
            raise UnsupportedError(
                "no fused down-projection here", file=file, expected=f"a leaf {FUSED}", found="none"
            )
        return
    if FUSED in of_model:
        raise UnsupportedError("the down-projections are fused already", file=file, found=FUSED)
    if BELOW in of_model and QUERY not in of_model and any("query" in one.leaf.path for one in arrays):
        raise UnsupportedError(
            "there is no q_lora_rank: the query has no down-projection to fuse",
            file=file,
            expected=QUERY,
            found="query",
        )
    if not of_model:
        raise UnsupportedError(
            "no latent attention here", file=file, expected=f"leaves {QUERY} and {BELOW}", found="none"
        )


def _fused(
    path: Path_, members: Mapping[str, LeafArray], by_path: Mapping[Path_, LeafArray], file: Path
) -> Step:
    halves = []
    for name in (QUERY, BELOW):
        if name not in members:
            raise MetadataError(
                "one half of the down-projections is missing",
                file=file,
                tensor=".".join(renamed(path, name)),
                expected="a leaf",
                found="nothing",
            )
        halves.append(members[name])
    query, below = halves
    _check_kernel(query)
    _check_kernel(below)
    if query.shape[:-1] != below.shape[:-1] or query.encoding != below.encoding:
        raise UnsupportedError(
            "the halves cannot be put side by side",
            file=file,
            tensor=below.leaf.name,
            expected=f"{query.encoding.name} {(*query.shape[:-1], 'any')}",
            found=f"{below.encoding.name} {below.shape}",
        )
    width = query.shape[-1]
    pieces = (Piece(query, 0, width, 0), Piece(below, 0, below.shape[-1], width))
    made = NewLeaf(path, (*query.shape[:-1], width + below.shape[-1]), pieces)
    return Step((query, below), (made,))


def _split(
    path: Path_, members: Mapping[str, LeafArray], by_path: Mapping[Path_, LeafArray], file: Path
) -> Step:
    if FUSED not in members:
        raise MetadataError(
            "a moment is unfused though the parameters are fused", file=file, tensor=".".join(path)
        )
    fused = members[FUSED]
    _check_kernel(fused)
    rank, width = _rank(fused, by_path, file), fused.shape[-1]
    outputs = tuple(
        NewLeaf(renamed(path, name), (*fused.shape[:-1], stop - start), (Piece(fused, start, stop, 0),))
        for name, start, stop in ((QUERY, 0, rank), (BELOW, rank, width))
    )
    return Step((fused,), outputs)


def _check_kernel(array: LeafArray) -> None:
    path = array.leaf.path
    below = path[(place_of(path) or 0) + 1 :]
    if below not in _KERNELS or len(array.shape) not in (2, 3):
        raise UnsupportedError(
            "a leaf of a down-projection that is no kernel [in, out]",
            tensor=array.leaf.name,
            expected="a kernel of two axes, or three where layers are scanned",
            found=array.shape,
        )


def _rank(fused: LeafArray, by_path: Mapping[Path_, LeafArray], file: Path) -> int:
    """Find ``q_lora_rank``: as many values as the norm between the query's factors has."""
    path = fused.leaf.path
    place = place_of(path) or 0
    norm = by_path.get((*path[:place], *_NORM, *path[place + 2 :]))
    rank = _norm_width(norm, fused) if norm is not None else None
    if rank is None or not 0 < rank < fused.shape[-1]:
        raise MetadataError(
            "where the query's columns end is not known",
            file=file,
            tensor=fused.leaf.name,
            expected=f"{'.'.join((*path[:place], *_NORM))}, of fewer values than {fused.shape[-1]}",
            found=norm.shape if norm is not None else "nothing",
        )
    return rank


def _norm_width(norm: LeafArray, fused: LeafArray) -> int | None:
    """Give the norm's values of one layer; layers are along axis 1 or 0, there and in the kernel."""
    if len(fused.shape) != len(norm.shape) + 1:
        return None
    if len(norm.shape) == 1:
        return norm.shape[0]
    for axis in (1, 0):
        if norm.shape[axis] == fused.shape[axis]:
            return norm.shape[1 - axis]
    return None
