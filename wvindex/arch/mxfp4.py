"""Experts in MXFP4 as safetensors has them: codes in one tensor, the exponents of their blocks in another.

OCP Microscaling Formats 1.0: 32 values of four bits (E2M1) share one exponent (E8M0). GPT-OSS stores the
codes as U8 ``X_blocks`` (experts, out, in / 32, 16), value 2i of a block in the low half of byte i and 2i + 1
in the high one, and the exponents as U8 ``X_scales`` (experts, out, in / 32).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wvindex.arch.family import Family
from wvindex.errors import MetadataError, TensorLayoutError, WvindexError
from wvindex.formats.encodings import ENCODINGS, Encoding
from wvindex.sources.base import Source, TensorInfo

CODES: Final = "_blocks"
EXPONENTS: Final = "_scales"

MXFP4: Final[Encoding] = ENCODINGS["MXFP4"]
BLOCK_CODES: Final = 16
"""Bytes that hold the codes of a block."""


@dataclass(frozen=True)
class PackedPair:
    """A stack of matrices in two tensors.

    Attributes
    ----------
    weight : TensorInfo
        The codes' tensor as what it stands for: shape (experts, out, in), in MXFP4. Its place in the file,
        and `nbytes`, are the codes' own.
    exponents : TensorInfo
    """

    weight: TensorInfo
    exponents: TensorInfo


def packed_pairs(
    source: Source, family: Family | None
) -> tuple[Mapping[str, PackedPair], dict[str, WvindexError]]:
    """Pair codes with their exponents, in a family that stores experts so.

    Returns
    -------
    pairs : mapping of str to PackedPair
        By the codes' name.
    refused : dict of str to WvindexError
        Codes without exponents, or of another shape than these.
    """
    pairs: dict[str, PackedPair] = {}
    refused: dict[str, WvindexError] = {}
    if family is None or not family.mxfp4_experts or source.format == "gguf":
        return pairs, refused
    by_name = {info.name: info for info in source.tensors()}
    for info in by_name.values():
        if info.name.endswith(CODES) and info.encoding.name == "U8":
            try:
                pairs[info.name] = _pair(info, by_name.get(info.name.removesuffix(CODES) + EXPONENTS))
            except WvindexError as error:
                refused[info.name] = error
    return pairs, refused


def _pair(codes: TensorInfo, exponents: TensorInfo | None) -> PackedPair:
    expected = f"{codes.name.removesuffix(CODES)}{EXPONENTS}"
    if exponents is None:
        raise MetadataError(
            "MXFP4 codes have no exponents",
            file=codes.file,
            tensor=codes.name,
            expected=expected,
            found="nothing",
        )
    if len(codes.shape) != 4 or codes.shape[-1] != BLOCK_CODES:
        raise TensorLayoutError(
            "MXFP4 codes are not in blocks",
            file=codes.file,
            tensor=codes.name,
            expected=f"(experts, out, blocks, {BLOCK_CODES})",
            found=codes.shape,
        )
    if exponents.shape != codes.shape[:-1] or exponents.encoding.name != "U8":
        raise TensorLayoutError(
            "exponents do not fit their MXFP4 codes",
            file=exponents.file,
            tensor=exponents.name,
            expected=f"{codes.shape[:-1]} of U8",
            found=f"{exponents.shape} of {exponents.encoding.name}",
        )
    *outer, blocks, _ = codes.shape
    return PackedPair(codes._replace(shape=(*outer, blocks * MXFP4.block_size), encoding=MXFP4), exponents)
