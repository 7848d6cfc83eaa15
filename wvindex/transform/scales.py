"""FP8 codes and the scales that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wvindex.errors import MetadataError, TensorLayoutError, WvindexError
from wvindex.sources.base import Source, TensorInfo

SUFFIX: Final = "_scale_inv"
"""DeepSeek's name for the factor that codes are multiplied by."""

_CODES: Final = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALES: Final = frozenset({"F32", "BF16", "F16"})


@dataclass(frozen=True)
class Scales:
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
    of : mapping of str to Scales
        By the codes' name.
    scales_of : mapping of str to str
        The codes' name by the scales'.
    """

    of: Mapping[str, Scales]
    scales_of: Mapping[str, str]


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
    pairs = {name: name.removesuffix(SUFFIX) for name in by_name if name.endswith(SUFFIX)}
    pairs = {name: owner for name, owner in pairs.items() if _has_codes(by_name.get(owner))}
    quantization = source.config().get("quantization_config")
    of: dict[str, Scales] = {}
    refused: dict[str, WvindexError] = {}
    for name, owner in pairs.items():
        try:
            of[owner] = _scales(by_name[owner], by_name[name], quantization)
        except WvindexError as error:
            refused[owner] = error
    foreign, scaled = _foreign_scales(by_name), set(pairs.values())
    for info in by_name.values():
        if _has_codes(info) and info.name not in scaled and (quantization or info.name in foreign):
            refused[info.name] = MetadataError(
                "FP8 codes have no scales of the kind that is known",
                file=info.file,
                tensor=info.name,
                expected=f"{info.name}{SUFFIX}",
                found=foreign.get(info.name, "nothing"),
            )
    return ScaledTensors(of, pairs), refused


def _foreign_scales(by_name: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Give, by weight, a tensor that looks like its scale but is no `SUFFIX`: ``q_proj.weight_scale``."""
    found = {}
    for name in by_name:
        module, _, last = name.rpartition(".")
        if "scale" in last and not name.endswith(SUFFIX):
            found[f"{module}.weight"] = name
    return found


def _has_codes(info: TensorInfo | None) -> bool:
    return info is not None and info.encoding.name in _CODES and len(info.shape) > 1


def _scales(codes: TensorInfo, scales: TensorInfo, quantization: Any) -> Scales:
    block = quantization.get("weight_block_size") if isinstance(quantization, Mapping) else None
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise MetadataError(
            "the block size of FP8 scales is not stated",
            file=codes.file,
            tensor=codes.name,
            field="quantization_config.weight_block_size",
            expected="two positive integers",
            found="nothing" if block is None else block,
        )
    rows, columns = block
    expected = (*codes.shape[:-2], -(-codes.shape[-2] // rows), -(-codes.shape[-1] // columns))
    if scales.shape != expected or scales.encoding.name not in _SCALES:
        raise TensorLayoutError(
            "FP8 scales do not fit their codes",
            file=scales.file,
            tensor=scales.name,
            expected=f"{expected} of F32, BF16 or F16",
            found=f"{scales.shape} of {scales.encoding.name}",
        )
    return Scales(scales, (rows, columns))
