"""Kernels are compiled when first used, once, and then come from the cache on disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from wvindex.formats.kernels import _factory

IMPORT = """
import sys
import wvindex.formats.kernels
print(sorted({"numba", "llvmlite", "gguf"} & set(sys.modules)))
"""

DECODE = """
import sys
import numpy as np
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.kernels import decode, table
raw = np.frombuffer(bytes(34), np.uint8).reshape(1, -1)
assert decode(raw, ENCODINGS["Q8_0"], np.empty((1, 32), np.float32))
assert decode(raw.copy(), ENCODINGS["Q8_0"], np.empty((1, 64), np.float32)[:, 16:48])
stats = table.decode_kernel("Q8_0", "direct").stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), "gguf" in sys.modules)
"""


def run(script: str, cache: Path) -> str:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_kernels_loads_no_compiler(tmp_path: Path) -> None:
    assert run(IMPORT, tmp_path) == "[]"


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert run(DECODE, tmp_path) == "0 1 False"
    files = sorted(tmp_path.rglob("*.nb?"))
    assert len(files) == 2
    assert run(DECODE, tmp_path) == "1 0 False"
    assert sorted(tmp_path.rglob("*.nb?")) == files


def test_without_a_directory_to_write_kernels_work_uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    original = numba.njit

    def njit(*args: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return original(*args, **options)

    def double(values: Any) -> Any:
        return values * 2

    monkeypatch.setattr(numba, "njit", njit)
    kernel = _factory.compiled(double, "double")
    np.testing.assert_array_equal(kernel(np.arange(3)), [0, 2, 4])


def test_changed_sources_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(values: Any) -> Any:
        return values

    names = []
    for digest in ("before", "after"):
        monkeypatch.setattr(_factory, "_sources_digest", digest.upper)
        names.append(_factory.compiled(same, "same").__name__)
    assert names == ["same_BEFORE", "same_AFTER"]


@pytest.mark.parametrize("size", [0, 1, 40])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_is_done_without(kind: str, size: int, tmp_path: Path) -> None:
    run(DECODE, tmp_path)
    for path in tmp_path.rglob(f"*.{kind}"):
        os.truncate(path, size)
    assert run(DECODE, tmp_path).split()[2] == "False"


def test_a_cache_that_cannot_be_written_is_done_without_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original, compiled = numba.njit, []

    def njit(*args: Any, **options: Any) -> Any:
        compiled.append(bool(options.get("cache")))
        return full if options.get("cache") else original(*args, **options)

    def full(_function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        return call

    def double(values: Any) -> Any:
        return values * 2

    monkeypatch.setattr(numba, "njit", njit)
    kernel = _factory.compiled(double, "double")
    for _ in range(3):
        np.testing.assert_array_equal(kernel(np.arange(3)), [0, 2, 4])
    assert compiled == [True, False]


UNCOMPILED = """
import sys
import numpy as np
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import ENCODINGS
from wvindex.formats.kernels import has_kernel
from wvindex.formats.matmul import EncodedMatrix
raw = np.zeros((3, 34), np.uint8)
raw[:, 1], raw[:, 2:] = 0x3C, 2
out = np.empty((3, 32), np.float32)
decode_rows(raw, ENCODINGS["Q8_0"], out)
product = EncodedMatrix(raw, ENCODINGS["Q8_0"]).matmul(np.ones((1, 32), np.float32))
print(has_kernel(ENCODINGS["Q8_0"]), (out == 2).all(), (product == 64).all())
"""


def test_where_numba_is_told_not_to_compile_numpy_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert run(UNCOMPILED, tmp_path) == "False True True"
