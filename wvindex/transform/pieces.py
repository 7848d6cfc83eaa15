"""What goes into an array: source tensors with the place of their rows, and the rows that they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wvindex.arch.naming import Placement
from wvindex.formats.encodings import F32, Encoding
from wvindex.sources.base import Source, TensorInfo
from wvindex.transform.combine import Alike, Cast, Slice, tensor_rows
from wvindex.transform.experts import EveryNth, JoinedBlocks, Turned
from wvindex.transform.product import TransposedRows
from wvindex.transform.rows import Rows
from wvindex.transform.scales import Scales


class Contribution(NamedTuple):
    """A source tensor, where its rows go, and the scales of its FP8 codes. No placement: kept as it is.

    `exponents` are those of MXFP4 codes that the source has in a tensor of their own; `info` then is the
    codes' as `PackedPair.weight` has it.
    """

    info: TensorInfo
    placement: Placement | None
    scales: Scales | None
    exponents: TensorInfo | None = None


@dataclass(frozen=True)
class Pieces:
    """Rows from the source, not yet cast, and how they came together."""

    rows: Sequence[Rows]
    shape: tuple[int, ...]
    transforms: tuple[str, ...]
    stacked: bool = False

    @property
    def encodings(self) -> set[Encoding]:
        """Of all rows."""
        rows = self.rows[:1] if isinstance(self.rows, Alike) else self.rows
        return {one.encoding for one in rows}


def contribution_rows(
    source: Source,
    contribution: Contribution,
    *,
    matrix: int | None = None,
    part: tuple[int, int] | None = None,
) -> Rows:
    """Give a contribution's rows: of all its matrices, or of one, whole or a part of it.

    FP8 parts that cut a scale block are decoded.
    """
    info, placement = contribution.info, contribution.placement
    step = placement.step if placement is not None else 1
    if contribution.exponents is None and step == 1 and not (placement is not None and placement.transposed):
        return _plain_rows(source, contribution, matrix, part)
    rows: Rows
    if contribution.exponents is not None:
        rows = _joined_rows(source, info, contribution.exponents, matrix)
    else:
        rows = _plain_rows(source, contribution, matrix, None)
    if placement is not None and placement.transposed:
        if rows.encoding.is_plain:
            return Turned(rows, None if part is None else range(part[0], part[1], step))
        rows = Cast(TransposedRows(rows), F32)
    return rows if part is None else EveryNth(rows, part[0], step, part[1])


def _joined_rows(source: Source, codes: TensorInfo, exponents: TensorInfo, matrix: int | None) -> Rows:
    count, height, width = codes.shape
    if matrix is None:
        return JoinedBlocks(source, codes, exponents, count * height, width, height)
    return JoinedBlocks(source, codes, exponents, height, width, height, first=matrix * height)


def _plain_rows(
    source: Source, contribution: Contribution, matrix: int | None, part: tuple[int, int] | None
) -> Rows:
    info, scales = contribution.info, contribution.scales
    if scales is None:
        return tensor_rows(source, info, matrix=matrix, part=part)
    block, height = scales.block[0], info.shape[-2]
    if part is None or (part[0] % block == 0 and (part[1] % block == 0 or part[1] == height)):
        return tensor_rows(
            source, info, matrix=matrix, part=part, scales=scales.info, scale_block=scales.block
        )
    whole = tensor_rows(source, info, matrix=matrix, scales=scales.info, scale_block=scales.block)
    return Slice(Cast(whole, F32), *part)


def transforms_of(contribution: Contribution) -> tuple[str, ...]:
    """Name what is done to the rows of one tensor that holds a stack."""
    placement = contribution.placement
    names = ["join_mxfp4"] if contribution.exponents is not None else []
    if placement is not None:
        names += ["transpose"] if placement.transposed else []
        names += ["deinterleave" if placement.step > 1 else "split"] if placement.rows is not None else []
    return tuple(names)
