"""One safetensors file's header, read and validated whole before any tensor is served.

Layout, as the safetensors README has it: eight bytes, the little-endian length of the JSON; the JSON, one
entry a tensor with its dtype, shape and place in the data; data, which the tensors cover without holes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final, NoReturn

from wvindex.errors import (
    LimitExceeded,
    MalformedHeader,
    TensorLayoutError,
    TruncatedSource,
    UnsupportedError,
)
from wvindex.limits import MAX_DIMS, MAX_ELEMENTS, MAX_NAME_BYTES, MAX_SAFETENSORS_HEADER, MAX_TENSORS
from wvindex.sources.base import TensorInfo
from wvindex.sources.files import OpenFiles
from wvindex.sources.safetensors_entries import (
    DTYPES,
    ENTRY_FIELDS,
    SURELY_SHORT,
    n_elements,
    sound_tensors,
)
from wvindex.sources.strict_json import json_type, parse_object

LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"

UNSUPPORTED_DTYPES: Final = frozenset(
    {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}
)
"""Dtypes that the safetensors library (0.8) knows and wvindex does not."""

_KNOWN_DTYPES: Final = ", ".join(DTYPES)


@dataclass(frozen=True)
class SafetensorsHeader:
    """What one file's header says, found true.

    Attributes
    ----------
    tensors : tuple of TensorInfo
        By offset.
    sha256 : str
        Of the length and the JSON.
    nbytes : int
        How many bytes those are.
    metadata : mapping of str to str, or None
        What ``__metadata__`` holds; None where it is not there.
    """

    tensors: tuple[TensorInfo, ...]
    sha256: str
    nbytes: int
    metadata: Mapping[str, str] | None = None


def read_header(files: OpenFiles, file: Path, size: int) -> SafetensorsHeader:
    """Read and validate the header of `file`, `size` bytes long, which `files` holds open.

    Raises
    ------
    DuplicateName, LimitExceeded, MalformedHeader, TensorLayoutError, TruncatedSource
    UnsupportedError
        If a tensor has a dtype that wvindex does not represent.
    """
    length = _read_length(files, file, size)
    data = files.read(file, 0, LENGTH_BYTES + length)
    if data[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise MalformedHeader(
            "the header is not a JSON object",
            file=file,
            offset=LENGTH_BYTES,
            expected="{",
            found=bytes(data[LENGTH_BYTES : LENGTH_BYTES + 1]),
        )
    entries = parse_object(data[LENGTH_BYTES:], file=file, base=LENGTH_BYTES)
    metadata = entries.pop(_METADATA, None)
    _check_metadata({} if metadata is None else metadata, file)
    if len(entries) > MAX_TENSORS:
        raise LimitExceeded(
            "too many tensors", file=file, expected=f"at most {MAX_TENSORS}", found=len(entries)
        )
    start = LENGTH_BYTES + length
    tensors = sound_tensors(entries, file, start)
    if tensors is None:
        tensors = [_tensor(name, entry, file, start) for name, entry in entries.items()]
    tensors.sort(key=attrgetter("offset", "nbytes"))
    _check_cover(tensors, file, start, size)
    return SafetensorsHeader(tuple(tensors), hashlib.sha256(data).hexdigest(), len(data), metadata)


def _read_length(files: OpenFiles, file: Path, size: int) -> int:
    if size < LENGTH_BYTES:
        raise TruncatedSource(
            "the file ends inside its header",
            file=file,
            expected=f"at least {LENGTH_BYTES} bytes",
            found=f"{size} bytes",
        )
    length = int.from_bytes(files.read(file, 0, LENGTH_BYTES), "little")
    if length > MAX_SAFETENSORS_HEADER:
        raise LimitExceeded(
            "the header is too long",
            file=file,
            field="header length",
            offset=0,
            expected=f"at most {MAX_SAFETENSORS_HEADER} bytes",
            found=length,
        )
    if LENGTH_BYTES + length > size:
        raise TruncatedSource(
            "the file ends inside its header",
            file=file,
            field="header length",
            offset=0,
            expected=f"at least {LENGTH_BYTES + length} bytes",
            found=f"{size} bytes",
        )
    return length


def _check_metadata(metadata: object, file: Path) -> None:
    entries = metadata.items() if isinstance(metadata, dict) else [("", metadata)]
    for name, value in entries:
        if not isinstance(metadata, dict) or not isinstance(value, str):
            raise MalformedHeader(
                "not an object of strings",
                file=file,
                field=f"{_METADATA}.{name}" if name else _METADATA,
                expected="a string" if isinstance(metadata, dict) else "an object of strings",
                found=json_type(value),
            )


def _tensor(name: str, entry: object, file: Path, data_start: int) -> TensorInfo:
    if not name or len(name) > SURELY_SHORT:
        _check_name(name, file)
    if not isinstance(entry, dict) or entry.keys() != ENTRY_FIELDS:
        raise MalformedHeader(
            "a tensor's entry has the wrong fields",
            file=file,
            tensor=name,
            expected=", ".join(sorted(ENTRY_FIELDS)),
            found=", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__,
        )
    dtype = entry["dtype"]
    encoding = DTYPES.get(dtype) if type(dtype) is str else None
    if encoding is None:
        _refuse_dtype(dtype, file, name)
    shape = _sizes(entry["shape"], "shape", file, name)
    elements = n_elements(shape)
    if elements is None:
        _refuse_shape(shape, file, name)
    offsets = _sizes(entry["data_offsets"], "data_offsets", file, name)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse_offsets(offsets, file, name)
    begin, end = offsets
    nbytes = elements * encoding.type_size
    if end - begin != nbytes:
        raise TensorLayoutError(
            "a tensor's span does not fit its shape and dtype",
            file=file,
            tensor=name,
            offset=data_start + begin,
            expected=f"{nbytes} bytes",
            found=f"{end - begin} bytes",
        )
    return TensorInfo(name, shape, encoding, file, data_start + begin, nbytes)


def _check_name(name: str, file: Path) -> None:
    if not name:
        raise MalformedHeader(
            "a tensor name is empty",
            file=file,
            field="tensor name",
            expected=f"1 to {MAX_NAME_BYTES} bytes",
            found=0,
        )
    length = len(name.encode())
    if length > MAX_NAME_BYTES:
        raise LimitExceeded(
            "a name is too long",
            file=file,
            tensor=name,
            expected=f"at most {MAX_NAME_BYTES} bytes",
            found=length,
        )


def _refuse_dtype(dtype: object, file: Path, name: str) -> NoReturn:
    if not isinstance(dtype, str):
        raise MalformedHeader(
            "not a string",
            file=file,
            tensor=name,
            field="dtype",
            expected="a string",
            found=json_type(dtype),
        )
    if dtype in UNSUPPORTED_DTYPES:
        raise UnsupportedError(
            f"dtype {dtype} is not supported",
            file=file,
            tensor=name,
            field="dtype",
            expected=_KNOWN_DTYPES,
            found=dtype,
        )
    raise TensorLayoutError(
        "unknown dtype", file=file, tensor=name, field="dtype", expected=_KNOWN_DTYPES, found=dtype
    )


def _refuse_shape(shape: tuple[int, ...], file: Path, name: str) -> NoReturn:
    if len(shape) > MAX_DIMS:
        raise LimitExceeded(
            "a tensor has too many dimensions",
            file=file,
            tensor=name,
            field="shape",
            expected=f"at most {MAX_DIMS}",
            found=len(shape),
        )
    raise LimitExceeded(
        "a tensor has too many elements",
        file=file,
        tensor=name,
        field="shape",
        expected=f"at most {MAX_ELEMENTS}",
        found=" x ".join(map(str, shape)),
    )


def _refuse_offsets(offsets: tuple[int, ...], file: Path, name: str) -> NoReturn:
    raise MalformedHeader(
        "data_offsets are not a begin and an end",
        file=file,
        tensor=name,
        field="data_offsets",
        expected="two, the first no larger",
        found=list(offsets),
    )


def _sizes(value: object, field: str, file: Path, name: str) -> tuple[int, ...]:
    """Check a list of integers that are not negative (JSON's ``true`` is a Python int, too)."""
    if isinstance(value, list):
        for item in value:
            if type(item) is not int or item < 0:
                break
        else:
            return tuple(value)
    raise MalformedHeader(
        "not a list of sizes",
        file=file,
        tensor=name,
        field=field,
        expected="integers, none negative",
        found=value,
    )


def _check_cover(tensors: Iterable[TensorInfo], file: Path, start: int, size: int) -> None:
    """Refuse holes, overlaps and unused bytes, as the safetensors library does."""
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            raise TensorLayoutError(
                "a tensor leaves a hole or overlaps another",
                file=file,
                tensor=tensor.name,
                offset=tensor.offset,
                expected=f"an offset of {end}",
                found=tensor.offset,
            )
        end += tensor.nbytes
        if end > size:
            raise TruncatedSource(
                "the file ends before a tensor does",
                file=file,
                tensor=tensor.name,
                offset=tensor.offset,
                expected=f"at least {end} bytes",
                found=f"{size} bytes",
            )
    if end < size:
        raise TensorLayoutError(
            "bytes after the last tensor",
            file=file,
            offset=end,
            expected=f"{end} bytes",
            found=f"{size} bytes",
        )
