"""Which files make up a safetensors checkpoint: one file, a directory, an index and its shards."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Final

from wvindex.errors import LimitExceeded, MalformedHeader, ShardError, UnknownFormat
from wvindex.limits import MAX_JSON_BYTES, MAX_SHARDS
from wvindex.sources.base import TensorInfo
from wvindex.sources.files import is_directory, list_names, read_beside, read_whole, real_path, resolve_member
from wvindex.sources.strict_json import parse_object

SUFFIX: Final = ".safetensors"
INDEX_SUFFIX: Final = ".safetensors.index.json"
_MODEL: Final = "model.safetensors"
_MODEL_INDEX: Final = "model.safetensors.index.json"
_SHARD_NAME: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.safetensors", re.DOTALL)


@dataclass(frozen=True)
class Checkpoint:
    """The files of one checkpoint.

    Attributes
    ----------
    directory : Path
    files : mapping of str to Path
        Name in the directory to what it resolves to, in shard order.
    weight_map : mapping of str to str, or None
        The index: tensor to file name.
    notes : tuple of str
        Files and sets that were left aside.
    index : str or None
        The index file's name in the directory.
    """

    directory: Path
    files: Mapping[str, Path]
    weight_map: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    index: str | None = None


def locate(path: Path) -> Checkpoint:
    """Find the files of the checkpoint that `path` names.

    A directory, an index file, or a ``.safetensors`` file. A file that an index beside it lists stands
    for the whole set.

    Raises
    ------
    ShardError
        If a file that the index names, or a numbered shard, is missing.
    UnknownFormat
        If a directory holds no safetensors file, or several indexes and none is the model's.
    UnsafePath
        If a file name or a symlink leads out of the directory.
    """
    if is_directory(path):
        return _locate_directory(path)
    if path.name.endswith(INDEX_SUFFIX):
        data = read_whole(path, real_path(path), MAX_JSON_BYTES)
        return _locate_indexed(path.parent, path.name, data)
    shard = _SHARD_NAME.fullmatch(path.name)
    if shard is None or int(shard[3]) == 1:
        return Checkpoint(path.parent, {path.name: real_path(path)})
    return _locate_shard(path, shard[1], int(shard[3]))


def _locate_shard(path: Path, stem: str, count: int) -> Checkpoint:
    found = _index_names(list_names(path.parent))[:1]
    for name in dict.fromkeys((f"{stem}{INDEX_SUFFIX}", *found)):
        data = read_beside(path.parent, name, MAX_JSON_BYTES)
        if data is not None and path.name in _weight_map(path.parent / name, data).values():
            return _locate_indexed(path.parent, name, data)
    note = f"{path.name} is one of {count} shards, opened alone: no index beside it lists it"
    return Checkpoint(path.parent, {path.name: real_path(path)}, notes=(note,))


def _locate_directory(directory: Path) -> Checkpoint:
    names = list_names(directory)
    files = [name for name in names if name.endswith(SUFFIX)]
    others = [name for name in names if name.lower().endswith(".gguf")]
    indexes = _index_names(names)
    if len(indexes) > 1 and _MODEL_INDEX not in indexes:
        raise UnknownFormat("several indexes: name one of them", file=directory, found=", ".join(indexes))
    if indexes:
        name = indexes[0]
        data = read_beside(directory, name, MAX_JSON_BYTES) or b""
        return _locate_indexed(directory, name, data, [*files, *others])
    if not files:
        raise UnknownFormat("no safetensors file in the directory", file=directory)
    _check_numbered(directory, files)
    chosen = [_MODEL] if _MODEL in files else files
    found = _checkpoint(directory, chosen, None, {*files, *others} - set(chosen))
    stems = {shard[1] if (shard := _SHARD_NAME.fullmatch(name)) else name for name in chosen}
    if len(stems) > 1:
        note = f"taken for one model, though no index says so: {', '.join(chosen)}"
        found = replace(found, notes=(*found.notes, note))
    return found


def _index_names(names: Sequence[str]) -> list[str]:
    """Give a directory's index files, the model's own first."""
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    return sorted(indexes, key=lambda name: (name != _MODEL_INDEX, name))


def _locate_indexed(directory: Path, name: str, data: bytes, present: Sequence[str] = ()) -> Checkpoint:
    weight_map = _weight_map(directory / name, data)
    files = sorted(set(weight_map.values()))
    return replace(_checkpoint(directory, files, weight_map, set(present) - set(files)), index=name)


def _checkpoint(
    directory: Path, names: Sequence[str], weight_map: Mapping[str, str] | None, unused: set[str]
) -> Checkpoint:
    if len(names) > MAX_SHARDS:
        raise LimitExceeded(
            "too many shards", file=directory, expected=f"at most {MAX_SHARDS}", found=len(names)
        )
    files = {name: resolve_member(directory, name) for name in names}
    missing = [name for name, real in files.items() if not os.path.lexists(real)]
    if missing:
        raise ShardError(
            f"{len(missing)} of {len(files)} files missing",
            file=directory,
            expected=", ".join(missing),
            found=f"{len(files) - len(missing)} of them",
        )
    notes = (f"not part of the checkpoint: {', '.join(sorted(unused))}",) if unused else ()
    return Checkpoint(directory, files, weight_map, notes)


def _weight_map(file: Path, data: bytes) -> dict[str, str]:
    weight_map = parse_object(data, file=file).get("weight_map")
    if not isinstance(weight_map, dict) or set(map(type, weight_map.values())) - {str}:
        raise MalformedHeader(
            "not an object of file names",
            file=file,
            field="weight_map",
            expected="tensors' names with files' names",
            found=weight_map,
        )
    if not weight_map:
        raise ShardError(
            "the index lists no tensor",
            file=file,
            field="weight_map",
            expected="tensors' names with files' names",
            found="an empty object",
        )
    return weight_map


def _check_numbered(directory: Path, names: Sequence[str]) -> None:
    """Without an index, numbered shards must at least all be there."""
    sets: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if shard := _SHARD_NAME.fullmatch(name):
            sets.setdefault((shard[1], int(shard[3])), set()).add(int(shard[2]))
    for (stem, count), numbers in sets.items():
        if count > MAX_SHARDS:
            raise LimitExceeded(
                "too many shards", file=directory, expected=f"at most {MAX_SHARDS}", found=count
            )
        wrong = numbers ^ set(range(1, count + 1))
        if wrong:
            listed = ", ".join(f"{stem}-{number:05d}-of-{count:05d}{SUFFIX}" for number in sorted(wrong))
            raise ShardError(
                "shards are missing or extra",
                file=directory,
                expected=f"shards 1 to {count} of {stem}",
                found=f"missing or extra: {listed}",
            )


def check_shards(
    headers: Mapping[str, Sequence[TensorInfo]], weight_map: Mapping[str, str] | None, directory: Path
) -> None:
    """Check the tensors that each file holds against each other and the index.

    Raises
    ------
    ShardError
        If a tensor is in two files, not in the file that the index gives, or in no index.
    """
    holders: dict[str, str] = {}
    for file, tensors in headers.items():
        held = dict.fromkeys(map(attrgetter("name"), tensors), file)
        if holders.keys().isdisjoint(held):
            holders |= held
            continue
        for tensor in tensors:
            other = holders.setdefault(tensor.name, file)
            if other != file:
                raise ShardError(
                    "a tensor is in two shards",
                    file=directory / file,
                    tensor=tensor.name,
                    expected="in one shard",
                    found=f"also in {other}",
                )
    if weight_map is None or holders == weight_map:
        return
    for name, file in weight_map.items():
        if holders.get(name) != file:
            raise ShardError(
                "a tensor is not in the shard that the index gives",
                file=directory / file,
                tensor=name,
                expected=f"in {file}",
                found=f"in {holders[name]}" if name in holders else "in no shard",
            )
    extra = sorted(holders.keys() - weight_map.keys())
    if extra:
        raise ShardError(
            f"{len(extra)} tensors that the index does not list",
            file=directory / holders[extra[0]],
            tensor=extra[0],
            expected="a tensor of the index",
            found=f"{len(extra)} of no index",
        )
