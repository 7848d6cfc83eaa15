"""What one array of a weight database is, wherever its bytes lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from wvindex.formats.encodings import Encoding

Exactness = Literal["bit", "reordered", "cast", "derived"]
"""``bit``: the source's bytes as they are; ``reordered``: whole rows or values moved; ``cast``: each value
converted to another encoding; ``derived``: computed from several tensors or by arithmetic."""


@dataclass(frozen=True, kw_only=True)
class RowScale:
    """A factor, one a token, that a projection's output is multiplied by.

    For an input x (hidden_size wide) the factor is ``1 / sqrt(mean(c ** 2) + eps)`` with
    ``c = W[a:b] @ x + bias[a:b]``, W the array `weight` and (a, b) = `rows`. It multiplies dimensions
    [i, j) = `head_slice` of every head of the output (bias included), and leaves the others alone.

    Attributes
    ----------
    weight : str
        Key of W; its bias, where there is one, has the key with ``.weight`` replaced by ``.bias``.
    rows : (int, int)
    eps : float
    head_slice : (int, int)
    """

    weight: str
    rows: tuple[int, int]
    eps: float
    head_slice: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How an array divides into heads: `count` equal parts along `axis`."""

    axis: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of an array (values of a vector) that answer to a key of their own: what was fused into it.

    Attributes
    ----------
    key : str
        Standard key.
    rows : (int, int)
        Indices [start, stop) of the array's axis 0.
    exactness, sources, transforms, aliases
        What an array of these rows alone would have; see `ArraySpec`.
    """

    key: str
    rows: tuple[int, int]
    exactness: Exactness
    sources: tuple[str, ...]
    transforms: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array: name, shape, encoding, and where it came from.

    Attributes
    ----------
    key : str
        Standard key, or the source's own name where no rule maps it.
    shape : tuple of int
    encoding : Encoding
    exactness : Exactness
    sources : tuple of str
        Source tensors, in the order in which their rows stand here.
    transforms : tuple of str
        What was done, in order: ``split``, ``permute``, ``stack``, ``cast``, ``absorb_mla``, ...
    aliases : tuple of str
        Other names that this whole array answers to.
    part_aliases : tuple of str
        For a stack made of one tensor per expert: the name that each expert's part had, in order.
    heads : Heads or None
    row_scale : RowScale or None
    mapped : bool
        False for a tensor that no rule maps, kept under its own name.
    mtp : bool
        Whether it belongs to a multi-token-prediction layer, beyond `num_hidden_layers`.
    parts : tuple of Part
        Where arrays were fused: what each of them was, one under another, covering all of axis 0.
    widths : tuple of int
        Where arrays were fused: how axis 0 divides by meaning. Of ``fused_qkv_a_proj`` these are
        q_lora_rank, kv_lora_rank and qk_rope_head_dim.
    """

    key: str
    shape: tuple[int, ...]
    encoding: Encoding
    exactness: Exactness
    sources: tuple[str, ...]
    transforms: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    part_aliases: tuple[str, ...] = ()
    heads: Heads | None = None
    row_scale: RowScale | None = None
    mapped: bool = True
    mtp: bool = False
    parts: tuple[Part, ...] = ()
    widths: tuple[int, ...] = ()

    @property
    def row_values(self) -> int:
        """Values in a row: the last dimension; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Rows: all dimensions but the last, flattened; 1 for a vector or a scalar."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Encoded bytes of a row, without scales."""
        return self.encoding.row_bytes(self.row_values)

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: of one expert in a stack, or all of them."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def n_matrices(self) -> int:
        """How many matrices are stacked: the experts, or 1."""
        return math.prod(self.shape[:-2])

    @property
    def scale_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of the float32 scales of all matrices, one under another; None without scales.

        Scale blocks restart at each matrix; the last of a matrix's rows or columns may be short.
        """
        if self.encoding.scale_block is None:
            return None
        rows, columns = self.encoding.scale_block
        return self.n_matrices * -(-self.matrix_rows // rows), -(-self.row_values // columns)

    @property
    def nbytes(self) -> int:
        """Encoded bytes, scales included, without any padding of chunks."""
        scales = math.prod(self.scale_shape) * 4 if self.scale_shape else 0
        return self.n_rows * self.row_bytes + scales


def part_spec(spec: ArraySpec, part: Part) -> ArraySpec:
    """Give what one part of a fused array is, as an array of its own."""
    return replace(
        spec,
        key=part.key,
        shape=(part.rows[1] - part.rows[0], *spec.shape[1:]),
        exactness=part.exactness,
        sources=part.sources,
        transforms=part.transforms,
        aliases=part.aliases,
        parts=(),
        widths=(),
    )


@dataclass(frozen=True)
class ByteRange:
    """Some bytes of a file of the source.

    Attributes
    ----------
    file : int
        Which one: its place among the source's files.
    offset : int
        Of the first byte, from the file's start.
    nbytes : int
    """

    file: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Link:
    """Where the bytes of an array lie that was not copied.

    Attributes
    ----------
    rows : tuple of ByteRange
        The encoded rows of all matrices, in their order, one range after another.
    scales : tuple of ByteRange
        The rows of the float32 scales (see `ArraySpec.scale_shape`), likewise; empty without scales.
    """

    rows: tuple[ByteRange, ...]
    scales: tuple[ByteRange, ...] = ()


class RowReader(Protocol):
    """Gives an array's encoded rows, wherever they lie."""

    def read_rows(
        self, start: int, stop: int, out: memoryview, *, span: tuple[int, int] | None = None
    ) -> None:
        """Fill `out` with the encoded bytes of rows [start, stop), one after another.

        With `span`, only bytes [span[0], span[1]) of each row; `out` is then
        ``(stop - start) * (span[1] - span[0])`` bytes long.
        """
        ...

    def read_scales(self, start: int, stop: int, out: memoryview) -> None:
        """Fill `out` with rows [start, stop) of the float32 scales (see `ArraySpec.scale_shape`)."""
        ...
