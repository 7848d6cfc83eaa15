"""The keys and values of the tokens that a model has seen, layer by layer."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import UsageError

_FIRST_CAPACITY: Final = 64


class KVCache:
    """Keys and values of every layer, for forward passes that go on where the last one ended.

    A forward pass stores each layer's new rows behind the `length` tokens that are complete, and only
    at its end makes them part of the cache (`advance`). One that is interrupted leaves the cache as it was.
    Sliding-window layers keep all their rows: attention skips those out of the window.

    Attributes
    ----------
    num_layers : int
    length : int
        Tokens that all layers hold.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.length = 0
        self._keys = [np.empty((0, 0), np.float32)] * num_layers
        self._values = [np.empty((0, 0), np.float32)] * num_layers

    def store(
        self, layer: int, k: NDArray[np.float32], v: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Put a layer's new rows behind the complete ones, and give all of them.

        Parameters
        ----------
        layer : int
        k, v : (T, width) float32

        Returns
        -------
        (length + T, width) float32, twice
            Views that the next call may overwrite.

        Raises
        ------
        UsageError
            If the cache holds rows of another width: it belongs to another model.
        """
        self._keys[layer] = _with_rows(self._keys[layer], k, self.length)
        self._values[layer] = _with_rows(self._values[layer], v, self.length)
        stop = self.length + len(k)
        return self._keys[layer][:stop], self._values[layer][:stop]

    def advance(self, n_tokens: int) -> None:
        """Make the rows that every layer stored last part of the cache."""
        self.length += n_tokens


def _with_rows(buffer: NDArray[np.float32], rows: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """Write `rows` at `start`, into the buffer itself or, where they don't fit, into one twice as large."""
    if start and buffer.shape[1] != rows.shape[1]:
        raise UsageError(
            "this cache belongs to another model", expected=f"width {buffer.shape[1]}", found=rows.shape[1]
        )
    stop = start + len(rows)
    if stop > len(buffer) or buffer.shape[1] != rows.shape[1]:
        grown = np.empty((max(stop, 2 * len(buffer), _FIRST_CAPACITY), rows.shape[1]), np.float32)
        if start:
            grown[:start] = buffer[:start]
        buffer = grown
    buffer[start:stop] = rows
    return buffer
