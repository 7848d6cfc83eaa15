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
from wvindex.exporting.outline import Outline
from wvindex.limits import PROCESS_BYTES
from wvindex.sources.files import list_names
from wvindex.sources.gguf_header import MAGIC
from wvindex.sources.safetensors import CONFIG_JSON
from wvindex.store.reader import is_store

SUFFIX: Final = ".exporting"

_MOST_BUFFERED: Final = 64 << 20
"""Held of a file, and synced at once."""

_WEIGHTS: Final = (".safetensors", ".gguf")

Report = Callable[[Progress], None] | None


def require_directory(path: Path, *, overwrite: bool) -> None:
    """Refuse to put a directory where something else stands than a checkpoint that is to be replaced.

    Raises
    ------
    TargetExists
    """
    require_checkpoint(path, overwrite=overwrite, kind="a checkpoint's directory", is_kind=_is_checkpoint)


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


def _is_checkpoint(path: Path) -> bool:
    names = list_names(path)
    holds = any(name.endswith(_WEIGHTS) for name in names)
    return holds and not is_store(path) and (CONFIG_JSON in names or all(n.endswith(".gguf") for n in names))


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def write(
    outline: Outline,
    target: Path,
    identity: dict[str, Any],
    *,
    as_file: bool,
    overwrite: bool,
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
    overwrite, restart, max_memory, progress
        As in `wvindex.export`.
    """
    total = sum(part.nbytes for parts in outline.contents.values() for part in parts)
    done = 0

    def report(name: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(Progress(done, total, name))

    with StagedDirectory(
        target,
        identity,
        require_replaceable=partial(require_file if as_file else require_directory, overwrite=overwrite),
        buffer_bytes=max(min((max_memory - PROCESS_BYTES) // 4, _MOST_BUFFERED), 1 << 16),
        restart=restart,
        suffix=SUFFIX,
        what="export",
        doing="exporting to here",
    ) as staged:
        staged.require_space(total)
        for name, parts in outline.contents.items():
            staged.write(name, parts, partial(report, name))
        if as_file:
            (name,) = outline.contents
            staged.publish_file(name)
        else:
            staged.publish()


def is_inside(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, or one to a place in the other."""
    first, second = (Path(os.path.realpath(path)) for path in (one, other))
    return first == second or first in second.parents or second in first.parents
