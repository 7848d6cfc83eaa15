"""Where an array stands in a store, and how its rows are cut into chunks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from wvindex.arch.keys import split_layer
from wvindex.errors import LimitExceeded, UnsafePath
from wvindex.formats.arrays import ArraySpec
from wvindex.limits import MAX_ESCAPED_NAME

TARGET_CHUNK_BYTES: Final = 4 << 20
"""Encoded bytes of a chunk: large enough for a disk's full speed, small enough to check on every read."""

PAGE_BYTES: Final = 4096
"""A matrix smaller than this shares a chunk with its neighbours: a convolution's kernel is a few bytes."""

CHUNK_SEPARATOR: Final = "."
"""Between the numbers of a chunk's name."""

_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
STATISTICS: Final = "stats"
"""A directory in a store's root: what may be computed again, and belongs to no reader."""

_RESERVED: Final = frozenset(
    {"zarr.json", "catalog.json", "building.json", "c", "layers", "tokenizer", STATISTICS}
)
_EMPTY: Final = "%"
_NUMBER: Final = re.compile("[0-9]{1,16}")


def array_path(key: str) -> str:
    """Give the path of the array `key` in a store: ``layers/3/X`` for ``model.layers.3.X``.

    Every other key stands at the root. Names are escaped by one bijective rule: a byte of UTF-8 outside
    ``[a-z0-9._-]`` becomes ``%xx``, and so does the first byte of a name that Zarr or the store reserves.
    Capitals are escaped too, so no two keys meet on a file system that ignores case.

    Raises
    ------
    LimitExceeded
        If a name is longer than file systems allow.
    """
    layer, role = split_layer(key)
    names = (_escape(key),) if layer is None else (str(layer), _escape(role))
    longest = max(len(name) for name in names)
    if longest > MAX_ESCAPED_NAME:
        raise LimitExceeded(
            "a tensor's name is too long for a file name",
            tensor=key,
            expected=f"at most {MAX_ESCAPED_NAME} bytes when escaped",
            found=longest,
        )
    return names[0] if layer is None else "/".join(("layers", *names))


def array_key(path: str) -> str:
    """Give the key whose array stands at `path`; the inverse of `array_path`.

    Raises
    ------
    UnsafePath
        If `path` is not one that `array_path` gives.
    """
    parts = path.split("/")
    in_layer = len(parts) == 3 and parts[0] == "layers"
    try:
        key = f"model.layers.{parts[1]}.{_unescape(parts[2])}" if in_layer else _unescape(path)
        canonical = array_path(key) == path
    except (ValueError, LimitExceeded):
        canonical = False
    if not canonical:
        raise UnsafePath("no array of a store stands at this path", found=path)
    return key


def _escape(name: str) -> str:
    encoded = name.encode("utf-8", "surrogatepass")
    if not encoded:
        return _EMPTY
    escaped = "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in encoded)
    if escaped in _RESERVED or escaped.startswith((".", "__", "readme")):
        return f"%{encoded[0]:02x}{escaped[1:]}"
    return escaped


def _unescape(name: str) -> str:
    if name == _EMPTY:
        return ""
    head, *escapes = name.split("%")
    encoded = head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in escapes)
    return encoded.decode("utf-8", "surrogatepass")


def chunk_axis(spec: ArraySpec) -> int:
    """Give the axis that chunks divide: the rows of a matrix; an outer one where matrices are tiny.

    Packed and scaled matrices always have chunks of their own.
    """
    axis = max(len(spec.shape) - 2, 0)
    while (
        spec.encoding.is_plain and axis > 0 and math.prod(spec.shape[axis:-1]) * spec.row_bytes < PAGE_BYTES
    ):
        axis -= 1
    return axis


