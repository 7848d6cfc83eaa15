"""The tree of an Orbax checkpoint, as its ``_METADATA`` describes it: its leaves, and their kinds.

The document is Orbax's own (orbax.checkpoint, ``PyTreeCheckpointHandler``): ``tree_metadata`` has a member a
leaf, with the keys that lead to it and the kind of its value, and the flags beside it say how arrays are laid
out on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wvindex.errors import (
    DuplicateName,
    LimitExceeded,
    MalformedHeader,
    UnknownFormat,
    UnsafePath,
    UsageError,
)
from wvindex.limits import MAX_DIMS, MAX_ELEMENTS, MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_NAME_BYTES, MAX_TENSORS
from wvindex.sources.files import is_directory, list_names, read_beside
from wvindex.sources.strict_json import parse_object

OPTIMIZER: Final = frozenset({"opt_state", "optimizer"})
"""Where MaxText's trees, Linen's and NNX's, have an optimizer's state."""

METADATA: Final = "_METADATA"
OCDBT_MANIFEST: Final = "manifest.ocdbt"

_ARRAYS: Final = frozenset({"jax.Array", "np.ndarray", "scalar"})
_STRING: Final = "string"


@dataclass(frozen=True)
class Leaf:
    """A value of the tree.

    Attributes
    ----------
    path : tuple of str
        The keys that lead to it; indices of lists are digits.
    is_array : bool
        Whether it is stored as an array; scalars are arrays without dimensions.
    shape : tuple of int or None
        As the document says; None where it does not.
    """

    path: tuple[str, ...]
    is_array: bool
    shape: tuple[int, ...] | None

    @property
    def name(self) -> str:
        """The name that Orbax stores it under."""
        return ".".join(self.path)


@dataclass(frozen=True)
class OrbaxTree:
    """A validated ``_METADATA``.

    Attributes
    ----------
    directory : Path
        That holds it.
    leaves : tuple of Leaf
        Those that hold a value; empty containers and None are left out, but are in `document`.
    ocdbt, zarr3 : bool
        Whether arrays stand in one OCDBT database or in a directory each, and by which version of Zarr.
    fill_is_stored : bool
        Whether every chunk must be there, for one that is missing would otherwise read as its fill value.
    document : mapping
        The whole of it.
    """

    directory: Path
    leaves: tuple[Leaf, ...]
    ocdbt: bool
    zarr3: bool
    fill_is_stored: bool
    document: Mapping[str, Any]


def is_orbax(directory: Path) -> bool:
    """Whether a directory is an Orbax checkpoint, a step's with an item in it, or one of steps."""
    names = list_names(directory)
    return METADATA in names or OCDBT_MANIFEST in names or bool(_items(directory, names) or steps(directory))


def steps(directory: Path) -> list[str]:
    """Give the names of directories that are steps, whole numbers, with an item in each."""
    return [
        name
        for name in list_names(directory)
        if is_step(name) and is_directory(directory / name) and _items(directory / name)
    ]


def is_step(name: str) -> bool:
    """Whether a name is one of a step."""
    return name.isascii() and name.isdigit()


def _items(directory: Path, names: list[str] | None = None) -> list[str]:
    return [
        name
        for name in (list_names(directory) if names is None else names)
        if is_directory(directory / name) and METADATA in list_names(directory / name)
    ]


def locate(directory: Path) -> Path:
    """Find the item that holds the tree: the directory itself, the one below a step's, or below the one step.

    Raises
    ------
    UnknownFormat
        If there is none.
    UsageError
        If there are several.
    """
    names = list_names(directory)
    if METADATA in names:
        return directory
    items = _items(directory, names)
    found = [] if items or OCDBT_MANIFEST in names else steps(directory)
    if len(found) > 1:
        raise UsageError("several steps: name one of them", file=directory, found=", ".join(found))
    if found:
        return locate(directory / found[0])
    if len(items) > 1:
        raise UsageError("several items: name one of them", file=directory, found=", ".join(items))
    if not items:
        raise UnknownFormat(
            "an Orbax checkpoint without the description of its tree",
            file=directory,
            expected=METADATA,
            found=", ".join(names[:8]) or "an empty directory",
        )
    return directory / items[0]


