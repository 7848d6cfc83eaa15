"""The machine, as the results name it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("numba", "gguf", "zarr", "safetensors", "tensorstore", "ml_dtypes")


def describe(scratch: Path) -> dict[str, str]:
    """Give processor, memory, system, versions, and the disk that `scratch` is on."""
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "memory": f"{_memory() / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
        **{name: version for name in PACKAGES if (version := _version(name))},
        "disk": _disk(scratch),
    }


def cores() -> int:
    """Give the processors that this process may use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def load() -> str:
    """Give how busy the machine was over the last 1, 5 and 15 minutes: processes that ran or waited."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas.get('version', '')}".strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _disk(path: Path) -> str:
    """Name the file system and the device that a path is on."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    best = ("", "unknown", "unknown")
    for line in mounts.read_text(encoding="utf-8").splitlines():
        device, point, kind = line.split()[:3]
        if path.resolve().is_relative_to(point) and len(point) > len(best[0]):
            best = (point, device, kind)
    return f"{best[2]} on {best[1]}"
