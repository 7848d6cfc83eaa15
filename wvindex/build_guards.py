"""What a build makes sure of before it begins and before it publishes, and what tells it from others."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from wvindex._version import __version__
from wvindex.errors import NonFiniteWeights, NoSpace, SourceChanged, UsageError
from wvindex.formats.arrays import Link
from wvindex.sizes import format_size
from wvindex.sources.base import Source
from wvindex.sources.unchanged import hash_files, source_files
from wvindex.store.catalog import ArrayEntry
from wvindex.store.staging import SOURCE_HASHES, SOURCES
from wvindex.store.writer import StoreWriter
from wvindex.transform.plan import Operation, Plan

GENERATOR = f"wvindex {__version__}"
"""What stores say that they were written by."""


def build_identity(
    source: Source, planned: Plan, options: Mapping[str, Any], hashes: Mapping[str, str] | None
) -> dict[str, Any]:
    """Give what tells this build from others: one that was interrupted goes on only with its own."""
    digest = hashlib.sha256(repr(planned.config).encode())
    for operation in planned.operations:
        digest.update(repr(operation.spec).encode())
    return {
        "generator": GENERATOR,
        SOURCES: [asdict(known) for known in source.fingerprint()],
        "options": dict(options),
        "plan_sha256": digest.hexdigest(),
        SOURCE_HASHES: hashes,
    }


def require_space(
    operations: Sequence[Operation], writer: StoreWriter, links: Mapping[str, Link], scratch: int = 0
) -> None:
    """Refuse where the file system lacks room for what is still to be written, and `scratch` bytes beside."""
    needed = scratch + sum(op.spec.nbytes for op in operations if op.spec.key not in links)
    free = shutil.disk_usage(writer.root).free + writer.nbytes_there()
    if needed > free:
        raise NoSpace(
            "the disk has too little room for this store",
            file=writer.path,
            expected=f"{format_size(needed)} free",
            found=format_size(free),
        )


def require_finite(source: Source, entry: ArrayEntry) -> None:
    """Refuse weights that are NaN or infinite, or of which nobody can tell."""
    if entry.nan != 0 or entry.inf != 0:
        known = entry.nan is not None
        raise NonFiniteWeights(
            "weights are not finite" if known else "whether these weights are finite is not known",
            file=source.path,
            tensor=", ".join(entry.spec.sources) or entry.spec.key,
            expected="finite values alone",
            found=f"{entry.nan} NaN, {entry.inf} infinite" if known else entry.spec.encoding.name,
        )


def require_same_hashes(source: Source, hashes: Mapping[str, str]) -> None:
    """Refuse a source whose bytes are no longer those that were hashed."""
    found = hash_files(source)
    for path, known in source_files(source):
        if found[known.name] != hashes[known.name]:
            raise SourceChanged(
                "a file of the checkpoint has changed while it was read",
                file=path,
                field="sha256",
                expected=hashes[known.name],
                found=found[known.name],
            )


def require_budget(budget: int, least: int, refusal: str) -> None:
    """Refuse to go on with less memory than is needed; `refusal` begins the message."""
    if budget < least:
        raise UsageError(
            f"{refusal} in so little memory",
            field="max_memory",
            expected=f"at least {format_size(least)}",
            found=format_size(budget),
        )


def require_memory(planned: Plan, budget: int) -> None:
    """Refuse to build in less memory than the plan's worst moment takes."""
    require_budget(budget, planned.peak_memory, "this model cannot be built")
