"""Where a result may stand, what it may replace, and how it comes to stand there: at once, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from wvindex.building import Progress
from wvindex.converting.orbax_documents import ARRAY_METADATAS, SHARDING
from wvindex.converting.staged import StagedDirectory, require_checkpoint
from wvindex.errors import TargetExists, WvindexError
from wvindex.exporting.maxtext_described import MAXTEXT_YML, MODEL_YML
from wvindex.exporting.maxtext_leaves import ITEMS, STEP
from wvindex.exporting.maxtext_target import CHECKPOINT_METADATA
from wvindex.exporting.maxtext_write import write_leaves
from wvindex.exporting.outline import Outline
from wvindex.limits import PROCESS_BYTES
from wvindex.sources.files import list_names
from wvindex.sources.gguf_header import MAGIC
from wvindex.sources.orbax_metadata import METADATA, OCDBT_MANIFEST, is_step, read_tree, steps
from wvindex.sources.safetensors import CONFIG_JSON, TOKENIZER_FILES
from wvindex.store.reader import is_store

SUFFIX: Final = ".exporting"

_PARAMETERS: Final = "params"
_DATABASE: Final = "ocdbt.process_"

_WRITTEN: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({STEP, MAXTEXT_YML, str(Path(MODEL_YML).parent), CONFIG_JSON, *TOKENIZER_FILES}),
    str(Path(MODEL_YML).parent): frozenset({Path(MODEL_YML).name}),
    STEP: frozenset({Path(ITEMS).name, CHECKPOINT_METADATA}),
    ITEMS: frozenset(
        {METADATA, CHECKPOINT_METADATA, OCDBT_MANIFEST, "d", SHARDING, ARRAY_METADATAS}  # Orbax's own, too
    ),
}
"""What an export to MaxText puts where, besides databases."""

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

    A run's checkpoints, which are steps beside each other, are never replaced; nor is a state in training, or
    anything beside which stands what no export writes.

    Raises
    ------
    TargetExists
    """
    kind = f"a MaxText checkpoint of one step, {ITEMS},"
    require_checkpoint(path, overwrite=overwrite, kind=kind, is_kind=_has_one_step)
    foreign = next(_foreign(path), None)
    if foreign is not None:
        raise TargetExists(
            "a directory with what no export to MaxText writes is not replaced",
            file=path,
            expected="files of an export alone",
            found=foreign,
        )
    _require_parameters_alone(path / ITEMS)


def _foreign(path: Path) -> Iterator[str]:
    """Give what no export writes, by names below `path`."""
    for place, ours in _WRITTEN.items():
        directory = path / place
        for name in list_names(directory) if directory.is_dir() else ():
            if name not in ours and not (place == ITEMS and name.startswith(_DATABASE)):
                yield f"{place}/{name}" if place else name


def _require_parameters_alone(items: Path) -> None:
    """Refuse to replace a tree with more than parameters, or one of which that cannot be told."""
    try:
        leaves = read_tree(items).leaves
    except WvindexError as error:
        raise TargetExists(f"a tree that cannot be read is not replaced: {error}", file=items) from error
    other = next((leaf for leaf in leaves if leaf.path[0] != _PARAMETERS), None)
    if other is not None:
        raise TargetExists(
            "a state in training is not replaced by parameters",
            file=items / METADATA,
            expected=f"leaves of {_PARAMETERS} alone",
            found=other.name,
        )


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
