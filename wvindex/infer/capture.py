"""Activations by name: what a forward pass can hand out, and what the caller asked for."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from numpy.typing import NDArray

from wvindex.errors import UsageError

LAYER_NAMES: Final = (
    "attn.in",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.heads",
    "attn.out",
    "mlp.in",
    "mlp.out",
    "residual",
)
ROUTER_NAMES: Final = ("mlp.router.logits", "mlp.router.experts", "mlp.router.weights")


def activation_names(routed: Sequence[bool]) -> list[str]:
    """Name every activation of a model, in the order in which they are computed.

    Parameters
    ----------
    routed : sequence of bool
        For each layer, whether its MLP is a mixture of experts.
    """
    names = ["embed"]
    for layer, has_router in enumerate(routed):
        before, after = LAYER_NAMES[:-2], LAYER_NAMES[-2:]
        parts = (*before, *ROUTER_NAMES, *after) if has_router else LAYER_NAMES
        names += [f"layers.{layer}.{part}" for part in parts]
    return [*names, "norm"]


class Captures:
    """Keeps the activations whose names match a caller's patterns.

    Parameters
    ----------
    patterns : sequence of str
        Names, or shell patterns over them: ``layers.*.residual``, ``layers.[0-3].attn.?``.
    names : sequence of str
        Every activation of the model.

    Raises
    ------
    UsageError
        If a pattern matches no name.
    """

    def __init__(self, patterns: Sequence[str], names: Sequence[str]) -> None:
        self.wanted: set[str] = set()
        self.captured: dict[str, NDArray[Any]] = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matching = [name for name in names if fnmatchcase(name, pattern)]
            if not matching:
                raise UsageError(
                    f"no activation has such a name; there are {_summary(names)}",
                    field="capture",
                    found=pattern,
                )
            self.wanted.update(matching)

    def __call__(self, name: str, activation: NDArray[Any]) -> None:
        """Keep an activation if it is wanted."""
        if name in self.wanted:
            self.captured[name] = activation


def _summary(names: Sequence[str]) -> str:
    """Give the names with their layer number left open, each once, for a model has thousands."""
    layers = sum(name.endswith(".residual") for name in names)
    parts = dict.fromkeys(
        ".".join(["layers", "{L}", *name.split(".")[2:]]) if name.startswith("layers.") else name
        for name in names
    )
    return f"{', '.join(parts)}; L in 0..{layers - 1}"
