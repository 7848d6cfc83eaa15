"""gqa_attention_asym equals a plain float64 softmax, whatever the heads, masks and extras."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wvindex.errors import SelectionError, UsageError
from wvindex.infer import attention
from wvindex.infer.attention import gqa_attention_asym

Array = NDArray[Any]


def plain_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    num_q_heads: int,
    num_kv_heads: int,
    qk_head_dim: int,
    v_head_dim: int,
    scale: float,
    causal: bool = True,
    q_offset: int = 0,
    softcap: float | None = None,
    window: int | None = None,
    sinks: Array | None = None,
) -> Array:
    """Attention as in a textbook: one head and one query at a time, all keys at once, in float64."""
    out = np.zeros((len(q), num_q_heads, v_head_dim))
    for h in range(num_q_heads):
        g = h // (num_q_heads // num_kv_heads)
        for t in range(len(q)):
            seen = [
                j
                for j in range(len(k))
                if (not causal or j <= q_offset + t) and (window is None or q_offset + t - j < window)
            ]
            query = q[t, h * qk_head_dim : (h + 1) * qk_head_dim].astype(np.float64)
            scores = k[seen, g * qk_head_dim : (g + 1) * qk_head_dim].astype(np.float64) @ query * scale
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            if sinks is not None:
                scores = np.append(scores, sinks[h].astype(np.float64))
            if not len(scores):
                continue
            p = np.exp(scores - scores.max())
            p = (p / p.sum())[: len(seen)]
            out[t, h] = p @ v[seen, g * v_head_dim : (g + 1) * v_head_dim].astype(np.float64)
    return out.reshape(len(q), -1)


@dataclass
class Case:
    q: Array
    k: Array
    v: Array
    options: dict[str, Any]

    def run(self, **changes: Any) -> Array:
        return gqa_attention_asym(self.q, self.k, self.v, **self.options | changes)

    def plain(self) -> Array:
        return plain_attention(self.q, self.k, self.v, **self.options)


def make_case(
    seed: int, *, length: int, n_keys: int, kv: int, group: int, qk: int, vd: int, **options: Any
) -> Case:
    rng = np.random.default_rng(seed)
    heads = {"num_q_heads": kv * group, "num_kv_heads": kv, "qk_head_dim": qk, "v_head_dim": vd}
    return Case(
        rng.standard_normal((length, kv * group * qk)).astype(np.float32) * 2,
        rng.standard_normal((n_keys, kv * qk)).astype(np.float32) * 2,
        rng.standard_normal((n_keys, kv * vd)).astype(np.float32),
        heads | {"scale": qk**-0.5} | options,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 1 << 30))
    with_sinks = draw(st.booleans())
    sinks = np.random.default_rng(seed + 1).standard_normal(kv * group).astype(np.float32) * 3
    return make_case(
        seed,
        length=draw(st.integers(1, 14)),
        n_keys=draw(st.integers(0, 20)),
        kv=kv,
        group=group,
        qk=draw(st.integers(1, 9)),
        vd=draw(st.integers(1, 9)),
        causal=draw(st.booleans()),
        q_offset=draw(st.integers(0, 25)),
        softcap=draw(st.none() | st.floats(0.5, 50)),
        window=draw(st.none() | st.integers(1, 20)),
        sinks=sinks if with_sinks else None,
    )


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles so small that a dozen tokens need several, on several threads, with ragged last ones."""
    monkeypatch.setattr(attention, "QUERY_TILE", 4)
    monkeypatch.setattr(attention, "KEY_TILE", 3)
    monkeypatch.setattr(attention, "TILE_SCORES", 24)
    monkeypatch.setattr(attention, "PARALLEL_SCORES", 1)