def read_tree(directory: Path) -> OrbaxTree:
    """Read and validate the description of a checkpoint's tree.

    Raises
    ------
    MalformedHeader, DuplicateName, LimitExceeded, UnsafePath
        If it is not what Orbax writes, or names what would lead out of the directory.
    """
    file = directory / METADATA
    data = read_beside(directory, METADATA, MAX_JSON_BYTES)
    if data is None:
        raise UnknownFormat("no description of the tree", file=file)
    document = parse_object(data, file=file)
    members = document.get("tree_metadata")
    if not isinstance(members, dict) or not members:
        raise _malformed(file, "tree_metadata", "an object with a member a leaf", members)
    if len(members) > MAX_TENSORS:
        raise LimitExceeded(
            "too many leaves", file=file, expected=f"at most {MAX_TENSORS}", found=len(members)
        )
    leaves: dict[str, Leaf] = {}
    for where, member in members.items():
        leaf = _leaf(member, where, file)
        if leaf is None:
            continue
        if leaf.name in leaves:
            raise DuplicateName("two leaves have one name", file=file, tensor=leaf.name)
        leaves[leaf.name] = leaf
    manifest = (directory / OCDBT_MANIFEST).exists()
    ocdbt = _flag(document, "use_ocdbt", manifest, file)
    if ocdbt and not manifest:
        raise _malformed(file, "use_ocdbt", f"{OCDBT_MANIFEST} beside it", "no such file")
    return OrbaxTree(
        directory=directory,
        leaves=tuple(leaves.values()),
        ocdbt=ocdbt,
        zarr3=_flag(document, "use_zarr3", False, file),
        fill_is_stored=_flag(document, "store_array_data_equal_to_fill_value", False, file),
        document=document,
    )


def _leaf(member: object, where: str, file: Path) -> Leaf | None:
    """Read one member; None for an empty container, which holds no value."""
    if not isinstance(member, dict):
        raise _malformed(file, where, "an object", member)
    path = _path(member.get("key_metadata"), where, file)
    value = member.get("value_metadata")
    if not isinstance(value, dict) or not isinstance(value.get("value_type"), str):
        raise _malformed(file, f"{where}.value_metadata", "an object with a value_type", value)
    kind, skipped = value["value_type"], value.get("skip_deserialize", False)
    if kind in _ARRAYS:
        return Leaf(path, True, _shape(value.get("write_shape"), where, file))
    if kind == _STRING:
        return Leaf(path, False, None)
    if skipped is not True:
        raise _malformed(file, f"{where}.value_metadata.value_type", ", ".join(sorted(_ARRAYS)), kind)
    return None


def _path(keys: object, where: str, file: Path) -> tuple[str, ...]:
    if not isinstance(keys, list) or not 0 < len(keys) <= MAX_JSON_DEPTH:
        raise _malformed(file, f"{where}.key_metadata", "a list of keys", keys)
    path = tuple(str(key.get("key", "")) if isinstance(key, dict) else "" for key in keys)
    if len(".".join(path).encode()) > MAX_NAME_BYTES:
        raise LimitExceeded(
            "a leaf's name is too long",
            file=file,
            expected=f"at most {MAX_NAME_BYTES} bytes",
            found=".".join(path),
        )
    if any(not part or part in (".", "..") or set(part) & set("/\\\0") for part in path):
        raise UnsafePath(
            "a leaf's name is no name of a directory",
            file=file,
            field=where,
            expected="plain keys",
            found=path,
        )
    return path


def _shape(shape: object, where: str, file: Path) -> tuple[int, ...] | None:
    if shape is None:
        return None
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or any(type(n) is not int or not 0 <= n <= MAX_ELEMENTS for n in shape)
    ):
        raise _malformed(file, f"{where}.write_shape", f"at most {MAX_DIMS} sizes", shape)
    return tuple(shape)


def _flag(document: Mapping[str, Any], name: str, default: bool, file: Path) -> bool:
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _malformed(file, name, "true or false", value)
    return value


def _malformed(file: Path, field: str, expected: str, found: object) -> MalformedHeader:
    return MalformedHeader(
        "not the description of a tree that Orbax writes",
        file=file,
        field=field,
        expected=expected,
        found="nothing" if found is None else found,
    )
