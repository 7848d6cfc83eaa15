"""WV4xx: experts, layers and heads that are dead, or the same as another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wvindex.inspection.experts import DEAD, DUPLICATE
from wvindex.inspection.linting.look import Look, is_stack
from wvindex.inspection.linting.model import EMBEDDING, HEAD, Model
from wvindex.inspection.linting.places import listed
from wvindex.inspection.linting.rule import Found, Rule
from wvindex.inspection.linting.sketch import are_equal, candidates, cosine

SAME_HEAD: Final = 0.999
"""Cosine from which a head is the embedding in another encoding: 4-bit quantization keeps 0.995 and more."""


def dead_experts(model: Model) -> Iterator[Found]:
    """Experts with (next to) no weights."""
    for key, look in model.looks.items():
        if not is_stack(look.tensor) or look.is_zero:
            continue
        norms = np.sqrt(look.squares)
        median = float(np.median(norms[np.isfinite(norms)])) if np.isfinite(norms).any() else 0.0
        dead = np.flatnonzero(norms <= DEAD * median) if median else np.flatnonzero(look.dead)
        if dead.size:
            yield Found(
                tensor=key,
                expert=int(dead[0]),
                message=f"{dead.size} of {len(norms)} experts have next to no weights: "
                f"{listed(dead.tolist(), dead.size)}",
                value=float(norms[dead[0]]),
                count=int(dead.size),
                indices=tuple(dead[:8].tolist()),
            )


def duplicate_experts(model: Model) -> Iterator[Found]:
    """Experts that are nearly the same as an earlier one of their stack."""
    for key, look in model.looks.items():
        if not is_stack(look.tensor):
            continue
        pairs = _groups(candidates(look.sketches), _between_experts(look))
        if pairs:
            _, second, value = pairs[0]
            names = [f"{j} is {i}" for i, j, _ in pairs]
            yield Found(
                tensor=key,
                expert=second,
                message=f"{len(pairs)} of {len(look.dead)} experts are nearly the same as another, cosine "
                f"{DUPLICATE} or more: {listed(names, len(pairs))}",
                value=value,
                count=len(pairs),
                indices=tuple(j for _, j, _ in pairs[:8]),
            )


def _between_experts(look: Look) -> Callable[[int, int], float]:
    return lambda i, j: cosine([look.tensor.expert(i)], [look.tensor.expert(j)])


def _groups(
    pairs: Sequence[tuple[int, int]], compare: Callable[[int, int], float]
) -> list[tuple[int, int, float]]:
    """Give (i, j, cosine) for each j that is nearly the same as an earlier i, which is like none before."""
    found: dict[int, tuple[int, int, float]] = {}
    for i, j in pairs:
        if i not in found and j not in found:
            value = compare(i, j)
            if value >= DUPLICATE:
                found[j] = (i, j, value)
    return [found[j] for j in sorted(found)]


def duplicate_layers(model: Model) -> Iterator[Found]:
    """Layers all of whose matrices are nearly those of an earlier layer."""
    layers: dict[int, dict[str, Look]] = {}
    for number, tensors in model.layers.items():
        matrices = {role: model.looks[t.key] for role, t in tensors.items() if t.key in model.looks}
        if matrices and all(t.key in model.looks for t in tensors.values() if t.ndim > 1):
            layers[number] = matrices
    for numbers in _alike(layers):
        looks = [layers[number] for number in numbers]
        sketches = np.stack([_sketch(one) for one in looks])
        for i, j, value in _groups(candidates(sketches), _between_layers(looks)):
            yield Found(
                tensor=next(iter(layers[numbers[j]].values())).tensor.key,
                layer=numbers[j],
                message=f"layer {numbers[j]} is nearly the same as layer {numbers[i]}: cosine {value:.6g}",
                value=value,
                indices=(numbers[i], numbers[j]),
            )


def _between_layers(layers: list[dict[str, Look]]) -> Callable[[int, int], float]:
    def compare(i: int, j: int) -> float:
        roles = sorted(layers[i])
        one, other = ([layers[k][role].tensor for role in roles] for k in (i, j))
        return cosine(one, other)

    return compare


def _alike(layers: dict[int, dict[str, Look]]) -> list[list[int]]:
    """Group layers that have matrices of the same roles and shapes."""
    groups: dict[object, list[int]] = {}
    for number, looks in layers.items():
        form = tuple(sorted((role, look.tensor.shape) for role, look in looks.items()))
        groups.setdefault(form, []).append(number)
    return [numbers for numbers in groups.values() if len(numbers) > 1]


def _sketch(looks: dict[str, Look]) -> NDArray[np.floating]:
    """Join the sketches of a layer's matrices: one vector for all of its weights."""
    return np.concatenate([looks[role].sketches.reshape(-1) for role in sorted(looks)])


