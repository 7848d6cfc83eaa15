"""What a part of an array is: one head of a projection, one expert of a stack."""

from __future__ import annotations

import operator
from dataclasses import replace

from wvindex.errors import SelectionError
from wvindex.formats.arrays import ArraySpec, Heads, Part, part_spec
from wvindex.query.select import expert_key


def head_spec(spec: ArraySpec, head: int) -> tuple[ArraySpec, int]:
    """Give the spec of one head, and the head's index.

    It keeps the key, and the row scale where heads divide the output.

    Raises
    ------
    SelectionError
        If the array does not divide into heads, has fewer, or is a stack whose rows they divide.
    """
    heads = spec.heads
    if heads is None:
        raise SelectionError("this tensor does not divide into heads", tensor=spec.key, found=spec.shape)
    index = _checked_index(head, heads.count, "head", spec)
    if heads.axis < len(spec.shape) - 1 and len(spec.shape) > 2:
        raise SelectionError("a head of a stack: take an expert first", tensor=spec.key, found=spec.shape)
    width = spec.shape[heads.axis] // heads.count
    shape = (*spec.shape[: heads.axis], width, *spec.shape[heads.axis + 1 :])
    row_scale = spec.row_scale if heads.axis == 0 else None
    return replace(spec, shape=shape, heads=None, row_scale=row_scale), index


def expert_spec(spec: ArraySpec, expert: int) -> tuple[ArraySpec, int]:
    """Give the spec of one expert, with its own key, source and aliases, and the expert's index.

    Raises
    ------
    SelectionError
        If the array is no stack, or has fewer experts.
    """
    if len(spec.shape) < 3:
        raise SelectionError("this tensor is no stack of experts", tensor=spec.key, found=spec.shape)
    count = spec.shape[0]
    index = _checked_index(expert, count, "expert", spec)
    heads, key = spec.heads, expert_key(spec.key, index)
    alias = spec.part_aliases[index] if len(spec.part_aliases) == count else key
    part = replace(
        spec,
        key=key,
        shape=spec.shape[1:],
        sources=(spec.sources[index],) if len(spec.sources) == count else spec.sources,
        aliases=(alias,) if alias != key else (),
        part_aliases=(),
        heads=Heads(axis=heads.axis - 1, count=heads.count) if heads and heads.axis else None,
    )
    return part, index


def part_view(spec: ArraySpec, key: str) -> tuple[ArraySpec, Part]:
    """Give the spec of one part of a fused array, and the part.

    Raises
    ------
    SelectionError
        If the array has no such part.
    """
    for part in spec.parts:
        if part.key == key:
            return part_spec(spec, part), part
    found = [part.key for part in spec.parts] or "an array that nothing was fused into"
    raise SelectionError("no such part", tensor=spec.key, expected=key, found=found)


def _checked_index(index: int, count: int, what: str, spec: ArraySpec) -> int:
    try:
        number = -1 if isinstance(index, bool) else operator.index(index)
    except TypeError:
        number = -1
    if not 0 <= number < count:
        message = f"no such {what} in {spec.shape}"
        raise SelectionError(message, tensor=spec.key, expected=f"0 to {count - 1}", found=index)
    return number
