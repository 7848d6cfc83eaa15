"""Entries looked at together are found sound exactly where each is, looked at alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wvindex.errors import WvindexError
from wvindex.limits import MAX_DIMS
from wvindex.sources.safetensors_entries import SURELY_SHORT, sound_tensors
from wvindex.sources.safetensors_header import _tensor

FILE = Path("model.safetensors")
START = 100

SOUND: dict[str, Any] = {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]}

WRONG: dict[str, Any] = {
    "no object": [],
    "a field missing": {"dtype": "F32", "shape": [2]},
    "a field more": {**SOUND, "extra": 0},
    "a field of another name": {"dtype": "F32", "shape": [2], "offsets": [8, 16]},
    "dtype unknown": {**SOUND, "dtype": "F33"},
    "dtype not supported": {**SOUND, "dtype": "C64"},
    "dtype a list": {**SOUND, "dtype": ["F32"]},
    "shape a number": {**SOUND, "shape": 2},
    "shape an object": {**SOUND, "shape": {"2": 1}},
    "shape a string": {**SOUND, "shape": "2"},
    "a size true, equal to 1": {**SOUND, "shape": [2, True]},
    "a size 1.0, equal to 1": {**SOUND, "shape": [2, 1.0]},
    "a size null": {**SOUND, "shape": [2, None]},
    "sizes negative, their product right": {**SOUND, "shape": [-2, -1]},
    "a negative size beside nothing": {"dtype": "F32", "shape": [-1, 0], "data_offsets": [8, 8]},
    "too many dimensions": {**SOUND, "shape": [2] + [1] * MAX_DIMS},
    "too many elements": {"dtype": "U8", "shape": [2**62], "data_offsets": [0, 2**62]},
    "too many elements but for a zero": {"dtype": "U8", "shape": [0, 2**62], "data_offsets": [0, 0]},
    "three offsets": {**SOUND, "data_offsets": [8, 16, 24]},
    "one offset": {**SOUND, "data_offsets": [8]},
    "offsets an object": {**SOUND, "data_offsets": {"8": 16}},
    "an offset negative": {**SOUND, "data_offsets": [-8, 0]},
    "an offset 8.0": {**SOUND, "data_offsets": [8.0, 16]},
    "an offset 16.0": {**SOUND, "data_offsets": [8, 16.0]},
    "an offset false": {**SOUND, "data_offsets": [False, 8]},
    "offsets turned round": {**SOUND, "data_offsets": [16, 8]},
    "another span": {**SOUND, "data_offsets": [8, 20]},
}

NAMES = st.text(max_size=4) | st.sampled_from(["é" * SURELY_SHORT, "a" * (SURELY_SHORT + 1), "a" * 5000])
SIZES = st.lists(st.integers(0, 5), max_size=3)
VALUES = st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.just("F32") | SIZES
ENTRIES = (
    st.sampled_from([SOUND, SOUND, {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}, *WRONG.values()])
    | VALUES
    | st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "U8", "C64"]) | VALUES, "shape": VALUES, "data_offsets": VALUES}
    )
)


def one_by_one(entries: dict[str, Any]) -> list[Any] | None:
    try:
        return [_tensor(name, entry, FILE, START) for name, entry in entries.items()]
    except WvindexError:
        return None


@pytest.mark.parametrize("wrong", WRONG)
def test_one_entry_at_fault_among_many_is_seen(wrong: str) -> None:
    entries = {f"{i}": SOUND for i in range(20)} | {"wrong": WRONG[wrong]}
    assert one_by_one(entries) is None
    assert sound_tensors(entries, FILE, START) is None


@given(st.dictionaries(NAMES, ENTRIES, max_size=4))
@example({})
@example({"": SOUND})
def test_together_they_are_what_each_is_alone(entries: dict[str, Any]) -> None:
    found = sound_tensors(entries, FILE, START)
    if all(0 < len(name) <= SURELY_SHORT for name in entries):
        assert found == one_by_one(entries)
    else:
        assert found is None  # of a name that long it is for the closer look to say whether it is too long


def test_a_tensor_has_all_that_its_entry_says() -> None:
    found = sound_tensors({"a.weight": SOUND}, FILE, START)
    assert found is not None
    (tensor,) = found
    assert (tensor.name, tensor.shape, tensor.encoding.name) == ("a.weight", (2, 1), "F32")
    assert (tensor.file, tensor.offset, tensor.nbytes) == (FILE, START + 8, 8)
    assert (tensor.rendering, tensor.aside, tensor.hub_name) == (None, None, "a.weight")
