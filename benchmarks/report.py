"""Results as JSON, as a Markdown page, and as the README's table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import BARS, Bar
from benchmarks.harness import Bench, Comparison, Reading

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

FORMAT, NOT_RUN = 2, "not run"

Results = dict[str, Any]


def results(benches: Sequence[Bench], machine: Mapping[str, str], *, quick: bool) -> Results:
    """Gather what was measured into one JSON object."""
    measured = {bench.name: _benchmark(bench) for bench in benches}
    return _assemble(machine, measured, quick=quick)


def merge(before: Results, found: Results) -> Results:
    """Add benchmarks to results, in place of those of the same names; the machine is that of `before`."""
    measured = before["benchmarks"] | found["benchmarks"]
    return _assemble(before["machine"], measured, quick=found["quick"])


def kept(directory: Path, found: Results, names: Sequence[str]) -> Results:
    """Give the results in a directory that stay when `names` are run, or `found` where there are none.

    Raises
    ------
    ValueError
        If they would be lost: they have other benchmarks, of another machine or format, or full sizes
        while `found` is of quick mode.
    """
    path = directory / "results.json"
    if not path.exists():
        return found
    before: Results = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in ("format", "quick", "machine") if before.get(name) != found[name]]
    if not differing:
        return before
    others = sorted(set(before.get("benchmarks", {})) - set(names))
    if others or (found["quick"] and not before.get("quick")):
        what = f"has {', '.join(others)}" if others else "is of full size"
        raise ValueError(f"{path} {what}, and has another {', '.join(differing)}; --force overwrites it")
    return found


def _assemble(machine: Mapping[str, str], measured: Mapping[str, Results], *, quick: bool) -> Results:
    readings = [reading for benchmark in measured.values() for reading in benchmark["readings"]]
    return {
        "format": FORMAT,
        "quick": quick,
        "machine": dict(machine),
        "bars": [_verdict(bar, readings, quick=quick) for bar in BARS.values()],
        "benchmarks": dict(measured),
    }


def _benchmark(bench: Bench) -> Results:
    return {
        "began": bench.began,
        "readings": [_reading(reading) for reading in bench.readings],
        "comparisons": [_comparison(comparison) for comparison in bench.comparisons],
    }


def _reading(reading: Reading) -> Results:
    return {
        "case": reading.case,
        "quantity": reading.quantity,
        "value": reading.value,
        "bar": reading.bar,
        "note": reading.note,
        "samples": list(reading.samples),
    }


def _comparison(comparison: Comparison) -> Results:
    return {
        "case": comparison.case,
        "absent": dict(comparison.absent),
        "timings": {
            label: {
                "median_seconds": timing.median,
                "seconds": list(timing.seconds),
                "bytes_per_second": timing.bytes_per_second,
            }
            for label, timing in comparison.timings.items()
        },
    }


def _verdict(bar: Bar, readings: Sequence[Results], *, quick: bool) -> Results:
    """Hold a bar against its readings, of which the worst decides; quick mode holds nothing."""
    mine = [reading for reading in readings if reading["bar"] == bar.name]
    values = [reading["value"] for reading in mine if reading["value"] is not None]
    worst = bar.worst(values) if values else None
    deciding = next((reading for reading in mine if reading["value"] == worst), None)
    return {
        "name": bar.name,
        "work": bar.work,
        "bar": str(bar),
        "measured": worst,
        "range": [min(values), max(values)] if values else None,
        "decided_by": f"{deciding['case']}, {deciding['quantity']}" if deciding and values else None,
        "passed": None if worst is None or quick else bar.passes(worst),
        "note": deciding["note"] if deciding else NOT_RUN,
    }


def write(found: Results, directory: Path) -> None:
    """Write ``results.json`` and ``results.md``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (directory / "results.md").write_text(page(found), encoding="utf-8")


def page(found: Results) -> str:
    """Give all results in Markdown."""
    lines = ["# Benchmarks", "", *bars_table(found), "", "## Machine", ""]
    lines += _table(("", ""), [[name, value] for name, value in found["machine"].items()])
    for name, benchmark in found["benchmarks"].items():
        lines += [
            "",
            f"## {name}",
            "",
            f"Began {benchmark['began']}.",
            "",
            *_readings_table(benchmark["readings"]),
        ]
        timings = _timings_table(benchmark["comparisons"])
        lines += ["", *timings] if timings else []
    return "\n".join(lines) + "\n"


def bars_table(found: Results) -> list[str]:
    """Give the table of bars, what was measured, and whether it reaches them."""
    rows = [
        [bar["work"], bar["bar"], _measured(bar), {True: "yes", False: "**no**", None: ""}[bar["passed"]]]
        for bar in found["bars"]
    ]
    quick = ["Quick mode: sizes are tiny, and these times mean nothing.", ""] if found["quick"] else []
    return [*quick, *_table(("work", "bar", "measured", "reached"), rows)]


def rewrite_readme(readme: Path, found: Results) -> None:
    """Replace what stands between the README's two markers by the table of bars and the machine.

    Raises
    ------
    ValueError
        If the markers are not there, once each and in order, or the results are of quick mode, or lack a
        bar, other than for a peer that is not installed.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{readme} must have {BEGIN} and {END}, once each and in this order")
    if found["quick"]:
        raise ValueError("these results are of quick mode")
    _require_all_bars(found)
    body = "\n".join([BEGIN, *bars_table(found), "", f"Measured on: {_where(found['machine'])}.", END])
    readme.write_text(before + body + after, encoding="utf-8")


def _require_all_bars(found: Results) -> None:
    notes = {bar["name"]: bar["note"] for bar in found["bars"] if bar["measured"] is None}
    lacking = [name for name in BARS if notes.get(name) in ("", NOT_RUN)]
    lacking += sorted(set(BARS) - {bar["name"] for bar in found["bars"]})
    if lacking:
        raise ValueError(f"these results lack {', '.join(lacking)}")


def _where(machine: Mapping[str, str]) -> str:
    return ", ".join(
        (
            machine["processor"],
            f"{machine['cores']} cores",
            machine["memory"],
            f"Python {machine['python']}",
            f"NumPy {machine['numpy']} ({machine['blas']})",
            machine["disk"],
        )
    )


def _measured(bar: Results) -> str:
    if bar["measured"] is None:
        return str(bar["note"])
    low, high = bar["range"]
    spread = f" ({_number(low)} to {_number(high)})" if low != high else ""
    beside = f"; {bar['note']}" if bar["note"] else ""
    return _number(bar["measured"]) + spread + beside


def _readings_table(readings: Sequence[Results]) -> list[str]:
    rows = [
        [
            r["case"],
            r["quantity"],
            r["note"] if r["value"] is None else _number(r["value"]),
            f"{_number(min(r['samples']))} to {_number(max(r['samples']))}" if r["samples"] else "",
        ]
        for r in readings
    ]
    return _table(("case", "quantity", "value", "rounds"), rows)


def _timings_table(comparisons: Sequence[Results]) -> list[str]:
    rows = []
    for comparison in comparisons:
        for label, timing in comparison["timings"].items():
            rate = timing["bytes_per_second"]
            shown = "" if rate is None else f"{rate / 1e9:.3g}"
            rows.append([comparison["case"], label, f"{1e3 * timing['median_seconds']:.4g}", shown])
        rows += [[comparison["case"], label, reason, ""] for label, reason in comparison["absent"].items()]
    return _table(("case", "contender", "median ms", "GB/s"), rows) if rows else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
