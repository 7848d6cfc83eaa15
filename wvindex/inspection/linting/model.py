"""What rules look at: a model's headers, and what one pass over its weights saw."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.config import ModelConfig
from wvindex.arch.keys import split_layer
from wvindex.errors import MetadataError, UnsupportedError
from wvindex.inspection.linting.eye import look_at
from wvindex.inspection.linting.look import Look, can_look, is_weight
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.tokenizer import Tokenizer

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass
class Model:
    """A model that is checked.

    Attributes
    ----------
    db : Store
    tensors : mapping of str to Tensor
        Those that are checked, by key.
    notes : list of str
        What could not be checked.
    advance : callable
        Told the stored bytes that were gone through.
    """

    db: Store
    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    advance: Callable[[int], None] = lambda nbytes: None
    _vectors: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """What the model says of itself."""
        return self.db.config

    @cached_property
    def looks(self) -> dict[str, Look]:
        """What is in matrices and stacks, by key, from one pass over them."""
        looks: dict[str, Look] = {}
        for key, tensor in self.tensors.items():
            if can_look(tensor):
                looks[key] = look_at(tensor)
            self.advance(tensor.nbytes)
        return looks

    @property
    def weights(self) -> list[Look]:
        """What is in those that are weights, as far as names tell."""
        return [look for look in self.looks.values() if is_weight(look.tensor)]

    @cached_property
    def vectors(self) -> dict[str, NDArray[Any]]:
        """The values of vectors of floating-point numbers, by key."""
        return {
            key: np.asarray(tensor.read(), np.float64)
            for key, tensor in self.tensors.items()
            if tensor.ndim == 1 and tensor.size and tensor.dtype.kind in "fV"
        }

    @cached_property
    def tokenizer(self) -> Tokenizer | MetadataError | None:
        """The tokenizer, or why it is malformed; None, and a note, where there is none that is known."""
        try:
            return self.db.tokenizer
        except MetadataError as error:
            return error
        except UnsupportedError as error:
            self.notes.append(
                f"the vocabulary is not held against a tokenizer: {error.message.partition(';')[0]}"
            )
            return None

    @cached_property
    def roles(self) -> dict[str, list[Tensor]]:
        """All matrices and stacks that stand in several layers, by their keys without the number."""
        groups: defaultdict[str, list[Tensor]] = defaultdict(list)
        for key, tensor in self.db.items():
            if tensor.ndim > 1:
                groups[_NUMBER.sub("*", key)].append(tensor)
        return {role: tensors for role, tensors in groups.items() if len(tensors) > 1}

    @cached_property
    def layers(self) -> dict[int, dict[str, Tensor]]:
        """All tensors that stand in layers, by layer and role."""
        layers: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in self.db.items():
            number, role = split_layer(key)
            if number is not None:
                layers[number][role] = tensor
        return dict(sorted(layers.items()))

    def is_checked(self, keys: Iterable[str]) -> bool:
        """Whether all of some tensors are checked."""
        return all(key in self.tensors for key in keys)
