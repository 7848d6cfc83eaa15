"""``wvindex.convert``: fuse or unfuse the down-projections of latent attention, whatever holds them."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from wvindex.build_guards import require_budget
from wvindex.converting.plan import Conversion, Converter, OnProgress, Request
from wvindex.errors import UnknownFormat, UnreadableSource, UsageError
from wvindex.limits import PROCESS_BYTES
from wvindex.sizes import parse_size
from wvindex.store.target import resolved

CONVERTERS: Final = ("wvindex.converting.stores", "wvindex.converting.hub", "wvindex.converting.orbax")
"""Modules that are `Converter`, in the order in which they are asked; imported when one is wanted."""

LEAST_MEMORY: Final = PROCESS_BYTES + (32 << 20)


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    fuse_mla_lora: bool = False,
    unfuse_mla_lora: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    restart: bool = False,
    allow_requant: bool = False,
    optimizer: str | None = None,
    max_memory: int | str = "1GiB",
    progress: OnProgress = None,
) -> Conversion:
    """Fuse the two down-projections of latent attention into one matrix, or take them apart again.

    Rows move whole, so both ways are exact, and one undoes the other. A tensor that has nothing to do with it
    is copied byte for byte, and so is every other file of a checkpoint.

    Parameters
    ----------
    source : path
        A directory with a Hugging Face safetensors checkpoint, a wvindex store of the kept form, or a MaxText
        checkpoint of Orbax.
    out : path
        Where the result shall stand; it appears once it is whole. An interrupted conversion leaves what it
        wrote beside it, and the same call goes on from there.
    fuse_mla_lora, unfuse_mla_lora : bool
        Which way; one of them.
    dry_run : bool
        Plan only; nothing is written.
    overwrite : bool
        Replace what stands at `out`, if it is of the same kind, once the result is whole.
    restart : bool
        Discard what an interrupted conversion left.
    allow_requant : bool
        Where blocks of FP8 scales do not line up, quantize anew those that must be, and say by how much
        values change. Refused otherwise.
    optimizer : {"concat", "drop"}, optional
        Of a MaxText checkpoint with the state of an optimizer, what becomes of it: the moments of both halves
        are put together (and taken apart) as the halves are, or the state is left out. There is no default.
    max_memory : int or str
        Bytes, or such as ``"512MiB"``.
    progress : callable, optional
        Called with a `wvindex.Progress` as bytes are written.

    Returns
    -------
    Conversion
        What was done; with `dry_run`, what would be.

    Raises
    ------
    UnsupportedError
        If there is nothing to fuse (no latent attention, no ``q_lora_rank``) or to take apart, or it cannot
        be done exactly.
    MetadataError
        If a half is missing, or a shape is not what the configuration says.
    SourceError, StoreError
        If the source cannot be read, or the result not be written.
    UsageError
        If not exactly one way is asked for, `out` stands in the source, or an optimizer's state is there
        and nothing was said of it.
    """
    if fuse_mla_lora == unfuse_mla_lora:
        raise UsageError(
            "one way or the other",
            expected="fuse_mla_lora or unfuse_mla_lora",
            found="both" if fuse_mla_lora else "neither",
        )
    request = Request(
        source=Path(source),
        target=resolved(out),
        direction="fuse" if fuse_mla_lora else "unfuse",
        allow_requant=allow_requant,
        max_memory=_memory(max_memory),
        overwrite=overwrite,
        restart=restart,
        optimizer=_optimizer(optimizer),
    )
    _require_apart(request)
    converter = _converter(request.source)
    if optimizer is not None and not converter.HAS_OPTIMIZER:
        raise UsageError(
            "only a MaxText checkpoint has an optimizer's state", file=request.source, field="optimizer"
        )
    with converter.planned(request) as planned:
        if dry_run:
            return planned.plan
        planned.write(progress)
        return planned.plan.done()


def _optimizer(choice: str | None) -> str | None:
    if choice not in (None, "concat", "drop"):
        raise UsageError(
            "optimizer has no such value", field="optimizer", expected="concat or drop", found=choice
        )
    return choice


def _memory(max_memory: int | str) -> int:
    budget = parse_size(max_memory)
    require_budget(budget, LEAST_MEMORY, "nothing can be converted")
    return budget


def _require_apart(request: Request) -> None:
    """Refuse a result in its source, or a source in what it would replace."""
    source = Path(os.path.realpath(request.source))
    target = Path(os.path.realpath(request.target))
    if source == target or source in target.parents or target in source.parents:
        raise UsageError(
            "the result cannot stand where its source does",
            field="out",
            expected=f"a path apart from {source}",
            found=target,
        )


def _converter(path: Path) -> Converter:
    if not os.path.lexists(path):
        raise UnreadableSource("nothing stands here", file=path)
    for name in CONVERTERS:
        converter = cast("Converter", import_module(name))
        if converter.claims(path):
            return converter
    raise UnknownFormat(
        "nothing here that can be converted",
        file=path,
        expected="a directory with a safetensors checkpoint, a MaxText checkpoint, or a wvindex store",
    )
