"""FP8 codes and the scales that belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeGuard

from wvindex.errors import MetadataError, TensorLayoutError, WvindexError
from wvindex.sources.base import Source, TensorInfo

SUFFIX: Final = "_scale_inv"
"""DeepSeek's name for the factor that codes are multiplied by."""

_CODES: Final = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALES: Final = frozenset({"F32", "BF16", "F16"})


class Scales(NamedTuple):
    """The scales of one tensor.

    Attributes
    ----------
    info : TensorInfo
        Shape: the codes' own, each of the last two dimensions divided by the block's and rounded up.
    block : (int, int)
        Rows and columns of a block.
    """

    info: TensorInfo
    block: tuple[int, int]


@dataclass(frozen=True)
class ScaledTensors:
    """Which tensors have scales.

    Attributes
    ----------
    of : dict of str to Scales
        By the codes' name.
    scales_of : dict of str to str
        The codes' name by the scales'.
    """

    of: dict[str, Scales]
    scales_of: dict[str, str]


def attach_scales(source: Source) -> tuple[ScaledTensors, dict[str, WvindexError]]:
    """Pair FP8 tensors with their scales.

    Returns
    -------
    scaled : ScaledTensors
    refused : dict of str to WvindexError
        FP8 tensors that cannot be read: no scales though the checkpoint is quantized, no block size, or
        scales of the wrong shape.
    """
    by_name = {info.name: info for info in source.tensors()}
    codes = [info for info in by_name.values() if info.encoding.name in _CODES and len(info.shape) > 1]
    quantization = source.config().get("quantization_config")
    stated = quantization.get("weight_block_size") if isinstance(quantization, Mapping) else None
    block = (stated[0], stated[1]) if _is_block(stated) else None
    scaled = ScaledTensors({}, {})
    refused: dict[str, WvindexError] = {}
    alone: list[TensorInfo] = []
    for info in codes:
        name = info.name
        scales = by_name.get(name + SUFFIX)
        if scales is None:
            alone.append(info)
            continue
        scaled.scales_of[scales.name] = name
        if block is None:
            refused[name] = _no_block(info, stated)
        elif scales.encoding.name in _SCALES and scales.shape == _scale_shape(info.shape, block):
            scaled.of[name] = Scales(scales, block)
        else:
            refused[name] = _misfit(info, scales, block)
    return scaled, refused | _without_scales(alone, by_name, is_quantized=bool(quantization))


def _without_scales(
    alone: Sequence[TensorInfo], by_name: Mapping[str, TensorInfo], *, is_quantized: bool
) -> dict[str, WvindexError]:
    """Refuse codes that should have scales: a tensor looks like them, or the checkpoint is quantized."""
    foreign = _foreign_scales(by_name) if alone else {}
    return {
        info.name: MetadataError(
            "FP8 codes have no scales of the kind that is known",
            file=info.file,
            tensor=info.name,
            expected=f"{info.name}{SUFFIX}",
            found=foreign.get(info.name, "nothing"),
        )
        for info in alone
        if is_quantized or info.name in foreign
    }


def _foreign_scales(by_name: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Give, by weight, a tensor that looks like its scale but is no `SUFFIX`: ``q_proj.weight_scale``."""
    found = {}
    for name in by_name:
        module, _, last = name.rpartition(".")
        if "scale" in last and not name.endswith(SUFFIX):
            found[f"{module}.weight"] = name
    return found


def _is_block(stated: object) -> TypeGuard[list[int]]:
    return isinstance(stated, list) and len(stated) == 2 and all(type(n) is int and n > 0 for n in stated)


@lru_cache(maxsize=256)
def _scale_shape(codes: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    return (*codes[:-2], -(-codes[-2] // block[0]), -(-codes[-1] // block[1]))


def _no_block(codes: TensorInfo, stated: object) -> MetadataError:
    return MetadataError(
        "the block size of FP8 scales is not stated",
        file=codes.file,
        tensor=codes.name,
        field="quantization_config.weight_block_size",
        expected="two positive integers",
        found="nothing" if stated is None else stated,
    )


def _misfit(codes: TensorInfo, scales: TensorInfo, block: tuple[int, int]) -> TensorLayoutError:
    return TensorLayoutError(
        "FP8 scales do not fit their codes",
        file=scales.file,
        tensor=scales.name,
        expected=f"{_scale_shape(codes.shape, block)} of F32, BF16 or F16",
        found=f"{scales.shape} of {scales.encoding.name}",
    )
