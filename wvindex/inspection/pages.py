"""``wvindex.inspect``: a page for a layer, a page for a model."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import overload

from wvindex.inspection.collect import Progress
from wvindex.inspection.layer_page import LayerPage, layer_page
from wvindex.inspection.model_page import ModelPage, model_page
from wvindex.opening import open as open_any
from wvindex.query.database import Store

Source = Store | str | os.PathLike[str]


@overload
def inspect(
    source: Source,
    layer: None = None,
    *,
    stats: bool = True,
    keep: bool = True,
    progress: Progress | None = None,
) -> ModelPage: ...
@overload
def inspect(
    source: Source, layer: int, *, stats: bool = True, keep: bool = True, progress: Progress | None = None
) -> LayerPage: ...
def inspect(
    source: Source,
    layer: int | None = None,
    *,
    stats: bool = True,
    keep: bool = True,
    progress: Progress | None = None,
) -> LayerPage | ModelPage:
    """Look at a model, or at one of its layers, on a page.

    Everything on it is plain data: ``to_dict()``, ``to_json()``, ``tables()``; ``str()`` is the page as text.
    Statistics are those of `wvindex.stats`, exact over all weights, taken in bounded memory; a store in a
    directory keeps them, so that the page takes milliseconds the second time.

    Parameters
    ----------
    source : Store, path or URL
        A store, or a bare GGUF or safetensors checkpoint.
    layer : int, optional
        Number of a layer, negative ones from the last of the forward pass; the model's page without.
    stats : bool
        Whether to look at the weights. Without, only headers are read, and what weights tell is left open.
    keep : bool
        Whether to take what a store in a directory has in ``stats/``, and to leave there what is new.
    progress : callable, optional
        ``progress(bytes_done, bytes_total)``.

    Returns
    -------
    LayerPage or ModelPage

    Raises
    ------
    SelectionError
        If there is no such layer.
    """
    opened = nullcontext(source) if isinstance(source, Store) else open_any(source)
    with opened as db:
        if layer is None:
            return model_page(db, stats=stats, keep=keep, progress=progress)
        return layer_page(db, layer, stats=stats, keep=keep, progress=progress)
