"""Where in MaxText's tree each array of a store goes: the inverse of what its source reader knows.

The names are `wvindex.sources.maxtext_names`', turned round, as far as the block of each model has them. The
tree is Linen's, as MaxText's own conversion writes it: ``params/params/decoder/...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from wvindex.arch.keys import split_layer
from wvindex.errors import UnsupportedError
from wvindex.sources.maxtext_names import GEMMA_PAIR, LAYER, ROOTS, Layout, predicting_names

PREFIX: Final = ("params", "params")
"""Where the model is in a state: the parameters, and their collection."""

_ATTENTION: Final = "self_attention"
_DENSE: Final = (_ATTENTION, "mlp")
_MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "llama2": _DENSE,
    "mistral": _DENSE,
    "qwen2": _DENSE,
    "qwen3": _DENSE,
    "mixtral": (_ATTENTION, "MoeBlock_0"),
    "qwen3_moe": (_ATTENTION, "moe_block"),
    "deepseek": (_ATTENTION, "DeepSeekMoeBlock_0.MoeBlock_0", "DeepSeekMoeBlock_0.shared_experts"),
}
"""The modules of a layer of each block; DeepSeek's first layers are dense ones."""

_OWN: Final = {
    "query.bias": ("qwen2",),
    "key.bias": ("qwen2",),
    "value.bias": ("qwen2",),
    "out.bias": (),
    "query_norm.scale": ("qwen3", "qwen3_moe"),
    "key_norm.scale": ("qwen3", "qwen3_moe"),
}
"""Leaves of an attention that only some blocks have (``use_bias_in_projections``, ``use_qk_norm``)."""

SHARED: Final = ("embed_tokens.weight", "shared_head.norm.weight", "shared_head.head.weight")
"""What a layer that predicts further tokens has in Hugging Face's form, and shares with the model here."""

_GEMMA: Final = "gemma2"

Stack = Literal["layers", "dense_layers", "moe_layers"]


@dataclass(frozen=True)
class Home:
    """The leaf that an array is in.

    Attributes
    ----------
    path : tuple of str
        Of the leaf.
    layout : Layout
        Its axes, without layers.
    position, count : int
        Which of its layers the array is, and how many it has; 0 and 1 where it is not scanned.
    scanned : bool
        Whether the leaf has an axis of layers.
    """

    path: tuple[str, ...]
    layout: Layout
    position: int = 0
    count: int = 1
    scanned: bool = False


@dataclass(frozen=True)
class Tree:
    """The shape of a model's tree.

    Attributes
    ----------
    block : str
        MaxText's ``decoder_block``.
    n_layers, n_dense : int
        Hugging Face's layers, and how many of DeepSeek's first are dense.
    scan_layers : bool
    """

    block: str
    n_layers: int
    n_dense: int
    scan_layers: bool

    def home(self, key: str) -> Home | None:
        """Find where an array goes; None for one that MaxText's layers share with the model.

        Raises
        ------
        UnsupportedError
            If the block has no such leaf.
        """
        layer, role = split_layer(key)
        if layer is None:
            if key not in self._roots:
                raise self._no_place(key)
            path, layout = self._roots[key]
            return Home((*PREFIX, *path), layout)
        if layer >= self.n_layers:
            return self._predicting(key, layer - self.n_layers + 1, role)
        if self.block == _GEMMA:
            position, half = divmod(layer, 2)
            return self._in_stack(key, "layers", position, self.n_layers // 2, self._halves[half].get(role))
        if self.block != "deepseek":
            return self._in_stack(key, "layers", layer, self.n_layers, self._names.get(role))
        if layer < self.n_dense:
            return self._in_stack(key, "dense_layers", layer, self.n_dense, self._dense_names.get(role))
        count = self.n_layers - self.n_dense
        return self._in_stack(key, "moe_layers", layer - self.n_dense, count, self._names.get(role))

    def _in_stack(
        self, key: str, stack: Stack, position: int, count: int, known: tuple[str, Layout] | None
    ) -> Home:
        if known is None:
            raise self._no_place(key)
        name, layout = known
        if self.scan_layers:
            path = (*PREFIX, "decoder", stack, *name.split("."))
            return Home(path, layout, position, count, scanned=True)
        return Home((*PREFIX, "decoder", f"{stack}_{position}", *name.split(".")), layout)

    def _predicting(self, key: str, number: int, role: str) -> Home | None:
        """Find the place of a layer that predicts further tokens: these are never scanned."""
        if role in SHARED:
            return None
        prefix = f"mtp_{number}_"
        apart = {theirs: (name, layout) for name, (theirs, layout) in predicting_names(number).items()}
        known = apart.get(role)
        if known is None and role in self._names:
            name, layout = self._names[role]
            known = f"{prefix}transformer_layer.{name}", layout
        if known is None or self.block != "deepseek":
            raise self._no_place(key)
        return Home((*PREFIX, "mtp_block", f"mtp_layer_{number}", *known[0].split(".")), known[1])

    def _no_place(self, key: str) -> UnsupportedError:
        return UnsupportedError(
            "MaxText's layers have no place for this tensor",
            tensor=key,
            expected=f"a leaf of decoder_block {self.block}",
            found="none",
        )

    @cached_property
    def _roots(self) -> dict[str, tuple[tuple[str, ...], Layout]]:
        return {key: (path, layout) for path, (key, layout) in ROOTS.items()}

    @cached_property
    def _names(self) -> dict[str, tuple[str, Layout]]:
        return self._turned(_MODULES[self.block])

    @cached_property
    def _dense_names(self) -> dict[str, tuple[str, Layout]]:
        return self._turned(_DENSE)

    def _turned(self, modules: tuple[str, ...]) -> dict[str, tuple[str, Layout]]:
        """Give leaf and layout by role, of norms and of some modules."""
        found = {}
        for name, (role, layout) in LAYER.items():
            module, _, leaf = name.partition(".")
            is_norm = module.endswith("_layer_norm")
            if is_norm or (self._has(leaf) and any(name.startswith(f"{one}.") for one in modules)):
                found[role] = name, layout
        return found

    def _has(self, leaf: str) -> bool:
        return leaf not in _OWN or self.block in _OWN[leaf]

    @cached_property
    def _halves(self) -> tuple[dict[str, tuple[str, Layout]], dict[str, tuple[str, Layout]]]:
        """Give the leaves of Gemma's two layers in one."""
        halves: tuple[dict[str, tuple[str, Layout]], ...] = ({}, {})
        for name, (place, role, layout) in GEMMA_PAIR.items():
            if self._has(name.partition(".")[2]):
                halves[place][role] = name, layout
        return halves[0], halves[1]
