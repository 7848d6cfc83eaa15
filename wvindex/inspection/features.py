"""``Store.describe``: the features that a token's embedding excites in each layer, and what they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wvindex.arch.keys import layer_key, split_layer
from wvindex.errors import NonFiniteWeights, SelectionError, UsageError
from wvindex.inspection.asking import EVIDENCE, count
from wvindex.inspection.excitation import EMBEDDING, Excited, excited
from wvindex.inspection.progress import Progress
from wvindex.inspection.residual import gain_after, hidden_size
from wvindex.inspection.table import Table
from wvindex.inspection.unembedding import Said, Unembedding
from wvindex.query.choice import LayerChoice, no_such_layer
from wvindex.query.database import Store

Choice = Literal["each", "first", "last"]

FEATURES: Final = (
    "position",
    "token",
    "text",
    "layer",
    "part",
    "expert",
    "feature",
    "weight",
    "activation",
    "writes",
    "write_tokens",
    "write_logits",
)

MAX_TOKENS: Final = 64
"""Tokens of a text: each has its row of features for every layer."""

_AT_ONCE: Final = 512
"""Features whose columns go through the unembedding together."""


def describe(
    db: Store,
    text: str,
    *,
    layers: LayerChoice = None,
    k: int = 5,
    writes: int = 5,
    token: Choice = "each",
    norm: bool = True,
    progress: Progress | None = None,
) -> Table:
    """Give the features that the tokens of a text excite, layer by layer: see `Store.describe`."""
    k, writes = count("k", k), count("writes", writes)
    ids, notes = _chosen(db, text, token)
    unembedding = Unembedding(db, norm=norm)
    numbers = _layers(db, layers)
    features = list(excited(db, ids, numbers, k, progress))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(features), _AT_ONCE):
        some = features[start : start + _AT_ONCE]
        said, _ = unembedding.says(_directions(db, some), writes)
        rows += [_row(db, ids, one, written) for one, written in zip(some, said, strict=True)]
    return Table.of_dicts("features", FEATURES, rows, (EVIDENCE, *notes, *unembedding.notes))


def _chosen(db: Store, text: str, choice: Choice) -> tuple[list[int], list[str]]:
    """Give the tokens of a text that are described, and a note that names all where it has several."""
    if choice not in get_args(Choice):
        expected = ", ".join(get_args(Choice))
        raise UsageError("no such choice of tokens", field="token", expected=expected, found=choice)
    if not isinstance(text, str):
        raise UsageError("what is described is a text", field="text", expected="a str", found=repr(text))
    ids = db.tokenizer.encode(text, add_special_tokens=False)
    if not 0 < len(ids) <= MAX_TOKENS:
        raise UsageError(
            "a text of some tokens is described", field="text", expected=f"1 to {MAX_TOKENS}", found=len(ids)
        )
    n_rows = len(db[EMBEDDING])
    unknown = [i for i in ids if i >= n_rows]
    if unknown:
        raise SelectionError(
            "the embedding has no row for a token",
            tensor=EMBEDDING,
            expected=f"below {n_rows}",
            found=unknown[0],
        )
    if len(ids) == 1:
        return ids, []
    names = ", ".join(f"{db.tokenizer.id_to_token(i)} ({i})" for i in ids)
    note = f"the text is {len(ids)} tokens: {names}"
    if choice == "each":
        return ids, [f"{note}; each is described by itself"]
    chosen = ids[0 if choice == "first" else -1]
    return [chosen], [f"{note}; the {choice} is described"]


def _layers(db: Store, layers: LayerChoice) -> list[int]:
    """Give the chosen layers of the forward pass."""
    wanted = {split_layer(tensor.key)[0] for tensor in db.select(layer=layers)}
    numbers = [layer.number for layer in db.layers]
    if not wanted.intersection(numbers):  # multi-token prediction alone
        raise no_such_layer(numbers, sorted(number for number in wanted if number is not None))
    return [number for number in numbers if number in wanted]


def _directions(db: Store, features: Sequence[Excited]) -> NDArray[np.float64]:
    """Give what each feature adds to the residual stream, up to a positive factor, (n, hidden_size)."""
    columns: dict[tuple[int, str, int | None], list[int]] = {}
    for place, one in enumerate(features):
        columns.setdefault((one.layer, one.part, one.expert), []).append(place)
    directions = np.empty((len(features), hidden_size(db)))
    for (layer, part, expert), places in columns.items():
        down = db[layer_key(layer, f"{part}.down_proj.weight")]
        gain = gain_after(db, down)
        matrix = down if expert is None else down.expert(expert)
        found = matrix[:, [features[place].feature for place in places]].T.astype(np.float64)
        directions[places] = found if gain is None else found * gain[1]
        if not np.isfinite(directions[places]).all():
            raise NonFiniteWeights("what an excited feature writes is NaN or infinite", tensor=matrix.key)
    signs = [-1.0 if one.weight * one.activation < 0 else 1.0 for one in features]
    directions *= np.array(signs)[:, None]
    return directions


def _row(db: Store, ids: Sequence[int], one: Excited, writes: Sequence[Said]) -> dict[str, Any]:
    return asdict(one) | {
        "token": ids[one.position],
        "text": db.tokenizer.id_to_token(ids[one.position]),
        "writes": [said.text for said in writes],
        "write_tokens": [said.token for said in writes],
        "write_logits": [said.logit for said in writes],
    }
