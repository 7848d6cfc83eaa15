"""Choices of layers: what a number, a range, a slice or several of them mean in a model."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from typing import Any, SupportsIndex

from wvindex.arch.keys import split_layer
from wvindex.errors import SelectionError
from wvindex.formats.arrays import ArraySpec
from wvindex.spelling import item_text

LayerChoice = SupportsIndex | range | slice | Iterable[SupportsIndex | range | slice] | None
"""Which layers a selector means; None for every tensor, also those of no layer."""


def chosen_layers(choice: LayerChoice, specs: Iterable[ArraySpec]) -> frozenset[int] | None:
    """Give the layers that a choice means, of those that some arrays have.

    A negative number counts from the end of the forward pass, and so does a slice that has one as a bound.
    Multi-token-prediction layers, beyond the forward pass, are chosen by their number, or a slice of such.
    What reaches beyond the end means nothing there.

    Parameters
    ----------
    choice : int, range, slice, several of them, or None
    specs : iterable of ArraySpec
        Of one model, or of several that are held side by side.

    Returns
    -------
    frozenset of int or None
        None for None.

    Raises
    ------
    SelectionError
        If it is none of these, or means no layer.
    """
    if choice is None:
        return None
    extra: dict[int, bool] = {}
    for spec in specs:
        number, _ = split_layer(spec.key)
        if number is not None:
            extra[number] = extra.get(number, False) or spec.mtp
    numbers = sorted(extra)
    forward = [number for number in numbers if not extra[number]]
    parts = _parts(choice)
    held = [_container(part, numbers, forward) for part in parts]
    from_end = {number: place - len(forward) for place, number in enumerate(forward)}
    chosen = frozenset(
        number
        for number in numbers
        if any(number in part or from_end.get(number, number) in part for part in held)
    )
    if not chosen:
        raise no_such_layer(numbers, parts)
    return chosen


def no_such_layer(numbers: Sequence[int], found: Any) -> SelectionError:
    """Give the error for a choice that means none of the layers there are, which it names."""
    return SelectionError("no such layer", expected=_spans(numbers), found=_text(found))


def layer_range(layer: slice, numbers: Iterable[int]) -> range:
    """Give the layers that a slice means, of those up to the last of `numbers`.

    Raises
    ------
    SelectionError
        If its ends are no integers.
    """
    try:
        return range(*layer.indices(max(numbers, default=-1) + 1))
    except (TypeError, ValueError) as error:
        raise SelectionError(
            f"not a choice of layers: {error}", expected="a slice of integers", found=_text(layer)
        ) from None


def layer_number(value: object) -> int:
    """Give the number that an integer is; a truth is none.

    Raises
    ------
    SelectionError
        If it is no integer.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError):  # an array has the method, and is no integer unless it holds one
            return operator.index(value)
    raise SelectionError(
        "not a choice of layers", expected="an integer, a range, a slice or several", found=repr(value)
    )


def _parts(choice: Any) -> list[Any]:
    """Give what a choice is made of."""
    if isinstance(choice, bool | range | slice | str):
        return [choice]
    with suppress(TypeError):
        return [operator.index(choice)]
    try:
        return list(choice)
    except TypeError:  # neither an integer nor several: refused where parts are read
        return [choice]


def _container(part: Any, numbers: Sequence[int], forward: Sequence[int]) -> Container[int]:
    """Give what holds the numbers that a part means, those from the end as negative ones."""
    if isinstance(part, range):
        return part
    if isinstance(part, slice):
        from_end = any(layer_number(bound) < 0 for bound in (part.start, part.stop) if bound is not None)
        return layer_range(part, forward if from_end else numbers)
    return (layer_number(part),)


def _spans(numbers: Sequence[int]) -> str:
    if not numbers:
        return "a model with layers"
    whole = numbers[-1] - numbers[0] + 1 == len(numbers)
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    return f"layers {numbers[0]} to {numbers[-1]}" if whole else f"layers {', '.join(map(str, numbers))}"


def _text(choice: Any) -> str:
    """Write a choice as a command line spells it: ``3``, ``3:7``, ``1, 4``."""
    if isinstance(choice, list):
        return ", ".join(map(item_text, choice)) or "none"
    return item_text(choice)
