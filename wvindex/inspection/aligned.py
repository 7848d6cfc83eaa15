"""Which tensor of one model stands beside which of another, whatever files they came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Final, Literal

from wvindex.arch.keys import layer_key, split_layer
from wvindex.formats.arrays import RowScale
from wvindex.inspection.latent import DOWN, FACTORS, KV_B, LATENT, SPLIT, Derived, LatentLayer, Latest
from wvindex.query.choice import LayerChoice, chosen_layers
from wvindex.query.database import Store
from wvindex.query.lazy import Tensor
from wvindex.query.select import expert_key, standard_order
from wvindex.sizes import bits_per_weight

How = Literal["stored", "tied", "moved", "factors"]
"""What stands on the two sides: arrays as they are stored; a head and the embedding that it is tied to; rows
that are put in the other's order; a product of factors beside the dense array."""

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

_UNIT: Final = 2.0**-24
"""Half a unit in the last place of float32, relative."""

_STORED_UNIT: Final = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
_SAFETY: Final = 4

_FACTOR_PARTS: Final = tuple(product(FACTORS, ("weight", "bias")))


@dataclass(frozen=True)
class Side:
    """One of two tensors.

    Attributes
    ----------
    tensor : Tensor
        Gives the values.
    sources : tuple of Tensor
        What they are stored as: mostly itself.
    row_scale : RowScale or None
    """

    tensor: Tensor
    sources: tuple[Tensor, ...]
    row_scale: RowScale | None

    @classmethod
    def of(cls, tensor: Tensor) -> Side:
        """Give a stored tensor."""
        return cls(tensor, (tensor,), tensor.row_scale)

    @property
    def encoding(self) -> str:
        """How the values are stored; of several arrays, each encoding once."""
        return "+".join(dict.fromkeys(tensor.encoding for tensor in self.sources))

    @property
    def bits(self) -> float:
        """Stored bits per stored weight."""
        return stored_bits(self.sources)


@dataclass(frozen=True)
class Pair:
    """Two tensors of one key and shape.

    Attributes
    ----------
    key : str
    a, b : Side
    how : How
    rounding : float
        Relative error (‖a - b‖ / ‖a‖) that float32's rounding alone explains, where one side is worked out.
    """

    key: str
    a: Side
    b: Side
    how: How = "stored"
    rounding: float = 0.0


