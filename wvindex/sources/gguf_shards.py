"""GGUF shard sets: ``NAME-00001-of-00009.gguf``, as llama.cpp's gguf-split names and numbers them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.errors import LimitExceeded, ShardError
from wvindex.limits import MAX_SHARDS
from wvindex.sources.files import list_names, resolve_member
from wvindex.sources.gguf_header import GGUFHeader
from wvindex.sources.gguf_metadata import PackedArray

SUFFIX: Final = ".gguf"
_SHARD_NAME: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
_SPLIT_NO: Final = "split.no"
_SPLIT_COUNT: Final = "split.count"
_SPLIT_TENSORS: Final = "split.tensors.count"
_PER_SHARD: Final = frozenset({_SPLIT_NO, "general.alignment"})


@dataclass(frozen=True)
class ShardName:
    """A shard's file name, taken apart; `number` counts from 1."""

    stem: str
    number: int
    count: int

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """Take `name` apart; None if it is not a shard's."""
        match = _SHARD_NAME.fullmatch(name)
        return cls(match[1], int(match[2]), int(match[3])) if match else None

    def sibling(self, number: int) -> str:
        """Name another shard of the same set."""
        return f"{self.stem}-{number:05d}-of-{self.count:05d}{SUFFIX}"


def model_names(names: Sequence[str]) -> dict[str, str]:
    """Map each GGUF model among a directory's file names to its first file."""
    models: dict[str, str] = {}
    for name in sorted(names):
        if name.endswith(SUFFIX):
            shard = ShardName.parse(name)
            models.setdefault(f"{shard.stem} ({shard.count} shards)" if shard else name, name)
    return models


def shard_paths(path: Path) -> dict[Path, Path | None]:
    """Map every file of the model that `path` belongs to, in order, to what it resolves to.

    The path that the user named may be a symlink to anywhere, so it maps to None; its siblings were
    found, not named, and must lie in the checkpoint's directory.

    Raises
    ------
    ShardError
        If a shard is missing or extra.
    UnsafePath
        If a sibling is a symlink that leads out of the directory.
    """
    named = ShardName.parse(path.name)
    if named is None or (named.number, named.count) == (1, 1):
        return {path: None}
    if named.count > MAX_SHARDS:
        raise LimitExceeded("too many shards", file=path, expected=f"at most {MAX_SHARDS}", found=named.count)
    expected = [named.sibling(number) for number in range(1, named.count + 1)]
    _check_present(path, named, expected)
    return {
        path.parent / name: None if name == path.name else resolve_member(path.parent, name)
        for name in expected
    }


def _check_present(path: Path, named: ShardName, expected: Sequence[str]) -> None:
    siblings = (ShardName.parse(name) for name in list_names(path.parent))
    present = {s.sibling(s.number) for s in siblings if s and (s.stem, s.count) == (named.stem, named.count)}
    # The file that was named comes first: if it is itself out of range, that is the better message.
    extra = sorted((present | {path.name}) - set(expected))
    if extra:
        raise ShardError(
            f"there are more shards than {named.count}",
            file=path.parent,
            expected=f"shards 1 to {named.count}",
            found=", ".join(extra),
        )
    missing = [name for name in expected if name not in present]
    if missing:
        raise ShardError(
            f"{len(missing)} of {named.count} shards missing",
            file=path.parent,
            expected=", ".join(missing),
            found=f"{named.count - len(missing)} of them",
        )


def check_shards(headers: Sequence[tuple[Path, GGUFHeader]]) -> None:
    """Check what the shards say of themselves against their names and each other.

    Raises
    ------
    ShardError
        If a number, a count or the tensors disagree.
    """
    n_tensors = sum(len(header.tensors) for _, header in headers)
    if len(headers) == 1:
        _check_alone(*headers[0])
        return
    for number, (file, header) in enumerate(headers):
        _check_field(file, header, _SPLIT_NO, number)
        _check_field(file, header, _SPLIT_COUNT, len(headers))
        _check_field(file, header, _SPLIT_TENSORS, n_tensors)
    _check_disjoint(headers)


def _check_alone(file: Path, header: GGUFHeader) -> None:
    count = header.metadata.get(_SPLIT_COUNT, 1)
    if count not in {0, 1}:
        raise ShardError(
            "a shard whose name does not say so: its siblings cannot be found",
            file=file,
            field=_SPLIT_COUNT,
            expected="NAME-00001-of-00009.gguf",
            found=count,
        )


def _check_field(file: Path, header: GGUFHeader, field: str, expected: int) -> None:
    found: Any = header.metadata.get(field)
    if type(found) is not int or found != expected:
        raise ShardError(
            "a shard contradicts its name or the other shards",
            file=file,
            field=field,
            expected=expected,
            found="nothing" if found is None else found,
        )


def _check_disjoint(headers: Sequence[tuple[Path, GGUFHeader]]) -> None:
    holders: dict[str, Path] = {}
    for file, header in headers:
        for tensor in header.tensors:
            other = holders.setdefault(tensor.name, file)
            if other != file:
                raise ShardError(
                    "a tensor is in two shards",
                    file=file,
                    tensor=tensor.name,
                    expected="in one shard",
                    found=f"also in {other.name}",
                )


def later_metadata(headers: Sequence[tuple[Path, GGUFHeader]]) -> list[str]:
    """Note the keys of later shards that the first, whose metadata count, lacks or has otherwise."""
    notes = []
    first = headers[0][1].metadata
    for file, header in headers[1:]:
        keys = [
            key
            for key, value in header.metadata.items()
            if key not in _PER_SHARD and not _same(first.get(key), value)
        ]
        if keys:
            notes.append(
                f"{file.name}: metadata differ from the first shard's, and do not count: {', '.join(keys)}"
            )
    return notes


def _same(first: Any, other: Any) -> bool:
    if isinstance(first, PackedArray) and isinstance(other, PackedArray):
        return (first.item_type, first.data) == (other.item_type, other.data)
    return type(first) is type(other) and bool(first == other)
