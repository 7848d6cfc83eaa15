"""FP8 codes meet their scales, or are refused by name."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.memory_source import MemorySource
from wvindex.errors import MetadataError, TensorLayoutError
from wvindex.transform.scales import attach_scales

CODES: NDArray[Any] = np.zeros((300, 200), ml_dtypes.float8_e4m3fn)
SCALES = np.ones((3, 2), np.float32)
CONFIG = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def source(config: dict[str, Any] | None = None, **tensors: NDArray[Any]) -> MemorySource:
    return MemorySource(tensors, CONFIG if config is None else config)


def test_codes_have_the_scales_beside_them() -> None:
    scaled, refused = attach_scales(source(w=CODES, w_scale_inv=SCALES, norm=np.ones(4, np.float32)))
    assert refused == {}
    assert scaled.of["w"].block == (128, 128)
    assert scaled.of["w"].info.name == "w_scale_inv"
    assert scaled.scales_of == {"w_scale_inv": "w"}
    assert set(scaled.of) == {"w"}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_scales_may_be_of_several_types(dtype: Any) -> None:
    assert attach_scales(source(w=CODES, w_scale_inv=SCALES.astype(dtype)))[1] == {}


def test_a_stack_has_a_stack_of_scales() -> None:
    stack, scales = np.stack([CODES] * 4), np.stack([SCALES] * 4)
    assert attach_scales(source(w=stack, w_scale_inv=scales))[1] == {}
    _, refused = attach_scales(source(w=stack, w_scale_inv=scales[:3]))
    assert isinstance(refused["w"], TensorLayoutError)


def test_codes_without_scales_are_refused() -> None:
    _, refused = attach_scales(source(w=CODES))
    error = refused["w"]
    assert isinstance(error, MetadataError)
    assert (error.tensor, error.expected) == ("w", "w_scale_inv")


def test_codes_of_a_checkpoint_that_is_not_quantized_are_plain_numbers() -> None:
    scaled, refused = attach_scales(source({}, w=CODES))
    assert (scaled.of, refused) == ({}, {})


@pytest.mark.parametrize(
    "quantization",
    [
        None,
        "fp8",
        {},
        {"weight_block_size": None},
        {"weight_block_size": 128},
        {"weight_block_size": [128]},
        {"weight_block_size": [128, 0]},
        {"weight_block_size": [128, -1]},
        {"weight_block_size": [128, 128.0]},
        {"weight_block_size": [True, 128]},
        {"weight_block_size": ["128", "128"]},
    ],
)
def test_the_block_size_is_stated_never_guessed(quantization: Any) -> None:
    _, refused = attach_scales(source({"quantization_config": quantization}, w=CODES, w_scale_inv=SCALES))
    error = refused["w"]
    assert error.field == "quantization_config.weight_block_size"


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (3, 3), (6,), (1, 3, 2), ()])
def test_scales_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    _, refused = attach_scales(source(w=CODES, w_scale_inv=np.ones(shape, np.float32)))
    error = refused["w"]
    assert error.tensor == "w_scale_inv"
    assert "(3, 2)" in str(error.expected)


def test_scales_of_another_kind_are_refused() -> None:
    _, refused = attach_scales(source(w=CODES, w_scale_inv=SCALES.astype(np.int32)))
    assert isinstance(refused["w"], TensorLayoutError)


def test_a_name_that_only_looks_like_scales_is_a_tensor() -> None:
    plain = source(w=np.ones((4, 4), np.float32), w_scale_inv=SCALES, lonely_scale_inv=SCALES)
    scaled, refused = attach_scales(plain)
    assert (scaled.of, scaled.scales_of, refused) == ({}, {}, {})
