"""No change to a file makes a parser raise what nobody foresaw, or take long.

A bounded number of changes here; ``python -m tests.hostile.fuzz --minutes 10`` for as many as there is time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.fuzz import TooSlow, attempt, fuzz
from tests.hostile.fuzz_targets import Target, targets
from tests.hostile.mutate import Mutation, mutated
from wvindex.errors import MalformedHeader

EXAMPLES: Final = {
    "gguf": 900,
    "safetensors": 300,
    "safetensors-json": 600,
    "config": 400,
    "catalog": 700,
    "array": 300,
}
"""Some 15 seconds in all."""


@pytest.fixture(scope="module")
def known() -> dict[str, Target]:
    return targets()


def _mutations(target: Target) -> st.SearchStrategy[list[Mutation]]:
    return st.lists(
        st.builds(
            Mutation, st.sampled_from(target.kinds), st.integers(0, (1 << 20) - 1), st.integers(0, 65535)
        ),
        min_size=1,
        max_size=8,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_changed_input_is_read_or_refused(name: str, known: dict[str, Target], tmp_path: Path) -> None:
    target = known[name]

    @settings(max_examples=EXAMPLES[name], suppress_health_check=list(HealthCheck))
    @given(seed=st.sampled_from((*target.sound, *target.unsound)), mutations=_mutations(target))
    def holds(seed: bytes, mutations: list[Mutation]) -> None:
        attempt(target, mutated(seed, mutations), tmp_path)

    holds()


@pytest.mark.parametrize("name", EXAMPLES)
def test_sound_seeds_are_accepted(name: str, known: dict[str, Target], tmp_path: Path) -> None:
    assert {attempt(known[name], seed, tmp_path) for seed in known[name].sound} == {"accepted"}


class TestTheFuzzer:
    """It would see what it looks for."""

    def test_an_exception_that_nobody_foresaw(self, tmp_path: Path) -> None:
        def feed(data: bytes, directory: Path) -> None:
            data[99]

        with pytest.raises(IndexError):
            attempt(Target((), (), feed), b"", tmp_path)

    def test_an_endless_loop(self, tmp_path: Path) -> None:
        def feed(data: bytes, directory: Path) -> None:
            while True:
                pass

        with pytest.raises(TooSlow):
            attempt(Target((), (), feed), b"", tmp_path)

    def test_a_refusal_is_none(self, tmp_path: Path) -> None:
        def feed(data: bytes, directory: Path) -> None:
            raise MalformedHeader("no")

        assert attempt(Target((), (), feed), b"", tmp_path) == "malformed-header"

    def test_a_long_run_counts_its_findings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def feed(data: bytes, directory: Path) -> None:
            raise ZeroDivisionError("found")

        monkeypatch.setattr("tests.hostile.fuzz.targets", lambda: {"broken": Target((b"x",), (), feed)})
        assert fuzz(minutes=0.001, seed=0, keep=tmp_path) == 1
        assert "ZeroDivisionError" in capsys.readouterr().out
        assert len(list(tmp_path.iterdir())) == 1
