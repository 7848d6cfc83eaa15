"""Which rows of the source stand in which rows of an array, written from the formulas in plain NumPy.

An array that is not computed is a choice among the rows of its source tensors, one tensor under another. Its
transforms say which; each of them is one line of NumPy here, and shares no code with the build. The rows of a
vector are its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.formats.arrays import ArraySpec
from wvindex.verifying.witness import WitnessTensor

Rows = NDArray[np.int64]

ABSORBED: Final = "absorb_mla"
JOINED: Final = "join_kv_b"


SHOWN: Final = frozenset(
    {"order_axes", "unpermute_rope", "scale_query", "unscale_embedding", "subtract_one_as_stored", "unpad"}
)
"""What a MaxText source does to show its tensors in Hugging Face's form; the witness shows them so too."""


class Unexplained(Exception):
    """An array's entry does not say how it follows from its sources, or not in a way that is known."""


class Unfit(Exception):
    """The source's tensors cannot be what an array was made of."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class Recipe:
    """How an array follows from its sources.

    Attributes
    ----------
    sources : tuple of WitnessTensor
        Their rows, one tensor under another, are counted through.
    width : int
        Values of a row, of sources and array alike. A vector is a column: of its values, or of its blocks.
    rows : array of int64, or None
        For each row of the array, the source's; None where they are the same.
    n_rows : int
    subtract : float
        Taken from each value, in float32.
    """

    sources: tuple[WitnessTensor, ...]
    width: int
    rows: Rows | None
    n_rows: int
    subtract: float = 0.0

    def source_rows(self, start: int, stop: int) -> Rows:
        """Give the source's rows that array rows [start, stop) are."""
        return np.arange(start, stop) if self.rows is None else self.rows[start:stop]


