"""Zarr v3 array->bytes codecs over encoded rows: GGML blocks as they are, and FP8 codes with their scales.

Chunks are laid out as `wvindex.store.encoded_chunk` says and decode to float32. Row ranges are read and
decoded alone. Writing through the decoded values is refused.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import (
    ArrayBytesCodec,
    ArrayBytesCodecPartialDecodeMixin,
    ArrayBytesCodecPartialEncodeMixin,
)
from zarr.abc.store import RangeByteRequest
from zarr.core.common import parse_named_configuration
from zarr.storage import StorePath

from wvindex.errors import CatalogError, ChunkError, ReadOnlyArray, UndecodableType
from wvindex.formats.encodings import ENCODINGS, Encoding, with_scale_block
from wvindex.store.encoded_chunk import ChunkLayout, RowSelection, split_selection
from wvindex.store.metadata import FP8_CODEC, GGML_CODEC, codec_metadata

if TYPE_CHECKING:
    from zarr.abc.store import ByteGetter
    from zarr.core.array_spec import ArraySpec as ZarrSpec
    from zarr.core.buffer import Buffer, NDBuffer
    from zarr.core.common import JSON
    from zarr.core.indexing import SelectorTuple
    from zarr.dtype import ZDType

__all__ = ["FP8BlockCodec", "GGMLCodec", "codec_metadata"]


class _EncodedRowsCodec(
    ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin, ArrayBytesCodecPartialEncodeMixin
):
    """What zarr asks of an array->bytes codec, answered from the layout of a chunk's encoded rows."""

    is_fixed_size = False
    edge_rows: int | None

    @property
    @abstractmethod
    def encoding(self) -> Encoding:
        """The encoding of the rows."""

    def _layout(self, shape: tuple[int, ...]) -> ChunkLayout:
        return ChunkLayout(self.encoding, shape, self.edge_rows or math.prod(shape[:-1]))

    def validate(self, *, shape: tuple[int, ...], dtype: ZDType[Any, Any], chunk_grid: Any) -> None:
        """Check the array's metadata: float32, chunks of whole rows of one matrix, the edge as declared.

        Raises
        ------
        CatalogError
            If the metadata contradicts the codec.
        TensorLayoutError
            If a row is not a whole number of blocks.
        """
        if dtype.to_native_dtype() != np.float32:
            raise CatalogError("encoded rows decode to float32", field="data_type", found=dtype)
        chunk = tuple(getattr(chunk_grid, "chunk_shape", ()))
        whole = (*(1 for _ in shape[:-2]), *chunk[-2:-1], max(shape[-1], 1)) if shape else ()
        if not shape or chunk != whole:
            raise CatalogError("chunks hold whole rows of one matrix", field="chunk_shape", expected=whole,
                               found=chunk)  # fmt: skip
        self.encoding.row_bytes(shape[-1])
        self._require_rows(shape[-2] if len(shape) > 1 else 1, math.prod(chunk[:-1]))

    def _require_rows(self, matrix_rows: int, rows: int) -> None:
        """Check a full chunk's rows, and the last one's, against a matrix's."""
        edge = matrix_rows % rows or rows
        if self.edge_rows not in (None, edge):
            raise CatalogError(
                "rows of the last chunk", field="edge_rows", expected=edge, found=self.edge_rows
            )
        block_rows = self.encoding.scale_block[0] if self.encoding.scale_block else 1
        if rows % block_rows and rows < matrix_rows:
            raise CatalogError("chunks part a scale block", field="chunk_shape",
                               expected=f"a multiple of {block_rows} rows", found=rows)  # fmt: skip

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ZarrSpec) -> int:
        """Give the bytes of a full chunk."""
        layout = self._layout(chunk_spec.shape)
        return layout.nbytes(layout.rows)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ZarrSpec) -> NDBuffer:
        values = await self._decode_whole(chunk_data, chunk_spec, None)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _decode_whole(
        self, chunk: Buffer, chunk_spec: ZarrSpec, name: str | None
    ) -> NDArray[np.float32]:
        layout = self._layout(chunk_spec.shape)
        return await asyncio.to_thread(
            layout.decode_chunk, chunk.as_numpy_array(), chunk_spec.fill_value, name
        )

    async def _decode_partial_single(
        self, byte_getter: ByteGetter, selection: SelectorTuple, chunk_spec: ZarrSpec
    ) -> NDBuffer:
        layout = self._layout(chunk_spec.shape)
        part = split_selection(selection, layout)
        values = None if part is None else await _read_rows(byte_getter, part, layout, chunk_spec)
        if part is None or values is None:
            chunk = await _read(byte_getter, chunk_spec, None)
            values = await self._decode_whole(chunk, chunk_spec, _name(byte_getter))
            selected = values[selection]
        else:
            selected = values[part.within]
        return chunk_spec.prototype.nd_buffer.from_numpy_array(np.asanyarray(selected))

    async def encode(self, chunks_and_specs: Iterable[tuple[NDBuffer | None, ZarrSpec]]) -> NoReturn:
        """Refuse, before zarr's own handling of chunks that equal the fill value."""
        raise _read_only(self.encoding)

    async def encode_partial(self, batch_info: Iterable[Any]) -> None:
        """Refuse, before zarr reads or deletes a chunk."""
        raise _read_only(self.encoding)


