"""Linear maps by name: the weight, the bias beside it, and the per-token factor that it may carry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wvindex.formats.arrays import RowScale
from wvindex.infer.norm import inverse_rms
from wvindex.infer.weights import Weights


class LayerInput:
    """One input of several projections, such as a layer's normed hidden states for Q, K and V.

    A projection whose weight carries a `RowScale` is multiplied by the root mean square of another
    projection of the same input. That one is worked out once here, however many weights refer to it.

    Parameters
    ----------
    weights : Weights
    x : (T, in_features) float32
    """

    def __init__(self, weights: Weights, x: NDArray[np.float32]) -> None:
        self.weights = weights
        self.x = x
        self._products: dict[str, NDArray[np.float32]] = {}
        self._factors: dict[tuple[str, tuple[int, int], float], NDArray[np.float32]] = {}

    def project(self, stem: str, head_dim: int | None = None) -> NDArray[np.float32]:
        """Give ``x @ W.T + bias`` for the weight and bias of `stem`, times its factor.

        Parameters
        ----------
        stem : str
            Key without ``.weight``; the bias is added where the database has one.
        head_dim : int, optional
            Width of the output's heads, of which a factor takes a part; by default one head.

        Returns
        -------
        (T, out_features) float32
        """
        y = self._linear(stem)
        scale = self.weights.row_scale(f"{stem}.weight")
        if scale is not None:
            start, stop = scale.head_slice
            heads = y.reshape(len(y), -1, head_dim or y.shape[1])
            heads[:, :, start:stop] *= self._factor(scale)[:, :, None]
        return y

    def project_expert(self, stem: str, expert: int) -> NDArray[np.float32]:
        """Give ``x @ W.T + bias`` for one expert's matrix of the stack `stem`, and its row of the biases."""
        y = self.weights.multiply(self.x, f"{stem}.weight", expert)
        if f"{stem}.bias" in self.weights:
            y += self.weights.vector(f"{stem}.bias")[expert]
        return y

    def _linear(self, stem: str) -> NDArray[np.float32]:
        y = self.weights.multiply(self.x, f"{stem}.weight")
        if f"{stem}.bias" in self.weights:
            y += self.weights.vector(f"{stem}.bias")
        return y

    def _factor(self, scale: RowScale) -> NDArray[np.float32]:
        """Give ``1 / sqrt(mean(c ** 2) + eps)``, (T, 1), with c the rows of the projection it names."""
        name = (scale.weight, scale.rows, scale.eps)
        if name not in self._factors:
            # Several factors may come of one projection: it is worked out whole, once.
            stem = scale.weight.removesuffix(".weight")
            if stem not in self._products:
                self._products[stem] = self._linear(stem)
            c = self._products[stem][:, slice(*scale.rows)]
            self._factors[name] = inverse_rms(c, scale.eps)
        return self._factors[name]
