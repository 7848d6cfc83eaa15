"""``wvindex.export``: a store back to a GGUF file, a Hugging Face directory or a MaxText checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

from wvindex.build_guards import GENERATOR, require_budget
from wvindex.converting.staged import require_place
from wvindex.errors import UsageError, WvindexError
from wvindex.exporting.absorbed import require_dense, require_factors
from wvindex.exporting.compose import Options, compose
from wvindex.exporting.held import Held, open_held
from wvindex.exporting.maxtext_write import require_means
from wvindex.exporting.outline import Export, Outline
from wvindex.exporting.targets import (
    Report,
    is_inside,
    require_directory,
    require_file,
    require_steps,
    write,
)
from wvindex.limits import PROCESS_BYTES
from wvindex.sizes import parse_size
from wvindex.store.staging import SOURCES
from wvindex.store.target import resolved
from wvindex.transform.plan import STORAGE

FORMATS: Final = ("safetensors", "gguf", "maxtext")
FORMS: Final = ("keep", "absorb")

LEAST_MEMORY: Final = PROCESS_BYTES + (64 << 20)


def export(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Literal["safetensors", "gguf", "maxtext"],
    mla: Literal["keep", "absorb"] | None = None,
    dtype: str = "keep",
    tokenizer: bool = True,
    max_shard_size: int | str | None = None,
    scan_layers: bool = True,
    fused_mla_lora_proj: bool = False,
    max_memory: int | str = "1GiB",
    overwrite: bool = False,
    restart: bool = False,
    progress: Report = None,
) -> Path:
    """Write a store as a checkpoint that other programs read.

    To the format that the store was made from, tensors go back as they came: names, types, shapes and bytes.
    Where the build cast them, they have the encoding that the store has.

    Parameters
    ----------
    store : path or URL
        A store; or a bare checkpoint, seen as the store that ``build(..., mla="keep")`` would make of it.
    out : path
        A directory for ``safetensors``, and for ``maxtext``, whose tree is in ``0/items`` there; for ``gguf``
        a file, or with `max_shard_size` a directory. It appears once it is whole. An interrupted export
        leaves what it wrote in ``<out>.exporting/``, and the same call goes on from there.
    format : {"safetensors", "gguf", "maxtext"}
    mla : {"keep", "absorb"}, optional
        Latent attention as its factors, or as dense arrays of absorbed attention, which no other program
        knows. By default the factors where the store holds them.
    dtype : {"keep", "float32", "float16", "bfloat16"}
        ``keep`` writes what is stored. Otherwise weights are decoded and cast; vectors are never narrowed.
    tokenizer : bool
        Whether to write the tokenizer; one that another format cannot say exactly is refused.
    max_shard_size : int or str, optional
        Bytes of tensors in a file, such as ``"5GB"``. By default files are divided as the source's were.
    scan_layers : bool
        For ``maxtext``: whether layers are stacked along an axis, as MaxText's own ``scan_layers``.
    fused_mla_lora_proj : bool
        For ``maxtext``: whether the down-projections of latent attention are one leaf, ``wq_kv_a``.
    max_memory : int or str
        Bytes, or such as ``"512MiB"``.
    overwrite : bool
        Replace a checkpoint of this format that stands at `out`, once the new one is whole.
    restart : bool
        Discard what an interrupted export left.
    progress : callable, optional
        Called with a `wvindex.Progress` as bytes are written.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UnsupportedError
        If the format cannot hold a tensor, the configuration or the tokenizer as asked; or factors are asked
        of a store that holds their product alone. Nothing is written then.
    StoreError, SourceError
        If the store cannot be read, or the result not be written.
    UsageError
        If an option has no such value, `out` stands in the store, or what ``maxtext`` needs is not installed.
    """
    asked = _asked(
        format=format,
        mla=mla,
        dtype=dtype,
        tokenizer=tokenizer,
        max_shard_size=max_shard_size,
        scan_layers=scan_layers,
        fused_mla_lora_proj=fused_mla_lora_proj,
    )
    budget = _memory(max_memory)
    target = resolved(out)
    require = _require_replaceable(asked, overwrite=overwrite)
    require_place(target, require)
    with _composed(store, target, asked) as (held, outline):
        _require_representable(outline)
        require_means(outline.leaves, budget)
        write(
            outline,
            target,
            _identity(held, outline, asked),
            as_file=_is_file(asked),
            require_replaceable=require,
            require_unchanged=held.require_unchanged,
            restart=restart,
            max_memory=budget,
            progress=progress,
        )
    return Path(out)


def plan_export(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Literal["safetensors", "gguf", "maxtext"],
    mla: Literal["keep", "absorb"] | None = None,
    dtype: str = "keep",
    tokenizer: bool = True,
    max_shard_size: int | str | None = None,
    scan_layers: bool = True,
    fused_mla_lora_proj: bool = False,
) -> Export:
    """Plan an export without writing anything: every tensor, every file, and what stands in the way.

    Parameters are those of `export`.

    Returns
    -------
    Export

    Raises
    ------
    StoreError, SourceError
        If the store cannot be read.
    UnsupportedError
        If the form that `mla` asks for is not held.
    UsageError
        If an option has no such value.
    """
    asked = _asked(
        format=format,
        mla=mla,
        dtype=dtype,
        tokenizer=tokenizer,
        max_shard_size=max_shard_size,
        scan_layers=scan_layers,
        fused_mla_lora_proj=fused_mla_lora_proj,
    )
    target = resolved(out)
    with _composed(store, target, asked) as (_, outline):
        form: Literal["kept", "absorbed"] = "absorbed" if outline.is_absorbed else "kept"
        return outline.export(asked.format, form, os.fspath(store), os.fspath(out))


@contextmanager
def _composed(store: str | os.PathLike[str], target: Path, asked: Options) -> Iterator[tuple[Held, Outline]]:
    if "://" not in os.fspath(store) and is_inside(Path(store), target):
        raise UsageError(
            "the result cannot stand where the store does",
            field="out",
            expected=f"a path apart from {store}",
            found=target,
        )
    with open_held(store) as held:
        if asked.mla == "keep" or asked.format == "maxtext":
            require_factors(held)
        if asked.mla == "absorb":
            require_dense(held)
        yield held, compose(held, asked, stem=target.name.removesuffix(".gguf"))


def _asked(
    *,
    format: str,
    mla: str | None,
    dtype: str,
    tokenizer: bool,
    max_shard_size: int | str | None,
    scan_layers: bool,
    fused_mla_lora_proj: bool,
) -> Options:
    for name, value, allowed in (
        ("format", format, FORMATS),
        ("mla", mla, (None, *FORMS) if format != "maxtext" else (None, "keep")),
        ("dtype", dtype, tuple(STORAGE)),
    ):
        if value not in allowed:
            expected = " or ".join(str(one) for one in allowed if one is not None)
            raise UsageError(f"{name} has no such value", field=name, expected=expected, found=value)
    size = parse_size(max_shard_size) if max_shard_size is not None else None
    if size == 0:
        raise UsageError("a file has to hold something", field="max_shard_size", found=max_shard_size)
    is_maxtext = format == "maxtext"
    for name, given in (
        ("max_shard_size", is_maxtext and size is not None),
        ("scan_layers", not is_maxtext and not scan_layers),
        ("fused_mla_lora_proj", not is_maxtext and fused_mla_lora_proj),
    ):
        if given:
            raise UsageError(f"{format} has no such option", field=name, found=format)
    return Options(
        format=cast("Literal['safetensors', 'gguf', 'maxtext']", format),
        mla=cast("Literal['keep', 'absorb'] | None", mla),
        storage=STORAGE[dtype],
        tokenizer=tokenizer,
        max_shard_size=size,
        scan_layers=scan_layers,
        fused_mla_lora_proj=fused_mla_lora_proj,
    )


def _require_replaceable(asked: Options, *, overwrite: bool) -> Callable[[Path], None]:
    """Give what refuses to replace anything but a result of the same kind."""
    if _is_file(asked):
        return partial(require_file, overwrite=overwrite)
    if asked.format == "maxtext":
        return partial(require_steps, overwrite=overwrite)
    return partial(require_directory, suffix=f".{asked.format}", overwrite=overwrite)


def _is_file(asked: Options) -> bool:
    return asked.format == "gguf" and asked.max_shard_size is None


def _memory(max_memory: int | str) -> int:
    budget = parse_size(max_memory)
    require_budget(budget, LEAST_MEMORY, "nothing can be exported")
    return budget


def _require_representable(outline: Outline) -> None:
    """Raise the first refusal's own error; its message counts the others."""
    if not outline.refusals:
        return
    error: WvindexError = copy(outline.refusals[0][1])
    if len(outline.refusals) > 1:
        error.message += f" [and {len(outline.refusals) - 1} more]"
    raise error


def _identity(held: Held, outline: Outline, asked: Options) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, parts in outline.contents.items():
        digest.update(repr((name, [part.nbytes for part in parts])).encode())
    for leaf in outline.leaves:
        digest.update(repr((leaf.name, leaf.shape, leaf.chunk_shape, leaf.encoding.name)).encode())
    return {
        "generator": GENERATOR,
        SOURCES: held.identity,
        "options": asked.to_json(),
        "plan_sha256": digest.hexdigest(),
    }
