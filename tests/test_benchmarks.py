"""The benchmarks still run, all of them, and what they write can be read; times are not looked at."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.bars import BARS, Bar
from benchmarks.blocks import random_blocks
from benchmarks.decode import BARS as DECODED
from benchmarks.harness import Absent, Bench, Comparison, Timing
from benchmarks.inference import largest_difference
from benchmarks.models import TINY_LLAMA, DeepSeek, Llama, llama_of_size, write_deepseek, write_llama
from benchmarks.report import BEGIN, END, kept, merge, page, results, rewrite_readme, write

REPOSITORY = Path(__file__).parents[1]

OPTIONAL = {"decode-ggml", "prefill", "prefill-memory", "token"}
"""Bars whose peers are not among the dependencies."""


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run everything in quick mode, as the command line does, and give the directory of its results."""
    out = tmp_path_factory.mktemp("benchmarks")
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def found(quick_run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((quick_run / "results.json").read_text())
    return loaded


def test_every_benchmark_measures_something(found: dict[str, Any]) -> None:
    assert list(found["benchmarks"]) == list(command.NAMES)
    for benchmark in found["benchmarks"].values():
        values = [r["value"] for r in benchmark["readings"] if r["value"] is not None]
        assert values
        assert all(math.isfinite(value) for value in values)


def test_every_comparison_has_each_contenders_rounds_and_their_median(found: dict[str, Any]) -> None:
    for benchmark in found["benchmarks"].values():
        for comparison in benchmark["comparisons"]:
            rounds = {len(timing["seconds"]) for timing in comparison["timings"].values()}
            assert rounds == {2}
            for timing in comparison["timings"].values():
                assert timing["median_seconds"] == median(timing["seconds"]) > 0


def test_every_bar_is_held_against_a_reading(found: dict[str, Any]) -> None:
    assert [bar["name"] for bar in found["bars"]] == list(BARS)
    for bar in found["bars"]:
        assert bar["measured"] is not None or (bar["name"] in OPTIONAL and "not installed" in bar["note"])


def test_quick_mode_passes_no_judgement(found: dict[str, Any]) -> None:
    assert {bar["passed"] for bar in found["bars"]} == {None}
    assert "Quick mode" in page(found)


def test_the_page_describes_the_machine_and_every_bar(quick_run: Path, found: dict[str, Any]) -> None:
    text = (quick_run / "results.md").read_text()
    assert text == page(found)
    for name in ("processor", "cores", "memory", "system", "python", "numpy", "blas", "numba", "disk"):
        assert found["machine"][name] in text
    for bar in BARS.values():
        assert f"| {bar.work} | {bar} |" in text


def test_models_are_removed(quick_run: Path) -> None:
    assert sorted(path.name for path in quick_run.iterdir()) == ["results.json", "results.md"]


def test_agreement_is_the_largest_difference_in_standard_deviations_of_the_peer() -> None:
    theirs = np.array([1.0, -1.0, 1.0, -1.0]) * 2
    assert largest_difference(theirs, theirs) == 0
    assert largest_difference(theirs + np.array([0, 0.5, -3, 1]), theirs) == 1.5
    assert largest_difference(theirs * 3, theirs) == 2


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "nothing"])


def bench(tmp_path: Path) -> Bench:
    return Bench("test", tmp_path, quick=False, threads=1)


def test_contenders_take_turns_after_a_round_that_does_not_count(tmp_path: Path) -> None:
    turns: list[str] = []
    comparison = bench(tmp_path).compare(
        "work",
        {"A": lambda: turns.append("A"), "B": lambda: turns.append("B"), "C": Absent("not installed")},
        repeat=3,
        before=lambda: turns.append("-"),
    )
    assert "".join(turns) == "-A-B" * 4
    assert [len(timing.seconds) for timing in comparison.timings.values()] == [3, 3]
    assert comparison.absent == {"C": "not installed"}


