"""What a rule is: a function over a model, with a name, a severity and its explanation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wvindex.inspection.linting.findings import Severity
from wvindex.inspection.linting.model import Model


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a rule's function gives: a finding without the rule's own fields.

    Attributes
    ----------
    message : str
    tensor : str or None
        Standard key; None for what is the whole model's.
    expert, row, column : int or None
        The first one, where there are several. Rows are an expert's own in a stack.
    value : float, int, str or None
        What stands there.
    count : int or None
        How many there are.
    indices : tuple of int
        The first few of them.
    layer : int or None
        Where it is not the tensor's.
    """

    message: str
    tensor: str | None = None
    expert: int | None = None
    row: int | None = None
    column: int | None = None
    value: float | int | str | None = None
    count: int | None = None
    indices: tuple[int, ...] = ()
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the linter.

    Attributes
    ----------
    id : str
        ``WV101``: never given to another rule. The first digit is the group's.
    name : str
        In words: ``nonfinite-weights``.
    severity : {"error", "warning", "info"}
    title : str
        What it finds, in a line.
    help : str
        Why that matters, when it is harmless, and what to do about it.
    find : callable
        Gives what it finds in a model.
    reads_weights : bool
        Whether it needs more than headers.
    """

    id: str
    name: str
    severity: Severity
    title: str
    help: str
    find: Callable[[Model], Iterator[Found]]
    reads_weights: bool = True

    @property
    def hint(self) -> str:
        """The first sentence of the help."""
        return self.help.partition(". ")[0].removesuffix(".") + "."
