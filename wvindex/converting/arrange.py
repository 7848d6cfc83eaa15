"""Where new names stand among old ones: in order where the old were, else in the place of the old."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def rearranged(
    old: Sequence[Item],
    replaced: Mapping[str, Sequence[Item]],
    added: Iterable[Item] = (),
    *,
    name: Callable[[Item], str],
    group: Callable[[Item], object] = lambda item: None,
) -> list[Item]:
    """Replace some items by others.

    Writers of checkpoints sort tensors by dtype and name. Where the items of a group were sorted by name they
    are again, so that what is fused and taken apart stands where it stood.

    Parameters
    ----------
    old : sequence
    replaced : mapping of str to sequence
        By name: what stands instead of an item; nothing drops it.
    added : iterable
        What stands at the end, unless its group is sorted.
    name, group : callable
        Of an item.
    """
    new = [one for item in old for one in replaced.get(name(item), (item,))] + list(added)
    for kind in {group(item) for item in new}:
        names = [name(item) for item in old if group(item) == kind]
        if names != sorted(names):
            continue
        places = [place for place, item in enumerate(new) if group(item) == kind]
        ordered = sorted((new[place] for place in places), key=name)
        for place, item in zip(places, ordered, strict=True):
            new[place] = item
    return new