def _read_only(encoding: Encoding) -> ReadOnlyArray:
    return ReadOnlyArray("encoded rows cannot be written through their decoded values", found=encoding.name)


def _name(byte_getter: ByteGetter) -> str | None:
    return str(byte_getter) if isinstance(byte_getter, StorePath) else None


async def _read(byte_getter: ByteGetter, spec: ZarrSpec, request: RangeByteRequest | None) -> Buffer:
    """Read a chunk, or bytes of it; a missing one is an error, not zeros."""
    found = await byte_getter.get(prototype=spec.prototype, byte_range=request)
    if found is None:
        raise ChunkError("a chunk is missing", file=_name(byte_getter))
    return found


async def _read_span(byte_getter: ByteGetter, spec: ZarrSpec, span: tuple[int, int]) -> NDArray[np.uint8]:
    """Read bytes [start, stop) of a chunk, all of them."""
    start, stop = span
    if start == stop:
        return np.empty(0, np.uint8)
    found = await _read(byte_getter, spec, RangeByteRequest(start, stop))
    if len(found) != stop - start:
        raise ChunkError("a chunk is too short", file=_name(byte_getter), offset=start,
                         expected=f"{stop - start} bytes", found=len(found))  # fmt: skip
    return cast(NDArray[np.uint8], found.as_numpy_array())


async def _read_rows(
    byte_getter: ByteGetter, selection: RowSelection, layout: ChunkLayout, spec: ZarrSpec
) -> NDArray[np.float32] | None:
    """Read and decode rows [start, stop) alone; None where the whole chunk must be read to find them."""
    if (selection.start, selection.stop) in ((0, layout.rows), (0, layout.edge_rows)):
        return None
    spans = [(selection.start * layout.row_bytes, selection.stop * layout.row_bytes)]
    if layout.encoding.scale_block is not None:
        rows = await _rows_of_chunk(byte_getter, selection.stop, layout)
        if rows is None:
            return None
        spans.append(layout.scale_range(rows, selection.start, selection.stop))
    codes, *scales = await asyncio.gather(*(_read_span(byte_getter, spec, span) for span in spans))
    values = np.empty((*layout.shape[:-2], selection.stop - selection.start, layout.columns), np.float32)
    flat = values.reshape(-1, layout.columns)
    await asyncio.to_thread(layout.decode, codes, scales[0] if scales else None, selection.start, flat)
    return values


