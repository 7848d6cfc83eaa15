"""Rotary embedding turns pairs of dimensions by position times frequency."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wvindex.arch.config import Rope
from wvindex.errors import MetadataError
from wvindex.infer.rope import apply_rotary, rotary_tables, uses_long_frequencies

ROPE = Rope(rope_type="default", rope_theta=1e4, rotary_dim=8, inv_freq=(1.0, 0.1, 0.01, 0.001))
LONG = replace(
    ROPE, long_inv_freq=(0.5, 0.05, 0.005, 0.0005), original_max_position_embeddings=16, attention_factor=1.2
)
RNG = np.random.default_rng(1)


def test_pairs_turn_like_complex_numbers() -> None:
    x = RNG.standard_normal((6, 2 * 8)).astype(np.float32)
    turned = apply_rotary(x, rotary_tables(ROPE, 10, 6), 8).reshape(6, 2, 8)
    heads = x.reshape(6, 2, 8).astype(np.float64)
    angles = np.outer(10 + np.arange(6), ROPE.inv_freq)[:, None]
    expected = (heads[..., :4] + 1j * heads[..., 4:]) * np.exp(1j * angles)
    np.testing.assert_allclose(turned[..., :4], expected.real, atol=2e-6)
    np.testing.assert_allclose(turned[..., 4:], expected.imag, atol=2e-6)


def test_dimensions_past_the_rotary_ones_pass_through() -> None:
    x = RNG.standard_normal((5, 3 * 12)).astype(np.float32)
    turned = apply_rotary(x, rotary_tables(ROPE, 3, 5), 12).reshape(5, 3, 12)
    np.testing.assert_array_equal(turned[..., 8:], x.reshape(5, 3, 12)[..., 8:])
    assert (turned[..., :8] != x.reshape(5, 3, 12)[..., :8]).any()


def test_the_input_is_left_alone() -> None:
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    before = x.copy()
    apply_rotary(x, rotary_tables(ROPE, 3, 5), 8)
    np.testing.assert_array_equal(x, before)


@given(st.integers(0, 200), st.integers(0, 200))
def test_products_depend_on_the_distance_alone(start: int, distance: int) -> None:
    q, k = RNG.standard_normal((2, 1, 8)).astype(np.float32)

    def product(at: int) -> float:
        turned_q = apply_rotary(q, rotary_tables(ROPE, at + distance, 1), 8)
        return float((turned_q @ apply_rotary(k, rotary_tables(ROPE, at, 1), 8).T)[0, 0])

    assert product(start) == pytest.approx(product(0), abs=2e-4)


def test_the_attention_factor_scales_cosines_and_sines() -> None:
    plain, scaled = rotary_tables(ROPE, 2, 4), rotary_tables(replace(ROPE, attention_factor=1.25), 2, 4)
    np.testing.assert_allclose(scaled.cos, plain.cos * 1.25, rtol=1e-6)
    np.testing.assert_allclose(scaled.sin, plain.sin * 1.25, rtol=1e-6)


def test_angles_are_float32_products_as_in_transformers() -> None:
    frequency = 0.123456789
    tables = rotary_tables(replace(ROPE, rotary_dim=2, inv_freq=(frequency,)), 99_999, 1)
    angle = np.float32(99_999) * np.float32(frequency)
    assert tables.cos[0, 0] == np.float32(np.cos(np.float64(angle)))
    assert tables.cos.dtype == np.float32


@pytest.mark.parametrize(("start", "length", "is_long"), [(0, 16, False), (0, 17, True), (16, 1, True)])
def test_long_frequencies_serve_the_whole_pass_past_the_threshold(
    start: int, length: int, is_long: bool
) -> None:
    assert uses_long_frequencies(LONG, start + length) == is_long
    frequencies = LONG.long_inv_freq if is_long else LONG.inv_freq
    angles = np.outer(start + np.arange(length), np.array(frequencies))
    np.testing.assert_allclose(rotary_tables(LONG, start, length).cos, np.cos(angles) * 1.2, atol=1e-5)


def test_a_wrong_number_of_frequencies_is_refused() -> None:
    with pytest.raises(MetadataError, match=r"expected: 5, found: 4"):
        rotary_tables(replace(ROPE, rotary_dim=10), 0, 1)
