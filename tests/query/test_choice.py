"""A choice of layers means layers that there are, counted as Python counts; one of none is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.arrays import memory_array
from wvindex.errors import SelectionError
from wvindex.formats.arrays import ArraySpec
from wvindex.query.choice import chosen_layers

FORWARD = 5
BOUNDS = st.none() | st.integers(-9, 9)


def specs(forward: int = FORWARD, extra: int = 0) -> list[ArraySpec]:
    """Give an array of each layer, the last `extra` for multi-token prediction, and one of no layer."""
    layers = [
        memory_array(f"model.layers.{n}.w", (2, 2), "F32", mtp=n >= forward).spec
        for n in range(forward + extra)
    ]
    return [memory_array("lm_head.weight", (2, 2), "F32").spec, *layers]


@given(choice=st.integers(-9, 9) | st.builds(slice, BOUNDS, BOUNDS, st.integers(-3, 3).filter(bool)))
def test_numbers_and_slices_mean_what_they_mean_of_a_list(choice: Any) -> None:
    try:
        meant = np.atleast_1d(np.arange(FORWARD)[choice]).tolist()
    except IndexError:
        meant = []
    if meant:
        assert chosen_layers(choice, specs()) == frozenset(meant)
    else:
        with pytest.raises(SelectionError, match=r"no such layer .*expected: layers 0 to 4"):
            chosen_layers(choice, specs())


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (-1, {4}),
        (5, {5}),
        (slice(-1, None), {4}),
        (slice(4, None), {4, 5}),
        (range(3, 99), {3, 4, 5}),
        (range(-2, 0), {3, 4}),
        ([slice(0, 2), -1, 77], {0, 1, 4}),
        (np.array([0, -1]), {0, 4}),
        (np.int64(2), {2}),
        (range(10**18), set(range(6))),
        ((n for n in (1, 2)), {1, 2}),
    ],
)
def test_the_end_is_that_of_the_forward_pass(choice: Any, chosen: set[int]) -> None:
    assert chosen_layers(choice, specs(extra=1)) == frozenset(chosen)


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (99, "99"),
        (-6, "-6"),
        ([], "none"),
        ([9, -9], "9, -9"),
        (slice(7, 9), "7:9"),
        (range(7, 9), "7:9"),
        ([slice(7, None)], "7:"),
    ],
)
def test_what_names_no_layer_is_refused_as_it_was_written(choice: Any, found: str) -> None:
    with pytest.raises(SelectionError) as caught:
        chosen_layers(choice, specs())
    assert (caught.value.expected, caught.value.found) == ("layers 0 to 4", found)


@pytest.mark.parametrize(
    "choice", [True, [True], "1", "", [1.5], 1.5, slice("a"), slice(True), [[1]], object()]
)
def test_what_is_no_choice_is_refused(choice: Any) -> None:
    with pytest.raises(SelectionError, match="not a choice of layers"):
        chosen_layers(choice, specs())


def test_none_means_all_also_those_of_no_layer() -> None:
    assert chosen_layers(None, specs()) is None
