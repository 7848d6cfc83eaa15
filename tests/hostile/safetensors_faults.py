"""safetensors files and directories that are wrong, or meant to harm, or odd and yet valid."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.safetensors_bytes import entry, safetensors, write_index

_SHARDS: Final = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_MAP: Final = dict(zip("ab", _SHARDS, strict=True))
_INDEX: Final = "model.safetensors.index.json"
_ENTRY: Final = json.dumps(entry()).encode()

ODD_NAMES: Final = (
    "a/zarr.json/b",
    "zarr.json",
    "catalog.json",
    "..",
    "../../etc/passwd",
    "/absolute",
    "__x",
    "tab\there",
    "new\nline",
    "c/0",
    "c",
    "layers/0",
    "Case",
    "case",
    "caf\u00e9",
    "cafe\u0301",
    "%",
    "%2e",
    " ",
    "\u202etxt",
    "CON",
    "a\0b",
)
"""Tensor names that a store must hold apart, and within itself; all valid."""


def _one(**changes: Any) -> bytes:
    return safetensors({"a": {**entry(), **changes}})


def _two(first: tuple[int, int], second: tuple[int, int], n_bytes: int = 16) -> bytes:
    header = {"a": entry("F32", (2,), *first), "b": entry("F32", (2,), *second)}
    return safetensors(header, bytes(n_bytes))


WHOLE: Final = safetensors(
    {
        "__metadata__": {"format": "pt"},
        "a": entry(),
        "b": entry("BF16", (2, 2), 8, 16),
        "c": entry("I8", (0, 3), 16, 16),
    },
    bytes(range(16)),
)
"""A sound file with some of everything."""

HEADER_END: Final = len(WHOLE) - 16

FILES: Final[dict[str, bytes]] = {
    "header-length-2pow63": safetensors({}, length=2**63),
    "header-length-past-end": safetensors({}, length=1000),
    "key-twice": safetensors(b'{"a":' + _ENTRY + b',"a":' + _ENTRY + b"}"),
    "key-twice-once-escaped": safetensors(b'{"a":' + _ENTRY + rb',"\u0061":' + _ENTRY + b"}"),
    "field-twice": safetensors(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "depth-200000": safetensors(b'{"a":' * 200_000),
    "depth-200000-closed": safetensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "lone-surrogate": safetensors(rb'{"\ud800":' + _ENTRY + b"}"),
    "not-utf8": safetensors(b'{"\xff":' + _ENTRY + b"}"),
    "not-json": safetensors(b'{"a":'),
    "nan": safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "number-infinite": safetensors(b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}'),
    "number-of-a-million-digits": safetensors(b'{"a":' + b"9" * 1_000_000 + b"}"),
    "shape-float": _one(shape=[2.0]),
    "shape-negative": _one(shape=[-2]),
    "shape-bool": _one(shape=[True, 2]),
    "shape-overflows": _one(shape=[2**63 + 1, 2]),
    "shape-huge": _one(shape=[2**47]),
    "shape-huge-beside-zero": _one(shape=[0, 2**63], data_offsets=[0, 0]),
    "shape-of-9-dims": _one(shape=[1] * 9),
    "dtype-unknown": _one(dtype="F33"),
    "dtype-unsupported": _one(dtype="F8_E8M0"),
    "span-against-shape": _one(shape=[3]),
    "span-reversed": _one(data_offsets=[8, 0]),
    "span-negative": _one(data_offsets=[-8, 0]),
    "span-overflows": _one(data_offsets=[2**64 - 8, 2**64]),
    "span-past-end": _one(shape=[2**20], data_offsets=[0, 2**22]),
    "overlap": _two((0, 8), (4, 12)),
    "hole": _two((0, 8), (16, 24), 24),
    "trailing-bytes": _two((0, 8), (8, 16), 17),
    "name-empty": safetensors({"": entry()}),
    "name-1000-bytes": safetensors({"n" * 1000: entry()}),
    "empty": b"",
    **{f"cut-at-{length:03d}": WHOLE[:length] for length in range(1, len(WHOLE))},
}
"""Files to refuse, by the name of the fault."""

VALID_FILES: Final[dict[str, bytes]] = {
    "zero-dims": safetensors(
        {"a": entry("F32", (0,), 0, 0), "b": entry("F32", (4, 0), 0, 0), "c": entry("F32", (2,), 0, 8)}
    ),
    "odd-names": safetensors(
        {name: entry("F32", (2,), 8 * i, 8 * i + 8) for i, name in enumerate(ODD_NAMES)},
        bytes(range(8 * len(ODD_NAMES))),
    ),
    "whole": WHOLE,
}
"""Odd files that are valid."""


def _long_header(directory: Path) -> Path:
    """Write a header of 101 MB: a sparse file, so that it is there and costs nothing."""
    path = directory / "m.safetensors"
    with path.open("wb") as file:
        file.write((101_000_000).to_bytes(8, "little") + b"{")
        file.truncate(101_000_100)
    return path


def _shard(path: Path, *names: str) -> None:
    header = {name: entry("F32", (2,), 8 * i, 8 * i + 8) for i, name in enumerate(names)}
    path.write_bytes(safetensors(header, bytes(8 * len(names))))


def _write_set(directory: Path, **weight_map: str) -> Path:
    """Write two shards and an index, to which `weight_map` adds."""
    for name, shard in _MAP.items():
        _shard(directory / shard, name)
    write_index(directory, _MAP | weight_map)
    return directory


def _outside(directory: Path) -> Path:
    """Write a sound file beside the directory: to open it would succeed."""
    path = directory.parent / f"outside-{directory.name}.safetensors"
    _shard(path, "x")
    return path


def _up(directory: Path) -> Path:
    return _write_set(directory, x=f"../{_outside(directory).name}")


def _up_from_below(directory: Path) -> Path:
    (directory / "sub").mkdir()
    return _write_set(directory, x=f"sub/../../{_outside(directory).name}")


def _absolute(directory: Path) -> Path:
    return _write_set(directory, x=str(_outside(directory)))


def _linked(directory: Path, name: str = "x.safetensors") -> Path:
    target = os.path.relpath(_outside(directory), directory)
    _write_set(directory, **({"x": name} if name == "x.safetensors" else {}))
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(target)
    return directory


def _linked_directory(directory: Path) -> Path:
    outside = directory.parent / f"outside-{directory.name}"
    outside.mkdir()
    _shard(outside / "x.safetensors", "x")
    (directory / "sub").symlink_to(outside)
    return _write_set(directory, x="sub/x.safetensors")


def _snapshot(directory: Path) -> Path:
    """Lay a checkpoint out as the hub's cache does, with symlinks into ``blobs``."""
    snapshot, blobs = directory / "snapshots" / "0123abcd", directory / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    _write_set(snapshot)
    for i, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"{i:064x}")
        path.symlink_to(Path("../../blobs") / f"{i:064x}")
    return snapshot


