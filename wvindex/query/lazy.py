"""Tensor: one array of a weight database, read when it is indexed, and only where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wvindex.errors import SelectionError, UsageError
from wvindex.formats.arrays import ArraySpec, Exactness, RowReader, RowScale
from wvindex.formats.matmul import EncodedMatrix
from wvindex.query.buffers import real_numbers, require_buffer, require_distinct, value_dtype
from wvindex.query.gather import gather, read_raw
from wvindex.query.handle import Handle
from wvindex.query.indexing import Selection, ascending, moved, parse_index, row_range
from wvindex.query.memory import new_array, prove
from wvindex.query.pieces import Pieces
from wvindex.query.product import multiply
from wvindex.query.spans import block_span, read_scales, row_in_block, scale_rows
from wvindex.query.stream import Consumer, Encoded, stream
from wvindex.query.views import expert_spec, head_spec, part_view
from wvindex.store.links import LinkedReader

_POSITION_BYTES: Final = 8
"""What the index of one row takes."""

Rows = tuple[int, int] | range | slice | None
"""Indices [start, stop) of axis 0; None for all."""


class Tensor:
    """One array, or a view of a part of one; nothing is read before it is asked for.

    Indexing follows NumPy: integers, slices, an ellipsis, and one array of integers or booleans. Quantized
    values decode to float32; plain ones come as they are stored.

    Parameters
    ----------
    spec : ArraySpec
    rows : RowReader
        Gives the encoded rows of the array.
    handle : Handle, optional
        The database's that this is a tensor of.
    """

    def __init__(self, spec: ArraySpec, rows: RowReader, handle: Handle | None = None) -> None:
        self._spec = spec
        self._base = spec
        self._reader = rows
        self._handle = handle or Handle("memory")
        self._first_row = 0
        self._columns = (0, spec.row_values)

    @property
    def spec(self) -> ArraySpec:
        """What this tensor is; for a view, with the view's shape."""
        return self._spec

    @property
    def key(self) -> str:
        """Standard key; a head's is its array's."""
        return self._spec.key

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost first."""
        return self._spec.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._spec.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self._spec.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values that indexing gives: float32 where they are decoded."""
        return self._spec.encoding.logical_dtype

    @property
    def encoding(self) -> str:
        """How the values are stored: ``Q4_K``, ``BF16``, ``F8_E4M3``."""
        return self._spec.encoding.name

    @property
    def scale_block(self) -> tuple[int, int] | None:
        """For FP8 with scales: rows and columns that share one."""
        return self._spec.encoding.scale_block

    @property
    def nbytes(self) -> int:
        """Stored bytes, scales included; for a view, of the blocks that it needs."""
        if 0 in self.shape:
            return 0
        span = block_span(self._base, *self._columns)
        start, stop = self._first_row, self._first_row + self._n_rows
        first, last = scale_rows(self._base, start, stop)
        scales = (last - first) * (span.scales[1] - span.scales[0]) * 4
        return self._n_rows * (span.data[1] - span.data[0]) + scales

    @property
    def exactness(self) -> Exactness:
        """``bit``, ``reordered``, ``cast`` or ``derived``: how the values relate to the source's."""
        return self._spec.exactness

    @property
    def source(self) -> tuple[str, ...]:
        """Names of the source tensors that it was made of."""
        return self._spec.sources

    @property
    def transforms(self) -> tuple[str, ...]:
        """What was done to them, in order."""
        return self._spec.transforms

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names that it answers to."""
        return self._spec.aliases

    @property
    def row_scale(self) -> RowScale | None:
        """The per-token factor of its output, as data; None where there is none."""
        return self._spec.row_scale

    @property
    def mtp(self) -> bool:
        """Whether it belongs to a multi-token-prediction layer."""
        return self._spec.mtp

    @property
    def heads(self) -> int | None:
        """How many heads it divides into; None where it does not."""
        return self._spec.heads.count if self._spec.heads else None

    def __repr__(self) -> str:
        """Give one line: key, shape, encoding, dtype."""
        return f"<Tensor {self.key} {self.shape} {self.encoding} {self.dtype}>"

    def __copy__(self) -> Self:
        """Give itself: it does not change."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Give itself: it does not change."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a part of its database, which is opened again where it is unpickled.

        Raises
        ------
        UsageError
            If the database was not opened by a path or a URL.
        """
        return _unpickled, (self._handle, self._base.key, self._spec, self._first_row, self._columns)

    def __len__(self) -> int:
        """Give the length of the first axis."""
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        """Read the first axis index by index."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """Read what `index` asks for: an array of its own, or a scalar.

        Raises
        ------
        SelectionError
            If the index does not fit the shape.
        UndecodableType
            If nobody decodes the encoding.
        """
        self._handle.require_open()
        prove(self._reader, self._row_range, self._n_rows * _POSITION_BYTES)
        selection = parse_index(index, self.shape)
        values = self._select(selection).reshape(selection.shape)
        if selection.array_first:
            values = np.moveaxis(values, -1, 0)
        return values if selection.shape else values[()]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all of it, for NumPy.

        Raises
        ------
        ValueError
            If `copy` is False: the values are always new.
        """
        if copy is False:
            raise ValueError("a tensor is read into new memory; it has no array to share")
        values = self.read()
        return values if dtype is None else values.astype(dtype, copy=False)

    def read(
        self, out: NDArray[Any] | None = None, dtype: DTypeLike | None = None, rows: Rows = None
    ) -> NDArray[Any]:
        """Read whole indices of axis 0 into one array.

        Parameters
        ----------
        out : array, shape (stop - start, \\*shape[1:]), optional
            Filled and returned.
        dtype : dtype, optional
            float32, float16, bfloat16, or the tensor's own, which is the default (or `out`'s).
        rows : (int, int), range or slice, optional
            Indices [start, stop) of axis 0; all by default.

        Returns
        -------
        array, shape (stop - start, \\*shape[1:])

        Raises
        ------
        SelectionError
            If `rows` is out of range, or `out` has another shape.
        UsageError
            If `dtype` is none of these, or not `out`'s, or `out` is no array that can be written to, or some
            of its values share memory.
        LimitExceeded
            If there is no memory for the values.
        UndecodableType
            If nobody decodes the encoding.
        """
        self._handle.require_open()
        start, stop = row_range(rows, self.shape)
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        if out is None:
            wanted = value_dtype(self._spec, dtype)
            target = out = self._new(shape, wanted, self._axis0_rows(start, stop))
        else:
            require_buffer(self._spec, out, shape, dtype)
            require_distinct(self._spec, out)
            target = out if out.flags.carray else self._new(shape, out.dtype, self._axis0_rows(start, stop))
        self._read_axis0(start, stop, target)
        if target is not out:
            out[...] = target
        return out

    def raw(self, rows: Rows = None) -> NDArray[np.uint8]:
        """Read the stored blocks as they are.

        Parameters
        ----------
        rows : (int, int) or slice, optional
            Indices [start, stop) of axis 0; all by default.

        Returns
        -------
        array of uint8, shape (n_rows, row_bytes)
            Rows of all dimensions but the last, flattened.

        Raises
        ------
        SelectionError
            If this is a view whose columns are no whole blocks, or `rows` is out of range.
        """
        self._handle.require_open()
        span = block_span(self._base, *self._columns)
        first, last = self._columns
        blocks = self._spec.encoding.block_size
        if first % blocks or last % blocks:
            raise SelectionError(
                "the columns of this view are no whole blocks",
                tensor=self.key,
                expected=f"multiples of {blocks}",
                found=self._columns,
            )
        data = (self._base.encoding.row_bytes(first), self._base.encoding.row_bytes(last))
        return read_raw(self._base, self._reader, *self._stored_rows(rows), replace(span, data=data))

    def scales(self, rows: Rows = None) -> NDArray[np.float32]:
        """Read the float32 scales of FP8 blocks, those that the given indices of axis 0 need.

        Returns
        -------
        array of float32, shape (scale rows, scale columns)
            As `ArraySpec.scale_shape` lays them out.

        Raises
        ------
        UsageError
            If the encoding has no scales.
        """
        self._handle.require_open()
        if self._base.encoding.scale_block is None:
            raise UsageError("this encoding has no scales", tensor=self.key, found=self.encoding)
        first, last = block_span(self._base, *self._columns).scales
        return read_scales(self._base, self._reader, *self._stored_rows(rows))[:, first:last]

    def matmul(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Multiply by a matrix that is decoded tile by tile, and never held as a whole.

        Parameters
        ----------
        x : array, shape (..., in_features)
            Taken as float32. A few vectors are multiplied by the encoded blocks themselves.
            NumPy's own ``x @ tensor`` decodes the whole first, and does not transpose it.

        Returns
        -------
        array of float32, shape (..., out_features)
            ``x @ W.T``. Neither a bias nor the `row_scale` is applied.

        Raises
        ------
        SelectionError
            If this is no matrix (of a stack, take an expert), or `x` has another width.
        UsageError
            If `x` is no array of real numbers.
        UndecodableType
            If nobody decodes the encoding.
        """
        self._handle.require_open()
        self._require_matrix()
        with np.errstate(all="ignore"):  # What is too large for float32 becomes infinite.
            vectors = real_numbers(self._spec, x)
        if not vectors.ndim or vectors.shape[-1] != self.shape[1]:
            expected = f"(..., {self.shape[1]})"
            raise SelectionError("x does not fit", tensor=self.key, expected=expected, found=vectors.shape)
        # Not -1, which nothing tells where rows have no values.
        flat = np.ascontiguousarray(vectors.reshape(math.prod(vectors.shape[:-1]), self.shape[1]))
        out = self._new((len(flat), self.shape[0]), np.float32, self._row_range)
        multiply(self._base, self._reader, self._row_range, self._columns, flat, out)
        return out.reshape(*vectors.shape[:-1], self.shape[0])

    def stream(
        self, consume: Consumer, *, rows: tuple[int, int] | None = None, encoded: Encoded | None = None
    ) -> None:
        """Hand every value to a function, decoded in tiles that stay in the processor's caches.

        Parameters
        ----------
        consume : callable
            ``consume(first_row, values)``, called from several threads and in any order. Rows are those of
            all dimensions but the last, flattened; `values` (n_rows, row_values) is float32, or float64
            where float32 does not hold what is stored, contiguous, and overwritten once it returns.
            Which rows make up a tile does not depend on the number of threads.
        rows : (int, int), optional
            Rows [start, stop) that are handed on, counted likewise; all by default.
        encoded : callable, optional
            ``encoded(first_row, raw)``, called likewise with the stored blocks (n_rows, bytes) of larger
            tiles, each before its values.

        Raises
        ------
        UndecodableType
            If nobody decodes the encoding.
        SelectionError
            If there are no such rows.
        """
        start, stop = rows or (0, self._n_rows)
        if not 0 <= start <= stop <= self._n_rows:
            raise SelectionError("rows of a tensor", tensor=self.key, expected=self._n_rows, found=rows)
        place = (self._first_row + start, self._first_row + stop)
        stream(self._base, self._reader, place, self._columns, consume, encoded)

    def verify_link(self) -> None:
        """See that the source's files that it is read from, where it was not copied, are what they were.

        Raises
        ------
        SourceChanged
            If one is missing, or is not what it was.
        UnreadableSource
            If the system refuses.
        StoreClosed
            If the database is closed.
        """
        if isinstance(self._reader, LinkedReader):
            self._reader.verify()

    def encoded(self) -> EncodedMatrix:
        """Read a matrix as it is stored, to multiply by it many times.

        Raises
        ------
        SelectionError
            If this is no matrix, or a view whose columns are no whole blocks.
        """
        self._require_matrix()
        spec, raw = self._base, self.raw()
        if spec.encoding.scale_block is None:
            return EncodedMatrix(raw, spec.encoding)
        if block_span(spec, *self._columns).values != self._columns:
            raise SelectionError("the columns of this view part a scale block", tensor=self.key)
        return EncodedMatrix(raw, spec.encoding, self.scales(), row_in_block(spec, self._first_row))

    def pieces(self) -> Pieces:
        """Give its rows, to be gone through beside another tensor's."""
        return Pieces(self._base, self._reader, self._row_range, self._columns)

    def head(self, i: int) -> Tensor:
        """Give head `i` as a view: its rows of a projection, or its columns of an output projection.

        Raises
        ------
        SelectionError
            If the tensor does not divide into heads, or has fewer.
        """
        spec, index = head_spec(self._spec, i)
        if spec.shape[-1] != self.shape[-1] or self.ndim == 1:
            first = self._columns[0] + index * spec.shape[-1]
            return self._view(spec, self._first_row, (first, first + spec.shape[-1]))
        return self._view(spec, self._first_row + index * spec.shape[0], self._columns)

    def expert(self, e: int) -> Tensor:
        """Give expert `e` of a stack as a view.

        Raises
        ------
        SelectionError
            If the tensor is no stack, or has fewer experts.
        """
        spec, index = expert_spec(self._spec, e)
        return self._view(spec, self._first_row + index * math.prod(spec.shape[:-1]), self._columns)

    def part(self, key: str) -> Tensor:
        """Give what was fused into this array under `key`, as a view of its rows.

        Raises
        ------
        SelectionError
            If nothing was.
        """
        spec, part = part_view(self._spec, key)
        if self.ndim == 1:
            first, last = (self._columns[0] + index for index in part.rows)
            return self._view(spec, self._first_row, (first, last))
        return self._view(spec, self._first_row + part.rows[0], self._columns)

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys of the arrays that were fused into this one, in the order of its rows."""
        return tuple(part.key for part in self._spec.parts)

    def _require_matrix(self) -> None:
        if self.ndim != 2:
            hint = "take an expert" if self.ndim > 2 else "a vector is none"
            message = f"a product takes a matrix: {hint}"
            raise SelectionError(message, tensor=self.key, expected="(out, in)", found=self.shape)

    @property
    def _n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def _row_range(self) -> tuple[int, int]:
        """The array's own rows [start, stop) that this tensor is of."""
        return self._first_row, self._first_row + self._n_rows

    def _new(self, shape: tuple[int, ...], dtype: DTypeLike, rows: tuple[int, int]) -> NDArray[Any]:
        """Give memory for what is read of the array's own rows [start, stop)."""
        return new_array(shape, dtype, self._base, self._reader, rows)

    def _view(self, spec: ArraySpec, first_row: int, columns: tuple[int, int]) -> Tensor:
        view = Tensor(self._base, self._reader, self._handle)
        view._spec, view._first_row, view._columns = spec, first_row, columns
        return view

    def _stored_rows(self, rows: Rows) -> tuple[int, int]:
        """Give the array's own rows [start, stop) of the given indices of axis 0."""
        start, stop = row_range(rows, self.shape)
        if self.ndim < 2:
            if (start, stop) != (0, self.shape[0] if self.shape else 1):
                raise SelectionError("a vector is one row", tensor=self.key, found=(start, stop))
            return self._first_row, self._first_row + 1
        inner = math.prod(self.shape[1:-1])
        return self._first_row + start * inner, self._first_row + stop * inner

    def _axis0_rows(self, start: int, stop: int) -> tuple[int, int]:
        """Give the array's own rows that hold indices [start, stop) of axis 0; of a vector, its one row."""
        if self.ndim < 2:
            return self._first_row, self._first_row + 1
        return self._stored_rows((start, stop))

    def _read_axis0(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Decode indices [start, stop) of axis 0 into the contiguous `out`."""
        first, last = self._columns
        rows = self._axis0_rows(start, stop)
        columns = range(first + start, first + stop) if self.ndim < 2 else range(first, last)
        if out.size:
            matrix = out.reshape(rows[1] - rows[0], len(columns))
            gather(self._base, self._reader, range(*rows), columns, matrix)

    def _select(self, selection: Selection) -> NDArray[Any]:
        """Read a selection as (rows, columns) in its own order."""
        columns = moved(selection.columns, self._columns[0])
        rows, order = ascending(selection.rows)
        values = self._new((len(rows), len(columns)), self.dtype, self._row_range)
        if values.size:
            gather(self._base, self._reader, moved(rows, self._first_row), columns, values)
        return values if order is None else values[order]


def _unpickled(handle: Handle, key: str, spec: ArraySpec, first_row: int, columns: tuple[int, int]) -> Tensor:
    """Give a tensor of a database that was opened again, or a view of it."""
    if handle.opened is None:
        raise UsageError("a tensor is unpickled with its database alone", tensor=key)
    tensor = handle.opened[key]
    return tensor if spec == tensor.spec else tensor._view(spec, first_row, columns)
