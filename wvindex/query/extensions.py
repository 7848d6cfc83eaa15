"""What a store does by code that stands above it: found by name when it is first used.

`wvindex.query` imports nothing of `wvindex.inspection`. A method of `Store` that is written there has its
signature and its docstring on `Store`, and here the function that it calls, with the store first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

EXTENSIONS: Final[dict[str, str]] = {
    "describe": "wvindex.inspection.features:describe",
    "frame": "wvindex.inspection.frame:frame",
    "neighbors": "wvindex.inspection.neighbors:neighbors",
    "tokens": "wvindex.inspection.unembedding:tokens",
}
"""By the method's name, ``module:function``. A new one is a line here and a method."""


def extension(method: str) -> Callable[..., Any]:
    """Import the function that a method of `Store` calls."""
    module, _, function = EXTENSIONS[method].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
