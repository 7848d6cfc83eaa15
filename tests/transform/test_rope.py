"""Row orders are llama.cpp's and DeepSeek's permutations, written as NumPy reshapes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.arch.config import MLA
from wvindex.transform.mla import key_index, q_order, tail_order, value_index
from wvindex.transform.rope import half_split, in_each_head, rope_first, unpermuted_heads

HEADS = st.integers(1, 5)
HALF = st.integers(1, 8)


def llama_cpp_permute(rows: NDArray[np.int64], n_heads: int) -> NDArray[np.int64]:
    """What convert_hf_to_gguf.py does to the rows of Llama's Q and K."""
    return rows.reshape(n_heads, 2, len(rows) // n_heads // 2).swapaxes(1, 2).reshape(len(rows))


@given(n_heads=HEADS, half=HALF)
def test_llama_cpps_permutation_is_undone(n_heads: int, half: int) -> None:
    rows = np.arange(n_heads * 2 * half)
    stored = llama_cpp_permute(rows, n_heads)
    np.testing.assert_array_equal(stored[unpermuted_heads(rows.size, n_heads)], rows)


@given(half=HALF)
def test_interleaved_pairs_become_halves(half: int) -> None:
    pairs = np.arange(2 * half).reshape(half, 2)  # (0, 1), (2, 3), ...
    np.testing.assert_array_equal(half_split(2 * half), np.concatenate([pairs[:, 0], pairs[:, 1]]))


@given(half=HALF, positions=st.floats(-3, 3))
def test_rotating_halves_is_rotating_pairs_elsewhere(half: int, positions: float) -> None:
    """The scores of Q and K do not change, which is all that matters."""
    rng = np.random.default_rng(half)
    q, k = rng.standard_normal((2, 2 * half))
    angles = positions * rng.standard_normal(half)

    def pairs(x: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = (x[0::2] + 1j * x[1::2]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag])

    def halves(x: NDArray[np.float64]) -> NDArray[np.float64]:
        turned = (x[:half] + 1j * x[half:]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag])

    order = half_split(2 * half)
    np.testing.assert_allclose(halves(q[order]) @ k[order], pairs(q) @ np.concatenate([k[0::2], k[1::2]]))


@given(n_heads=HEADS, nope=st.integers(1, 9), half=HALF, interleaved=st.booleans())
def test_rope_rows_go_first(n_heads: int, nope: int, half: int, interleaved: bool) -> None:
    rope = 2 * half
    heads = np.arange(n_heads * (nope + rope)).reshape(n_heads, nope + rope)
    tail = heads[:, nope:]
    if interleaved:
        tail = tail.reshape(n_heads, half, 2).swapaxes(1, 2).reshape(n_heads, rope)
    expected = np.concatenate([tail, heads[:, :nope]], axis=1).ravel()
    np.testing.assert_array_equal(rope_first(n_heads, nope, rope, interleaved=interleaved), expected)


@given(n_heads=HEADS, head_rows=st.integers(1, 9), data=st.data())
def test_an_order_within_a_head_is_repeated(n_heads: int, head_rows: int, data: st.DataObject) -> None:
    head = np.array(data.draw(st.lists(st.integers(0, head_rows - 1), max_size=6)), np.int64)
    expected = [h * head_rows + row for h in range(n_heads) for row in head]
    assert in_each_head(head, n_heads, head_rows).tolist() == expected


@given(
    n_heads=HEADS,
    nope=st.integers(1, 6),
    half=st.integers(1, 4),
    v=st.integers(1, 6),
    interleaved=st.booleans(),
)
def test_every_factors_row_is_used_once(
    n_heads: int, nope: int, half: int, v: int, interleaved: bool
) -> None:
    g = MLA(
        q_lora_rank=None,
        kv_lora_rank=4,
        qk_nope_head_dim=nope,
        qk_rope_head_dim=2 * half,
        v_head_dim=v,
        interleaved_rope=interleaved,
    )
    keys, values = key_index(g, n_heads), value_index(g, n_heads)
    assert sorted([*keys[keys >= 0], *values]) == list(range(n_heads * (nope + v)))
    # The rotary rows stand first in each head, the same in all.
    head = keys.reshape(n_heads, 2 * half + nope)[:, : 2 * half]
    np.testing.assert_array_equal(~head, np.tile(np.arange(2 * half), (n_heads, 1)))
    assert sorted(q_order(g, n_heads)) == list(range(n_heads * (nope + 2 * half)))
    assert sorted(tail_order(g)) == list(range(2 * half))
    # Keys that the file has split off have the same order, counted without the values' rows.
    alone = key_index(g, n_heads, head_rows=nope)
    assert alone[alone >= 0].tolist() == list(range(n_heads * nope))
