"""The down-projections of latent attention in an Orbax tree: which leaves become which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from wvindex.converting.orbax_leaves import (
    BELOW,
    FUSED,
    QUERY,
    NewLeaf,
    Path_,
    Piece,
    Step,
    is_optimizers,
    place_of,
    renamed,
)
from wvindex.converting.plan import Direction
from wvindex.errors import DuplicateName, MetadataError, UnsupportedError
from wvindex.sources.orbax_arrays import LeafArray
from wvindex.transform.latent_widths import Norm, Norms, query_width, require_stated

_NORMS: Final = ("q_norm", "kv_norm")
_UP: Final = frozenset({"wq_b", "wkv_b"})

_VALUE: Final = "value"
_ROOTS: Final = frozenset({"params", "base", "model"})
"""What may stand before a parameter's path: Linen's collections, NNX's modules."""

_KERNELS: Final = (("kernel",), ("kernel", "value"))


def steps(arrays: Sequence[LeafArray], direction: Direction, file: Path) -> list[Step]:
    """Plan what becomes of every down-projection, moments of an optimizer included.

    Raises
    ------
    UnsupportedError
        If there is nothing to fuse or to take apart, a leaf that no concatenation of columns fits, or a
        moment that is not shaped like its parameter.
    MetadataError
        If one half is missing, or the norms contradict where the query's columns end.
    DuplicateName
        If an attention has both forms.
    """
    groups: dict[Path_, dict[str, LeafArray]] = {}
    for array in arrays:
        path = array.leaf.path
        if place_of(path) is not None:
            groups.setdefault(renamed(path, FUSED), {})[path[place_of(path) or 0]] = array
    _require_form(groups, arrays, direction, file)
    _require_every(groups, arrays, file)
    by_path = {array.leaf.path: array for array in arrays}
    make = _fused if direction == "fuse" else _split
    made: dict[Path_, Step] = {}
    parameters: dict[Path_, Step] = {}
    for path in sorted(groups, key=is_optimizers):  # parameters first: moments are held against them
        parameter = _parameter_of(path, parameters, file) if is_optimizers(path) else None
        made[path] = make(path, groups[path], by_path, parameter, file)
        if parameter is None:
            parameters[_core(path)] = made[path]
    return [made[path] for path in groups]


def rechunked(planned: Iterable[Step]) -> LeafArray | None:
    """Find a leaf that the way back will give in other chunks: columns are split, or halves differ."""
    for step in planned:
        first, *others = step.inputs
        if any(array.chunk_shape[-1] < array.shape[-1] for array in step.inputs) or any(
            other.chunk_shape[:-1] != first.chunk_shape[:-1] for other in others
        ):
            return first
    return None


def _core(path: Path_) -> Path_:
    """Give a parameter's path below the model's root, which its moments' paths end with."""
    first = next((place for place, part in enumerate(path) if part not in _ROOTS), 0)
    return path[first : len(path) - (path[-1] == _VALUE)]


def _parameter_of(path: Path_, parameters: Mapping[Path_, Step], file: Path) -> Step:
    whole = path[: len(path) - (path[-1] == _VALUE)]
    for first in range(len(whole)):
        if whole[first:] in parameters:
            return parameters[whole[first:]]
    raise UnsupportedError(
        "an optimizer's state of a down-projection that is no parameter here",
        file=file,
        tensor=".".join(path),
        expected="a leaf of the parameters, whose path it ends with",
        found="none",
    )


def _require_like(moment: Step, parameter: Step, file: Path) -> None:
    """Refuse a moment that is not shaped like its parameter: a factored one has lost an axis."""
    for found, wanted in zip(moment.inputs, parameter.inputs, strict=True):
        if found.shape != wanted.shape:
            raise UnsupportedError(
                "a moment is not shaped like its parameter, and cannot be put together as that is",
                file=file,
                tensor=found.leaf.name,
                expected=f"{wanted.shape}, as {wanted.leaf.name}; or optimizer=drop",
                found=found.shape,
            )


def _require_every(
    groups: Mapping[Path_, Mapping[str, LeafArray]], arrays: Iterable[LeafArray], file: Path
) -> None:
    """Refuse an attention that has up-projections of low rank, and no down-projection."""
    parents = {path[: place_of(path)] for path in groups}
    for array in arrays:
        path = array.leaf.path
        place = next((place for place, part in enumerate(path) if part in _UP), None)
        if place is not None and not is_optimizers(path) and path[:place] not in parents:
            raise MetadataError(
                "both down-projections of an attention are missing",
                file=file,
                tensor=array.leaf.name,
                expected=f"{'.'.join((*path[:place], QUERY))} and {BELOW}, or {FUSED}",
                found="neither",
            )


