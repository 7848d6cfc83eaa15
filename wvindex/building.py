"""The build: where sources, plans and stores meet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wvindex._version import __version__
from wvindex.errors import UsageError
from wvindex.sizes import format_size, parse_size
from wvindex.sources.base import Source
from wvindex.sources.detect import open_source
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.writer import PendingArray, StoreWriter
from wvindex.transform.plan import Operation, Plan, plan_source, require_representable

_CODE_AND_LIBRARIES = 128 << 20
"""What the process needs whatever it builds: the interpreter, NumPy and its threads' stacks."""

_ARRAYS_IN_FLIGHT = 8
"""Arrays that may be on their way to the disk while the next is read; their tiles are bounded apart."""

_LEAST_WORKSPACE = 16 << 20
"""Below this, chunks of 4 MiB and their copies do not fit."""


@dataclass(frozen=True)
class Progress:
    """How far a build is.

    Attributes
    ----------
    bytes_done, bytes_total : int
        Encoded bytes written, and of the whole store.
    key : str
        The array in hand.
    """

    bytes_done: int
    bytes_total: int
    key: str


def plan(
    source: str | os.PathLike[str],
    *,
    mla: str = "absorb",
    dtype: str = "keep",
    absorbed_dtype: str = "float32",
) -> Plan:
    """Plan a build without writing anything: what would be stored, from what, and what could not be.

    Parameters
    ----------
    source : path
        A GGUF file (or any shard of one), a safetensors file, or a directory of them.
    mla : {"absorb", "keep", "both"}
        How Multi-head Latent Attention is stored: as dense Q, K and V, as its low-rank factors, or both.
    dtype : {"keep", "float32", "float16", "bfloat16"}
        ``keep`` stores weights as they come, packed blocks included. Vectors are never narrowed.
    absorbed_dtype : {"float32", "float16", "bfloat16"}
        Storage of what absorption works out.

    Returns
    -------
    Plan
        Of headers only: its operations can be listed, not run, once this returns.

    Raises
    ------
    SourceError
        If the source cannot be read.
    UsageError
        If an option has no such value.
    """
    with open_source(Path(source)) as opened:
        return plan_source(opened, mla=mla, dtype=dtype, absorbed_dtype=absorbed_dtype)


def build(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    mla: str = "absorb",
    dtype: str = "keep",
    absorbed_dtype: str = "float32",
    max_memory: int | str = "1GiB",
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Turn a checkpoint into a store.

    Parameters
    ----------
    source, mla, dtype, absorbed_dtype
        As in `plan`.
    out : path, optional
        ``<stem>.zarr`` in the working directory where not given.
    max_memory : int or str
        Bytes, or such as ``"512MiB"``: how much memory the build may use.
    overwrite : bool
        Replace a wvindex store at `out`, once the new one is complete. Nothing else is ever replaced.
    progress : callable, optional
        Called with a `Progress` as arrays and chunks are written.

    Returns
    -------
    Path
        Of the store.

    Raises
    ------
    SourceError
        If the source cannot be read.
    UnsupportedError
        If it holds what cannot be represented as asked; nothing is written then.
    TargetExists, BuildLocked, StoreError
        If the store cannot be written.
    UsageError
        If an option has no such value, or `max_memory` is too little for this model.
    """
    budget = parse_size(max_memory)
    with open_source(Path(source)) as opened:
        planned = plan_source(opened, mla=mla, dtype=dtype, absorbed_dtype=absorbed_dtype)
        require_representable(planned)
        _require_memory(planned, budget)
        target = Path(out) if out is not None else Path(f"{_stem(opened)}.zarr")
        with StoreWriter(target, overwrite=overwrite) as writer:
            _write(opened, planned, writer, budget, progress)
    return target


def _write(
    source: Source,
    planned: Plan,
    writer: StoreWriter,
    budget: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    arrays: dict[str, ArrayEntry] = {}
    pending: deque[tuple[str, PendingArray]] = deque()
    done = 0

    def finish_oldest() -> None:
        key, array = pending.popleft()

        def wrote(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(Progress(done, planned.bytes_out, key))

        arrays[key] = array.finish(wrote)

    for operation in planned.operations:
        workspace = _workspace(operation, budget)
        pending.append(
            (operation.spec.key, writer.start_array(operation.spec, operation.rows, workspace=workspace))
        )
        if len(pending) > _ARRAYS_IN_FLIGHT:
            finish_oldest()
    while pending:
        finish_oldest()
    tokenizer = source.tokenizer()
    if tokenizer is not None:
        writer.add_tokenizer(tokenizer)
    writer.finish(
        Catalog(
            config=planned.config,
            generator=f"wvindex {__version__}",
            sources=source.fingerprint(),
            source_format=source.format,
            options=planned.options,
            source_config=source.config(),
            ledger=planned.ledger,
            arrays=arrays,
        )
    )


def _workspace(operation: Operation, budget: int) -> int:
    """Give the bytes that a tile of output may take; what it is made from and its copies need as much."""
    return max((budget - _CODE_AND_LIBRARIES - operation.fixed_bytes) // 4, 0)


def _require_memory(planned: Plan, budget: int) -> None:
    fixed = max((operation.fixed_bytes for operation in planned.operations), default=0)
    least = _CODE_AND_LIBRARIES + fixed + _LEAST_WORKSPACE
    if budget < least:
        raise UsageError(
            "this model cannot be built in so little memory",
            field="max_memory",
            expected=f"at least {format_size(least)}",
            found=format_size(budget),
        )


def _stem(source: Source) -> str:
    """Name the store after the checkpoint: the file without its shard number, or the directory."""
    path = source.path.resolve()
    stem = path.name if path.is_dir() else path.name.removesuffix(path.suffix)
    head, _, count = stem.rpartition("-of-")
    if head and count.isdecimal():
        stem = head.rpartition("-")[0]
    return stem
