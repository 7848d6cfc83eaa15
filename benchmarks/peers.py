"""Peers that may not be installed: where they are, or why they are not."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Absent

GGML_VARIABLE = "WVINDEX_BENCH_GGML"
TORCH_VARIABLE = "WVINDEX_BENCH_TORCH_PYTHON"

CDecoder = Callable[[NDArray[np.uint8], NDArray[np.float32]], None]


@cache
def ggml_library() -> ctypes.CDLL | Absent:
    """Load ggml: the file that ``WVINDEX_BENCH_GGML`` names, else llama-cpp-python's."""
    named = os.environ.get(GGML_VARIABLE)
    if named:
        return ctypes.CDLL(named)
    spec = importlib.util.find_spec("llama_cpp")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place, "lib").glob("*ggml-base.*")):
            return ctypes.CDLL(str(path))
    return Absent("llama-cpp-python is not installed")


def ggml_decoder(type_name: str) -> CDecoder | Absent:
    """Give ggml's own C decoder of a type, ``dequantize_row_*``."""
    library = ggml_library()
    if isinstance(library, Absent):
        return library
    name = f"dequantize_row_{type_name.lower().replace('_k', '_K')}"
    if not hasattr(library, name):
        return Absent(f"ggml has no {name}")
    function = getattr(library, name)
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    function.restype = None

    def decode(raw: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        function(raw.ctypes.data, out.ctypes.data, out.size)

    return decode


@cache
def torch_python() -> Path | Absent:
    """Give an interpreter that has torch and transformers: ``WVINDEX_BENCH_TORCH_PYTHON``, else this one."""
    named = os.environ.get(TORCH_VARIABLE, sys.executable)
    script = (
        "from importlib.util import find_spec as f; raise SystemExit(not (f('torch') and f('transformers')))"
    )
    if subprocess.run([named, "-c", script], check=False).returncode:
        return Absent("torch and transformers are not installed")
    return Path(named)


def tensorstore() -> Any:
    """Give the tensorstore module, or why not."""
    if importlib.util.find_spec("tensorstore") is None:
        return Absent("tensorstore is not installed")
    return importlib.import_module("tensorstore")
