"""The bars: what each measured ratio, time or size must reach, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["at least", "at most"]


@dataclass(frozen=True)
class Bar:
    """One promise.

    Attributes
    ----------
    name : str
        What a reading refers to.
    work : str
        What is measured.
    against : str
        What the number is: a ratio to a peer, or a unit.
    bar : float
    direction : {"at least", "at most"}
    """

    name: str
    work: str
    against: str
    bar: float
    direction: Direction

    def passes(self, value: float) -> bool:
        """Whether a value reaches the bar."""
        return value >= self.bar if self.direction == "at least" else value <= self.bar

    def worst(self, values: list[float]) -> float:
        """Give the value that decides."""
        return min(values) if self.direction == "at least" else max(values)

    def __str__(self) -> str:
        """Give ``≥ 20x the gguf package``."""
        sign, space = (
            "≥" if self.direction == "at least" else "≤",
            "" if self.against.startswith("x ") else " ",
        )
        return f"{sign} {self.bar:g}{space}{self.against}"


_ALL: Final = (
    Bar(
        "decode-k",
        "decode Q2_K to Q6_K to float32, one thread, one buffer",
        "x the gguf package",
        20,
        "at least",
    ),
    Bar(
        "decode-legacy", "decode Q4_0 and Q8_0, one thread, one buffer", "x the gguf package", 15, "at least"
    ),
    Bar(
        "decode-codebook",
        "decode IQ4_XS and MXFP4, one thread, one buffer",
        "x the gguf package",
        20,
        "at least",
    ),
    Bar("decode-ggml", "decode any of these, one thread", "x ggml's C decoder", 1, "at least"),
    Bar(
        "decode-fill", "decode Q2_K to Q6_K, one thread", "x ndarray.fill of the same buffer", 0.7, "at least"
    ),
    Bar("decode-threads", "decode any of these, two threads", "x one thread", 1.6, "at least"),
    Bar(
        "open",
        "open a GGUF with 150k tokens and merges, tokenizer left unread",
        "x GGUFReader, which reads it",
        50,
        "at least",
    ),
    Bar("open-many", "open a DeepSeek-V3 of 90,427 tensors in 163 files", "s", 1, "at most"),
    Bar("list-many", "wvindex ls of the same, the interpreter's start included", "s", 1, "at most"),
    Bar("build", "packed build of 1.2 GB", "x the throughput of cp and a sync", 0.7, "at least"),
    Bar("verify", "verify a store of 1.2 GB from the disk", "x plain reading", 0.8, "at least"),
    Bar("read", "whole-tensor read, packed", "x the bare kernel", 0.8, "at least"),
    Bar("row-time", "one row of a packed 4096x14336 tensor, warm", "ms", 1, "at most"),
    Bar("row-bytes", "bytes read for that row", "x the row's", 2, "at most"),
    Bar("absorb", "absorption of a V3-shaped layer, in memory", "x the float32 GEMM rate", 0.8, "at least"),
    Bar(
        "prefill", "prefill of 256 tokens, 1.2B parameters in Q4_K", "x transformers float32", 0.8, "at least"
    ),
    Bar("prefill-memory", "peak memory of the same", "x transformers float32", 0.25, "at most"),
    Bar("token", "one generated token, the same", "x transformers float32", 1.5, "at least"),
    Bar(
        "build-memory",
        "peak memory of a build, beyond max_memory, in the least that it takes",
        "MiB",
        150,
        "at most",
    ),
    Bar("link", "link a model of 2,000 tensors", "s (about a second)", 1.25, "at most"),
    Bar("stats", "statistics of a packed model of 1 GB", "x the time of decoding it", 2, "at most"),
    Bar("diff", "difference of two packed models of 1 GB", "x the time of decoding both", 2, "at most"),
    Bar("import", "import wvindex", "s", 0.3, "at most"),
    Bar("help", "wvindex --help", "s", 0.2, "at most"),
    Bar("first-decode", "a fresh process's first decoded tensor", "s", 1, "at most"),
)

BARS: Final = {bar.name: bar for bar in _ALL}
