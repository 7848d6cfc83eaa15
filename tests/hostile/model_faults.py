"""GGUF models whose metadata say what their tensors are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.support.gguf_bytes import F32, STRING, U32, Record, gguf, pair, string, u32

_HIDDEN, _HEADS, _KV_HEADS, _MLP, _VOCABULARY = 8, 2, 1, 12, 5
_HEAD_DIM: Final = _HIDDEN // _HEADS

_NUMBERS: Final[Mapping[str, int]] = {
    "block_count": 2,
    "context_length": 16,
    "embedding_length": _HIDDEN,
    "feed_forward_length": _MLP,
    "attention.head_count": _HEADS,
    "attention.head_count_kv": _KV_HEADS,
    "rope.dimension_count": _HEAD_DIM,
}

# Shapes of a layer's tensors, innermost dimension first.
_LAYER: Final = {
    "attn_norm": (_HIDDEN,),
    "attn_q": (_HIDDEN, _HEADS * _HEAD_DIM),
    "attn_k": (_HIDDEN, _KV_HEADS * _HEAD_DIM),
    "attn_v": (_HIDDEN, _KV_HEADS * _HEAD_DIM),
    "attn_output": (_HEADS * _HEAD_DIM, _HIDDEN),
    "ffn_norm": (_HIDDEN,),
    "ffn_gate": (_HIDDEN, _MLP),
    "ffn_up": (_HIDDEN, _MLP),
    "ffn_down": (_MLP, _HIDDEN),
}


def llama(layers: int = 2, shapes: Mapping[str, tuple[int, ...]] | None = None, **lies: object) -> bytes:
    """Pack a model of two layers, or `layers`, whose metadata have two, or what `lies` say.

    Parameters
    ----------
    layers : int
        Whose tensors are there.
    shapes : mapping, optional
        Other shapes of the layers' tensors.
    lies : int, str or None
        Metadata by key, ``__`` for a dot; None leaves a key out.
    """
    stated: dict[str, object] = dict(_NUMBERS) | {name.replace("__", "."): lies[name] for name in lies}
    pairs = [
        pair("general.architecture", STRING, string("llama")),
        pair("llama.attention.layer_norm_rms_epsilon", F32, b"\xac\xc5\x27\x37"),
        *(_pair(f"llama.{key}", value) for key, value in stated.items() if value is not None),
    ]
    tensors = {"token_embd": (_HIDDEN, _VOCABULARY), "output_norm": (_HIDDEN,)}
    for layer in range(layers):
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in (_LAYER | dict(shapes or {})).items()}
    records, offset = [], 0
    for name, dims in tensors.items():
        records.append(Record(f"{name}.weight", dims, offset=offset))
        n_bytes = 4
        for dim in dims:
            n_bytes *= dim
        offset += -(-n_bytes // 32) * 32
    return gguf(pairs=pairs, records=records, data=bytes(offset))


def _pair(key: str, value: object) -> bytes:
    if isinstance(value, int):
        return pair(key, U32, u32(value))
    return pair(key, STRING, string(str(value)))


FILES: Final[dict[str, bytes]] = {
    "layers-too-many": llama(block_count=3),
    "layers-too-few": llama(block_count=1),
    "layers-2pow31": llama(block_count=2**31),
    "layers-0": llama(block_count=0),
    "layers-as-text": llama(block_count="two"),
    "layers-missing": llama(block_count=None),
    "width-too-large": llama(embedding_length=16),
    "width-0": llama(embedding_length=0),
    "heads-too-many": llama(attention__head_count=4, rope__dimension_count=2, attention__key_length=4),
    "heads-0": llama(attention__head_count=0),
    "heads-not-shared-evenly": llama(attention__head_count_kv=3),
    "mlp-too-wide": llama(feed_forward_length=13),
    "rotary-wider-than-head": llama(rope__dimension_count=64),
    "query-of-another-shape": llama(shapes={"attn_q": (_HIDDEN, 6)}),
    "norm-of-another-shape": llama(shapes={"ffn_norm": (_HIDDEN + 1,)}),
}
"""Models to refuse, by the name of the lie."""

VALID_FILES: Final = {"sound": llama()}
