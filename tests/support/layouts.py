"""Which tensors a checkpoint of each family has, as the hub names them, and how they are filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Config: TypeAlias = Mapping[str, Any]
Entry: TypeAlias = tuple[str, "Fill"]

LOGIT_STD = 3.0


@dataclass(frozen=True)
class Fill:
    """How one tensor is made: bell-shaped with `std`, or evenly from `span` where that is given.

    `bytes_within` are the least and the greatest of uint8 that is no number: MXFP4's codes and exponents.
    """

    shape: tuple[int, ...]
    std: float = 0.0
    span: tuple[float, float] | None = None
    float32: bool = False
    bytes_within: tuple[int, int] | None = None


def layout(config: Config) -> dict[str, Fill]:
    """Give every tensor of a checkpoint with `config`, in the order of its layers."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    tied = config["tie_word_embeddings"]
    head_std = LOGIT_STD / hidden**0.5
    final_norm = _norm(config, hidden)
    if is_gemma(config):
        # Its embeddings are scaled by sqrt(hidden_size). Small ones and a strong last norm keep the
        # prompt's own tokens from outweighing what the layers add.
        head_std, final_norm = 1.0 / hidden**0.5, Fill((hidden,), span=(LOGIT_STD - 1.4, LOGIT_STD - 0.6))
    if config["model_type"] == "minicpm3":
        head_std *= hidden / config["dim_model_base"]
    entries = [("model.embed_tokens.weight", Fill((vocab, hidden), head_std if tied else 1.0))]
    for index in range(n_layers(config)):
        entries += _layer(config, index)
    for index in range(config.get("num_nextn_predict_layers", 0)):
        entries += _mtp_layer(config, n_layers(config) + index)
    entries.append(("model.norm.weight", final_norm))
    if not tied:
        entries.append(("lm_head.weight", Fill((vocab, hidden), head_std)))
    return dict(entries)


def n_layers(config: Config) -> int:
    """Layers, as the checkpoint's names count them."""
    return int(config["num_layers"] if "num_layers" in config else config["num_hidden_layers"])


def is_gemma(config: Config) -> bool:
    """Whether norm weights are stored as w - 1."""
    return str(config["model_type"]).startswith("gemma")


def head_dim(config: Config) -> int:
    """Width of a head of ordinary attention."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def n_experts(config: Config) -> int:
    """Routed experts of a sparse layer; 0 in a dense model."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return next((int(config[name]) for name in names if name in config), 0)


def is_sparse(config: Config, index: int) -> bool:
    """Whether layer `index` has experts."""
    if "first_k_dense_replace" in config:
        return index >= int(config["first_k_dense_replace"])
    return n_experts(config) > 0 and index not in config.get("mlp_only_layers", [])


def _norm(config: Config, width: int) -> Fill:
    return Fill((width,), span=(-0.4, 0.4) if is_gemma(config) else (0.6, 1.4))


def _linear(out_features: int, in_features: int, gain: float = 1.0) -> Fill:
    return Fill((out_features, in_features), gain / in_features**0.5)


def _branch_gain(config: Config) -> float:
    """Gain of the matrices that write to the residual stream."""
    # MiniCPM3 multiplies its embeddings by 12, which what the layers add must outweigh.
    gain = 15.0 if config["model_type"] == "minicpm3" else 3.0
    return float(gain / (2.0 * n_layers(config)) ** 0.5)


def _layer(config: Config, index: int) -> Iterator[Entry]:
    prefix = f"model.layers.{index}."
    if config["model_type"] == "longcat_flash":
        yield from _double_layer(config, prefix)
        return
    norms = ["input_layernorm", "post_attention_layernorm"]
    if is_gemma(config):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for norm in norms:
        yield f"{prefix}{norm}.weight", _norm(config, config["hidden_size"])
    attention = _latent_attention if "kv_lora_rank" in config else _attention
    for name, fill in attention(config):
        yield f"{prefix}self_attn.{name}", fill
    if has_indexer(config, index):
        for name, fill in _indexer(config):
            yield f"{prefix}self_attn.indexer.{name}", fill
    feed_forward = _experts if is_sparse(config, index) else _dense
    for name, fill in feed_forward(config):
        yield f"{prefix}{name}", fill


