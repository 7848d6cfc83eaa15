"""The command: ``python -m benchmarks [--quick] [--only NAME] [--out DIR] [--force]``, or ``--readme F``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks import machine, report
from benchmarks.harness import Bench

HERE = Path(__file__).resolve().parent

NAMES = (
    "decode",
    "opening",
    "building",
    "verifying",
    "reading",
    "rows",
    "absorb",
    "inference",
    "scale",
    "linking",
    "stats",
    "neighbors",
    "diff",
    "fused",
)
"""Modules of this package, in the order of their turns."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.readme is not None:
        report.rewrite_readme(options.into, json.loads(options.readme.read_text(encoding="utf-8")))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    found = run(options.only or NAMES, options.out, quick=options.quick, force=options.force)
    print("\n".join(report.bars_table(found)))
    return 0


def run(names: Sequence[str], out: Path, *, quick: bool, force: bool = False) -> report.Results:
    """Run benchmarks by name, one after another, and write the results after each.

    Models are made below `out` and removed. What `out` has of other benchmarks, of the same machine, is kept.

    Raises
    ------
    ValueError
        If `out` has results that would be lost, before anything is run, unless `force`.
    """
    found = report.results([], machine.describe(out), quick=quick)
    if not force:
        found = report.merge(report.kept(out, found, names), found)
    for name in names:
        found = report.merge(found, report.results([_measure(name, out, quick=quick)], {}, quick=quick))
        report.write(found, out)
    return found


def _measure(name: str, out: Path, *, quick: bool) -> Bench:
    module = import_module(f"benchmarks.{name}")
    print(f"{name}: {(module.__doc__ or name).splitlines()[0]}", file=sys.stderr)
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {machine.load()}"
    with tempfile.TemporaryDirectory(prefix="models-", dir=out) as scratch:
        bench = Bench(name, Path(scratch), quick, threads=machine.cores(), began=began)
        module.run(bench)
    return bench


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure wvindex beside its peers.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
    parser.add_argument("--only", action="append", choices=NAMES, help="one benchmark; may be repeated")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="where results go and models are made"
    )
    parser.add_argument("--force", action="store_true", help="let go of results that cannot be kept")
    parser.add_argument("--readme", type=Path, help="write the table of this results.json into the README")
    parser.add_argument(
        "--into", type=Path, default=HERE.parent / "README.md", help="which README, for --readme"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