@dataclass(frozen=True)
class Alignment:
    """All of two models.

    Attributes
    ----------
    pairs : tuple of Pair
        In the order of the first.
    missing, extra : tuple of Tensor
        What the first has and the second lacks; what the second has besides.
    unlike : tuple of (Tensor, Tensor)
        Of one key and different shapes.
    notes : tuple of str
    """

    pairs: tuple[Pair, ...]
    missing: tuple[Tensor, ...]
    extra: tuple[Tensor, ...]
    unlike: tuple[tuple[Tensor, Tensor], ...]
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing on either side."""
        return not (self.pairs or self.missing or self.extra or self.unlike)

    def chosen(self, a: set[str], b: set[str]) -> Alignment:
        """Give what a selection means: keys that were chosen on either side, experts of stacks too."""
        keys = a | b
        pairs: list[Pair] = []
        for pair in self.pairs:
            sources = {t.key for side in (pair.a, pair.b) for t in side.sources}
            if pair.key in keys or (pair.how == "factors" and sources & keys):
                pairs.append(pair)
            else:
                pairs += _experts(pair, keys)
        return replace(
            self,
            pairs=tuple(pairs),
            missing=tuple(tensor for tensor in self.missing if tensor.key in a),
            extra=tuple(tensor for tensor in self.extra if tensor.key in b),
            unlike=tuple(two for two in self.unlike if two[0].key in keys),
        )


def selected(
    a: Store, b: Store, selector: str | None, layers: LayerChoice, role: str | None
) -> tuple[set[str], set[str]]:
    """Give the keys that a selector means in each of two models; raises as `Store.select`.

    A layer that one of them lacks may still be chosen: its tensors are missing there.
    """
    wanted = chosen_layers(layers, [tensor.spec for db in (a, b) for tensor in db.values()])
    first, second = (
        {tensor.key for tensor in db.select(selector or "*", role=role) if _is_of(tensor.key, wanted)}
        for db in (a, b)
    )
    return first, second


def _is_of(key: str, layers: frozenset[int] | None) -> bool:
    return layers is None or split_layer(key)[0] in layers


def stored_bits(tensors: Iterable[Tensor]) -> float:
    """Give stored bits, scales included, per stored weight; NaN without weights."""
    each = {(tensor.key, tensor.shape): tensor for tensor in tensors}.values()
    return bits_per_weight(sum(tensor.nbytes for tensor in each), sum(tensor.size for tensor in each))


def align(a: Store, b: Store) -> Alignment:
    """Find which tensors are the same ones: those of one standard key, and what stands under another form.

    A head that one side has and the other ties to its embedding is compared with the embedding; parts of what
    one side fuses, with arrays of their own; stacked experts likewise; factors of latent attention that one
    side keeps, by their product, with the dense arrays of the other.
    """
    return _Aligning(a, b).result()


@dataclass
class _Aligning:
    """Takes tensors from both sides until what is left has no partner."""

    a: Store
    b: Store
    pairs: dict[str, Pair] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left: dict[str, Tensor] = dict(self.a)
        self.right: dict[str, Tensor] = dict(self.b)

    def result(self) -> Alignment:
        self._parted()
        self._latent()
        self._tied()
        self._unstacked()
        unlike = []
        for key in [key for key in self.left if key in self.right]:
            x, y = self.left.pop(key), self.right.pop(key)
            if x.shape == y.shape:
                self.pairs[key] = Pair(key, Side.of(x), Side.of(y))
            else:
                unlike.append((x, y))
        return Alignment(
            pairs=tuple(self._ordered()),
            missing=tuple(self.left.values()),
            extra=tuple(self.right.values()),
            unlike=tuple(unlike),
            notes=tuple(self.notes),
        )

    def _ordered(self) -> Iterator[Pair]:
        specs = (replace(pair.a.tensor.spec, key=key) for key, pair in self.pairs.items())
        return (self.pairs[spec.key] for spec in standard_order(specs))

    def _parted(self) -> None:
        """Take apart arrays that are fused on one side alone."""
        for mine, theirs in ((self.left, self.right), (self.right, self.left)):
            for key in [key for key, tensor in mine.items() if tensor.parts and key not in theirs]:
                fused = mine.pop(key)
                mine.update((part, fused.part(part)) for part in fused.parts)

    def _tied(self) -> None:
        """Compare a head with the embedding that the other side ties its own to."""
        for mine, theirs, other in ((self.left, self.right, self.b), (self.right, self.left, self.a)):
            head, embedding = mine.get(HEAD), theirs.get(EMBEDDING)
            if head is None or HEAD in theirs or embedding is None or not other.config.tie_word_embeddings:
                continue
            if head.shape == embedding.shape:
                del mine[HEAD]
                sides = Side.of(head), Side.of(embedding)
                self._pair(HEAD, *(sides if mine is self.left else sides[::-1]), "tied")

    def _unstacked(self) -> None:
        """Compare the experts of a stack, one by one, with experts that are arrays of their own."""
        for mine, theirs in ((self.left, self.right), (self.right, self.left)):
            for key in [key for key, tensor in mine.items() if tensor.ndim == 3 and key not in theirs]:
                stack = mine[key]
                keys = [expert_key(key, i) for i in range(len(stack))]
                if not keys or any(one not in theirs or theirs[one].shape != stack.shape[1:] for one in keys):
                    continue
                del mine[key]
                for i, one in enumerate(keys):
                    sides = Side.of(stack.expert(i)), Side.of(theirs.pop(one))
                    self._pair(one, *(sides if mine is self.left else sides[::-1]), "stored")

    def _latent(self) -> None:
        latest = Latest()
        for layer in sorted(
            {n for key in (*self.left, *self.right) if (n := split_layer(key)[0]) is not None}
        ):
            for mine, theirs, other in ((self.left, self.right, self.b), (self.right, self.left, self.a)):
                mla, heads = other.config.mla, other.config.num_attention_heads
                if mla is not None and heads:
                    self._latent_layer(layer, mine, theirs, LatentLayer(layer, theirs, mla, heads, latest))
        self._said_twice()

    def _latent_layer(
        self, layer: int, mine: dict[str, Tensor], theirs: dict[str, Tensor], factors: LatentLayer
    ) -> None:
        """Take one layer whose latent attention has another form here than there, where it is worked out."""

        def has(tensors: dict[str, Tensor], role: str) -> bool:
            return layer_key(layer, role) in tensors

        if has(mine, LATENT) and has(theirs, DOWN) and not has(theirs, LATENT):
            dense = factors.dense()
            if not dense:
                self.notes.append(f"layer {layer}: factors do not make up the dense form of the other side")
            used = {tensor.key for derived in dense.values() for tensor in derived.sources}
            for key in used - mine.keys() | used & dense.keys():  # a Q without factors has another order here
                del theirs[key]
            for key, derived in dense.items():
                if key in mine and mine[key].shape == derived.tensor.shape:
                    self._beside(mine is self.left, mine.pop(key), derived, key)
                else:
                    theirs[key] = derived.tensor
        elif has(mine, KV_B) and not has(theirs, KV_B) and all(has(theirs, role) for role in SPLIT):
            key, joined = layer_key(layer, KV_B), factors.joined()
            if joined is not None and joined.tensor.shape == mine[key].shape:
                for role in SPLIT:
                    del theirs[layer_key(layer, role)]
                self._beside(mine is self.left, mine.pop(key), joined, key)

    def _said_twice(self) -> None:
        """Leave out factors that one side keeps beside the dense form, which both sides have."""
        for mine, theirs, db in ((self.left, self.right, self.a), (self.right, self.left, self.b)):
            numbers = [n for key in mine if (n := split_layer(key)[0]) is not None]
            layers = [
                n for n in dict.fromkeys(numbers) if layer_key(n, LATENT) in mine.keys() & theirs.keys()
            ]
            kept = [n for n in layers if layer_key(n, DOWN) in mine and layer_key(n, DOWN) not in theirs]
            for key in [layer_key(n, f"{module}.{kind}") for n in kept for module, kind in _FACTOR_PARTS]:
                if key not in theirs:
                    mine.pop(key, None)
            if kept:
                self.notes.append(
                    f"{db.path} has the factors of latent attention besides: the dense form was compared"
                )

    def _beside(self, is_left: bool, stored: Tensor, derived: Derived, key: str) -> None:
        sides = Side.of(stored), Side(derived.tensor, derived.sources, derived.row_scale)
        rounding = _rounding(stored, derived.rank) if derived.rank else 0.0
        how: How = "factors" if derived.rank else "moved"
        self._pair(key, *(sides if is_left else sides[::-1]), how, rounding)

    def _pair(self, key: str, a: Side, b: Side, how: How, rounding: float = 0.0) -> None:
        self.pairs[key] = Pair(key, a, b, how, rounding)


def _rounding(stored: Tensor, rank: int) -> float:
    """Give the relative error that two float32 products of one rank may have, and the rounding of one.

    Errors of single additions are as good as independent: they grow with the root of their number (Higham
    and Mary 2019, A New Approach to Probabilistic Rounding Error Analysis).
    """
    return _SAFETY * math.sqrt(rank + 2) * _UNIT + _STORED_UNIT.get(stored.encoding, 0.0)


def _experts(pair: Pair, keys: set[str]) -> Iterator[Pair]:
    """Give the experts of two stacks that were chosen."""
    x, y = pair.a.tensor, pair.b.tensor
    for i in range(len(x) if x.ndim == 3 else 0):
        key = expert_key(pair.key, i)
        if key in keys:
            yield replace(pair, key=key, a=Side.of(x.expert(i)), b=Side.of(y.expert(i)))
