"""The ledger: where each tensor of a checkpoint went, so that nothing is dropped silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IN_CONFIG: Final = "config.rope"
"""Reason of a tensor that became part of the configuration."""

SCALES: Final = "scales"
"""Reason of a tensor that scales another's codes."""


@dataclass(frozen=True)
class LedgerEntry:
    """What became of one source tensor.

    Attributes
    ----------
    tensor : str
        The source's name.
    file : str
        Name of its file.
    encoding : str
    shape : tuple of int
    keys : tuple of str
        Arrays that hold it, or were computed from it; empty where it went elsewhere.
    reason : str or None
        Where it went if no array holds it, or what it is to its array: ``config.rope``, ``scales``.
    """

    tensor: str
    file: str
    encoding: str
    shape: tuple[int, ...]
    keys: tuple[str, ...]
    reason: str | None = None