def test_a_speed_is_the_median_of_the_ratios_of_each_round(tmp_path: Path) -> None:
    timings = {"ours": Timing((1.0, 2.0, 10.0)), "theirs": Timing((3.0, 4.0, 50.0))}
    comparison = Comparison("test", "work", timings, {"gone": "not installed"})
    assert comparison.speeds("ours", "theirs") == (3.0, 2.0, 5.0)
    assert comparison.speeds("ours", "gone") == ()
    run = bench(tmp_path)
    run.read_speed(comparison, "ours", "theirs")
    run.read_speed(comparison, "ours", "gone")
    assert [reading.value for reading in run.readings] == [3.0, None]
    assert run.readings[0].samples == (3.0, 2.0, 5.0)
    assert run.readings[1].note == "not installed"


def test_a_bar_knows_its_direction() -> None:
    least, most = Bar("a", "", "x", 2, "at least"), Bar("b", "", "ms", 2, "at most")
    assert (least.passes(2), least.passes(1.9), least.worst([3, 4])) == (True, False, 3)
    assert (most.passes(2), most.passes(2.1), most.worst([3, 4])) == (True, False, 4)


def test_the_worst_case_decides_a_bar(tmp_path: Path) -> None:
    run = bench(tmp_path)
    for case, value in (("Q2_K", 25.0), ("Q6_K", 19.0), ("Q4_K", 30.0)):
        run.read(case, "speed", value, bar="decode-k")
    verdict = results([run], {}, quick=False)["bars"][0]
    assert (verdict["measured"], verdict["passed"], verdict["range"]) == (19.0, False, [19.0, 30.0])
    assert verdict["decided_by"] == "Q6_K, speed"


def test_a_reading_of_an_unknown_bar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        bench(tmp_path).read("case", "speed", 1.0, bar="nothing")


