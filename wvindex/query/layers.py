"""Layers of a store by number, and their tensors by attribute: ``db.layers[12].self_attn.q_proj``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from wvindex.arch.keys import split_layer
from wvindex.query.choice import layer_number, layer_range, no_such_layer
from wvindex.query.lazy import Tensor


class Namespace:
    """Tensors whose keys begin alike.

    ``namespace.q_proj`` is the tensor ``<prefix>.q_proj.weight`` or ``<prefix>.q_proj``, or else the
    namespace of what begins with that. ``namespace["q_proj.bias"]`` is any tensor by the rest of its key.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By standard key, and whatever else the mapping answers to.
    prefix : str
    keys : sequence of str
        Those that begin with `prefix`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, keys: Sequence[str]) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._keys = tuple(keys)

    def __getattr__(self, name: str) -> Any:
        """Give a tensor, or a narrower namespace."""
        path = f"{self._prefix}.{name}"
        for key in (f"{path}.weight", path):
            if key in self._keys:
                return self._tensors[key]
        keys = [key for key in self._keys if key.startswith(f"{path}.")]
        fused = next((key for key in (f"{path}.weight", path) if key in self._parts()), None)
        if fused is not None:
            return self._tensors[fused]
        if not keys:
            raise AttributeError(f"no tensor under {path}; there are: {', '.join(self.__dir__())}")
        return Namespace(self._tensors, path, keys)

    def __getitem__(self, role: str) -> Tensor:
        """Give a tensor by the rest of its key, with or without ``.weight``, or one expert of a stack.

        Raises
        ------
        KeyNotFound
            If there is none.
        """
        path = f"{self._prefix}.{role}"
        weight = f"{path}.weight"
        return self._tensors[weight if path not in self._tensors and weight in self._tensors else path]

    def __iter__(self) -> Iterator[Tensor]:
        """Give every tensor, in the store's order."""
        return (self._tensors[key] for key in self._keys)

    def __len__(self) -> int:
        """Give the number of tensors."""
        return len(self._keys)

    def __dir__(self) -> list[str]:
        """Give the names that attribute access knows, for completion."""
        rest = (key[len(self._prefix) + 1 :] for key in (*self._keys, *self._parts()))
        return sorted({name.partition(".")[0] for name in rest})

    def __repr__(self) -> str:
        """Give one line."""
        return f"<{self._prefix}: {', '.join(self.__dir__())}>"

    def _parts(self) -> list[str]:
        """Give the keys, beginning alike, of arrays that were fused into others."""
        parts = (part for key in self._keys for part in self._tensors[key].parts)
        return [part for part in parts if part.startswith(f"{self._prefix}.")]


class Layer(Namespace):
    """The tensors of one layer, by the roles that they play in it."""

    def __init__(self, tensors: Mapping[str, Tensor], number: int, keys: Sequence[str]) -> None:
        super().__init__(tensors, f"model.layers.{number}", keys)
        self._number = number

    @property
    def number(self) -> int:
        """Which layer this is."""
        return self._number

    @property
    def mtp(self) -> bool:
        """Whether it is a multi-token-prediction layer, no part of the forward pass."""
        return any(tensor.mtp for tensor in self)


class Layers(Sequence[Layer]):
    """The layers of a model.

    Length, iteration, slices and negative indices mean the layers of the forward pass;
    multi-token-prediction layers beyond them are reached by their number.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By standard key.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._keys: dict[int, list[str]] = {}
        for key in tensors:
            number, _ = split_layer(key)
            if number is not None:
                self._keys.setdefault(number, []).append(key)
        self._numbers = sorted(
            n for n, keys in self._keys.items() if not any(tensors[key].mtp for key in keys)
        )

    def __len__(self) -> int:
        """Give the number of layers of the forward pass."""
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> list[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | list[Layer]:
        """Give a layer by its number, or several.

        Raises
        ------
        SelectionError
            If there is no such layer, or this is no integer.
        """
        if isinstance(index, slice):
            chosen = layer_range(index, self._numbers)
            numbers = [n for n in self._numbers if n in chosen]
            return [self._layer(n) for n in numbers[:: 1 if chosen.step > 0 else -1]]
        number = layer_number(index)
        if -len(self._numbers) <= number < 0:
            number = self._numbers[number]
        if number not in self._keys:
            raise no_such_layer(sorted(self._keys), index)
        return self._layer(number)

    def __iter__(self) -> Iterator[Layer]:
        """Give the layers of the forward pass."""
        return map(self._layer, self._numbers)

    def __repr__(self) -> str:
        """Give one line."""
        return f"<{len(self)} layers>"

    def _layer(self, number: int) -> Layer:
        return Layer(self._tensors, number, self._keys[number])