@given(case=cases())
def test_it_equals_a_plain_softmax(case: Case) -> None:
    np.testing.assert_allclose(case.run(), case.plain(), rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("small_tiles")
@given(case=cases())
def test_it_equals_a_plain_softmax_over_many_tiles(case: Case) -> None:
    np.testing.assert_allclose(case.run(), case.plain(), rtol=2e-5, atol=2e-5)


@given(case=cases())
def test_the_result_is_float32_of_the_right_shape_and_finite(case: Case) -> None:
    out = case.run()
    assert out.dtype == np.float32
    assert out.shape == (len(case.q), case.options["num_q_heads"] * case.options["v_head_dim"])
    assert np.isfinite(out).all()


@pytest.mark.parametrize("options", [{}, {"window": 200}, {"softcap": 5.0}, {"q_offset": 300}])
def test_real_tiles_agree_with_a_plain_softmax(options: dict[str, Any]) -> None:
    n_keys = 700 + options.get("q_offset", 0)
    case = make_case(3, length=700, n_keys=n_keys, kv=1, group=1, qk=8, vd=4, **options)
    np.testing.assert_allclose(case.run(), case.plain(), rtol=2e-5, atol=2e-5)


def test_a_query_is_not_moved_by_what_comes_after_it() -> None:
    case = make_case(4, length=600, n_keys=600, kv=2, group=2, qk=8, vd=6)
    before = case.run()
    case.k[400:], case.v[400:] = 1e3, -1e3
    after = case.run()
    np.testing.assert_array_equal(after[:400], before[:400])
    assert (after[400:] != before[400:]).any(axis=1).all()


def test_the_first_causal_query_gives_the_first_value() -> None:
    case = make_case(5, length=3, n_keys=3, kv=1, group=1, qk=4, vd=5)
    np.testing.assert_allclose(case.run()[0], case.v[0], rtol=1e-6)


def test_equal_head_dims_are_ordinary_attention() -> None:
    """The kv heads repeated for each query of their group, then one einsum: the usual formulation."""
    case = make_case(6, length=17, n_keys=17, kv=2, group=3, qk=8, vd=8)
    q = case.q.reshape(17, 6, 8).astype(np.float64)
    k, v = (np.repeat(a.reshape(17, 2, 8).astype(np.float64), 3, axis=1) for a in (case.k, case.v))
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(8)
    scores[:, ~np.tri(17, dtype=bool)] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v).reshape(17, 48)
    np.testing.assert_allclose(case.run(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kv", "group"), [(4, 1), (2, 2), (1, 4)])
def test_grouped_heads_equal_repeated_heads(kv: int, group: int) -> None:
    case = make_case(7, length=9, n_keys=9, kv=kv, group=group, qk=6, vd=5)
    k = np.repeat(case.k.reshape(9, kv, 6), group, axis=1).reshape(9, -1)
    v = np.repeat(case.v.reshape(9, kv, 5), group, axis=1).reshape(9, -1)
    repeated = gqa_attention_asym(case.q, k, v, **case.options | {"num_kv_heads": kv * group})
    np.testing.assert_allclose(case.run(), repeated, rtol=1e-5, atol=1e-6)


def test_queries_at_an_offset_equal_the_end_of_the_whole() -> None:
    case = make_case(8, length=40, n_keys=40, kv=2, group=2, qk=6, vd=5, window=11)
    part = gqa_attention_asym(case.q[29:], case.k, case.v, **case.options | {"q_offset": 29})
    np.testing.assert_allclose(part, case.run()[29:], rtol=1e-5, atol=1e-6)


def test_a_window_of_one_sees_itself_alone() -> None:
    case = make_case(9, length=12, n_keys=12, kv=1, group=1, qk=4, vd=4, window=1)
    np.testing.assert_allclose(case.run(), case.v, rtol=1e-6)


def test_keys_out_of_the_window_are_not_touched() -> None:
    case = make_case(10, length=1, n_keys=5000, kv=1, group=1, qk=4, vd=4, window=8, q_offset=4999)
    case.k[:4992], case.v[:4992] = np.nan, np.nan
    assert np.isfinite(case.run()).all()


@pytest.mark.parametrize("sinks", [None, np.array([0.5, -1.0], np.float32)])
def test_a_query_that_sees_no_key_gives_zeros(sinks: Array | None) -> None:
    case = make_case(11, length=4, n_keys=5, kv=2, group=1, qk=4, vd=3, window=2, q_offset=9, sinks=sinks)
    np.testing.assert_array_equal(case.run(), np.zeros((4, 6)))


def test_a_sink_of_minus_infinity_is_no_sink() -> None:
    case = make_case(12, length=6, n_keys=6, kv=1, group=2, qk=4, vd=3)
    np.testing.assert_array_equal(case.run(sinks=np.full(2, -np.inf)), case.run())


def test_large_scores_do_not_overflow() -> None:
    case = make_case(13, length=30, n_keys=30, kv=1, group=1, qk=4, vd=3, scale=1e4)
    assert np.isfinite(case.run()).all()


def test_no_queries_give_no_rows() -> None:
    case = make_case(14, length=0, n_keys=3, kv=1, group=1, qk=4, vd=3)
    assert case.run().shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_q_heads": 3}, "num_q_heads"),
        ({"num_kv_heads": 0}, "num_kv_heads"),
        ({"qk_head_dim": 0}, "qk_head_dim"),
        ({"v_head_dim": -1}, "v_head_dim"),
        ({"scale": float("nan")}, "scale"),
        ({"softcap": 0.0}, "softcap"),
        ({"window": 0}, "window"),
        ({"sinks": np.zeros(3)}, "sinks"),
        ({"qk_head_dim": 5}, "q"),
        ({"v_head_dim": 4}, "v"),
    ],
)
def test_numbers_that_do_not_fit_are_named(changes: dict[str, Any], field: str) -> None:
    case = make_case(15, length=4, n_keys=4, kv=2, group=2, qk=4, vd=3)
    with pytest.raises(UsageError) as raised:
        case.run(**changes)
    assert raised.value.field == field


def test_arrays_that_do_not_fit_are_named_with_both_shapes() -> None:
    case = make_case(16, length=4, n_keys=4, kv=2, group=2, qk=4, vd=3)
    with pytest.raises(SelectionError, match=r"field: k, expected: \(rows, 8\), found: \(4, 7\)"):
        gqa_attention_asym(case.q, case.k[:, :7], case.v, **case.options)
    with pytest.raises(SelectionError, match=r"expected: 4, found: 3"):
        gqa_attention_asym(case.q, case.k, case.v[:3], **case.options)
    with pytest.raises(SelectionError, match=r"field: q"):
        gqa_attention_asym(case.q[0], case.k, case.v, **case.options)


MEMORY_PROBE = """
import numpy as np
from tests.support.memory import peak_memory
from wvindex.infer.attention import gqa_attention_asym
n, d = 32768, 16
q, k, v = np.random.default_rng(0).standard_normal((3, n, d), np.float32)
out = gqa_attention_asym(q, k, v, num_q_heads=1, num_kv_heads=1, qk_head_dim=d, v_head_dim=d, scale=d**-0.5)
assert np.isfinite(out).all()
print(peak_memory())
"""


def test_one_head_of_32k_by_32k_stays_under_256_mib() -> None:
    """Of the whole process, interpreter and NumPy included; the scores alone would be 4 GiB."""
    repository = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE], cwd=repository, capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 256 << 20
