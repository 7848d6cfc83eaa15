"""Activations are asked for by name or pattern; a name that is none is an error."""

from __future__ import annotations

import numpy as np
import pytest

from wvindex.errors import UsageError
from wvindex.infer.capture import Captures, activation_names

NAMES = activation_names([False, True])


def test_names_stand_in_the_order_of_computation() -> None:
    assert NAMES == [
        "embed",
        "layers.0.attn.in",
        "layers.0.attn.q",
        "layers.0.attn.k",
        "layers.0.attn.v",
        "layers.0.attn.heads",
        "layers.0.attn.out",
        "layers.0.mlp.in",
        "layers.0.mlp.out",
        "layers.0.residual",
        "layers.1.attn.in",
        "layers.1.attn.q",
        "layers.1.attn.k",
        "layers.1.attn.v",
        "layers.1.attn.heads",
        "layers.1.attn.out",
        "layers.1.mlp.in",
        "layers.1.mlp.router.logits",
        "layers.1.mlp.router.experts",
        "layers.1.mlp.router.weights",
        "layers.1.mlp.out",
        "layers.1.residual",
        "norm",
    ]


def test_only_what_matches_is_kept() -> None:
    captures = Captures(["layers.*.residual", "norm"], NAMES)
    for name in NAMES:
        captures(name, np.zeros(1))
    assert list(captures.captured) == ["layers.0.residual", "layers.1.residual", "norm"]


def test_a_single_name_needs_no_list() -> None:
    assert Captures("embed", NAMES).wanted == {"embed"}


@pytest.mark.parametrize("pattern", ["", "layer.0.residual", "layers.0.mlp.router.logits", "Embed"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_names(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"there are embed, layers\.\{L\}\.attn\.in, .*, norm; L in 0\.\.1"):
        Captures([pattern], NAMES)