def test_the_readme_takes_the_table_between_its_markers(tmp_path: Path, found: dict[str, Any]) -> None:
    readme, full = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    full.write_text(json.dumps(found | {"quick": False}))
    assert command.main(["--readme", str(full), "--into", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| work |")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert f"Measured on: {found['machine']['processor']}" in text


def test_results_that_lack_a_bar_do_not_get_into_the_readme(tmp_path: Path, found: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    lacking = some_results(found["machine"], absorb=0.9)
    with pytest.raises(ValueError, match=r"lack decode-k, .*help"):
        rewrite_readme(readme, lacking)
    named = [
        bar | {"note": "x is not installed"} if bar["measured"] is None else bar for bar in lacking["bars"]
    ]
    rewrite_readme(readme, lacking | {"bars": named})
    assert "x is not installed" in readme.read_text()


def some_results(machine: dict[str, str], *, quick: bool = False, **values: float) -> dict[str, Any]:
    """Give results of benchmarks that are named as their bars are."""
    benches = [Bench(name, Path(), quick=quick, threads=1, began=f"then, {name}") for name in values]
    for run in benches:
        run.read("case", "speed", values[run.name], bar=run.name)
    return results(benches, machine, quick=quick)


def test_a_benchmark_run_again_takes_the_place_of_itself_alone() -> None:
    before, again = some_results({"cores": "2"}, read=0.9, absorb=0.5), some_results({}, absorb=0.95)
    again["benchmarks"]["absorb"]["began"] = "now"
    merged = merge(before, again)
    assert merged["machine"] == {"cores": "2"}
    assert {bar["name"]: bar["measured"] for bar in merged["bars"] if bar["measured"]} == {
        "read": 0.9,
        "absorb": 0.95,
    }
    assert [each["began"] for each in merged["benchmarks"].values()] == ["then, read", "now"]


def test_results_of_the_same_machine_are_kept_and_those_of_another_are_not_overwritten(
    tmp_path: Path,
) -> None:
    ours, other = {"processor": "a"}, {"processor": "b"}
    new = some_results(ours)
    assert kept(tmp_path, new, ["absorb"]) == new
    before = some_results(ours, read=0.9, absorb=0.5)
    before["machine"] |= dict.fromkeys(("cores", "memory"), "2")
    write(before, tmp_path)
    assert kept(tmp_path, new | {"machine": before["machine"]}, ["absorb"]) == before
    with pytest.raises(ValueError, match=r"has read, and has another machine; --force"):
        kept(tmp_path, some_results(other), ["absorb"])
    assert kept(tmp_path, some_results(other), ["absorb", "read"])["benchmarks"] == {}
    with pytest.raises(ValueError, match="is of full size"):
        kept(tmp_path, some_results(other, quick=True), ["absorb", "read"])


def test_the_command_refuses_before_it_measures_anything_and_can_be_forced(tmp_path: Path) -> None:
    write(some_results({"processor": "another"}, read=0.9), tmp_path)
    written = (tmp_path / "results.json").read_text()
    with pytest.raises(ValueError, match="--force"):
        command.main(["--quick", "--only", "absorb", "--out", str(tmp_path)])
    assert (tmp_path / "results.json").read_text() == written
    assert command.main(["--quick", "--force", "--only", "absorb", "--out", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "results.json").read_text())["benchmarks"]) == ["absorb"]


def test_a_bar_says_what_stands_beside_it(tmp_path: Path) -> None:
    run = bench(tmp_path)
    run.read("case", "speed", 73.0, bar="open", note="with the tokenizer built, 1.2")
    assert "| 73; with the tokenizer built, 1.2 |" in page(results([run], {}, quick=False))


def test_results_of_quick_mode_do_not_get_into_the_readme(tmp_path: Path, found: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(ValueError, match="quick mode"):
        rewrite_readme(readme, found)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_its_markers_is_left_alone(text: str, tmp_path: Path, found: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="once each"):
        rewrite_readme(readme, found | {"quick": False})
    assert readme.read_text() == text


@pytest.mark.parametrize("type_name", DECODED)
def test_random_blocks_are_finite_and_as_large_as_weights(type_name: str) -> None:
    kind = gguf.GGMLQuantizationType[type_name]
    values = gguf.dequantize(random_blocks(type_name, 64, seed=3), kind)
    assert np.isfinite(values).all()
    assert 1e-4 < values.std() < 0.2
    np.testing.assert_array_equal(random_blocks(type_name, 64, seed=3), random_blocks(type_name, 64, seed=3))


def test_q4_k_blocks_are_centred_as_weights_are() -> None:
    values = gguf.dequantize(random_blocks("Q4_K", 256, seed=0), gguf.GGMLQuantizationType.Q4_K)
    assert abs(values.mean()) < 0.01 * values.std()


def test_models_are_the_same_for_the_same_seed_and_read_by_the_gguf_package(tmp_path: Path) -> None:
    first, second = (write_llama(tmp_path / name, TINY_LLAMA) for name in ("a.gguf", "b.gguf"))
    assert first.read_bytes() == second.read_bytes()
    tensors = {t.name: t for t in gguf.GGUFReader(first).tensors}
    assert set(tensors) == {tensor.name for tensor in TINY_LLAMA.tensors("Q4_K")}
    for tensor in TINY_LLAMA.tensors("Q4_K"):
        assert tuple(tensors[tensor.name].shape) == tensor.shape[::-1]
        assert tensors[tensor.name].n_bytes == tensor.nbytes


def test_a_deepseek_has_its_stacks_of_experts(tmp_path: Path) -> None:
    shape = DeepSeek(hidden=64, moe_intermediate=32, layers=4, experts=8, vocab=64)
    tensors = {t.name: t for t in gguf.GGUFReader(write_deepseek(tmp_path / "d.gguf", shape)).tensors}
    assert tuple(tensors["blk.3.ffn_gate_exps.weight"].shape) == (64, 32, 8)
    assert "blk.2.ffn_gate_exps.weight" not in tensors
    assert "blk.0.attn_k_b.weight" in tensors


@pytest.mark.parametrize("size", [250_000_000, 1_000_000_000, 4_000_000_000])
def test_a_llama_of_a_size_has_about_that_size(size: int) -> None:
    nbytes = sum(tensor.nbytes for tensor in llama_of_size(size).tensors("Q4_K"))
    assert nbytes == pytest.approx(size, rel=0.3)


def test_the_default_llama_has_the_parameters_that_its_bar_names() -> None:
    values = sum(math.prod(tensor.shape) for tensor in Llama().tensors("Q4_K"))
    assert values == pytest.approx(1.24e9, rel=0.01)
