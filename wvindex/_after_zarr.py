"""Runs a function once zarr has been imported, or at once if it has.

zarr-python 3.1 ignores the entry points that register data types from 3.4 on, and importing zarr to register
them would make ``import wvindex`` slow.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # at run time it takes importlib.resources with it
    from importlib.abc import Loader


class _Watcher:
    """Finds ``zarr`` through the other finders, and calls back when it has been executed."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loader: Loader | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "zarr":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("zarr")
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, cast("Loader", self)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec) if self._loader else None

    def exec_module(self, module: ModuleType) -> None:
        if self._loader is None:
            return
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._call()


def after_zarr(call: Callable[[], None]) -> None:
    """Call `call` once zarr is imported."""
    if "zarr" in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _Watcher(call))
