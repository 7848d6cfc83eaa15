"""``wvindex.open``: a store, or a bare checkpoint seen as the store that would be built from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wvindex.errors import UnknownFormat, UnsupportedTokenizer, UsageError
from wvindex.garbage import collection_paused
from wvindex.query.database import Store, absolute, open_store
from wvindex.sources.base import Source
from wvindex.sources.detect import open_source
from wvindex.store.directory import is_being_replaced
from wvindex.store.metadata import CATALOG_JSON, ZARR_JSON
from wvindex.store.reader import Check, require_check
from wvindex.store.remote import is_path
from wvindex.store.staging import BUILDING_JSON
from wvindex.transform.plan import plan_source, require_representable

if TYPE_CHECKING:
    import zarr.abc.store

    from wvindex.tokenizer import Tokenizer


@collection_paused()
def open(
    path: str | os.PathLike[str] | zarr.abc.store.Store,
    *,
    check: Check = "chunks",
    config: str | os.PathLike[str] | None = None,
) -> Store:
    """Open a weight database.

    Parameters
    ----------
    path : path, URL or Zarr store
        A finished store, or a bare checkpoint: a GGUF or safetensors file, a directory of them, or a MaxText
        checkpoint. A bare checkpoint is seen as the store that ``build(..., mla="keep")`` would write, over
        the file's own bytes; nothing is written.
    check : {"never", "chunks", "always"}
        When a store's checksums are verified: never, whenever a whole chunk is read, or for every read.
    config : path, optional
        What model a bare MaxText checkpoint is: its YAML, or a config.json of Hugging Face.

    Returns
    -------
    Store
        A mapping of standard keys to lazy tensors, and a context manager.

    Raises
    ------
    NotAStore, StoreVersionError, CatalogError
        If a store cannot be read.
    SourceError, UnsupportedError
        If a bare checkpoint cannot be.
    UsageError
        If `path` is none of these, or `check` is unknown.
    """
    local = Path(path) if is_path(path) and "://" not in os.fspath(path) else None
    if local is None or _means_a_store(local):
        if config is not None:
            raise UsageError("a store has its configuration in it", field="config", found=config)
        return open_store(path, check=check)
    require_check(check)
    try:
        source = open_source(local, config)
    except UnknownFormat:
        if os.path.lexists(local / CATALOG_JSON):
            return open_store(local, check=check)  # a store without its root document, and says so
        raise
    try:
        again = absolute(Path(config)) if config is not None else None
        return _bare(source, partial(open, absolute(local), check=check, config=again))
    except BaseException:
        source.close()
        raise


def _means_a_store(path: Path) -> bool:
    """Whether what stands at a path is a store, finished or not, or is just being replaced by another."""

    def has_documents() -> bool:
        return any(os.path.lexists(path / name) for name in (ZARR_JSON, BUILDING_JSON))

    # Between its two renames a build leaves nothing here. Once that is over, the new store is seen.
    return has_documents() or is_being_replaced(path) or has_documents()


def _bare(source: Source, reopen: Callable[[], Store]) -> Store:
    planned = plan_source(source, mla="keep")
    require_representable(planned)
    arrays = {operation.spec.key: (operation.spec, operation.rows) for operation in planned.operations}

    def tokenizer() -> Tokenizer:
        from wvindex.tokenizer import load_tokenizer

        data = source.tokenizer()
        if data is None:
            raise UnsupportedTokenizer("the checkpoint has no tokenizer", file=source.path)
        return load_tokenizer(data)

    return Store(
        source.path,
        planned.config,
        arrays,
        tokenizer=tokenizer,
        close=source.close,
        reopen=reopen,
        identity=lambda: repr(source.fingerprint()),
        notes=source.notes,
        ledger=planned.accounts.ledger,
    )