def recipe_of(spec: ArraySpec, config: ModelConfig, tensors: Mapping[str, WitnessTensor]) -> Recipe:
    """Give an array's recipe.

    Raises
    ------
    Unexplained
        If a transform is not known here.
    Unfit
        If the sources' shapes are not those that the transforms ask for.
    """
    sources = tuple(tensors[name] for name in spec.sources)
    if not sources:
        raise Unexplained("its entry names no source")
    moves = [name for name in spec.transforms if name not in {"cast", "subtract_one", *SHOWN}]
    width = _width(spec, sources, moved=bool(moves))
    heights = [math.prod(tensor.shape) // max(width, 1) for tensor in sources]
    for tensor in sources:
        inner = tensor.shape[-1] if tensor.shape else 1
        if len(spec.shape) > 1 and inner != width:
            raise Unfit(f"rows of {width} values", f"{tensor.name} of shape {list(tensor.shape)}")
    n_rows = math.prod(spec.shape) // width if width else spec.n_rows
    rows = np.arange(sum(heights), dtype=np.int64) if moves else None
    for name in moves:
        move = _MOVES.get(name)
        if move is None or rows is None:
            raise Unexplained(f"no independent formula for {name!r}")
        rows = move(rows, spec, config, sources)
    found = sum(heights) if rows is None else rows.size
    if found != n_rows and width:
        raise Unfit(f"{n_rows} rows", f"{found} rows in {', '.join(spec.sources[:4])}")
    subtract = 1.0 if "subtract_one" in spec.transforms else 0.0
    return Recipe(sources, width, rows, n_rows, subtract)


def half_split(rows: Rows) -> Rows:
    """Put interleaved dimensions (pairs 2i and 2i + 1) half-split (i and i + d/2), along the last axis."""
    return np.concatenate([rows[..., 0::2], rows[..., 1::2]], axis=-1)


def _width(spec: ArraySpec, sources: Sequence[WitnessTensor], *, moved: bool) -> int:
    if len(spec.shape) > 1:
        return spec.row_values
    blocks = [spec.encoding.block_size, *(tensor.block[0] for tensor in sources)]
    if moved and max(blocks) > 1:
        raise Unexplained("blocks of a vector do not move")
    return max(blocks)


def _whole(rows: Rows, spec: ArraySpec, config: ModelConfig, sources: Sequence[WitnessTensor]) -> Rows:
    """``stack``, ``fuse_qkv_a``: one tensor's rows under the other's, in the entry's order."""
    return rows


def _split(rows: Rows, spec: ArraySpec, config: ModelConfig, sources: Sequence[WitnessTensor]) -> Rows:
    """``split``: of Phi's qkv the rows of Q, of K or of V; of gate_up, in each expert, one half.

    Of latent attention's fused down-projections, the query's rows, or those below.
    """
    (tensor,) = sources
    module = spec.key.rpartition(".")[0].rpartition(".")[2]
    if rows.size == math.prod(spec.shape[:-1] if len(spec.shape) > 1 else spec.shape):
        return rows
    height = tensor.shape[-2] if len(tensor.shape) > 1 else tensor.shape[0]
    if module in ("gate_proj", "up_proj"):
        sizes = [height // 2, height // 2]
        part = ("gate_proj", "up_proj").index(module)
    elif module in ("q_proj", "k_proj", "v_proj"):
        head = config.head_dim or 0
        keys = (config.num_key_value_heads or 0) * head
        sizes = [(config.num_attention_heads or 0) * head, keys, keys]
        part = ("q_proj", "k_proj", "v_proj").index(module)
    elif module in ("q_a_proj", "kv_a_proj_with_mqa") and config.mla is not None:
        sizes = [config.mla.q_lora_rank or 0, config.mla.kv_lora_rank + config.mla.qk_rope_head_dim]
        part = ("q_a_proj", "kv_a_proj_with_mqa").index(module)
    else:
        raise Unexplained(f"no independent formula for the split of {module}")
    if sum(sizes) != height:
        raise Unfit(f"{' + '.join(map(str, sizes))} rows", f"{height} in {tensor.name}")
    first = sum(sizes[:part])
    return rows.reshape(-1, height)[:, first : first + sizes[part]].ravel()  # (experts, height)


def _permute(rows: Rows, spec: ArraySpec, config: ModelConfig, sources: Sequence[WitnessTensor]) -> Rows:
    """``permute``: llama.cpp interleaved the rows of each head of Q and K; here they are half-split again."""
    is_query = ".q_proj." in spec.key
    heads = (config.num_attention_heads if is_query else config.num_key_value_heads) or 0
    if not heads or rows.size % (2 * heads):
        raise Unfit(f"{heads} heads of an even width", f"{rows.size} rows")
    return half_split(rows.reshape(heads, -1)).ravel()


def _rope_first(rows: Rows, spec: ArraySpec, config: ModelConfig, sources: Sequence[WitnessTensor]) -> Rows:
    """``rope_first``: heads of Q, [nope | rope], become [rope | nope], rotary rows half-split."""
    heads, mla = config.num_attention_heads or 0, config.mla
    if mla is None or rows.size != heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim):
        raise Unfit("heads of latent attention", f"{rows.size} rows")
    by_head = rows.reshape(heads, -1)
    nope, rope = by_head[:, : mla.qk_nope_head_dim], by_head[:, mla.qk_nope_head_dim :]
    rope = half_split(rope) if mla.interleaved_rope else rope
    return np.concatenate([rope, nope], axis=1).ravel()


def _join_latent(rows: Rows, spec: ArraySpec, config: ModelConfig, sources: Sequence[WitnessTensor]) -> Rows:
    """``join_latent``: W_qa, then W_kva without its last rows, which are the rotary key's."""
    if config.mla is None:
        raise Unfit("latent attention", "another")
    return rows[: rows.size - config.mla.qk_rope_head_dim]


_MOVES: Final[Mapping[str, Callable[[Rows, ArraySpec, ModelConfig, Sequence[WitnessTensor]], Rows]]] = {
    "stack": _whole,
    "split": _split,
    "permute": _permute,
    "rope_first": _rope_first,
    "join_latent": _join_latent,
    "fuse_qkv_a": _whole,
}
"""What an entry's transforms mean for the order of rows."""
