"""A decoder-only transformer run from a weight database, one layer's weights at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wvindex.errors import SelectionError, UnsupportedModel, UsageError
from wvindex.formats.blas import one_thread
from wvindex.infer.cache import KVCache
from wvindex.infer.capture import Captures, activation_names
from wvindex.infer.layer import DecoderLayer, Step
from wvindex.infer.layout import check_runnable, head_key, is_routed
from wvindex.infer.norm import rms_norm
from wvindex.infer.rope import rotary_tables, uses_long_frequencies
from wvindex.infer.sampling import check_temperature, sample
from wvindex.infer.temperature import query_temperature
from wvindex.infer.weights import WeightDatabase, Weights


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes
    ----------
    logits : (T, vocab_size) float32
        Scores of the next token after each token; (1, vocab_size) with `last_only`.
    captured : dict of str to array
        The activations that were asked for, by name.
    """

    logits: NDArray[np.float32]
    captured: dict[str, NDArray[Any]]


class Model:
    """A model to run: its configuration, its layers, and a budget for weights.

    Parameters
    ----------
    db : WeightDatabase
        A store, or anything that gives a `ModelConfig` and tensors by standard key.
    max_memory : int or str
        Bytes of weights to keep between uses, as they are stored: ``4GiB`` by default. What does not fit
        is read in every forward pass. Activations, the cache, and the tiles that are worked on (under
        100 MiB with two cores) come on top.

    Raises
    ------
    UnsupportedModel
        If the family or its activation function is unknown, or a number or a tensor is missing.
    MetadataError
        If a tensor's shape contradicts the configuration.

    Notes
    -----
    Activations that `forward` can capture, T rows each, all float32 but ``router.experts``:

    ========================================= ======================================================
    ``embed``                                 embedding, scaled
    ``layers.{L}.attn.in``                    normed input of attention
    ``layers.{L}.attn.q``, ``.k``, ``.v``     heads as attention sees them, after norms and rotation
    ``layers.{L}.attn.heads``                 what attention gives, head by head
    ``layers.{L}.attn.out``                   the same after ``o_proj``
    ``layers.{L}.mlp.in``                     normed input of the MLP
    ``layers.{L}.mlp.router.logits``          (T, n_routed_experts), before softmax or sigmoid
    ``layers.{L}.mlp.router.experts``         (T, num_experts_per_tok) int64, best first
    ``layers.{L}.mlp.router.weights``         (T, num_experts_per_tok)
    ``layers.{L}.mlp.out``                    output of the MLP, all experts summed
    ``layers.{L}.residual``                   residual stream after the layer
    ``norm``                                  after the final norm
    ========================================= ======================================================

    ``attn.out`` and ``mlp.out`` are taken before a norm that follows on the branch (Gemma).
    """

    def __init__(self, db: WeightDatabase, *, max_memory: int | str = "4GiB") -> None:
        self.db = db
        self.config = db.config
        self.dimensions = check_runnable(db)
        self.weights = Weights(db, max_memory)
        n_layers = self.dimensions.num_hidden_layers
        self.layers = [DecoderLayer(self.weights, self.dimensions, layer) for layer in range(n_layers)]

    @property
    def activation_names(self) -> list[str]:
        """Every name that `forward` can capture, in the order of computation."""
        return activation_names([is_routed(self.db, layer.index) for layer in self.layers])

    def new_cache(self) -> KVCache:
        """Give an empty cache for `forward`."""
        return KVCache(len(self.layers))

    def forward(
        self,
        tokens: Sequence[int] | NDArray[Any],
        capture: Sequence[str] = (),
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
    ) -> Output:
        """Run the model on a sequence of tokens.

        Parameters
        ----------
        tokens : (T,) integers
        capture : sequence of str
            Names of activations to return, or shell patterns over them (see the class).
        cache : KVCache, optional
            The tokens before these; it takes these in. Pieces through a cache give what the whole gives,
            except where they pass LongRoPE's threshold: keys that are already in it keep their frequencies,
            as in transformers.
        last_only : bool
            Compute logits of the last token only.

        Returns
        -------
        Output

        Raises
        ------
        SelectionError
            If a token is not in the vocabulary.
        UsageError
            If there are no tokens, no activation has a captured name, or the cache is another model's.
        UnsupportedModel
            If there are more tokens, with those in the cache, than the configuration's `index_topk`.
        """
        ids = _token_ids(tokens, self.dimensions.vocab_size)
        captures = Captures(capture, self.activation_names if len(capture) else ())
        if cache is not None and cache.num_layers != len(self.layers):
            raise UsageError(
                "this cache belongs to another model",
                expected=f"{len(self.layers)} layers",
                found=cache.num_layers,
            )
        start = cache.length if cache else 0
        self._check_length(start + len(ids))
        rotary = {name: rotary_tables(rope, start, len(ids)) for name, rope in self.dimensions.rope.items()}
        step = Step(
            rotary=rotary,
            cache=cache,
            capture=captures,
            temperature=query_temperature(self.dimensions, start, len(ids)),
        )
        x = self._embed(ids)
        captures("embed", x)
        with one_thread():  # Products divide their work among threads themselves.
            for layer in self.layers:
                x = layer(x, step)
            x = self._norm(x)
            captures("norm", x)
            logits = self._logits(x[-1:] if last_only else x)
        if cache is not None:
            cache.advance(len(ids))
        return Output(logits, captures.captured)

    def generate(
        self,
        tokens: Sequence[int] | NDArray[Any],
        max_new_tokens: int = 20,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[int]:
        """Continue a sequence of tokens; see `stream`, whose tokens this collects.

        Returns
        -------
        list of int
            The new tokens, without those that were given.
        """
        return list(self.stream(tokens, max_new_tokens, temperature, seed))

    def stream(
        self,
        tokens: Sequence[int] | NDArray[Any],
        max_new_tokens: int = 20,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Iterator[int]:
        """Continue a sequence of tokens, giving each new one when it is known.

        Parameters
        ----------
        tokens : (T,) integers
        max_new_tokens : int
            Where to stop; sooner after one of the configuration's `eos_token_ids`, which is given too.
        temperature : float
            0 takes the most likely token, 1 draws from the model's distribution.
        seed : int, optional
            Makes the draws repeatable.

        Raises
        ------
        SelectionError, UsageError, UnsupportedModel
            At once, as `forward`, and if a number is out of its range; the last also once the sequence has
            grown too long.
        """
        check_temperature(temperature)
        if max_new_tokens < 0:
            raise UsageError(
                "max_new_tokens is out of range",
                field="max_new_tokens",
                expected="0 or more",
                found=max_new_tokens,
            )
        sequence = _token_ids(tokens, self.dimensions.vocab_size).tolist()
        self._check_length(len(sequence))
        return self._continue(sequence, max_new_tokens, temperature, np.random.default_rng(seed))

    def _continue(
        self, sequence: list[int], max_new_tokens: int, temperature: float, rng: np.random.Generator
    ) -> Iterator[int]:
        cache = self.new_cache()
        for _ in range(max_new_tokens):
            if self._changes_frequencies(cache.length, len(sequence)):
                cache = self.new_cache()
            output = self.forward(sequence[cache.length :], cache=cache, last_only=True)
            token = sample(output.logits[0], temperature, rng)
            sequence.append(token)
            yield token
            if token in self.config.eos_token_ids:
                return

    def _check_length(self, n_tokens: int) -> None:
        """Refuse more tokens than a sparse attention's indexer, which is not run, would let through."""
        limit = self.dimensions.index_topk
        if limit is not None and n_tokens > limit:
            raise UnsupportedModel(
                "this model's indexer would choose among the keys, and the forward pass does not run it",
                field="index_topk",
                expected=f"at most {limit} tokens",
                found=n_tokens,
            )

    def _changes_frequencies(self, before: int, after: int) -> bool:
        """Whether growing from one length to another passes LongRoPE's threshold, so keys must be redone."""
        return any(
            uses_long_frequencies(rope, before) != uses_long_frequencies(rope, after)
            for rope in self.dimensions.rope.values()
        )

    def _embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = self.weights.rows("model.embed_tokens.weight", ids)
        return rows * np.float32(self.config.embedding_multiplier)

    def _norm(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = self.weights.vector("model.norm.weight")
        return rms_norm(x, weight, self.dimensions.rms_norm_eps, self.dimensions.norm_weight_offset)

    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give (T, vocab_size) from the final norm's output."""
        logits = self.weights.multiply(x * np.float32(self.config.logits_multiplier), head_key(self.db))
        cap = self.config.final_logit_softcapping
        return logits if cap is None else np.float32(cap) * np.tanh(logits / np.float32(cap))


def _token_ids(tokens: Sequence[int] | NDArray[Any], vocab_size: int) -> NDArray[np.int64]:
    """Check tokens before anything is computed, and give them as an array, (T,) int64."""
    ids = np.asarray(tokens)
    if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise UsageError(
            "tokens must be a sequence of integers, at least one",
            field="tokens",
            expected="(T,) integers",
            found=f"{ids.shape} {ids.dtype}",
        )
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if wrong.size:
        raise SelectionError(
            f"token {ids[wrong[0]]} is not in the vocabulary",
            field="tokens",
            expected=f"0 to {vocab_size - 1}",
            found=int(ids[wrong[0]]),
        )
    return ids.astype(np.int64)
