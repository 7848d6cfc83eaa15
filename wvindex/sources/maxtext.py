"""MaxText checkpoints: an Orbax tree of JAX arrays, shown as the Hugging Face checkpoint that it exports."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np

from wvindex.errors import LimitExceeded, SelectionError, UnsafePath, UsageError
from wvindex.limits import MAX_CHECKPOINT_FILES, MAX_JSON_BYTES
from wvindex.sources.base import FileFingerprint, Rendering, TensorInfo, TokenizerData
from wvindex.sources.files import absolute, open_regular, read_beside, read_whole, real_path
from wvindex.sources.maxtext_config import read_config
from wvindex.sources.maxtext_forms import Form, forms
from wvindex.sources.maxtext_tensors import Parts, TensorForm
from wvindex.sources.orbax_arrays import RUNTIME_BYTES, LeafArray, context, open_arrays
from wvindex.sources.orbax_metadata import METADATA, OCDBT_MANIFEST, is_step, locate, read_tree
from wvindex.sources.safetensors import TOKENIZER_FILES, VOCABULARY_FILES
from wvindex.sources.unstacked import UnstackedLeaf

_HASHED: Final = (METADATA, OCDBT_MANIFEST)
"""Files that say what all the others hold."""

_CONFIGS: Final = ("config.json", "maxtext.yml", "maxtext.yaml", "config.yml", "config.yaml")
"""Where a configuration is looked for that was not named, in `_beside` the tree."""

_CACHED_BYTES: Final = 8 << 20
"""A leaf of at most so many bytes is read through TensorStore's cache, never put apart."""