def _snapshot_linked_out(directory: Path) -> Path:
    snapshot = _snapshot(directory)
    (snapshot / _SHARDS[1]).unlink()
    (snapshot / _SHARDS[1]).symlink_to(_outside(directory))
    return snapshot


def _without(directory: Path, *names: str) -> Path:
    _write_set(directory)
    for name in names:
        (directory / name).unlink()
    return directory


def _with(directory: Path, shard: str, *names: str) -> Path:
    _shard(_write_set(directory) / shard, *names)
    return directory


def _index_text(directory: Path, text: str) -> Path:
    (_write_set(directory) / _INDEX).write_text(text)
    return directory


def _config(directory: Path, text: str) -> Path:
    (_write_set(directory) / "config.json").write_text(text)
    return directory


def _fp8(
    directory: Path, *, scale: tuple[int, int] | None = (1, 2), block: Any = (2, 2), apart: bool = False
) -> Path:
    """Write FP8 codes (2, 4) with scales of one's choice, perhaps in another shard."""
    codes = {"w": entry("F8_E4M3", (2, 4), 0, 8)}
    at = 0 if apart else 8
    scales = {} if scale is None else {"w_scale_inv": entry("F32", scale, at, at + 4 * scale[0] * scale[1])}
    n_bytes = 0 if scale is None else 4 * scale[0] * scale[1]
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
    (directory / "config.json").write_text(json.dumps(config))
    if not apart:
        (directory / "model.safetensors").write_bytes(safetensors(codes | scales, bytes(8 + n_bytes)))
        return directory
    for shard, header, data in ((_SHARDS[0], codes, bytes(range(8))), (_SHARDS[1], scales, bytes(n_bytes))):
        (directory / shard).write_bytes(safetensors(header, data))
    write_index(directory, {"w": _SHARDS[0], "w_scale_inv": _SHARDS[1]})
    return directory


DIRECTORIES: Final[dict[str, Callable[[Path], Path]]] = {
    "header-length-101-MB": _long_header,
    "weight-map-absolute": _absolute,
    "weight-map-up": _up,
    "weight-map-up-from-below": _up_from_below,
    "weight-map-symlink-out": _linked,
    "weight-map-through-linked-directory": _linked_directory,
    "snapshot-symlink-out": _snapshot_linked_out,
    "config-symlink-out": lambda d: _linked(d, "config.json"),
    "index-symlink-out": lambda d: _linked(d, _INDEX),
    "weight-map-backslash": lambda d: _write_set(d, x="..\\x.safetensors"),
    "weight-map-nul": lambda d: _write_set(d, x="x\0.safetensors"),
    "weight-map-empty-name": lambda d: _write_set(d, x=""),
    "weight-map-not-names": lambda d: _index_text(d, '{"weight_map": {"a": 1}}'),
    "weight-map-twice": lambda d: _index_text(d, f'{{"weight_map": {{"a": "{_SHARDS[0]}", "a": "y"}}}}'),
    "index-depth-200000": lambda d: _index_text(d, "[" * 200_000),
    "shard-missing": lambda d: _without(d, _SHARDS[1]),
    "shard-missing-without-index": lambda d: _without(d, _INDEX, _SHARDS[1]),
    "tensor-missing": lambda d: _write_set(d, x=_SHARDS[0]),
    "tensor-extra": lambda d: _with(d, _SHARDS[1], "b", "x"),
    "tensor-double": lambda d: _with(d, _SHARDS[1], "a", "b"),
    "tensor-in-another-shard": lambda d: _write_set(d, a=_SHARDS[1]),
    "config-not-json": lambda d: _config(d, "{"),
    "config-key-twice": lambda d: _config(d, '{"model_type": "llama", "model_type": "gemma2"}'),
    "fp8-scale-missing": lambda d: _fp8(d, scale=None),
    "fp8-scale-of-wrong-shape": lambda d: _fp8(d, scale=(2, 1)),
    "fp8-block-size-missing": lambda d: _fp8(d, block=None),
    "fp8-block-size-0": lambda d: _fp8(d, block=(0, 2)),
}
"""Checkpoints to refuse: each is written into an empty directory, and gives the path to open."""

VALID_DIRECTORIES: Final[dict[str, Callable[[Path], Path]]] = {
    "hub-snapshot": _snapshot,
    "fp8-scale-in-another-shard": lambda d: _fp8(d, apart=True),
}
"""Odd checkpoints that are valid."""