def _require_form(
    groups: Mapping[Path_, Mapping[str, LeafArray]],
    arrays: Iterable[LeafArray],
    direction: Direction,
    file: Path,
) -> None:
    both = next((path for path, members in groups.items() if FUSED in members and len(members) > 1), None)
    if both is not None:
        raise DuplicateName("one attention is fused and unfused", file=file, tensor=".".join(both))
    of_model = {name for path, members in groups.items() if not is_optimizers(path) for name in members}
    if direction == "unfuse":
        if FUSED not in of_model:
            raise UnsupportedError(
                "no fused down-projection here", file=file, expected=f"a leaf {FUSED}", found="none"
            )
        return
    if FUSED in of_model:
        raise UnsupportedError("the down-projections are fused already", file=file, found=FUSED)
    if BELOW in of_model and QUERY not in of_model and any("query" in one.leaf.path for one in arrays):
        raise UnsupportedError(
            "there is no q_lora_rank: the query has no down-projection to fuse",
            file=file,
            expected=QUERY,
            found="query",
        )
    if not of_model:
        raise UnsupportedError(
            "no latent attention here", file=file, expected=f"leaves {QUERY} and {BELOW}", found="none"
        )


def _fused(
    path: Path_,
    members: Mapping[str, LeafArray],
    by_path: Mapping[Path_, LeafArray],
    parameter: Step | None,
    file: Path,
) -> Step:
    halves = []
    for name in (QUERY, BELOW):
        if name not in members:
            raise MetadataError(
                "one half of the down-projections is missing",
                file=file,
                tensor=".".join(renamed(path, name)),
                expected="a leaf",
                found="nothing",
            )
        halves.append(members[name])
    query, below = halves
    if parameter is None:
        _require_kernel(query, file)
        _require_kernel(below, file)
    else:
        _require_like(Step((query, below), ()), parameter, file)
    if query.shape[:-1] != below.shape[:-1] or query.encoding != below.encoding:
        raise UnsupportedError(
            "the halves cannot be put side by side",
            file=file,
            tensor=below.leaf.name,
            expected=f"{query.encoding.name} {(*query.shape[:-1], 'any')}",
            found=f"{below.encoding.name} {below.shape}",
        )
    width, total = query.shape[-1], query.shape[-1] + below.shape[-1]
    norms = _norms(query, by_path)
    if parameter is None and norms[0] is not None:
        query_width(query.leaf.name, total, norms, file)
        require_stated(query.leaf.name, (norms[0], None), (width, 0, 0), file)
    pieces = (Piece(query, 0, width, 0), Piece(below, 0, below.shape[-1], width))
    return Step((query, below), (NewLeaf(path, (*query.shape[:-1], total), pieces),))


def _split(
    path: Path_,
    members: Mapping[str, LeafArray],
    by_path: Mapping[Path_, LeafArray],
    parameter: Step | None,
    file: Path,
) -> Step:
    if FUSED not in members:
        raise MetadataError(
            "a moment is unfused though the parameters are fused", file=file, tensor=".".join(path)
        )
    fused = members[FUSED]
    if parameter is None:
        _require_kernel(fused, file)
        rank = query_width(fused.leaf.name, fused.shape[-1], _norms(fused, by_path), file)
    else:
        _require_like(Step((fused,), ()), parameter, file)
        rank = parameter.outputs[0].shape[-1]
    width = fused.shape[-1]
    outputs = tuple(
        NewLeaf(renamed(path, name), (*fused.shape[:-1], stop - start), (Piece(fused, start, stop, 0),))
        for name, start, stop in ((QUERY, 0, rank), (BELOW, rank, width))
    )
    return Step((fused,), outputs)


def _require_kernel(array: LeafArray, file: Path) -> None:
    path = array.leaf.path
    below = path[(place_of(path) or 0) + 1 :]
    if below not in _KERNELS or len(array.shape) not in (2, 3):
        raise UnsupportedError(
            "a leaf of a down-projection that is no kernel [in, out]",
            file=file,
            tensor=array.leaf.name,
            expected="a kernel of two axes, or three where layers are scanned",
            found=array.shape,
        )


def _norms(kernel: LeafArray, by_path: Mapping[Path_, LeafArray]) -> Norms:
    """Find the norms behind a down-projection, of the query and of keys and values."""
    query, below = (_norm(kernel, name, by_path) for name in _NORMS)
    return query, below


def _norm(kernel: LeafArray, name: str, by_path: Mapping[Path_, LeafArray]) -> Norm | None:
    path = kernel.leaf.path
    place = place_of(path) or 0
    found = by_path.get((*path[:place], name, "scale", *path[place + 2 :]))
    width = _norm_width(found, kernel) if found is not None else None
    return Norm(found.leaf.name, width) if found is not None and width is not None else None


def _norm_width(norm: LeafArray, kernel: LeafArray) -> int | None:
    """Give the norm's values of one layer; layers are along axis 1 or 0, there and in the kernel."""
    if len(kernel.shape) != len(norm.shape) + 1:
        return None
    if len(norm.shape) == 1:
        return norm.shape[0]
    for axis in (1, 0):
        if norm.shape[axis] == kernel.shape[axis]:
            return norm.shape[1 - axis]
    return None
