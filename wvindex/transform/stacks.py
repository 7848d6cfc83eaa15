"""Experts of one projection brought together, whether they come one by one, stacked, or fused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from wvindex.arch.config import ModelConfig
from wvindex.arch.naming import Placement
from wvindex.errors import DuplicateName, MetadataError
from wvindex.sources.base import Source
from wvindex.transform.combine import Alike
from wvindex.transform.experts import Folded
from wvindex.transform.pieces import Contribution, Pieces, contribution_rows, transforms_of
from wvindex.transform.rows import Rows, SourceRows


def stack(source: Source, key: str, contributions: Sequence[Contribution], config: ModelConfig) -> Pieces:
    """Give the rows of all experts, in their order.

    Parameters
    ----------
    source : Source
    key : str
        ``...mlp.experts.gate_proj.weight``, or ``.bias``, of which an expert's is one row.
    contributions : sequence of Contribution
        Every expert's own tensor, or one that holds them all.
    config : ModelConfig

    Raises
    ------
    MetadataError
        If experts are missing, are more than the configuration says, or differ in shape.
    DuplicateName
        If an expert stands twice.
    """
    count = config.moe.n_routed_experts if config.moe else 0
    first = contributions[0]
    shape, n_dims = first.info.shape, 2 if key.endswith(".bias") else 3
    is_whole = first.placement is None or first.placement.expert is None
    if is_whole and len(contributions) == 1 and shape[:1] == (count,) and len(shape) == n_dims:
        return _whole_stack(source, key, first, count)
    experts = _by_expert(key, contributions, count)
    _check_experts(experts, key, contributions, count)
    rows = _one_by_one(source, [experts[expert] for expert in range(count)])
    width = shape[-1] if shape else 1
    if len(shape) == 1:
        return Pieces(rows, (count, width), ("stack",))
    return Pieces(rows, (count, rows[0].n_rows, width), ("stack",), stacked=True)


def _one_by_one(source: Source, experts: Sequence[Contribution]) -> Sequence[Rows]:
    """Give each expert's rows: made when they are read, where all are of one form."""

    def make(expert: int) -> Rows:
        placement = experts[expert].placement
        return contribution_rows(source, experts[expert], part=placement.rows if placement else None)

    rows = Alike(len(experts), make)
    # All that rows of tensors of one shape differ by; of their placements all but the key and the expert.
    forms = {
        (info.encoding.name, scales and scales.block, exponents is None, placement and placement[2:])
        for info, placement, scales, exponents in experts
    }
    return rows if len(forms) == 1 else list(rows)


def _whole_stack(source: Source, key: str, contribution: Contribution, count: int) -> Pieces:
    """Give the rows of a tensor that holds all experts, or a part of each of its matrices."""
    placement, transforms = contribution.placement, transforms_of(contribution)
    if placement is None or placement.rows is None:
        rows = contribution_rows(source, contribution)
        if key.endswith(".bias"):
            return Pieces([rows], contribution.info.shape, transforms)
        return Pieces([rows], (count, rows.n_rows // count, rows.row_values), transforms)
    if key.endswith(".bias"):
        biases = _bias_parts(source, contribution, placement, placement.rows)
        return Pieces([biases], (count, biases.row_values), transforms)
    parts = [contribution_rows(source, contribution, matrix=i, part=placement.rows) for i in range(count)]
    shape = (count, parts[0].n_rows, parts[0].row_values)
    return Pieces(parts, shape, transforms, stacked=True)


def _bias_parts(
    source: Source, contribution: Contribution, placement: Placement, part: tuple[int, int]
) -> Folded:
    """Give a part of every row of stacked biases, (experts, out)."""
    info = contribution.info
    count, width = info.shape
    inside = np.arange(*part, placement.step, dtype=np.int64)
    order = np.add.outer(np.arange(count, dtype=np.int64) * width, inside).ravel()
    values = SourceRows(source, info, info.encoding, order.size, 1, order.size, order=order)
    return Folded(values, inside.size)


def _by_expert(key: str, contributions: Sequence[Contribution], count: int) -> dict[int, Contribution]:
    experts: dict[int, Contribution] = {}
    for contribution in contributions:
        info, placement, _, _ = contribution
        expert = placement.expert if placement is not None else None
        if expert is None:
            continue
        if expert in experts:
            raise DuplicateName(f"expert {expert} of {key} stands twice", file=info.file, tensor=info.name)
        if expert >= count:
            raise MetadataError(
                f"{key} has more experts than the configuration says",
                file=info.file,
                tensor=info.name,
                field="n_routed_experts",
                expected=count,
                found=expert + 1,
            )
        experts[expert] = contribution
    return experts


def _check_experts(
    experts: dict[int, Contribution], key: str, contributions: Sequence[Contribution], count: int
) -> None:
    first = contributions[0].info
    missing = list(islice((expert for expert in range(count) if expert not in experts), 8))
    if missing or not count:
        raise MetadataError(
            f"experts of {key} are missing",
            file=first.file,
            tensor=first.name,
            field="n_routed_experts",
            expected=f"{count} experts",
            found=f"none numbered {missing}" if missing else "experts in a model without routing",
        )
    for contribution in contributions:
        if contribution.info.shape != first.shape:
            raise MetadataError(
                f"experts of {key} differ in shape",
                file=contribution.info.file,
                tensor=contribution.info.name,
                expected=first.shape,
                found=contribution.info.shape,
            )
