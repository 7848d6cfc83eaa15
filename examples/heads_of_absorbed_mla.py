"""Exploring the heads of an absorbed MLA layer: what they attend by, what they read and write.

A notebook as a script: each `# %%` is a cell, in Jupyter, VS Code or Spyder. Run as it is,

    python examples/heads_of_absorbed_mla.py [DIRECTORY]

it builds the store of the model beside it into DIRECTORY (a new temporary one by default), and needs no
network. What it says of tokens is evidence from weights alone: what a head could do, not what it did.
"""

# %% The model: 4 million parameters, trained on the King James Bible, with DeepSeek-V3's architecture.
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import wvindex as wv
from wvindex.infer import Model

MODEL = Path(__file__).parent / "tiny-kjv-Q8_0.gguf"
DIRECTORY = Path(sys.argv[1] if len(sys.argv) == 2 else tempfile.mkdtemp())
LAYER = 2

Floats = NDArray[np.float64]

store = wv.build(MODEL, DIRECTORY / "kjv.zarr")
db = wv.open(store)
attention = db.layers[LAYER].self_attn

# %% The layer's page: eight heads, and the ranks that their dense projections were absorbed from.
page = wv.inspect(db, LAYER)
print(page)

# %% Norms of the heads. The file itself has only factors: through them the same numbers come out.
dense = page.heads
factored = wv.stats(MODEL, by="head", layers=LAYER)
for norm in ("qk_norm", "ov_norm"):
    difference = np.max(np.abs(np.array(dense[norm]) / np.array(factored[norm]) - 1))
    print(f"{norm} through the factors: the same within {difference:.1e}")

# %% Position or content? A head's rows are [rotary | the rest]: how much of W_q^T W_k is in which part.
geometry = page.attention
assert geometry is not None
rotary = geometry.rotary_dim or 0


def product_norm(q: Floats, k: Floats) -> float:
    """Give the norm of q^T k, without making it."""
    return float(np.sqrt(np.vdot(q @ q.T, k @ k.T)))


print("\nhead  by position  by content")
for head in range(geometry.heads or 0):
    q, k = (tensor.head(head)[:].astype(np.float64) for tensor in (attention.q_proj, attention.k_proj))
    parts = product_norm(q[:rotary], k[:rotary]), product_norm(q[rotary:], k[rotary:])
    print(f"{head:4}  {parts[0]:11.2f}  {parts[1]:10.2f}")

# %% What the strongest head reads and writes: the first singular direction of W_o W_v, in tokens.
embedding = np.asarray(db["model.embed_tokens.weight"], np.float64)
unembedding = np.asarray(db["lm_head.weight"], np.float64) * np.asarray(db["model.norm.weight"], np.float64)
reads = np.asarray(db.layers[LAYER].input_layernorm, np.float64)


def tokens(scores: Floats, n: int = 6) -> str:
    """Name the tokens with the highest scores."""
    return " ".join(repr(db.tokenizer.decode([int(i)])) for i in np.argsort(scores)[::-1][:n])


strongest = int(np.argmax(dense["ov_norm"]))
w_v = attention.v_proj.head(strongest)[:].astype(np.float64) * reads  # (v_head_dim, hidden)
w_o = attention.o_proj.head(strongest)[:].astype(np.float64)  # (hidden, v_head_dim)
left, sizes, right = np.linalg.svd(w_o @ w_v)
print(f"\nhead {strongest}: {sizes[0] ** 2 / np.sum(sizes**2):.0%} of its OV product is in one direction")
for sign, name in ((1, "one way"), (-1, "the other")):
    print(f"  {name} it reads  {tokens(sign * embedding @ right[0])}")
    print(f"  {' ' * len(name)} and writes {tokens(sign * unembedding @ left[:, 0])}")

# %% What absorption leaves of the norm between the factors: one factor a token, `row_scale`.
out = Model(db).forward(
    np.array(db.tokenizer.encode("In the beginning God created the heaven and the earth.")),
    capture=[f"layers.{LAYER}.attn.in", f"layers.{LAYER}.attn.v"],
)
x, v = (out.captured[f"layers.{LAYER}.attn.{name}"].astype(np.float64) for name in ("in", "v"))
scale = attention.v_proj.row_scale
latent = x @ np.asarray(db[scale.weight], np.float64)[slice(*scale.rows)].T
factor = 1 / np.sqrt(np.mean(latent**2, axis=1) + scale.eps)
again = factor[:, None] * (x @ np.asarray(attention.v_proj, np.float64).T)
print(f"\nthe factor of {len(x)} tokens lies from {factor.min():.3f} to {factor.max():.3f}")
print(f"values by hand: off by {np.max(np.abs(again - v.reshape(again.shape))):.1e} at most")

# %%
db.close()
