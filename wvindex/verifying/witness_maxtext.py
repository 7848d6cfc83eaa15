"""A MaxText checkpoint as TensorStore and NumPy read it: its tensors in Hugging Face's form.

Nothing here uses wvindex's tables of MaxText's names and axes. Which leaf a tensor stands in, and which of
its layers it is, the tensor's name says: ``params.params.decoder.layers.mlp.wi_0.kernel[3]``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import MalformedHeader
from wvindex.sources.base import Source, TensorInfo

Reader = Callable[[str, int, int, int], NDArray[np.uint8]]
"""Reads rows [start, stop) of a tensor seen as rows of so many values, as bytes."""

_NAME: Final = re.compile(
    r"(?P<leaf>[^\[]+)(?:\[(?P<layer>\d+(?=[,\]]))?(?:, )?(?P<part>\d*:\d*)?\])?", re.ASCII
)


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
        self._layers: defaultdict[str, set[str]] = defaultdict(set)
        for info in self._infos.values():
            match = self._parsed(info)
            if match["layer"] is not None:
                self._layers[match["leaf"]].add(match["layer"])
        self._handle = cache(self._opened)

    def read(self, name: str, width: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Read rows of `width` values, shape (stop - start, row_bytes)."""
        info = self._infos[name]
        columns = max(info.shape[-1] if info.shape else 1, 1)
        first, last = start * width // columns, -(-stop * width // columns)
        values = self._rows(info, first, last).reshape(-1)
        chosen = values[start * width - first * columns : stop * width - first * columns]
        return np.ascontiguousarray(chosen).view(np.uint8).reshape(stop - start, -1)

    def _rows(self, info: TensorInfo, first: int, last: int) -> NDArray[Any]:
        """Give rows [first, last) of a tensor, all its matrices one under another."""
        match = self._parsed(info)
        handle = self._handle(match["leaf"])
        if match["layer"] is not None:
            axis = self._layer_axis(match["leaf"], handle)
            handle = handle[(slice(None),) * axis + (int(match["layer"]),)]
        if info.hub_name == info.name or len(info.shape) < 2:
            return _exported(_all(handle, info), info)[first:last]
        if len(info.shape) == 3:
            return _experts(handle, info.shape[1], first, last)
        begin = int((match["part"] or ":").partition(":")[0] or 0)
        return _matrix(handle, info, first + begin, last + begin)

    def _parsed(self, info: TensorInfo) -> re.Match[str]:
        match = _NAME.fullmatch(info.name)
        if match is None:
            raise MalformedHeader("no name of a leaf", file=info.file, tensor=info.name)
        return match

    def _layer_axis(self, leaf: str, handle: Any) -> int:
        """Find the axis that has as many places as the leaf has layers; MaxText's own choice first."""
        n_layers = len(self._layers[leaf])
        found = [axis for axis in (1, 0, 2) if axis < handle.ndim and handle.shape[axis] == n_layers]
        return found[0] if found else 1

    def _opened(self, leaf: str) -> Any:
        import tensorstore as ts

        place = f"file://{self._directory}/"
        kvstore: dict[str, Any] | str = f"{place}{leaf}/"
        if (self._directory / "manifest.ocdbt").exists():
            kvstore = {"driver": "ocdbt", "base": place, "path": f"{leaf}/"}
        for driver in ("zarr3", "zarr"):
            try:
                return ts.open({"driver": driver, "kvstore": kvstore}, read=True).result()
            except ValueError:
                continue
        raise MalformedHeader("TensorStore finds no array", file=self._directory, tensor=leaf)


def _all(handle: Any, info: TensorInfo) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(handle.read().result())
    return values.reshape(-1, info.shape[-1] if info.shape else 1)


def _experts(handle: Any, height: int, first: int, last: int) -> NDArray[Any]:
    """Give rows of experts (experts, in, out), each turned."""
    low = first // height
    found = np.asarray(handle[low : -(-last // height)].read().result()).swapaxes(1, 2)
    return found.reshape(-1, found.shape[2])[first - low * height : last - low * height]


def _matrix(handle: Any, info: TensorInfo, first: int, last: int) -> NDArray[Any]:
    """Give rows of a matrix: an embedding upright, any other turned, whose heads are an axis of their own."""
    if info.hub_name.endswith("embed_tokens.weight"):
        return _exported(np.asarray(handle[first:last].read().result()), info)
    if handle.ndim == 2:
        return _exported(np.asarray(handle[:, first:last].read().result()).T, info)
    if info.hub_name.endswith("o_proj.weight"):  # (heads, head_dim, hidden)
        return np.asarray(handle[:, :, first:last].read().result()).reshape(-1, last - first).T
    width = int(handle.shape[2])  # (in, heads, head_dim)
    low = first // width
    heads = np.asarray(handle[:, low : -(-last // width)].read().result())
    if "unpermute_rope" in _steps(info):
        heads = np.concatenate([heads[..., 0::2], heads[..., 1::2]], axis=2)
    rows = heads.reshape(heads.shape[0], -1).T
    return _exported(rows[first - low * width : last - low * width], info, width)


def _steps(info: TensorInfo) -> tuple[str, ...]:
    return info.rendering.transforms if info.rendering is not None else ()


def _exported(values: NDArray[Any], info: TensorInfo, width: int = 1) -> NDArray[Any]:
    """Undo what MaxText's import does to values: in float32, and back."""
    steps, single = _steps(info), values.astype(np.float32)
    if "scale_query" in steps:
        single = single * np.sqrt(np.float32(width))
    elif "unscale_embedding" in steps:
        single = single / np.float32(info.shape[1] ** 0.5)
    elif "subtract_one_as_stored" in steps:
        single = single - np.float32(1)
    else:
        return values
    exported: NDArray[Any] = single.astype(values.dtype)
    return exported
