"""What the forms of latent attention cost, in bytes and operations: the tables of docs/mla.md.

    python -m benchmarks.mla_costs

Everything follows from the configurations; nothing is measured. A layer's attention is counted without its
output projection, norms and biases, which no form changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Geometry:
    """The numbers of a published config.json that latent attention has."""

    name: str
    hidden: int
    layers: int
    heads: int
    q_rank: int | None
    kv_rank: int = 512
    nope: int = 128
    rope: int = 64
    value: int = 128

    @property
    def query_rows(self) -> int:
        """Outputs of Q, and of K where it is dense: of all heads."""
        return self.heads * (self.nope + self.rope)

    def factors(self) -> dict[str, int]:
        """Give the weights of each factor."""
        below = (self.kv_rank + self.rope) * self.hidden
        up = self.heads * (self.nope + self.value) * self.kv_rank
        if self.q_rank is None:
            return {"q": self.query_rows * self.hidden, "kv_a": below, "kv_b": up}
        query = {"q_a": self.q_rank * self.hidden, "q_b": self.query_rows * self.q_rank}
        return query | {"kv_a": below, "kv_b": up}

    def dense(self) -> dict[str, int]:
        """Give the weights of each absorbed projection, and of what its scales are worked out with."""
        return {
            "q": self.query_rows * self.hidden,
            "k": self.query_rows * self.hidden,
            "v": self.heads * self.value * self.hidden,
            "latent": ((self.q_rank or 0) + self.kv_rank) * self.hidden,
        }

    def cached(self) -> tuple[int, int]:
        """Give values that a cache keeps for a token and a layer: latent, and as heads."""
        return self.kv_rank + self.rope, self.query_rows + self.heads * self.value


MODELS: Final = (
    Geometry("V2-Lite", hidden=2048, layers=27, heads=16, q_rank=None),
    Geometry("V2", hidden=5120, layers=60, heads=128, q_rank=1536),
    Geometry("V3", hidden=7168, layers=61, heads=128, q_rank=1536),
)
"""https://huggingface.co/deepseek-ai: config.json of DeepSeek-V2-Lite, DeepSeek-V2, DeepSeek-V3."""

_MB, _GB = 1e6, 1e9


def tables() -> Iterator[str]:
    """Give the lines of all tables, Markdown."""
    yield from _weights()
    yield ""
    yield from _operations()
    yield ""
    yield from _down()
    yield ""
    yield from _cache()


def _head(*titles: str) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"


def _weights() -> Iterator[str]:
    """BF16 bytes, of a layer and of all."""
    yield from _head(
        "weights in BF16",
        "low-rank, a layer",
        "fused, a layer",
        "absorbed, a layer",
        "low-rank, all",
        "absorbed, all",
    )
    for model in MODELS:
        low, dense = (2 * sum(form.values()) for form in (model.factors(), model.dense()))
        fused = f"{low / _MB:.1f} MB" if model.q_rank else "none"
        whole = [f"{n * model.layers / _GB:.2f} GB" for n in (low, dense)]
        ratio = f"{whole[1]}, {dense / low:.1f}x"
        yield f"| {model.name} | {low / _MB:.1f} MB | {fused} | {dense / _MB:.1f} MB | {whole[0]} | {ratio} |"


def _operations() -> Iterator[str]:
    """Multiplications and additions of the projections, for a token and a layer."""
    yield from _head(
        "projections, MFLOP a token and layer",
        "low-rank or fused",
        "absorbed",
        "products: low-rank, fused, absorbed",
    )
    for model in MODELS:
        low, dense = (2 * sum(form.values()) / 1e6 for form in (model.factors(), model.dense()))
        n = len(model.factors())
        fused = str(n - 1) if model.q_rank else "none"
        yield f"| {model.name} | {low:.1f} | {dense:.1f} | {n}, {fused}, {len(model.dense())} |"


def _down() -> Iterator[str]:
    """The two products that are fused."""
    yield from _head(
        "down-projections",
        "rows",
        "MB in BF16, a layer",
        "MFLOP a token",
        "share of the low-rank projections",
    )
    for model in MODELS:
        factors = model.factors()
        if model.q_rank is None:
            continue
        n = factors["q_a"] + factors["kv_a"]
        rows = f"{model.q_rank} \\| {model.kv_rank} \\| {model.rope}"
        share = 100 * n / sum(factors.values())
        yield f"| {model.name} | {rows} | {2 * n / _MB:.1f} | {2 * n / 1e6:.1f} | {share:.0f}% |"


def _cache() -> Iterator[str]:
    """What a token leaves in a cache."""
    yield from _head(
        "cache in BF16",
        "latent, a token and layer",
        "as heads",
        "latent, 4,096 tokens, all layers",
        "as heads",
    )
    for model in MODELS:
        latent, heads = (2 * n for n in model.cached())
        whole = [f"{n * 4096 * model.layers / _GB:.2f} GB" for n in (latent, heads)]
        yield f"| {model.name} | {latent:,} B | {heads:,} B | {whole[0]} | {whole[1]} |"


if __name__ == "__main__":
    print("\n".join(tables()))