def chunk_rows(spec: ArraySpec, target_bytes: int = TARGET_CHUNK_BYTES) -> int:
    """Choose how many rows stand in a chunk: whole rows, about `target_bytes` encoded.

    A divisor of the rows where one lies within half and twice the target, so that no chunk is short.
    Rows of one scale block are never parted.
    """
    axis = chunk_axis(spec)
    if 0 in spec.shape:
        return max(math.prod(spec.shape[axis:-1]), 1)
    steps = spec.shape[axis] if len(spec.shape) > 1 else 1
    inner_rows = math.prod(spec.shape[axis + 1 : -1])
    scale_rows = spec.encoding.scale_block[0] if spec.encoding.scale_block else 1
    ideal = target_bytes // max(inner_rows * spec.row_bytes, 1)
    return near_divisor(steps, max(ideal // scale_rows, 1) * scale_rows, scale_rows) * inner_rows


def near_divisor(n_steps: int, ideal: int, multiple: int = 1) -> int:
    """Give the divisor of `n_steps` nearest to `ideal`, within half and twice of it; else `ideal`.

    Parameters
    ----------
    n_steps, ideal : int
        Positive; all steps where they are no more than `ideal`.
    multiple : int
        Of which the divisor is, unless it is all steps; `ideal` is one.
    """
    if n_steps <= ideal:
        return n_steps
    half = -(-ideal // (2 * multiple)) * multiple
    divisors = [
        n
        for n in (*range(half, min(2 * ideal, n_steps - 1) + 1, multiple), n_steps)
        if n <= 2 * ideal and n_steps % n == 0
    ]
    return min(divisors, key=lambda n: max(n / ideal, ideal / n), default=ideal)


@dataclass(frozen=True)
class ChunkGrid:
    """The chunks of one array: whole rows, in the array's order.

    Attributes
    ----------
    spec : ArraySpec
    rows : int
        Rows of a full chunk, over all dimensions but the last (see `chunk_rows`).
    """

    spec: ArraySpec
    rows: int

    @cached_property
    def axis(self) -> int:
        """The axis that is divided; those before it have one index a chunk, those after it are whole."""
        return chunk_axis(self.spec)

    @cached_property
    def group_rows(self) -> int:
        """Rows that share the indices before `axis`: of one matrix, mostly. No chunk crosses them."""
        return math.prod(self.spec.shape[self.axis : -1])

    @cached_property
    def chunks_per_group(self) -> int:
        """Chunks of one group."""
        return -(-self.group_rows // self.rows)

    @cached_property
    def n_chunks(self) -> int:
        """Chunks of the array; none where it has no values."""
        if 0 in self.spec.shape:
            return 0
        return math.prod(self.spec.shape[: self.axis]) * self.chunks_per_group

    @cached_property
    def edge_rows(self) -> int:
        """Rows of each group's last chunk; `rows` where all are full."""
        return self.group_rows - (self.chunks_per_group - 1) * self.rows

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The chunk's shape, as Zarr declares it."""
        full = tuple(max(n, 1) for n in self.spec.shape)
        if len(full) < 2:
            return full
        along = self.rows // max(math.prod(self.spec.shape[self.axis + 1 : -1]), 1)
        return (1,) * self.axis + (max(along, 1),) + full[self.axis + 1 :]

    def name(self, index: int) -> str:
        """Give the file name of chunk `index`, in Zarr's default key encoding: ``c.7.0.0``.

        Dots, not slashes: a directory around every chunk would double what the disk has to sync.
        """
        group, step = divmod(index, self.chunks_per_group)
        outer: list[int] = []
        for size in reversed(self.spec.shape[: self.axis]):
            group, position = divmod(group, size)
            outer.insert(0, position)
        inner = [step, *(0 for _ in self.spec.shape[self.axis + 1 :])] if self.spec.shape else []
        return CHUNK_SEPARATOR.join(["c", *map(str, (*outer, *inner))])

    def index(self, name: str) -> int | None:
        """Give the chunk whose name is `name`, the inverse of the method `name`; None where there is none."""
        root, *numbers = name.split(CHUNK_SEPARATOR)
        if root != "c" or len(numbers) != len(self.spec.shape) or not self.n_chunks:
            return None
        if not all(_NUMBER.fullmatch(number) for number in numbers):
            return None
        group = 0
        for number, size in zip(numbers, self.spec.shape[: self.axis], strict=False):
            group = group * size + int(number)
        step = int(numbers[self.axis]) if numbers else 0
        index = group * self.chunks_per_group + step
        return index if index < self.n_chunks and self.name(index) == name else None

    def row_range(self, index: int) -> tuple[int, int]:
        """Give the rows [start, stop) of the array that chunk `index` holds."""
        group, step = divmod(index, self.chunks_per_group)
        start = group * self.group_rows + step * self.rows
        return start, min(start + self.rows, (group + 1) * self.group_rows)

    def chunk_at(self, row: int) -> int:
        """Give the chunk that holds `row`."""
        group, within = divmod(row, self.group_rows)
        return group * self.chunks_per_group + within // self.rows

    @cached_property
    def _scale_rows(self) -> tuple[int, int]:
        """Scale rows of a matrix and of a full chunk."""
        block = self.spec.encoding.scale_block
        return (-(-self.spec.matrix_rows // block[0]), -(-self.rows // block[0])) if block else (0, 0)

    def scale_range(self, index: int) -> tuple[int, int]:
        """Give the rows [start, stop) of the array's scales that chunk `index` holds."""
        of_matrix, of_chunk = self._scale_rows
        matrix, step = divmod(index, self.chunks_per_group)
        start = matrix * of_matrix + step * of_chunk
        return start, min(start + of_chunk, (matrix + 1) * of_matrix)

    def chunk_at_scale(self, scale_row: int) -> int:
        """Give the chunk that holds `scale_row`."""
        of_matrix, of_chunk = self._scale_rows
        matrix, within = divmod(scale_row, of_matrix)
        return matrix * self.chunks_per_group + within // of_chunk

    def row_nbytes(self, index: int) -> int:
        """Give the encoded bytes of the rows of chunk `index`."""
        start, stop = self.row_range(index)
        return (stop - start) * self.spec.row_bytes

    def scale_nbytes(self, index: int) -> int:
        """Give the bytes of the scales of chunk `index`, which follow its rows."""
        start, stop = self.scale_range(index)
        return (stop - start) * self.scale_row_bytes

    def padding_nbytes(self, index: int) -> int:
        """Give the zeros after the rows of chunk `index`: a plain chunk is never short (Zarr's rule)."""
        if not self.spec.encoding.is_plain:
            return 0
        return self.rows * self.spec.row_bytes - self.row_nbytes(index)

    def chunk_nbytes(self, index: int) -> int:
        """Give the length of the file of chunk `index`."""
        return self.row_nbytes(index) + self.scale_nbytes(index) + self.padding_nbytes(index)

    @cached_property
    def scale_row_bytes(self) -> int:
        """Bytes of a row of scales."""
        return 4 * self.spec.scale_shape[1] if self.spec.scale_shape else 0