async def _rows_of_chunk(byte_getter: ByteGetter, stop: int, layout: ChunkLayout) -> int | None:
    """Rows that the chunk holds: its scales stand after them. None where its length cannot be asked for."""
    if stop > layout.edge_rows or layout.edge_rows == layout.rows:
        return layout.rows
    if not isinstance(byte_getter, StorePath):
        return None
    try:
        nbytes = await byte_getter.store.getsize(byte_getter.path)
    except FileNotFoundError as error:
        raise ChunkError("a chunk is missing", file=_name(byte_getter)) from error
    return layout.rows_in(nbytes, _name(byte_getter))


def _settings(data: dict[str, JSON], name: str, cls: type[Any]) -> dict[str, Any]:
    """Give the configuration in a codec's JSON, its members checked by name."""
    _, settings = parse_named_configuration(data, name)
    known = {field.name for field in fields(cls)}
    if not known - {"edge_rows"} <= settings.keys() <= known:
        raise CatalogError("codec settings", field=name, expected=sorted(known), found=sorted(settings))
    return settings


def _require_edge_rows(edge_rows: Any) -> None:
    if edge_rows is not None and (type(edge_rows) is not int or edge_rows < 1):
        raise CatalogError("rows of the last chunk", field="edge_rows", expected="1 or more", found=edge_rows)


@dataclass(frozen=True)
class GGMLCodec(_EncodedRowsCodec):
    """Codec ``wvindex.ggml``: rows of GGML blocks, byte for byte as GGUF has them.

    Attributes
    ----------
    type : str
        GGML's name of the block type.
    edge_rows : int or None
        Rows of the last chunk; None where every chunk is full.
    """

    type: str
    edge_rows: int | None = None

    def __post_init__(self) -> None:
        """Refuse a type that is not a packed one."""
        encoding = ENCODINGS.get(self.type) if isinstance(self.type, str) else None
        if encoding is None or encoding.is_plain:
            raise UndecodableType("no such GGML block type", field="type", found=self.type)
        _require_edge_rows(self.edge_rows)

    @property
    def encoding(self) -> Encoding:
        """The encoding of the rows."""
        return ENCODINGS[self.type]

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Make the codec that a ``zarr.json`` describes."""
        return cls(**_settings(data, GGML_CODEC, cls))

    def to_dict(self) -> dict[str, JSON]:
        """Give the codec's entry in a ``zarr.json``."""
        return {"name": GGML_CODEC, "configuration": _given(type=self.type, edge_rows=self.edge_rows)}


@dataclass(frozen=True)
class FP8BlockCodec(_EncodedRowsCodec):
    """Codec ``wvindex.fp8_block``: rows of FP8 codes, then float32 scales of blocks of rows and columns.

    Attributes
    ----------
    type : str
        ``F8_E4M3`` or ``F8_E5M2``.
    scale_block : (int, int)
        Rows and columns that share a scale.
    edge_rows : int or None
        Rows of the last chunk; None where every chunk is full.
    """

    type: str
    scale_block: tuple[int, int]
    edge_rows: int | None = None

    def __post_init__(self) -> None:
        """Refuse a type that is not FP8, and an impossible block."""
        if self.type not in ("F8_E4M3", "F8_E5M2"):
            raise UndecodableType("no such FP8 type", field="type", found=self.type)
        block = tuple(self.scale_block) if isinstance(self.scale_block, list | tuple) else ()
        if len(block) != 2 or any(type(n) is not int or n < 1 for n in block):
            raise CatalogError(
                "scale block", field="scale_block", expected="two sizes", found=self.scale_block
            )
        object.__setattr__(self, "scale_block", block)
        _require_edge_rows(self.edge_rows)

    @property
    def encoding(self) -> Encoding:
        """The encoding of the rows."""
        return with_scale_block(ENCODINGS[self.type], self.scale_block)

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Make the codec that a ``zarr.json`` describes."""
        return cls(**_settings(data, FP8_CODEC, cls))

    def to_dict(self) -> dict[str, JSON]:
        """Give the codec's entry in a ``zarr.json``."""
        settings = _given(type=self.type, scale_block=list(self.scale_block), edge_rows=self.edge_rows)
        return {"name": FP8_CODEC, "configuration": settings}


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
