"""Absorbed projections, with the two factors of a token, are latent attention; without them they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.arch.config import MLA
from wvindex.errors import MetadataError
from wvindex.formats.arrays import RowScale
from wvindex.transform.mla import Absorbed, absorb

Wide = NDArray[np.float64]
TOKENS = 6


class Layer:
    """A layer's factors, and latent attention's heads worked out from them in float64 as the paper has it.

    With `whole`, weights are whole numbers and norms' weights whole quarters: float32 products of them
    are exact, so that nothing but the formulas can differ.
    """

    def __init__(
        self, geometry: MLA, heads: int, hidden: int, *, bias: bool, seed: int, whole: bool = False
    ) -> None:
        self.g, self.heads, self.hidden = geometry, heads, hidden
        rng = np.random.default_rng(seed)
        rank, rope = geometry.kv_lora_rank, geometry.qk_rope_head_dim
        width = geometry.qk_nope_head_dim + rope

        def linear(rows: int, columns: int) -> NDArray[np.float32]:
            if whole:
                return rng.integers(-4, 5, (rows, columns)).astype(np.float32)
            return np.asarray(rng.standard_normal((rows, columns)) / columns**0.5, np.float32)

        def vector(n: int, low: float, high: float) -> NDArray[np.float32]:
            if whole:
                return (rng.integers(1, 8, n) / np.float32(4)).astype(np.float32)
            return rng.uniform(low, high, n).astype(np.float32)

        self.arrays: dict[str, Any] = {
            "kv_a": linear(rank + rope, hidden),
            "kv_a_norm": vector(rank, 0.5, 1.5),
            "kv_b": linear(heads * (geometry.qk_nope_head_dim + geometry.v_head_dim), rank),
            "q_a": None,
            "q_a_norm": None,
        }
        columns = hidden
        if geometry.q_lora_rank is not None:
            columns = geometry.q_lora_rank
            self.arrays |= {"q_a": linear(columns, hidden), "q_a_norm": vector(columns, 0.5, 1.5)}
            if bias:
                self.arrays["q_a_bias"] = vector(columns, -0.5, 0.5)
        self.arrays["q_b"] = linear(heads * width, columns)
        if bias:
            self.arrays["kv_a_bias"] = vector(rank + rope, -0.5, 0.5)
        self.x = rng.standard_normal((TOKENS, hidden)) * rng.uniform(0.1, 10, (TOKENS, 1))

    def absorbed(self) -> Absorbed:
        return absorb(**self.arrays, geometry=self.g, num_heads=self.heads)

    def wide(self, name: str) -> Wide:
        return np.asarray(self.arrays[name], np.float64)

    def down(self, name: str) -> Wide:
        c: Wide = self.x @ self.wide(name).T
        return c + self.wide(f"{name}_bias") if f"{name}_bias" in self.arrays else c

    def normed(self, c: Wide, name: str) -> Wide:
        result: Wide = c / np.sqrt((c**2).mean(-1, keepdims=True) + self.g.norm_eps) * self.wide(name)
        return result

    def turned(self, rope: Wide) -> Wide:
        """Lay rotary dimensions out half-split."""
        if not self.g.interleaved_rope:
            return rope
        return np.concatenate([rope[..., 0::2], rope[..., 1::2]], axis=-1)

    def direct(self) -> dict[str, Wide]:
        """Give q, k and v, (T, heads, width), rotary dimensions first, before rotation."""
        g = self.g
        latent = self.x if g.q_lora_rank is None else self.normed(self.down("q_a"), "q_a_norm")
        q = (latent @ self.wide("q_b").T).reshape(TOKENS, self.heads, -1)
        c = self.down("kv_a")
        k_rope = np.repeat(self.turned(c[:, None, g.kv_lora_rank :]), self.heads, axis=1)
        both = self.normed(c[:, : g.kv_lora_rank], "kv_a_norm") @ self.wide("kv_b").T
        both = both.reshape(TOKENS, self.heads, -1)
        nope = g.qk_nope_head_dim
        return {
            "q": np.concatenate([self.turned(q[..., nope:]), q[..., :nope]], axis=-1),
            "k": np.concatenate([k_rope, both[..., :nope]], axis=-1),
            "v": both[..., nope:],
        }

    def from_dense(self, dense: Absorbed, *, scaled: bool = True) -> dict[str, Wide]:
        """Give the same from the absorbed arrays, by what `RowScale` documents."""
        result = {}
        for name in "qkv":
            weight, bias = getattr(dense, name), getattr(dense, f"{name}_bias")
            y = self.x @ weight.astype(np.float64).T + (0 if bias is None else bias)
            heads = y.reshape(TOKENS, self.heads, -1)
            if scaled and name in dense.scales:
                scale_heads(heads, dense.scales[name], self.x, dense)
            result[name] = heads
        return result


def scale_heads(heads: Wide, scale: RowScale, x: Wide, dense: Absorbed) -> None:
    a, b = scale.rows
    c = x @ dense.latent[a:b].astype(np.float64).T
    if dense.latent_bias is not None:
        c += dense.latent_bias[a:b]
    i, j = scale.head_slice
    heads[..., i:j] /= np.sqrt((c**2).mean(-1) + scale.eps)[:, None, None]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    geometry = MLA(
        q_lora_rank=draw(st.none() | st.integers(1, 12)),
        kv_lora_rank=draw(st.integers(1, 12)),
        qk_nope_head_dim=draw(st.integers(1, 9)),
        qk_rope_head_dim=2 * draw(st.integers(1, 4)),
        v_head_dim=draw(st.integers(1, 9)),
        norm_eps=draw(st.sampled_from([1e-6, 1e-2, 0.5])),
        interleaved_rope=draw(st.booleans()),
    )
    hidden, heads = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    return Layer(
        geometry, heads, hidden, bias=draw(st.booleans()), seed=draw(st.integers(0, 2**31)), whole=True
    )


def a_layer(q_lora_rank: int | None = 12, *, bias: bool = True) -> Layer:
    geometry = MLA(
        q_lora_rank=q_lora_rank, kv_lora_rank=8, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=5
    )
    return Layer(geometry, 3, 16, bias=bias, seed=1)


def worst(found: dict[str, Wide], expected: dict[str, Wide]) -> dict[str, float]:
    """Give the largest error of each, relative to the largest value."""
    return {
        name: float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in expected
    }


@given(layer=layers())
@settings(max_examples=150, deadline=None)
def test_absorption_is_exact(layer: Layer) -> None:
    found, expected = layer.from_dense(layer.absorbed()), layer.direct()
    for name in "qkv":
        bound = 1e-9 * (1 + np.abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("q_lora_rank", [12, None])
@pytest.mark.parametrize("bias", [False, True])
def test_random_weights_are_off_by_float32s_rounding_alone(q_lora_rank: int | None, bias: bool) -> None:
    layer = a_layer(q_lora_rank, bias=bias)
    assert max(worst(layer.from_dense(layer.absorbed()), layer.direct()).values()) < 1e-6


@given(layer=layers())
@settings(max_examples=30, deadline=None)
def test_shapes_follow_the_geometry(layer: Layer) -> None:
    dense, g = layer.absorbed(), layer.g
    width, first = g.qk_nope_head_dim + g.qk_rope_head_dim, g.q_lora_rank or 0
    assert dense.q.shape == dense.k.shape == (layer.heads * width, layer.hidden)
    assert dense.v.shape == (layer.heads * g.v_head_dim, layer.hidden)
    assert dense.latent.shape == (first + g.kv_lora_rank, layer.hidden)
    assert {array.dtype for array in (dense.q, dense.k, dense.v, dense.latent)} == {np.dtype(np.float32)}
    assert ("q" in dense.scales) == (g.q_lora_rank is not None)
    assert dense.scales["k"].head_slice == (g.qk_rope_head_dim, width)
    assert dense.scales["v"].head_slice == (0, g.v_head_dim)
    assert (dense.latent_bias is not None) == ("kv_a_bias" in layer.arrays)


@pytest.mark.parametrize("q_lora_rank", [12, None])
@pytest.mark.parametrize("bias", [False, True])
def test_leaving_out_the_row_scale_is_far_off(q_lora_rank: int | None, bias: bool) -> None:
    layer = a_layer(q_lora_rank, bias=bias)
    off = worst(layer.from_dense(layer.absorbed(), scaled=False), layer.direct())
    assert off["k"] > 0.1
    assert off["v"] > 0.1
    assert (off["q"] > 0.1) == (q_lora_rank is not None)


@pytest.mark.parametrize("name", ["q_a_norm", "kv_a_norm"])
def test_leaving_out_a_norms_weight_is_far_off(name: str) -> None:
    layer = a_layer()
    expected = layer.direct()
    layer.arrays[name] = np.ones_like(layer.arrays[name])
    assert max(worst(layer.from_dense(layer.absorbed()), expected).values()) > 0.05


def test_no_one_number_would_do_for_every_token() -> None:
    """The factor depends on the token: no static matrix is latent attention."""
    layer = a_layer(bias=False)
    dense, expected = layer.absorbed(), layer.direct()["v"]
    static = layer.from_dense(dense, scaled=False)["v"]
    best = (static * expected).sum() / (static**2).sum()
    assert np.abs(best * static - expected).max() / np.abs(expected).max() > 0.1


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_arrays_of_another_type_are_computed_in_float32(dtype: Any) -> None:
    layer = a_layer()
    narrow = {name: None if v is None else v.astype(np.float16) for name, v in layer.arrays.items()}
    layer.arrays = {name: None if v is None else v.astype(np.float32) for name, v in narrow.items()}
    expected = layer.absorbed()
    layer.arrays = {name: None if v is None else v.astype(dtype) for name, v in narrow.items()}
    found = layer.absorbed()
    for name in ("q", "k", "v", "latent", "q_bias", "k_bias", "v_bias", "latent_bias"):
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize(
    "name", ["q_a", "q_a_norm", "q_b", "kv_a", "kv_a_norm", "kv_b", "q_a_bias", "kv_a_bias"]
)
def test_an_array_that_does_not_fit_is_refused_by_name(name: str) -> None:
    for wrong in (a_layer().arrays[name][:-1], a_layer().arrays[name][None]):
        layer = a_layer()
        layer.arrays[name] = wrong
        with pytest.raises(MetadataError) as caught:
            layer.absorbed()
        assert caught.value.field == name


@pytest.mark.parametrize("name", ["q_a", "q_a_norm"])
def test_a_missing_factor_is_refused_by_name(name: str) -> None:
    layer = a_layer()
    layer.arrays[name] = None
    with pytest.raises(MetadataError) as caught:
        layer.absorbed()
    assert caught.value.field == name


@pytest.mark.parametrize("name", ["q_a", "q_a_norm", "q_a_bias"])
def test_a_factor_that_the_geometry_lacks_is_refused_by_name(name: str) -> None:
    layer = a_layer(None)
    layer.arrays[name] = a_layer().arrays[name]
    with pytest.raises(MetadataError) as caught:
        layer.absorbed()
    assert caught.value.field == name
