"""A MaxText checkpoint as TensorStore and NumPy read it: its tensors in Hugging Face's form, by plain formulas.

Nothing here uses wvindex's tables of MaxText's names and axes. Which leaf a tensor stands in, and which of its
layers it is, the tensor's name says: ``params.params.decoder.layers.mlp.wi_0.kernel[3]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import MalformedHeader
from wvindex.sources.base import Source, TensorInfo

Reader = Callable[[str, int, int, int], NDArray[np.uint8]]
"""Reads rows [start, stop) of a tensor seen as rows of so many values, as bytes."""

_NAME: Final = re.compile(r"(?P<leaf>[^\[]+)(?:\[(?P<layer>\d+(?=[,\]]))?(?:, )?(?P<part>\d*:\d*)?\])?", re.ASCII)
_SIDEWAYS: Final = ("o_proj.weight",)
_UPRIGHT: Final = ("embed_tokens.weight",)


class MaxTextWitness:
    """Reads tensors of a MaxText checkpoint.

    Parameters
    ----------
    source : Source
        Open, and found sound.
    """

    def __init__(self, source: Source) -> None:
        self._directory = source.place
        self._infos = {info.name: info for info in source.tensors()}
        self._context = None
        self._open: dict[str, Any] = {}

    def read(self, name: str, width: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Read rows of `width` values, shape (stop - start, row_bytes)."""
        info = self._infos[name]
        columns = info.shape[-1] if info.shape else 1
        first, last = start * width // max(columns, 1), -(-stop * width // max(columns, 1))
        values = self._rows(info, first, last).reshape(-1)
        chosen = values[start * width - first * columns : stop * width - first * columns]
        return np.ascontiguousarray(chosen).view(np.uint8).reshape(stop - start, -1)

    def _rows(self, info: TensorInfo, first: int, last: int) -> NDArray[Any]:
        """Give rows [first, last) of a tensor, all its matrices one under another."""
        match = _NAME.fullmatch(info.name)
        if match is None:
            raise MalformedHeader("no name of a leaf", file=info.file, tensor=info.name)
        handle = self._handle(match["leaf"])
        if match["layer"] is not None:
            handle = handle[(slice(None),) * self._scan_axis(info, handle) + (int(match["layer"]),)]
        steps = info.rendering.transforms if info.rendering is not None else ()
        shown = info.hub_name
        if len(info.shape) < 2 or info.hub_name == info.name:
            return _exported(np.asarray(handle.read().result()).reshape(-1, info.shape[-1] if info.shape else 1), steps, info)[first:last]
        if len(info.shape) == 3:
            return _exported(_experts(handle, info.shape[1], first, last), steps, info)
        begin = int((match["part"] or ":").partition(":")[0] or 0)
        first, last = first + begin, last + begin
        if shown.endswith(_UPRIGHT):
            return _exported(np.asarray(handle[first:last].read().result()), steps, info)
        if handle.ndim == 2:
            return _exported(np.asarray(handle[:, first:last].read().result()).T, steps, info)
        if shown.endswith(_SIDEWAYS):  # (heads, head_dim, hidden)
            found = np.asarray(handle[:, :, first:last].read().result())
            return _exported(found.reshape(-1, last - first).T, steps, info)
        width = handle.shape[2]  # (in, heads, head_dim)
        low = first // width
        heads = np.asarray(handle[:, low : -(-last // width)].read().result())
        if "unpermute_rope" in steps:
            heads = np.concatenate([heads[..., 0::2], heads[..., 1::2]], axis=2)
        rows = heads.reshape(heads.shape[0], -1).T
        return _exported(rows[first - low * width : last - low * width], steps, info, width)

    def _handle(self, leaf: str) -> Any:
        if leaf not in self._open:
            self._open[leaf] = _opened(self._directory, leaf)
        return self._open[leaf]

    def _scan_axis(self, info: TensorInfo, handle: Any) -> int:
        """Find the axis of the layers: without it the tensor has as many values as its shape says."""
        leaf = info.name.partition("[")[0] + "["
        places = (name[len(leaf) :] for name in self._infos if name.startswith(leaf))
        n_layers = len({re.split(r"[,\]]", place)[0] for place in places})
        axes = [axis for axis in (1, 0, 2) if axis < handle.ndim and handle.shape[axis] == n_layers]
        return axes[0] if axes else 1


def _opened(directory: Path, leaf: str) -> Any:
    import tensorstore as ts

    if (directory / "manifest.ocdbt").exists():
        kvstore: dict[str, Any] = {"driver": "ocdbt", "base": f"file://{directory}/", "path": f"{leaf}/"}
    else:
        kvstore = {"driver": "file", "path": f"{directory}/{leaf}/"}
    for driver in ("zarr3", "zarr"):
        try:
            return ts.open({"driver": driver, "kvstore": kvstore}, read=True).result()
        except ValueError:
            continue
    raise MalformedHeader("TensorStore finds no array", file=directory, tensor=leaf)


def _experts(handle: Any, height: int, first: int, last: int) -> NDArray[Any]:
    """Give rows of experts (experts, in, out), each turned."""
    low = first // height
    found = np.asarray(handle[low : -(-last // height)].read().result()).swapaxes(1, 2)
    return found.reshape(-1, found.shape[2])[first - low * height : last - low * height]


def _exported(
    values: NDArray[Any], steps: tuple[str, ...], info: TensorInfo, width: int = 1
) -> NDArray[Any]:
    """Undo what MaxText's import does to values: in float32, and back."""
    single = values.astype(np.float32)
    if "scale_query" in steps:
        return (single * np.sqrt(np.float32(width))).astype(values.dtype)
    if "unscale_embedding" in steps:
        return (single / np.float32(info.shape[1] ** 0.5)).astype(values.dtype)
    if "subtract_one_as_stored" in steps:
        return (single - np.float32(1)).astype(values.dtype)
    return values