def head_copy(model: Model) -> Iterator[Found]:
    """A head that is the embedding, stored once more."""
    value = _head_cosine(model)
    if value is None or value < SAME_HEAD:
        return
    head, embedding = model.db[HEAD], model.db[EMBEDDING]
    same = are_equal(head, embedding)
    how = "holds the same values as the embedding"
    if not same:
        how = f"is the embedding but for its encoding (cosine {value:.6g})"
    tied = "true" if model.config.tie_word_embeddings else "false"
    yield Found(
        tensor=HEAD,
        message=f"{how}: {head.nbytes} bytes more; tie_word_embeddings is {tied}",
        value=1.0 if same else value,
    )


def head_differs(model: Model) -> Iterator[Found]:
    """A head of its own in a model that says it has none."""
    value = _head_cosine(model)
    if value is not None and model.config.tie_word_embeddings and not value >= SAME_HEAD:
        yield Found(
            tensor=HEAD,
            message=f"tie_word_embeddings is true, but the head is not the embedding (cosine {value:.4g})",
            value=value,
        )


def _head_cosine(model: Model) -> float | None:
    """Give how alike head and embedding are; None where they are not both there to compare."""
    if not model.is_checked((HEAD, EMBEDDING)) or not (HEAD in model.looks and EMBEDDING in model.looks):
        return None
    head, embedding = model.looks[HEAD], model.looks[EMBEDDING]
    if head.tensor.shape != embedding.tensor.shape:
        return 0.0
    if not candidates(np.concatenate([embedding.sketches, head.sketches])):
        return 0.0
    return cosine([head.tensor], [embedding.tensor])


RULES: Final = (
    Rule(
        id="WV401",
        name="dead-experts",
        severity="warning",
        title="Experts with next to no weights",
        help="Their norm is 0, or at most a thousandth of the median expert's. They were pruned, never "
        "written, or never trained; the router may still choose them. `wvindex stats --by expert "
        "--sort l2` shows all.",
        find=dead_experts,
    ),
    Rule(
        id="WV402",
        name="duplicate-experts",
        severity="warning",
        title="Experts that are nearly the same",
        help="The cosine of all their weights is 0.99 or more. Upcycled models begin so, and part in "
        "training; in a trained model a conversion read one expert twice.",
        find=duplicate_experts,
    ),
    Rule(
        id="WV403",
        name="duplicate-layers",
        severity="warning",
        title="Layers that are nearly the same",
        help="The cosine of all their matrices is 0.99 or more. Passthrough merges and depth up- "
        "scaling repeat layers on purpose (then give --ignore WV403); else one was written twice.",
        find=duplicate_layers,
    ),
    Rule(
        id="WV404",
        name="head-copy",
        severity="warning",
        title="An output head that is a copy of the embedding",
        help="Where the model is tied (`tie_word_embeddings`), the head need not be shipped; where it "
        "says that it is not, it could be. The copy costs its bytes, and nothing else.",
        find=head_copy,
    ),
    Rule(
        id="WV405",
        name="head-differs",
        severity="error",
        title="A tied model that ships another head",
        help="`tie_word_embeddings` is true, and lm_head is not the embedding. Programs that tie "
        "ignore it, others use it: they give different logits. One of the two is wrong.",
        find=head_differs,
    ),
)
