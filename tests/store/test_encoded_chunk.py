"""A chunk's layout: its lengths, where its scales stand, and what a short one decodes to."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.packed import random_rows, reference_decode
from wvindex.errors import ChunkError
from wvindex.formats.encodings import ENCODINGS, with_scale_block
from wvindex.store.encoded_chunk import ChunkLayout, split_selection

FP8 = ChunkLayout(with_scale_block(ENCODINGS["F8_E4M3"], (4, 8)), (8, 20), 6)
Q8_0 = ChunkLayout(ENCODINGS["Q8_0"], (1, 8, 64), 3)


def test_lengths_of_full_and_short_chunks() -> None:
    assert (FP8.nbytes(8), FP8.nbytes(6)) == (8 * 20 + 2 * 12, 6 * 20 + 2 * 12)
    assert (Q8_0.nbytes(8), Q8_0.nbytes(3)) == (8 * 68, 3 * 68)
    assert [FP8.rows_in(184), FP8.rows_in(144), Q8_0.rows_in(3 * 68)] == [8, 6, 3]


def test_any_other_length_is_an_error() -> None:
    with pytest.raises(ChunkError, match=r"expected: 204 or 544 bytes, found: 205"):
        Q8_0.rows_in(205)


@pytest.mark.parametrize(
    ("rows", "start", "stop", "expected"), [(8, 0, 1, (160, 172)), (6, 3, 6, (120, 144))]
)
def test_scales_follow_the_codes(rows: int, start: int, stop: int, expected: tuple[int, int]) -> None:
    assert FP8.scale_range(rows, start, stop) == expected


def test_a_short_chunk_ends_in_the_fill_value() -> None:
    raw = random_rows("Q8_0", 3, 2) & np.uint8(0x3B)
    values = Q8_0.decode_chunk(raw.reshape(-1), 2.5)
    assert values.shape == (1, 8, 64)
    np.testing.assert_array_equal(values[0, :3], reference_decode(raw, "Q8_0"))
    assert (values[0, 3:] == 2.5).all()


@pytest.mark.parametrize("selector", [slice(5, 1, -1), np.array([-1, 2]), np.array([True] * 8), 9])
def test_selectors_whose_rows_are_unknown_ask_for_the_whole_chunk(selector: object) -> None:
    assert split_selection((selector, slice(None)), FP8) is None


def test_a_selection_that_is_not_of_every_axis_asks_for_the_whole_chunk() -> None:
    assert split_selection(..., FP8) is None
