"""The build: where sources, plans and stores meet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wvindex.build_guards import (
    GENERATOR,
    build_identity,
    require_finite,
    require_memory,
    require_same_hashes,
    require_space,
)
from wvindex.errors import LimitExceeded, UsageError
from wvindex.formats.arrays import Link
from wvindex.limits import PROCESS_BYTES
from wvindex.linking import SourceLinks
from wvindex.sizes import parse_size
from wvindex.sources.base import Source
from wvindex.sources.detect import open_source
from wvindex.sources.kept import kept_files
from wvindex.sources.maxtext import MaxTextSource
from wvindex.sources.unchanged import hash_files, require_unchanged
from wvindex.store.catalog import ArrayEntry, Catalog
from wvindex.store.layout import array_path
from wvindex.store.pending import PendingArray
from wvindex.store.target import require_target, resolved
from wvindex.store.writer import StoreWriter
from wvindex.transform.plan import Operation, Plan, Refusal, plan_source, require_representable

_ARRAYS_IN_FLIGHT = 8
"""Arrays that may be on their way to the disk while the next is read; their tiles are bounded apart."""


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
    fused_mla_lora_proj: bool = False,
    config: str | os.PathLike[str] | None = None,
) -> Plan:
    """Plan a build without writing anything: what would be stored, from what, and what could not be.

    Parameters
    ----------
    source : path
        A GGUF file (or any shard of one), a safetensors file, a directory of them, or a MaxText checkpoint.
    mla : {"absorb", "keep", "both"}
        How Multi-head Latent Attention is stored: as dense Q, K and V, as its low-rank factors, or both.
    dtype : {"keep", "float32", "float16", "bfloat16"}
        ``keep`` stores weights as they come, packed blocks included. Vectors are never narrowed.
    absorbed_dtype : {"float32", "float16", "bfloat16"}
        Storage of what absorption works out.
    fused_mla_lora_proj : bool
        With `mla` ``keep`` or ``both``: keep the two down-projections of latent attention as one matrix,
        ``self_attn.fused_qkv_a_proj``, of which both still answer to their own names.
    config : path, optional
        What model a MaxText checkpoint is: its YAML, or a config.json of Hugging Face.

    Returns
    -------
    Plan
        Of headers only: its operations can be listed, not run, once this returns.

    Raises
    ------
    SourceError
        If the source cannot be read.
    UsageError
        If an option has no such value, or what is to be fused is not kept.
    """
    with open_source(Path(source), config) as opened:
        return _plan(
            opened,
            mla=mla,
            dtype=dtype,
            absorbed_dtype=absorbed_dtype,
            fused_mla_lora_proj=fused_mla_lora_proj,
        )


def _plan(source: Source, **options: Any) -> Plan:
    """Plan, and refuse what the store has no place for: a name too long for a file."""
    planned = plan_source(source, **options)
    refusals = list(planned.refusals)
    for operation in planned.operations:
        try:
            array_path(operation.spec.key)
        except LimitExceeded as error:
            refusals.append(Refusal(operation.spec.key, error))
    return replace(planned, refusals=tuple(refusals))


def build(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    mla: str = "absorb",
    dtype: str = "keep",
    absorbed_dtype: str = "float32",
    fused_mla_lora_proj: bool = False,
    config: str | os.PathLike[str] | None = None,
    link: bool = False,
    max_memory: int | str = "1GiB",
    overwrite: bool = False,
    restart: bool = False,
    verify_source: bool = False,
    strict_finite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Turn a checkpoint into a store.

    Whatever interrupts a build, `out` is absent (or the old store) or complete. What was written stays in
    ``<out>.building/``: the same call again goes on where it ended, and gives the same bytes as a build that
    was never interrupted.

    Parameters
    ----------
    source, mla, dtype, absorbed_dtype, fused_mla_lora_proj, config
        As in `plan`.
    out : path, optional
        ``<stem>.zarr`` in the working directory where not given.
    link : bool
        Do not copy arrays whose encoded bytes are in the source as they would be stored: the store refers
        to them by byte ranges, and cannot be read without the source. The two may move together; a
        source that has changed since is refused (`SourceChanged`).
    max_memory : int or str
        Bytes, or such as ``"512MiB"``: how much memory the build may use.
    overwrite : bool
        Replace a wvindex store at `out`, once the new one is complete. Nothing else is ever replaced.
    restart : bool
        Discard what an interrupted build left, instead of going on with it.
    verify_source : bool
        Hash every byte of the source before and after, and when going on with an interrupted build compare
        with the hashes of then. By default a file that has kept its size, time of change and header is
        taken for the same.
    strict_finite : bool
        Refuse weights that are NaN or infinite. By default they are stored as they are, and counted.
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
        With `strict_finite`, also if a weight is NaN or infinite.
    SourceChanged
        If the source changes while it is read, or has since the build that was interrupted.
    TargetExists, BuildLocked, NoSpace, StoreError
        If the store cannot be written.
    UsageError
        If an option has no such value, `max_memory` is too little for this model, or an interrupted build
        was asked for something else.
    """
    budget = parse_size(max_memory)
    if link and strict_finite:
        raise UsageError("what is linked is not read, so it cannot be found finite", field="strict_finite")
    target = output_path(source, out)
    require_target(resolved(target), overwrite=overwrite)
    with open_source(Path(source), config) as opened:
        if link and opened.format == "maxtext":
            raise UsageError("a store cannot refer to chunks of a MaxText checkpoint", field="link")
        planned = _plan(
            opened,
            mla=mla,
            dtype=dtype,
            absorbed_dtype=absorbed_dtype,
            fused_mla_lora_proj=fused_mla_lora_proj,
        )
        require_representable(planned)
        require_memory(planned, budget)
        linker = SourceLinks(opened, target) if link else None
        links = linker.links(planned.operations) if linker is not None else {}
        hashes = hash_files(opened) if verify_source else None
        identity = build_identity(opened, planned, _options(planned, linker), hashes)
        with StoreWriter(target, overwrite=overwrite, identity=identity, restart=restart) as writer:
            scratch = opened.scratch_in(writer.root) if isinstance(opened, MaxTextSource) else 0
            require_space(planned.operations, writer, links, scratch)
            check = partial(require_finite, opened) if strict_finite else None
            operations = in_reading_order(opened, planned.operations)
            written = write_arrays(operations, writer, links, budget - planned.source_bytes, progress, check)
            arrays = {operation.spec.key: written[operation.spec.key] for operation in planned.operations}
            require_unchanged(opened)
            if hashes is not None:
                require_same_hashes(opened, hashes)
            _finish(opened, planned, writer, linker, arrays)
    return target


