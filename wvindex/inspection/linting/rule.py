"""What a rule is: a function over a model, with a name, a severity and its explanation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wvindex.inspection.linting.findings import Place, Severity
from wvindex.inspection.linting.model import Model


@dataclass(frozen=True, kw_only=True)
class Found(Place):
    """What a rule's function gives: a finding without the rule's own fields.

    Attributes
    ----------
    message : str
    value : float, int, str or None
    count : int or None
    indices : tuple of int
    layer : int or None
        Where it is not the tensor's.
    """

    message: str
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