def _double_layer(config: Config, prefix: str) -> Iterator[Entry]:
    """Give LongCat-Flash's layer: twice attention and MLP, and experts (arXiv:2509.01322)."""
    for part in (0, 1):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{norm}.{part}.weight", _norm(config, config["hidden_size"])
        for name, fill in _latent_attention(config):
            yield f"{prefix}self_attn.{part}.{name}", fill
        for name, fill in _mlp(config, config["ffn_hidden_size"], _LLAMA_MLP):
            yield f"{prefix}mlps.{part}.{name}", fill
    experts, zero = config["n_routed_experts"], config["zero_expert_num"]
    yield f"{prefix}mlp.router.classifier.weight", _linear(experts + zero, config["hidden_size"], 1.5)
    yield f"{prefix}mlp.router.e_score_correction_bias", Fill((experts + zero,), 0.1, float32=True)
    for expert in range(experts):
        for name, fill in _mlp(config, config["expert_ffn_hidden_size"], _LLAMA_MLP):
            yield f"{prefix}mlp.experts.{expert}.{name}", fill


def has_indexer(config: Config, index: int) -> bool:
    """Whether a layer of sparse attention chooses keys itself, and does not take an earlier layer's."""
    if "index_topk" not in config:
        return False
    frequency, offset = config.get("index_topk_freq", 1), config.get("index_skip_topk_offset", 2)
    return bool(max(index - offset + 1, 0) % frequency == 0)


def _indexer(config: Config) -> Iterator[Entry]:
    """Give the lightning indexer of DeepSeek-V3.2 (arXiv:2512.02556)."""
    heads, width = config["index_n_heads"], config["index_head_dim"]
    yield "wq_b.weight", _linear(heads * width, config["q_lora_rank"])
    yield "wk.weight", _linear(width, config["hidden_size"])
    yield "k_norm.weight", _norm(config, width)
    yield "k_norm.bias", Fill((width,), 0.5)
    yield "weights_proj.weight", _linear(heads, config["hidden_size"])


