"""Checkpoints as other people's packages read them: the `gguf` package, and `safetensors` with `ml_dtypes`.

Nothing here uses wvindex's own header parsers, tables or kernels to find or decode a tensor's bytes. wvindex
reads the headers first all the same, so that one which is made to harm is refused before a package sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from wvindex.errors import UndecodableType
from wvindex.sources.base import Source, TensorInfo
from wvindex.sources.files import pread_into
from wvindex.verifying.witness_maxtext import MaxTextWitness, Reader

GGUF: Final = "gguf package"
SAFETENSORS: Final = "safetensors and ml_dtypes"
TENSORSTORE: Final = "TensorStore and NumPy"

Decoder = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""From encoded rows (n_rows, row_bytes) to values (n_rows, n_values): float32 where packed, else plain."""

_GGUF_NUMBERS: Final[Mapping[str, Any]] = {
    "F64": np.float64,
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
}
"""Types that GGUFReader gives as NumPy arrays of this dtype, and its `dequantize` does not know."""

_SAFETENSORS_DTYPES: Final[Mapping[str, Any]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BOOL": np.bool_,
}
"""https://huggingface.co/docs/safetensors: dtypes of the header."""


@dataclass(frozen=True)
class WitnessTensor:
    """A tensor as another package finds it.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Outermost first.
    encoding : str
    block : (int, int)
        Values and bytes of a block.
    file : Path
    offset, nbytes : int
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    block: tuple[int, int]
    file: Path
    offset: int
    nbytes: int

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of so many values."""
        return width // self.block[0] * self.block[1]


@dataclass(frozen=True)
class Witness:
    """A checkpoint as another package reads it.

    Attributes
    ----------
    decoder : str
        Whose it is.
    tensors : mapping of str to WitnessTensor
    decoder_of : callable
        Gives the decoder of an encoding.
    notes : tuple of str
        Files that the package cannot read, and why; their tensors are then found by wvindex's own parser.
    reader : callable or None
        Reads rows where a tensor's are no run of a file's bytes.
    """

    decoder: str
    tensors: Mapping[str, WitnessTensor]
    decoder_of: Callable[[str], Decoder | None]
    notes: tuple[str, ...] = ()
    reader: Reader | None = None

    def read(self, name: str, width: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Read rows [start, stop) of a tensor seen as rows of `width` values, shape (n, row_bytes)."""
        if self.reader is not None:
            return self.reader(name, width, start, stop)
        tensor = self.tensors[name]
        row_bytes = tensor.row_bytes(width)
        rows = np.empty((stop - start, row_bytes), np.uint8)
        with tensor.file.open("rb", buffering=0) as file:
            pread_into(file.fileno(), tensor.file, tensor.offset + start * row_bytes, rows.reshape(-1).data)
        return rows

    def decode(self, name: str, raw: NDArray[np.uint8]) -> NDArray[Any]:
        """Decode rows of a tensor, without any scales.

        Raises
        ------
        UndecodableType
            If the package has no decoder for its type.
        """
        encoding = self.tensors[name].encoding
        decoder = self.decoder_of(encoding)
        if decoder is None:
            raise UndecodableType(f"the {self.decoder} cannot decode this type", found=encoding)
        with np.errstate(all="ignore"):
            return decoder(raw)


def witness_of(source: Source) -> Witness:
    """Read a checkpoint's headers, which wvindex found sound, by the package of its format."""
    if source.format == "maxtext":
        reader = MaxTextWitness(source).read
        own = {info.name: _own(info) for info in source.tensors()}
        return Witness(TENSORSTORE, own, _safetensors_decoder, reader=reader)
    decoder = GGUF if source.format == "gguf" else SAFETENSORS
    read = _gguf_tensors if source.format == "gguf" else _safetensors_tensors
    by_file: dict[Path, list[TensorInfo]] = {}
    for info in source.tensors():
        by_file.setdefault(info.file, []).append(info)
    tensors: dict[str, WitnessTensor] = {}
    notes = []
    for file, infos in by_file.items():
        try:
            found = read(file)
        except (ValueError, LookupError, OverflowError, SafetensorError) as error:
            notes.append(f"{file.name}: not to be read by the {decoder}: {error}")
            found = [_own(info) for info in infos]
        tensors |= {tensor.name: tensor for tensor in found}
    decoder_of = _gguf_decoder if source.format == "gguf" else _safetensors_decoder
    return Witness(decoder, tensors, decoder_of, tuple(notes))


def _gguf_tensors(file: Path) -> list[WitnessTensor]:
    """Give the tensors of a GGUF file; its map of the file is let go of, so no data is read through it."""
    return [
        WitnessTensor(
            name=tensor.name,
            shape=tuple(int(n) for n in reversed(tensor.shape.tolist())),
            encoding=tensor.tensor_type.name,
            block=gguf.GGML_QUANT_SIZES[tensor.tensor_type],
            file=file,
            offset=int(tensor.data_offset),
            nbytes=int(tensor.n_bytes),
        )
        for tensor in gguf.GGUFReader(file).tensors
    ]


def _own(info: TensorInfo) -> WitnessTensor:
    block = (info.encoding.block_size, info.encoding.type_size)
    return WitnessTensor(
        info.name, info.shape, info.encoding.name, block, info.file, info.offset, info.nbytes
    )


def _gguf_decoder(encoding: str) -> Decoder | None:
    if encoding in _GGUF_NUMBERS:
        return lambda raw: raw.view(_GGUF_NUMBERS[encoding])
    kind = gguf.GGMLQuantizationType.__members__.get(encoding)
    if kind is None:
        return None
    size = gguf.GGML_QUANT_SIZES[kind][1]
    try:
        gguf.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return None

    def decode(raw: NDArray[np.uint8]) -> NDArray[Any]:
        # As one long row: the package loops in Python over groups of 16.
        return np.asarray(gguf.dequantize(raw.reshape(1, -1), kind)).reshape(len(raw), -1)

    return decode


def _safetensors_tensors(file: Path) -> list[WitnessTensor]:
    """Give the tensors of a safetensors file.

    The package tells no offsets, but the order: its data has no holes, so they follow from the sizes.
    """
    found = []
    with file.open("rb") as raw:
        offset = 8 + int.from_bytes(raw.read(8), "little")
    with safe_open(file, "numpy") as opened:
        for name in opened.offset_keys():
            part = opened.get_slice(name)
            dtype, shape = part.get_dtype(), tuple(part.get_shape())
            itemsize = np.dtype(_SAFETENSORS_DTYPES[dtype]).itemsize
            nbytes = math.prod(shape) * itemsize
            found.append(WitnessTensor(name, shape, dtype, (1, itemsize), file, offset, nbytes))
            offset += nbytes
    return found


def _safetensors_decoder(encoding: str) -> Decoder | None:
    dtype = _SAFETENSORS_DTYPES.get(encoding)
    return None if dtype is None else lambda raw: raw.view(dtype)