def in_reading_order(source: Source, operations: Sequence[Operation]) -> Sequence[Operation]:
    """Give the operations in the order in which their sources are best read.

    What a plan has layer by layer may stand in one stack; what is made of it then goes together.
    """
    stacks = {info.name: info.rendering.stack for info in source.tensors() if info.rendering is not None}
    if not stacks:
        return operations
    order = {stack: place for place, stack in enumerate(dict.fromkeys(stacks.values()))}
    return sorted(operations, key=lambda operation: order[stacks[operation.spec.sources[0]]])


def write_arrays(
    operations: Sequence[Operation],
    writer: StoreWriter,
    links: Mapping[str, Link],
    budget: int,
    progress: Callable[[Progress], None] | None = None,
    check: Callable[[ArrayEntry], None] | None = None,
) -> dict[str, ArrayEntry]:
    """Write arrays one after another, some of them on their way to the disk while the next is read.

    Parameters
    ----------
    operations : sequence of Operation
    writer : StoreWriter
    links : mapping of str to Link
        Of arrays, by key, that are not written.
    budget : int
        Bytes of memory that all of it may take.
    progress : callable, optional
    check : callable, optional
        Looks at each array once it is written, and raises.

    Returns
    -------
    dict of str to ArrayEntry
        By key, in the operations' order.
    """
    arrays: dict[str, ArrayEntry] = {}
    pending: deque[tuple[str, PendingArray]] = deque()
    total = sum(operation.spec.nbytes for operation in operations)
    done = 0

    def report(key: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(Progress(done, total, key))

    def finish_oldest() -> None:
        key, array = pending.popleft()
        arrays[key] = array.finish(partial(report, key))
        if check is not None:
            check(arrays[key])

    for operation in operations:
        spec, rows = operation.spec, operation.rows
        link = links.get(spec.key)
        if link is not None:
            arrays[spec.key] = writer.link_array(spec, link)
            report(spec.key, spec.nbytes)
            continue
        workspace = _workspace(operation, budget)
        pending.append((spec.key, writer.start_array(spec, rows, workspace=workspace)))
        if len(pending) > _ARRAYS_IN_FLIGHT:
            finish_oldest()
    while pending:
        finish_oldest()
    return {operation.spec.key: arrays[operation.spec.key] for operation in operations}


def _finish(
    source: Source,
    planned: Plan,
    writer: StoreWriter,
    linker: SourceLinks | None,
    arrays: Mapping[str, ArrayEntry],
) -> None:
    """Write what is not weights: the tokenizer, what else an export needs, and the catalog."""
    tokenizer = source.tokenizer()
    if tokenizer is not None:
        writer.add_tokenizer(tokenizer)
    for name, data in kept_files(source, planned.ledger).items():
        writer.add_file(name, data)
    writer.finish(
        Catalog(
            config=planned.config,
            generator=GENERATOR,
            sources=source.fingerprint(),
            source_format=source.format,
            options=_options(planned, linker),
            source_config=source.config(),
            ledger=planned.ledger,
            arrays=arrays,
            links=linker.paths() if linker is not None else (),
        )
    )


def _workspace(operation: Operation, budget: int) -> int:
    """Give the bytes that a tile of output may take; what it is made from and its copies need as much."""
    return max((budget - PROCESS_BYTES - operation.fixed_bytes) // 4, 0)


def _options(planned: Plan, linker: SourceLinks | None) -> dict[str, Any]:
    return {**planned.options, "link": True} if linker is not None else dict(planned.options)


def output_path(source: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> Path:
    """Give where `build` puts the store; nothing is read.

    Raises
    ------
    UsageError
        If `out` is no path.
    """
    if out is None:
        return Path(f"{_stem(Path(source))}.zarr")
    resolved(out)
    return Path(out)


def _stem(source: Path) -> str:
    """Name the store after the checkpoint: the file without its shard number, or the directory."""
    path = source.resolve()
    stem = path.name if path.is_dir() else path.name.removesuffix(path.suffix)
    head, _, count = stem.rpartition("-of-")
    if head and count.isdecimal():
        stem = head.rpartition("-")[0]
    return stem