def _mtp_layer(config: Config, index: int) -> Iterator[Entry]:
    """Give DeepSeek-V3's multi-token-prediction layer (arXiv:2412.19437, section 2.2)."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    yield from _layer(config, index)
    prefix = f"model.layers.{index}."
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        yield f"{prefix}{norm}.weight", _norm(config, hidden)
    yield f"{prefix}eh_proj.weight", _linear(hidden, 2 * hidden)
    yield f"{prefix}embed_tokens.weight", Fill((vocab, hidden), 1.0)
    yield f"{prefix}shared_head.head.weight", _linear(vocab, hidden, LOGIT_STD)


def _attention(config: Config) -> Iterator[Entry]:
    hidden, width = config["hidden_size"], head_dim(config)
    queries = config["num_attention_heads"] * width
    keys = config["num_key_value_heads"] * width
    if config["model_type"] == "phi3":
        yield "qkv_proj.weight", _linear(queries + 2 * keys, hidden, 1.3)
    else:
        for name, rows, gain in (("q", queries, 1.3), ("k", keys, 1.3), ("v", keys, 1.0)):
            yield f"{name}_proj.weight", _linear(rows, hidden, gain)
            if config.get("attention_bias") or config["model_type"] == "qwen2":
                yield f"{name}_proj.bias", Fill((rows,), 0.5)
    yield "o_proj.weight", _linear(hidden, queries, _branch_gain(config))
    if config.get("attention_bias"):
        yield "o_proj.bias", Fill((hidden,), 0.5)
    if config["model_type"] == "gpt_oss":
        yield "sinks", Fill((config["num_attention_heads"],), 1.5)
    if config["model_type"] in {"qwen3", "qwen3_moe", "gemma3_text"}:
        # Above one, so that attention is sharp enough for its rotation to matter.
        span = (0.0, 1.0) if is_gemma(config) else (1.0, 2.0)
        yield "q_norm.weight", Fill((width,), span=span)
        yield "k_norm.weight", Fill((width,), span=span)


def _latent_attention(config: Config) -> Iterator[Entry]:
    """Give DeepSeek's Multi-head Latent Attention (arXiv:2405.04434, section 2.1)."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
    nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    value = config.get("v_head_dim", hidden // heads)
    if q_rank is None:
        yield "q_proj.weight", _linear(heads * (nope + rope), hidden, 1.3)
    else:
        yield "q_a_proj.weight", _linear(q_rank, hidden)
        yield "q_a_layernorm.weight", _norm(config, q_rank)
        yield "q_b_proj.weight", _linear(heads * (nope + rope), q_rank, 1.3)
    yield "kv_a_proj_with_mqa.weight", _linear(kv_rank + rope, hidden)
    yield "kv_a_layernorm.weight", _norm(config, kv_rank)
    yield "kv_b_proj.weight", _linear(heads * (nope + value), kv_rank, 1.3)
    yield "o_proj.weight", _linear(hidden, heads * value, _branch_gain(config))
    if config["attention_bias"]:
        widths = {"q_a_proj": q_rank, "kv_a_proj_with_mqa": kv_rank + rope, "o_proj": hidden}
        for name, rows in widths.items():
            yield f"{name}.bias", Fill((rows,), 0.5)


def _mlp(config: Config, width: int, names: tuple[str, str, str]) -> Iterator[Entry]:
    hidden = config["hidden_size"]
    gate, up, down = names
    yield f"{gate}.weight", _linear(width, hidden)
    yield f"{up}.weight", _linear(width, hidden)
    yield f"{down}.weight", _linear(hidden, width, _branch_gain(config))


_LLAMA_MLP = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL_MLP = ("w1", "w3", "w2")


def _dense(config: Config) -> Iterator[Entry]:
    if config["model_type"] == "phi3":
        hidden, width = config["hidden_size"], config["intermediate_size"]
        yield "mlp.gate_up_proj.weight", _linear(2 * width, hidden)
        yield "mlp.down_proj.weight", _linear(hidden, width, _branch_gain(config))
        return
    for name, fill in _mlp(config, config["intermediate_size"], _LLAMA_MLP):
        yield f"mlp.{name}", fill


def _packed_experts(config: Config) -> Iterator[Entry]:
    """Give GPT-OSS's: rows of gate and up in turns, codes and exponents of MXFP4, biases.

    Exponents are such that a gate has a standard deviation of 4, and is often beyond the limit of 7.
    """
    hidden, width, count = config["hidden_size"], config["intermediate_size"], n_experts(config)
    yield "mlp.router.weight", _linear(count, hidden, 1.5)
    yield "mlp.router.bias", Fill((count,), 0.5)
    for name, rows, columns, exponents in (
        ("gate_up", 2 * width, hidden, (123, 125)),
        ("down", hidden, width, (115, 117)),
    ):
        stem = f"mlp.experts.{name}_proj"
        yield f"{stem}_bias", Fill((count, rows), 0.5)
        yield f"{stem}_blocks", Fill((count, rows, columns // 32, 16), bytes_within=(0, 255))
        yield f"{stem}_scales", Fill((count, rows, columns // 32), bytes_within=exponents)


def _experts(config: Config) -> Iterator[Entry]:
    if config["model_type"] == "gpt_oss":
        yield from _packed_experts(config)
        return
    mixtral = config["model_type"] == "mixtral"
    block = "block_sparse_moe" if mixtral else "mlp"
    count = n_experts(config)
    yield f"{block}.gate.weight", _linear(count, config["hidden_size"], 1.5)
    if config.get("topk_method") == "noaux_tc":
        yield f"{block}.gate.e_score_correction_bias", Fill((count,), 0.2, float32=True)
    width = config["intermediate_size" if mixtral else "moe_intermediate_size"]
    for expert in range(count):
        for name, fill in _mlp(config, width, _MIXTRAL_MLP if mixtral else _LLAMA_MLP):
            yield f"{block}.experts.{expert}.{name}", fill
    if shared := config.get("n_shared_experts", 0):
        for name, fill in _mlp(config, shared * width, _LLAMA_MLP):
            yield f"{block}.shared_experts.{name}", fill
