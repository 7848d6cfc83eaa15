"""What becomes of each tensor of a down-projection: its rows are put under the other's, or taken apart.

What is not listed here is refused by name: how to join a tensor is told by what it means, not by its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from wvindex.converting.pairs import Attention, Leaves
from wvindex.converting.plan import Change
from wvindex.converting.requant import Requantized, ScaledRows
from wvindex.converting.staged import Constant
from wvindex.converting.tensors import OutTensor, TensorBytes, Together
from wvindex.errors import MetadataError, UnsupportedError, WvindexError
from wvindex.sources.base import Source, TensorInfo
from wvindex.transform.latent_widths import require_stated
from wvindex.transform.scales import SUFFIX, ScaledTensors

_WEIGHT: Final = "weight"
_BLOCK_SCALES: Final = f"{_WEIGHT}{SUFFIX}"
_WHOLE_SCALE: Final = "weight_scale"

_BY_ROWS: Final = frozenset({_WEIGHT, "bias", _WHOLE_SCALE, "weight_packed"})
"""Tensors with an index of axis 0 for each output: weights, packed along their rows or not, and scales."""

_SHARED: Final = frozenset(
    {"input_scale", "input_global_scale", _WHOLE_SCALE, "weight_scale_2", "weight_global_scale"}
)
"""Single numbers that hold for a whole matrix: joined only where both halves have the same."""


@dataclass
class LeafPlanner:
    """Plans the tensors of attentions, one after another.

    Attributes
    ----------
    source : Source
    widths : (int, int, int)
        q_lora_rank, kv_lora_rank, qk_rope_head_dim.
    scaled : ScaledTensors
        Which tensors have blocks of scales.
    allow_requant : bool
    changes : list of Change
        What quantizing anew changes; grows.
    """

    source: Source
    widths: tuple[int, int, int]
    scaled: ScaledTensors
    allow_requant: bool
    changes: list[Change] = field(default_factory=list)

    @property
    def rows(self) -> tuple[int, int]:
        """Outputs of the query's down-projection, and of the one below."""
        return self.widths[0], self.widths[1] + self.widths[2]

    def fused(self, one: Attention) -> dict[str, OutTensor]:
        """Give the fused tensors of an attention, by leaf.

        Raises
        ------
        MetadataError
            If a shape is not what the configuration says.
        UnsupportedError
            If the halves differ in dtype, in a number that both must share, or in where blocks of scales end.
        """
        made: dict[str, OutTensor] = {}
        self._require_norms(one, one.query)
        blocks = self._blocks(one.query)
        self._require_same_blocks(one, blocks)
        if blocks is not None and self.rows[0] % blocks[0]:
            made = self._requantized_whole(one, blocks)
        for leaf, query in one.query.items():
            if leaf in made:
                continue
            below = one.below[leaf]
            _require_known(leaf, query)
            _require_alike(query, below)
            name = f"{one.fused_name}.{leaf}"
            halves = zip((query, below), self.rows, strict=True)
            is_block_scales = leaf == _BLOCK_SCALES and blocks is not None
            if is_block_scales or all(self._is_by_rows(leaf, info, rows) for info, rows in halves):
                made[leaf] = self._concatenated(name, query, below)
            elif leaf in _SHARED and _is_single(query) and _is_single(below):
                made[leaf] = self._shared(name, query, below)
            else:
                fits = self._is_by_rows(leaf, query, self.rows[0])
                raise self._refusal(leaf, *((below, self.rows[1]) if fits else (query, self.rows[0])))
        return made

    def split(self, one: Attention) -> dict[str, tuple[OutTensor, OutTensor]]:
        """Give both halves of each tensor of an attention, by leaf; raises as `fused`."""
        made: dict[str, tuple[OutTensor, OutTensor]] = {}
        self._require_norms(one, one.fused)
        blocks = self._blocks(one.fused)
        if blocks is not None and self.rows[0] % blocks[0]:
            made = self._requantized_below(one, blocks)
        for leaf, info in one.fused.items():
            if leaf in made:
                continue
            _require_known(leaf, info)
            names = (f"{one.query_name}.{leaf}", f"{one.below_name}.{leaf}")
            if leaf == _BLOCK_SCALES and blocks is not None:
                made[leaf] = self._parted(names, info, self.rows[0] // blocks[0])
            elif self._is_by_rows(leaf, info, sum(self.rows)):
                made[leaf] = self._parted(names, info, self.rows[0])
            elif leaf in _SHARED and _is_single(info):
                first, second = (self._whole(name, info) for name in names)
                made[leaf] = (first, second)
            else:
                raise self._refusal(leaf, info, sum(self.rows))
        return made

    def _require_norms(self, one: Attention, leaves: Leaves) -> None:
        """Hold the configuration's ranks against the norms."""
        info = next(iter(leaves.values()))
        require_stated(info.name, one.norms, self.widths, info.file)

    def _blocks(self, leaves: Leaves) -> tuple[int, int] | None:
        """Give the block of a weight's scales; None where it has none."""
        weight = leaves.get(_WEIGHT)
        found = self.scaled.of.get(weight.name) if weight is not None else None
        return found.block if found is not None else None

    def _require_same_blocks(self, one: Attention, blocks: tuple[int, int] | None) -> None:
        if self._blocks(one.below) != blocks:
            raise UnsupportedError(
                "one half of a down-projection has blocks of scales and the other has none",
                tensor=f"{one.query_name} and {one.below_name}",
                expected=blocks or "none",
                found=self._blocks(one.below) or "none",
            )

    def _is_by_rows(self, leaf: str, info: TensorInfo, rows: int) -> bool:
        return leaf in _BY_ROWS and info.shape[:1] == (rows,)

    def _concatenated(self, name: str, query: TensorInfo, below: TensorInfo) -> OutTensor:
        shape = (query.shape[0] + below.shape[0], *query.shape[1:])
        content = Together(tuple(TensorBytes(self.source, info, 0, info.nbytes) for info in (query, below)))
        return OutTensor(name, query.encoding.name, shape, content)

    def _parted(self, names: Sequence[str], info: TensorInfo, rows: int) -> tuple[OutTensor, OutTensor]:
        """Cut a tensor after so many indices of axis 0."""
        cut = info.nbytes // info.shape[0] * rows
        upper, lower = (rows, *info.shape[1:]), (info.shape[0] - rows, *info.shape[1:])
        dtype = info.encoding.name
        return (
            OutTensor(names[0], dtype, upper, TensorBytes(self.source, info, 0, cut)),
            OutTensor(names[1], dtype, lower, TensorBytes(self.source, info, cut, info.nbytes)),
        )

    def _whole(self, name: str, info: TensorInfo) -> OutTensor:
        content = TensorBytes(self.source, info, 0, info.nbytes)
        return OutTensor(name, info.encoding.name, info.shape, content)

    def _shared(self, name: str, query: TensorInfo, below: TensorInfo) -> OutTensor:
        values = [bytes(self.source.read(info, 0, info.nbytes)) for info in (query, below)]
        if values[0] != values[1]:
            raise UnsupportedError(
                "a number that holds for a whole matrix differs between the halves",
                tensor=f"{query.name} and {below.name}",
                expected=f"one value, {values[0].hex()}",
                found=values[1].hex(),
            )
        return self._whole(name, query)

    def _requantized_whole(self, one: Attention, block: tuple[int, int]) -> dict[str, OutTensor]:
        """Fuse halves of which the first ends within a block: rows from there on get other blocks."""
        halves = [leaves[_WEIGHT] for leaves in (one.query, one.below)]
        self._require_requant(halves, block)
        _require_alike(*halves)
        _require_alike(one.query[_BLOCK_SCALES], one.below[_BLOCK_SCALES])
        for info, rows in zip(halves, self.rows, strict=True):
            if not self._is_by_rows(_WEIGHT, info, rows):
                raise self._refusal(_WEIGHT, info, rows)
        parts = [ScaledRows(info, self.scaled.of[info.name].info, block, 0, info.shape[0]) for info in halves]
        return self._requantized(one.fused_name, parts)

    def _requantized_below(
        self, one: Attention, block: tuple[int, int]
    ) -> dict[str, tuple[OutTensor, OutTensor]]:
        """Take apart what parts a block: the query's rows stay, those below get other blocks."""
        info = one.fused[_WEIGHT]
        self._require_requant([info], block)
        n_query, total = self.rows[0], sum(self.rows)
        if not self._is_by_rows(_WEIGHT, info, total):
            raise self._refusal(_WEIGHT, info, total)
        scales = self.scaled.of[info.name].info
        below = self._requantized(one.below_name, [ScaledRows(info, scales, block, n_query, total)])
        name = one.query_name
        query = {
            _WEIGHT: self._parted((f"{name}.{_WEIGHT}", ""), info, n_query)[0],
            _BLOCK_SCALES: self._parted((f"{name}.{_BLOCK_SCALES}", ""), scales, -(-n_query // block[0]))[0],
        }
        return {leaf: (query[leaf], below[leaf]) for leaf in query}

    def _requantized(self, module: str, parts: Sequence[ScaledRows]) -> dict[str, OutTensor]:
        codes, scales = parts[0].codes, parts[0].scales
        rows = Requantized(self.source, parts)
        self.changes += rows.changes()
        scale_shape = (-(-rows.n_rows // parts[0].block[0]), scales.shape[-1])
        return {
            _WEIGHT: OutTensor(
                f"{module}.{_WEIGHT}", codes.encoding.name, (rows.n_rows, codes.shape[-1]), rows
            ),
            _BLOCK_SCALES: OutTensor(
                f"{module}.{_BLOCK_SCALES}", scales.encoding.name, scale_shape, Constant(rows.scales())
            ),
        }

    def _require_requant(self, infos: Sequence[TensorInfo], block: tuple[int, int]) -> None:
        if not self.allow_requant:
            raise UnsupportedError(
                "blocks of FP8 scales do not line up where the down-projections meet",
                file=infos[0].file,
                tensor=" and ".join(info.name for info in infos),
                field="q_lora_rank",
                expected=f"a multiple of {block[0]}; allow_requant quantizes anew, and says what changes",
                found=self.rows[0],
            )

    def _refusal(self, leaf: str, info: TensorInfo, rows: int) -> WvindexError:
        if leaf in _SHARED:
            return UnsupportedError(
                "nobody knows how these scales of a down-projection are put together or taken apart",
                file=info.file,
                tensor=info.name,
                expected=f"one number, or one for each of {rows} rows",
                found=info.shape,
            )
        return MetadataError(
            "a down-projection does not fit the configuration",
            file=info.file,
            tensor=info.name,
            field="q_lora_rank, kv_lora_rank, qk_rope_head_dim",
            expected=f"{rows} rows",
            found=info.shape,
        )


def is_scaled_whole(leaves: Leaves) -> bool:
    """Whether a module's FP8 codes have a scale for the matrix, or one a row, and none for blocks."""
    return _WHOLE_SCALE in leaves and _BLOCK_SCALES not in leaves


def _require_known(leaf: str, info: TensorInfo) -> None:
    """Refuse a tensor of which it is not known how it is put together."""
    known = _BY_ROWS | _SHARED | {_BLOCK_SCALES}
    if leaf not in known:
        raise UnsupportedError(
            "nobody knows how this tensor of a down-projection is fused or taken apart",
            file=info.file,
            tensor=info.name,
            expected=", ".join(sorted(known)),
            found=leaf,
        )


def _is_single(info: TensorInfo) -> bool:
    return info.nbytes == info.encoding.type_size


def _require_alike(query: TensorInfo, below: TensorInfo) -> None:
    """Refuse halves of another dtype or width."""
    forms = [(info.encoding.name, len(info.shape), info.shape[1:]) for info in (query, below)]
    if forms[0] != forms[1]:
        raise UnsupportedError(
            "the halves of a down-projection differ in dtype or width",
            file=below.file,
            tensor=f"{query.name} and {below.name}",
            expected=f"{query.encoding.name} {query.shape}",
            found=f"{below.encoding.name} {below.shape}",
        )
