"""A tensor of the result: its name, what it is, and where its bytes come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from wvindex.errors import CatalogError, UnsupportedError, WvindexError
from wvindex.formats.encodings import BF16, F16, F32, FLOAT_ENCODINGS, Encoding
from wvindex.formats.ggml import can_decode
from wvindex.sources.gguf_types import GGML_TYPES
from wvindex.transform.assemble import storage_for
from wvindex.transform.combine import Cast
from wvindex.transform.rows import Rows

GGML_NUMBERS: Final = {name: number for number, name in GGML_TYPES.items()}
"""GGML's numbers of tensor types, by name."""

MAXTEXT_ENCODINGS: Final = frozenset({F32.name, F16.name, BF16.name})
"""What MaxText's parameters may be; codes with scales beside them are none."""


@dataclass(frozen=True)
class OutTensor:
    """One tensor of the result.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Outermost first.
    rows : Rows
        Its encoded rows; of FP8 codes with scales, the codes, whose scales are another tensor.
    file : str
        The source's file that it was in; empty where it was in none.
    scales_of : str
        The tensor that it scales; empty where it is no scale.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows
    file: str = ""
    scales_of: str = ""

    @property
    def encoding(self) -> Encoding:
        """How its values are laid out."""
        return self.rows.encoding

    @property
    def nbytes(self) -> int:
        """Encoded bytes."""
        return math.prod(self.shape[:-1]) * self.encoding.row_bytes(self.shape[-1] if self.shape else 1)

    def read(self, start: int, out: memoryview) -> None:
        """Fill `out` with the tensor's bytes from `start`."""
        width = self.encoding.row_bytes(self.rows.row_values)
        done = 0
        while done < len(out):
            row, inside = divmod(start + done, width)
            whole = (len(out) - done) // width if not inside else 0
            count = whole * width or min(width - inside, len(out) - done)
            span = None if whole else (inside, inside + count)
            self.rows.read_rows(row, row + max(whole, 1), out[done : done + count], span=span)
            done += count


def require_fitting(tensor: OutTensor, file: str) -> OutTensor:
    """Give the tensor, whose rows are as many and as long as its shape says.

    Raises
    ------
    CatalogError
        If they are not: what says the shape and what holds the rows contradict each other.
    """
    rows, shape = tensor.rows, tensor.shape
    found = (rows.n_rows, rows.row_values)
    expected = (math.prod(shape[:-1]), shape[-1] if shape else 1)
    if found != expected:
        raise contradiction(tensor.name, file, f"{expected} rows and values a row", found)
    return tensor


def contradiction(tensor: str, file: str, expected: object, found: object) -> CatalogError:
    """Say that the catalog contradicts itself."""
    return CatalogError(
        "the catalog's ledger, configuration and arrays contradict each other",
        file=file,
        tensor=tensor,
        expected=expected,
        found=found,
    )


def cast_to(tensor: OutTensor, storage: Encoding | None) -> OutTensor:
    """Give a tensor with its values in another encoding, by the rule of builds: vectors are never narrowed.

    Raises
    ------
    UnsupportedError
        If nobody decodes its encoding.
    """
    if storage is None:
        return tensor
    wanted = storage_for({tensor.encoding}, len(tensor.shape), storage)
    if wanted is None:
        return tensor
    encoding = tensor.encoding
    if not encoding.is_plain and encoding.scale_block is None and not can_decode(encoding):
        raise UnsupportedError(
            "this type cannot be decoded, only exported as it is", tensor=tensor.name, found=encoding.name
        )
    return replace(tensor, rows=Cast(tensor.rows, wanted))


def refusal_in(tensor: OutTensor, form: str) -> WvindexError | None:
    """Give why a file of a format cannot hold a tensor; None where it can."""
    name = tensor.encoding.name
    if form == "maxtext" and name not in MAXTEXT_ENCODINGS:
        if tensor.encoding.is_plain and name not in FLOAT_ENCODINGS:
            return UnsupportedError("MaxText's parameters are no integers", tensor=tensor.name, found=name)
        return packed_refusal(tensor.name, tensor.encoding, "MaxText has no such type")
    if form == "gguf" and name not in GGML_NUMBERS:
        return UnsupportedError(
            "GGUF has no such type; give a dtype",
            tensor=tensor.name,
            expected="F32, F16, BF16, or a type of GGML's",
            found=name,
        )
    if form == "gguf" and not tensor.shape:
        return UnsupportedError("GGUF has no scalars", tensor=tensor.name, found=tensor.shape)
    if form == "safetensors" and tensor.encoding.dtype is None:
        return packed_refusal(tensor.name, tensor.encoding)
    return None


def packed_refusal(
    name: str, encoding: Encoding, reason: str = "safetensors has no packed types"
) -> UnsupportedError:
    """Say that a tensor has to be decoded."""
    return UnsupportedError(
        f"{reason}; give a dtype", tensor=name, expected="bfloat16, float16 or float32", found=encoding.name
    )