class MaxTextSource:
    """A MaxText checkpoint, open for reading; a `Source`.

    Parameters
    ----------
    path : str or Path
        The directory with the tree (``.../items``), a step's with one item in it, or one with one step in it.
    config : path, optional
        MaxText's YAML, or a config.json of Hugging Face. Looked for beside the tree where not given.

    Raises
    ------
    UsageError
        If there is no configuration, or TensorStore is not installed.
    SourceError, UnsupportedError
        If the tree, an array or the configuration is not sound, or not one that wvindex maps.
    """

    def __init__(self, path: str | Path, config: str | os.PathLike[str] | None = None) -> None:
        self._path = Path(path)
        self.place = absolute(locate(self._path))
        self._tree = read_tree(self.place)
        self._fingerprints = _fingerprints(self.place)
        self._config = read_config(_config_path(self.place, config))
        arrays = open_arrays(self._tree, self.place, context())
        self._forms = {form.name: form for form in forms(arrays, self._config, self.place)}
        self._tensors = tuple(self._info(form) for form in self._forms.values())
        self._unstacked: dict[str, UnstackedLeaf] = {}
        self._stack = ""
        self._scratch: Path | None = None
        self._lock = threading.Lock()
        self._closed = False
        strings = [leaf.name for leaf in self._tree.leaves if not leaf.is_array]
        text = (f"text, not arrays: {', '.join(strings)}",) if strings else ()
        self.notes: tuple[str, ...] = (*text, *self._config.notes)

    def _info(self, form: Form) -> TensorInfo:
        array, tensor = form.array, form.tensor
        held = RUNTIME_BYTES + 3 * _block_nbytes(array, tensor)
        stack = _stack(form)
        shown = Rendering(form.name, (), True, stack, held)
        shape = array.shape
        if tensor is not None:
            shape = tensor.shape
            name = tensor.key if form.aside is None else form.name
            shown = Rendering(name, tensor.transforms, tensor.is_exact, stack, held)
        nbytes = int(np.prod(shape, dtype=object)) * array.encoding.type_size
        file = self.place / METADATA
        return TensorInfo(form.name, shape, array.encoding, file, 0, nbytes, shown, form.aside)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let everything go."""
        self.close()

    @property
    def path(self) -> Path:
        """The directory that was opened."""
        return self._path

    @property
    def format(self) -> Literal["maxtext"]:
        """Which reader this is."""
        return "maxtext"

    def config(self) -> Mapping[str, Any]:
        """Give the configuration in Hugging Face's form."""
        return self._config.hub

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every leaf, or each layer of it, in the tree's order; what is no weight is marked `aside`."""
        return self._tensors

    def scratch_in(self, directory: Path) -> int:
        """Put large leaves apart, layer by layer, in unnamed files of `directory`, when they are first read.

        Every chunk is then decoded once, not once a layer. What was put apart is let go of when a leaf of
        another `Rendering.stack` is.

        Returns
        -------
        int
            The most bytes that this takes there at once.
        """
        self._scratch = absolute(directory)
        large = [form for form in self._forms.values() if form.tensor is not None and _is_large(form.array)]
        leaves = {form.array.leaf.name: (_stack(form), form.array.nbytes) for form in large}
        stacks: Counter[str] = Counter()
        for stack, nbytes in leaves.values():
            stacks[stack] += nbytes
        return max(stacks.values(), default=0)

    def read(self, info: TensorInfo, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        """Read bytes [start, stop) of a tensor in Hugging Face's form into `out` (or a new buffer).

        Safe from several threads at once.

        Raises
        ------
        SelectionError
            If the range does not fit the tensor.
        ShardError, SourceError
            If a chunk is missing, or cannot be decoded.
        UsageError
            If `out` is not ``stop - start`` writable bytes, or the source is closed.
        """
        if self._closed:
            raise UsageError("the source is closed", file=self._path)
        if not 0 <= start <= stop <= info.nbytes:
            raise SelectionError(
                "a byte range does not fit the tensor",
                tensor=info.name,
                expected=f"within [0, {info.nbytes})",
                found=f"[{start}, {stop})",
            )
        target = memoryview(bytearray(stop - start)) if out is None else out
        flat = target.cast("B") if target.nbytes else target
        if target.nbytes != stop - start or target.readonly:
            raise UsageError(
                "the buffer has the wrong length",
                tensor=info.name,
                expected=stop - start,
                found=target.nbytes,
            )
        if stop > start:
            self._read_into(self._forms[info.name], start, stop, flat)
        return target

    def _read_into(self, form: Form, start: int, stop: int, out: memoryview) -> None:
        tensor = form.tensor
        shape = form.array.shape if tensor is None else (1, tensor.n_columns)
        row_bytes = math.prod(shape[1:]) * form.array.encoding.type_size
        first, last = start // row_bytes, -(-stop // row_bytes)
        if tensor is None:  # as the leaf has it: any further axes are a row
            part = form.array.read((slice(first, last), *(slice(None),) * (len(shape) - 1))[: len(shape)])
            rows = np.ascontiguousarray(part)
        else:
            rows = np.ascontiguousarray(tensor.read_rows(self._parts(form, tensor), first, last))
        raw = rows.reshape(-1).view(np.uint8).data
        out[:] = raw[start - first * row_bytes : stop - first * row_bytes]

    def _parts(self, form: Form, tensor: TensorForm) -> Parts:
        array = form.array
        if self._scratch is None or not _is_large(array):
            return array
        with self._lock:
            found = self._unstacked.get(array.leaf.name)
            if found is None:
                if _stack(form) != self._stack:
                    self._let_go()
                    self._stack = _stack(form)
                found = self._unstacked[array.leaf.name] = _unstacked(array, tensor, self._scratch)
            return found

    def _let_go(self) -> None:
        self._unstacked = {}  # a file goes when the last read of it is over

    def tokenizer(self) -> TokenizerData | None:
        """Read tokenizer files beside the tree; MaxText itself keeps none there."""
        for place in _beside(self.place):
            contents = ((name, read_beside(place, name, MAX_JSON_BYTES)) for name in TOKENIZER_FILES)
            files = {name: data for name, data in contents if data is not None}
            if files.keys() & VOCABULARY_FILES:
                return TokenizerData(files=files, gguf={})
        return None

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """One fingerprint a file, sorted by name, taken when the source was opened."""
        return self._fingerprints

    def close(self) -> None:
        """Let everything go; not while reads are under way."""
        self._closed = True
        with self._lock:
            self._let_go()


def _is_large(array: LeafArray) -> bool:
    return array.nbytes > _CACHED_BYTES


def _stack(form: Form) -> str:
    """Name what is read together: the projections of an attention, absorbed into each other; else a leaf."""
    segments = form.array.leaf.path
    for place, segment in enumerate(segments):
        if segment.startswith("self_attention"):
            return ".".join(segments[: place + 1])
    return form.array.leaf.name


def _block_nbytes(array: LeafArray, tensor: TensorForm | None) -> int:
    """Give the bytes of what is decoded at once: a chunk, with all the layers of a stack."""
    if tensor is None or tensor.scan_axis is None or _is_apart(array, tensor.scan_axis):
        return array.chunk_nbytes
    layers = array.shape[tensor.scan_axis]
    return array.chunk_nbytes // max(min(array.chunk_shape[tensor.scan_axis], layers), 1) * layers


def _is_apart(array: LeafArray, scan_axis: int) -> bool:
    """Whether each chunk of a stack is of one layer, as exports write them."""
    return array.chunk_shape[scan_axis] == 1


def _unstacked(array: LeafArray, tensor: TensorForm, directory: Path) -> UnstackedLeaf:
    """Put a leaf apart: layers, experts, rows, columns."""
    layout, axes = tensor.layout, tensor.axes
    leading = [] if tensor.scan_axis is None else [tensor.scan_axis]
    matrices = [] if layout.experts is None else [axes[layout.experts]]
    inner = [axes[axis] for axis in (*layout.rows, *layout.columns)]
    whole = {axis for axis in leading if not _is_apart(array, axis)}
    return UnstackedLeaf(array, [*leading, *matrices, *inner], whole, directory)


def _beside(directory: Path) -> Iterator[Path]:
    """Give where a tree may be described: in its directory, one level up, and above that if it is a step."""
    yield directory
    yield directory.parent
    if is_step(directory.parent.name):
        yield directory.parent.parent


def _config_path(directory: Path, config: str | os.PathLike[str] | None) -> Path:
    if config is not None:
        return Path(config)
    for place in _beside(directory):
        for name in _CONFIGS:
            if (place / name).is_file():
                return place / name
    raise UsageError(
        "a MaxText checkpoint does not say what model it is",
        file=directory,
        field="config",
        expected="MaxText's YAML, or a config.json of Hugging Face (--config)",
        found="none beside it",
    )


def _fingerprints(directory: Path) -> tuple[FileFingerprint, ...]:
    """Look at every file below a directory; the hash is of those that describe the rest."""
    found: list[FileFingerprint] = []
    for place, below, names in os.walk(directory):
        below.sort()
        for name in [*below, *names]:
            if (Path(place) / name).is_symlink():
                raise UnsafePath(
                    "a symlink in an Orbax checkpoint", file=Path(place) / name, expected="files of its own"
                )
        for name in names:
            path = Path(place) / name
            found.append(_fingerprint(path, path.relative_to(directory).as_posix()))
            if len(found) > MAX_CHECKPOINT_FILES:
                raise LimitExceeded(
                    "too many files", file=directory, expected=f"at most {MAX_CHECKPOINT_FILES}", found="more"
                )
    return tuple(sorted(found, key=lambda one: one.name))


def _fingerprint(path: Path, name: str) -> FileFingerprint:
    header = read_whole(path, real_path(path), MAX_JSON_BYTES) if name in _HASHED else b""
    descriptor, status = open_regular(path, real_path(path))
    os.close(descriptor)
    digest = hashlib.sha256(header).hexdigest()
    return FileFingerprint(name, status.st_size, status.st_mtime_ns, digest, len(header))
