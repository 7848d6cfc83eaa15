"""What Orbax writes beside arrays, rewritten for leaves that others took the place of.

``_METADATA`` (the tree), ``_sharding`` (a sharding a leaf, by its name in base64),
``array_metadatas/process_*`` (how each was written), and the metadata of an array itself, for Zarr 2 or 3.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from wvindex.converting.arrange import rearranged
from wvindex.converting.orbax_leaves import BELOW, FUSED, QUERY, NewLeaf, Path_, Step, place_of, renamed

SHARDING: Final = "_sharding"
ARRAY_METADATAS: Final = "array_metadatas"

Document = dict[str, Any]


class Leaves:
    """Which leaves the result has in the place of which.

    Parameters
    ----------
    steps : sequence of Step
    fuses : bool
    drops : callable
        Whether a path is left out.
    """

    def __init__(self, steps: Sequence[Step], *, fuses: bool, drops: Callable[[Path_], bool]) -> None:
        self.new = {one.path: one for step in steps for one in step.outputs}
        self._gone = {array.leaf.path: step for step in steps for array in step.inputs}
        self._fuses = fuses
        self._drops = drops

    def successors(self, path: Path_) -> list[Path_]:
        """Give what stands in the place of a leaf, or of an empty node: itself, others, or nothing."""
        if self._drops(path):
            return []
        step = self._gone.get(path)
        if step is not None:
            is_first = step.inputs[0].leaf.path == path
            return [one.path for one in step.outputs] if is_first else []
        place = place_of(path)
        if place is None:
            return [path]
        if self._fuses:  # a node without a value, such as a mask: one for both
            return [renamed(path, FUSED)] if path[place] == QUERY else []
        return [renamed(path, name) for name in (QUERY, BELOW)] if path[place] == FUSED else [path]


def rewritten_tree(document: Mapping[str, Any], leaves: Leaves) -> Document:
    """Give ``_METADATA`` of the result."""
    members = document["tree_metadata"]
    paths = {
        name: tuple(str(key["key"]) for key in member["key_metadata"]) for name, member in members.items()
    }
    replaced: dict[str, list[tuple[str, Document]]] = {}
    for name, path in paths.items():
        successors = leaves.successors(path)
        if successors != [path]:
            replaced[name] = [(_member_name(one), _member(members[name], one, leaves)) for one in successors]
    new = rearranged(list(members.items()), replaced, name=lambda item: item[0])
    return {**document, "tree_metadata": dict(new)}


def _member_name(path: Path_) -> str:
    """Name a member as Orbax does: the tuple, as Python prints it."""
    return str(path)


def _member(old: Mapping[str, Any], path: Path_, leaves: Leaves) -> Document:
    member = deepcopy(dict(old))
    for key, part in zip(member["key_metadata"], path, strict=True):
        if str(key["key"]) != part:
            key["key"] = part
    made = leaves.new.get(path)
    if made is not None and member["value_metadata"].get("write_shape") is not None:
        member["value_metadata"]["write_shape"] = list(made.shape)
    return member


def rewritten_sharding(document: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> Document:
    """Give ``_sharding`` of the result: a new leaf is sharded as the first that it is made of.

    Parameters
    ----------
    names : mapping of str to sequence of str
        What stands in the place of each leaf that is not kept.
    """
    replaced = {
        code: [(_encoded(one), value) for one in names[name]]
        for code, value in document.items()
        if (name := _decoded(code)) in names
    }
    return dict(rearranged(list(document.items()), replaced, name=lambda item: item[0]))


def _encoded(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


def _decoded(code: str) -> str:
    try:
        return base64.b64decode(code, validate=True).decode()
    except ValueError:
        return code


def rewritten_array_metadatas(
    document: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    layouts: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> Document:
    """Give a process's ``array_metadatas`` of the result.

    Parameters
    ----------
    names : mapping of str to sequence of str
    layouts : mapping of str to (sequence of int, sequence of int)
        Of each new leaf, the shapes that are written and decoded at once.
    """
    entries = document.get("array_metadatas", [])
    replaced = {
        name: [_written_as(entry, one, *layouts[one]) for one in names[name]]
        for entry in entries
        if (name := _param_name(entry)) in names
    }
    return {**document, "array_metadatas": rearranged(entries, replaced, name=_param_name)}


def _param_name(entry: Mapping[str, Any]) -> str:
    return str(entry["array_metadata"]["param_name"])


def _written_as(entry: Document, name: str, written: Sequence[int], decoded: Sequence[int]) -> Document:
    shapes = {"param_name": name, "write_shape": list(written), "chunk_shape": list(decoded)}
    return {**entry, "array_metadata": entry["array_metadata"] | shapes}


def array_metadata(model: Mapping[str, Any], made: NewLeaf) -> Document:
    """Give the Zarr metadata of a new leaf: those of the leaf that it is stored like, with its own shape.

    Columns that stood in one chunk do so again; where they were split, the size of a chunk stays.
    """
    new = deepcopy(dict(model))
    before, after = made.model.shape[-1], made.shape[-1]
    new["shape"] = list(made.shape)
    if "chunks" in new:
        new["chunks"][-1] = _columns(new["chunks"][-1], before, after)
        return new
    grid = new["chunk_grid"]["configuration"]["chunk_shape"]
    whole = grid[-1]
    grid[-1] = _columns(whole, before, after)
    for codec in new.get("codecs", []):
        if codec.get("name") != "sharding_indexed":
            continue
        inner = codec["configuration"]["chunk_shape"]
        inner[-1] = grid[-1] if inner[-1] == whole or grid[-1] % inner[-1] else inner[-1]
    return new


def _columns(chunk: int, before: int, after: int) -> int:
    return after if chunk >= before else min(chunk, after)


def written_shapes(metadata: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
    """Give the shapes of an array that are written, and decoded, at once."""
    if "chunks" in metadata:
        return metadata["chunks"], metadata["chunks"]
    written = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    inner = [
        codec["configuration"]["chunk_shape"]
        for codec in metadata.get("codecs", [])
        if codec.get("name") == "sharding_indexed"
    ]
    return written, inner[0] if inner else written


def compact(document: Mapping[str, Any]) -> bytes:
    """Encode as TensorStore encodes metadata: compact, keys sorted."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def spaced(document: Mapping[str, Any]) -> bytes:
    """Encode as Orbax encodes its documents."""
    return json.dumps(document).encode()


def replacements(steps: Iterable[Step], dropped: Iterable[str]) -> dict[str, list[str]]:
    """Give what stands in the place of each leaf that is not kept, by names."""
    names: dict[str, list[str]] = {name: [] for name in dropped}
    for step in steps:
        first, *others = step.inputs
        names[first.leaf.name] = [one.name for one in step.outputs]
        names |= {array.leaf.name: [] for array in others}
    return names
