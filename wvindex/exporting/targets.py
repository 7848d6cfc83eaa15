"""Where a result may stand, what it may replace, and how it comes to stand there: at once, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from wvindex.building import Progress
from wvindex.converting.staged import StagedDirectory, require_checkpoint
from wvindex.errors import TargetExists
from wvindex.exporting.maxtext_leaves import ITEMS, STEP
from wvindex.exporting.maxtext_write import write_leaves
from wvindex.exporting.outline import Outline
from wvindex.limits import PROCESS_BYTES
from wvindex.sources.files import list_names
from wvindex.sources.gguf_header import MAGIC
from wvindex.sources.orbax_metadata import METADATA, is_step, steps
from wvindex.store.reader import is_store

SUFFIX: Final = ".exporting"

_MOST_BUFFERED: Final = 64 << 20
"""Held of a file, and synced at once."""

Report = Callable[[Progress], None] | None


def require_directory(path: Path, *, suffix: str, overwrite: bool) -> None:
    """Refuse to put a directory where something else stands than one with files of its kind.

    Raises
    ------
    TargetExists
    """
    kind = f"a directory of {suffix} files"
    require_checkpoint(path, overwrite=overwrite, kind=kind, is_kind=partial(_holds, suffix=suffix))


def require_steps(path: Path, *, overwrite: bool) -> None:
    """Refuse to put a directory where something else stands than one with a step like an export's alone.

    A run's checkpoints, which are steps beside each other, are never replaced.

    Raises
    ------
    TargetExists
    """
    kind = f"a MaxText checkpoint of one step, {ITEMS},"
    require_checkpoint(path, overwrite=overwrite, kind=kind, is_kind=_has_one_step)


def _has_one_step(path: Path) -> bool:
    found = [name for name in list_names(path) if is_step(name)]
    return found == [STEP] == steps(path) and METADATA in list_names(path / ITEMS)


def require_file(path: Path, *, overwrite: bool) -> None:
    """Refuse to put a file where something else stands than a GGUF file that is to be replaced.

    Raises
    ------
    TargetExists
    """
    if not overwrite:
        raise TargetExists("the output path is taken", file=path)
    if path.is_symlink() or not path.is_file() or not _begins_with(path, MAGIC):
        raise TargetExists("only a GGUF file is replaced by one", file=path)


def _holds(path: Path, suffix: str) -> bool:
    return any(name.endswith(suffix) for name in list_names(path)) and not is_store(path)


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def write(
    outline: Outline,
    target: Path,
    identity: dict[str, Any],
    *,
    as_file: bool,
    require_replaceable: Callable[[Path], None],
    require_unchanged: Callable[[], None],
    restart: bool,
    max_memory: int,
    progress: Report,
) -> None:
    """Write every file of an outline, and give the result its name.

    Parameters
    ----------
    outline : Outline
        Without refusals.
    target : Path
    identity : dict
        What tells this export from others: one that was interrupted goes on only with its own.
    as_file : bool
        Whether the outline's one file shall stand at `target` itself.
    require_replaceable : callable
        Raises `TargetExists` for what may not be replaced.
    require_unchanged : callable
        Raises before anything is published, if what was read has changed since.
    restart, max_memory, progress
        As in `wvindex.export`.
    """
    total = outline.nbytes
    done = 0

    def report(name: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(Progress(done, total, name))

    with StagedDirectory(
        target,
        identity,
        require_replaceable=require_replaceable,
        buffer_bytes=max(min((max_memory - PROCESS_BYTES) // 4, _MOST_BUFFERED), 1 << 16),
        restart=restart,
        suffix=SUFFIX,
        what="export",
        doing="exporting to here",
    ) as staged:
        staged.require_space(total)
        for name, parts in outline.contents.items():
            staged.write(name, parts, partial(report, name))
        if outline.leaves:
            write_leaves(staged, outline.leaves, report)
        require_unchanged()
        if as_file:
            (name,) = outline.contents
            staged.publish_file(name)
        else:
            staged.publish()


def is_inside(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, or one to a place in the other."""
    first, second = (Path(os.path.realpath(path)) for path in (one, other))
    return first == second or first in second.parents or second in first.parents
