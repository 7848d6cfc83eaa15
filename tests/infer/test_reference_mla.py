"""The yardstick equals transformers' attention, and each of its norms matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wvindex.arch.config import MLA, Rope
from wvindex.infer.reference_mla import reference_mla

GOLDEN = Path(__file__).parents[1] / "golden" / "reference_mla.npz"
HEADS, START = 3, 45
CASES = ("v3", "v3_halves", "v2_lite")


def golden(case: str) -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN) as arrays:
        return {name.partition("/")[2]: arrays[name] for name in arrays if name.startswith(f"{case}/")}


def attend(case: str, arrays: dict[str, NDArray[Any]], dtype: Any = np.float64) -> NDArray[Any]:
    mla = MLA(
        q_lora_rank=None if case == "v2_lite" else 24,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=6,
        v_head_dim=12,
        norm_eps=1e-6,
        interleaved_rope=case != "v3_halves",
    )
    rope = Rope(
        rope_type="yarn",
        rope_theta=1e4,
        rotary_dim=6,
        inv_freq=tuple(arrays["inv_freq"].tolist()),
        attention_factor=float(arrays["attention_factor"]),
    )
    return reference_mla(
        arrays["x"].astype(dtype),
        {name: array.astype(dtype) for name, array in arrays.items()},
        mla,
        num_heads=HEADS,
        rope=rope,
        scale=float(arrays["scale"]),
        q_offset=START,
    )


@pytest.mark.parametrize("case", CASES)
def test_it_equals_transformers(case: str) -> None:
    arrays = golden(case)
    np.testing.assert_allclose(attend(case, arrays), arrays["out"], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32(case: str) -> None:
    arrays = golden(case)
    out = attend(case, arrays, np.float32)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, arrays["out"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_split_key_and_value_factors_are_the_same(case: str) -> None:
    """As newer GGUF files have them: attn_k_b transposed, attn_v_b not."""
    arrays = golden(case)
    expected = attend(case, arrays)
    both = arrays.pop("kv_b_proj").reshape(HEADS, 8 + 12, 16)
    arrays["k_b_proj"] = both[:, :8].transpose(0, 2, 1)
    arrays["v_b_proj"] = both[:, 8:]
    np.testing.assert_allclose(attend(case, arrays), expected, rtol=1e-10)


def fused(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Put both down-projections into one, as serving engines and MaxText have them."""
    made = dict(arrays)
    for kind in ("", ".bias"):
        names = [f"{name}{kind}" for name in ("q_a_proj", "kv_a_proj_with_mqa") if f"{name}{kind}" in made]
        if names:
            made[f"fused_qkv_a_proj{kind}"] = np.concatenate([made.pop(name) for name in names])
    return made


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", ["v3", "v3_halves"])
def test_one_fused_down_projection_is_the_same(case: str, dtype: Any) -> None:
    arrays = golden(case)
    found = attend(case, fused(arrays), dtype)
    np.testing.assert_allclose(found, attend(case, arrays, dtype), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, arrays["out"], rtol=1e-4, atol=1e-5)


def test_the_fused_down_projection_is_what_is_used() -> None:
    arrays = fused(golden("v3"))
    assert "q_a_proj" not in arrays
    arrays["fused_qkv_a_proj"][:24] *= 2  # the norm takes a factor away, not the bias beside it
    assert np.abs(attend("v3", arrays) - arrays["out"]).max() > 0.01


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (c, n)
        for c in CASES
        for n in ("q_a_layernorm", "kv_a_layernorm")
        if (c, n) != ("v2_lite", "q_a_layernorm")
    ],
)
def test_a_norm_weight_that_is_left_out_shows(case: str, name: str) -> None:
    arrays = golden(case)
    arrays[name] = np.ones_like(arrays[name])
    assert np.abs(attend(case, arrays) - arrays["out"]).max() > 0.01


@pytest.mark.parametrize("name", ["q_a_proj.bias", "kv_a_proj_with_mqa.bias"])
def test_a_bias_that_is_left_out_shows(name: str) -> None:
    arrays = golden("v3")
    del arrays[name]
    assert np.abs(attend("v3", arrays) - arrays["out"]).max() > 0.01


def test_the_golden_rope_is_not_trivial() -> None:
    arrays = golden("v3")
    assert arrays["attention_factor"] != 1
    assert arrays["scale"] != pytest.approx(14**-0.5)
