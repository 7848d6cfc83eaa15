"""Work in a process of its own, whose peak memory is that work's alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_memory


def build_alone(source: Path, out: Path, **options: object) -> tuple[float, int]:
    """Build a store in a new process; give its seconds and its peak resident bytes."""
    command = [sys.executable, "-m", "benchmarks.child", str(source), str(out), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return float(found["seconds"]), int(found["peak"])


def _main() -> None:
    import wvindex as wv

    source, out, options = sys.argv[1:]
    start = time.perf_counter()
    wv.build(source, out, **json.loads(options))
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_memory()}))


if __name__ == "__main__":
    _main()
