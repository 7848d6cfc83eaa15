"""The seam between `wvindex.convert` and the kinds of checkpoint: what is asked, what is done, who does it.

A kind is a module with the two functions of `Converter`, named in `wvindex.converting.api.CONVERTERS`. It
plans units (tensors that are copied, fused or split), edits of files beside them, and writes the result in a
directory of its own that gets its name by one rename.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from wvindex.building import Progress
from wvindex.sizes import format_size

Direction = Literal["fuse", "unfuse"]

OnProgress = Callable[[Progress], None] | None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a conversion.

    Attributes
    ----------
    source : Path
        As the caller named it.
    target : Path
        Where the result shall stand, its directory free of symlinks.
    direction : {"fuse", "unfuse"}
    allow_requant : bool
        Whether blocks of FP8 scales that do not line up may be quantized again.
    max_memory : int
        Bytes.
    overwrite, restart : bool
        As in `wvindex.build`.
    optimizer : {"concat", "drop"} or None
        What becomes of an optimizer's moments; None where nothing was said.
    """

    source: Path
    target: Path
    direction: Direction
    allow_requant: bool
    max_memory: int
    overwrite: bool
    restart: bool
    optimizer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One step: tensors of the source that become tensors of the result.

    Attributes
    ----------
    operation : {"copy", "fuse", "split", "drop"}
        ``copy``: the same bytes under the same name; ``fuse``: several one under another; ``split``: the
        reverse; ``drop``: an optimizer's state that shall not be there.
    inputs, outputs : tuple of str
        Names.
    nbytes : int
        Bytes that are written.
    file : str
        Where, below the result; empty where tensors have no file of their own.
    """

    operation: Literal["copy", "fuse", "split", "drop"]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nbytes: int
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change in a file beside the tensors.

    Attributes
    ----------
    file : str
    what : str
        For people.
    """

    file: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """What quantizing anew does to a tensor of the source.

    Attributes
    ----------
    tensor : str
    values : int
        How many decode to something else.
    max_abs : float
        The largest difference of a decoded value.
    """

    tensor: str
    values: int
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion will do, or has done. ``str()`` is the report.

    Attributes
    ----------
    kind : str
        ``safetensors``, ``store``, ``maxtext``.
    direction : {"fuse", "unfuse"}
    source, target : str
    units : tuple of Unit
        Every tensor of the source is in exactly one, and every tensor of the result.
    edits : tuple of Edit
    carried : tuple of str
        Files that are copied byte for byte.
    changes : tuple of Change
        Empty where every byte of every tensor is the source's.
    notes : tuple of str
    written : bool
        False for a dry run.
    """

    kind: str
    direction: Direction
    source: str
    target: str
    units: tuple[Unit, ...]
    edits: tuple[Edit, ...] = ()
    carried: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    written: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of tensors in the result."""
        return sum(unit.nbytes for unit in self.units)

    def done(self) -> Conversion:
        """Give the same, as what has been done."""
        return replace(self, written=True)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return asdict(self) | {"nbytes": self.nbytes}

    def __str__(self) -> str:
        """Tell what becomes of every tensor that is not copied, and count those that are."""
        counts = Counter(unit.operation for unit in self.units)
        copied = sum(unit.nbytes for unit in self.units if unit.operation == "copy")
        lines = [
            f"{self.direction:<8} {self.source} -> {self.target}",
            f"kind     {self.kind}",
            f"tensors  {counts['copy']} copied ({format_size(copied)}), "
            f"{counts['fuse']} fused, {counts['split']} split"
            + (f", {counts['drop']} dropped" if counts["drop"] else ""),
            f"to       {format_size(self.nbytes)}",
        ]
        lines += [f"{unit.operation:<8} {_unit(unit)}" for unit in self.units if unit.operation != "copy"]
        lines += [f"edit     {edit.file}: {edit.what}" for edit in self.edits]
        lines += [f"carry    {file}" for file in self.carried]
        lines += [
            f"requant  {change.tensor}: {change.values} values change, by {change.max_abs:.6g} at most"
            for change in self.changes
        ]
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)


def _unit(unit: Unit) -> str:
    where = f" in {unit.file}" if unit.file else ""
    if not unit.outputs:
        return " + ".join(unit.inputs)
    return f"{' + '.join(unit.inputs)} -> {' + '.join(unit.outputs)} ({format_size(unit.nbytes)}{where})"


class Told:
    """Adds bytes up, and tells a progress of them.

    Parameters
    ----------
    total : int
    progress : callable or None
    """

    def __init__(self, total: int, progress: OnProgress) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def __call__(self, name: str, nbytes: int) -> None:
        """Tell that so many more bytes of something are there."""
        self._done += nbytes
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, name))


class Planned(Protocol):
    """A source that is open, and what will be done with it."""

    @property
    def plan(self) -> Conversion:
        """Everything that `write` will do."""
        ...

    def write(self, progress: OnProgress) -> None:
        """Write the result and give it its name.

        An interrupted one leaves a directory beside the target, from which the same request goes on.
        """
        ...


class Converter(Protocol):
    """A kind of checkpoint: a module.

    Attributes
    ----------
    HAS_OPTIMIZER : bool
        Whether an optimizer's state may stand in one.
    """

    HAS_OPTIMIZER: bool

    def claims(self, path: Path) -> bool:
        """Whether what stands at a path is of this kind; looks at names and first bytes alone."""
        ...

    def planned(self, request: Request) -> AbstractContextManager[Planned]:
        """Open the source and plan; what cannot be done is refused before anything is written."""
        ...
