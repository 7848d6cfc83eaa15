"""MaxText checkpoints from Hugging Face tensors: the tree, in NumPy, and Orbax's files, through TensorStore.

The tree follows MaxText's own conversion (convert_deepseek_family_ckpt.py, param_mapping.py): kernels are
``[in, out]`` with heads apart, experts ``[experts, in, out]``, layers stacked along axis 1 where scanned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorstore as ts

from tests.support.checkpoints import Checkpoint
from tests.support.random_weights import Array

Tree = dict[str, Any]
"""Nested dictionaries with arrays as leaves."""

_NORMS: Final = {
    "input_layernorm.weight": "pre_self_attention_layer_norm.scale",
    "post_attention_layernorm.weight": "post_self_attention_layer_norm.scale",
    "self_attn.q_a_layernorm.weight": "self_attention.q_norm.scale",
    "self_attn.kv_a_layernorm.weight": "self_attention.kv_norm.scale",
    "self_attn.q_norm.weight": "self_attention.query_norm.scale",
    "self_attn.k_norm.weight": "self_attention.key_norm.scale",
    "pre_feedforward_layernorm.weight": "pre_ffw",
    "post_feedforward_layernorm.weight": "post_ffw",
}
_KERNELS: Final = {
    "self_attn.q_a_proj.weight": "self_attention.wq_a.kernel",
    "self_attn.kv_a_proj_with_mqa.weight": "self_attention.wkv_a.kernel",
    "mlp.gate_proj.weight": "mlp.wi_0.kernel",
    "mlp.up_proj.weight": "mlp.wi_1.kernel",
    "mlp.down_proj.weight": "mlp.wo.kernel",
}


def put(tree: Tree, path: str, value: Any) -> None:
    """Put a leaf where a dotted path leads."""
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def flat(tree: Tree, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Give the leaves of a tree by their paths, sorted as JAX sorts the keys of a dictionary."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in sorted(tree.items()):
        path = (*prefix, name)
        found |= flat(value, path) if isinstance(value, dict) else {path: value}
    return found


def layer_leaves(checkpoint: Checkpoint, layer: int) -> dict[str, Array]:
    """Give one layer as MaxText has it unscanned, by dotted names."""
    config, prefix = checkpoint.config, f"model.layers.{layer}."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    leaves = {ours: weights[theirs] for theirs, ours in _NORMS.items() if theirs in weights}
    leaves |= {ours: weights[theirs].T for theirs, ours in _KERNELS.items() if theirs in weights}
    return leaves | _attention(config, weights) | _experts(config, weights)


def _attention(config: Mapping[str, Any], weights: Mapping[str, Array]) -> dict[str, Array]:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    out = weights["self_attn.o_proj.weight"]
    leaves: dict[str, Array] = {"self_attention.out.kernel": out.T.reshape(heads, -1, hidden)}
    for theirs, ours in (("q_b_proj", "wq_b"), ("kv_b_proj", "wkv_b")):
        if f"self_attn.{theirs}.weight" in weights:
            factor = weights[f"self_attn.{theirs}.weight"]
            leaves[f"self_attention.{ours}.kernel"] = factor.T.reshape(factor.shape[1], heads, -1)
    latent, kv_heads = "kv_lora_rank" in config, int(config.get("num_key_value_heads", heads))
    for theirs, ours, count in (("q", "query", heads), ("k", "key", kv_heads), ("v", "value", kv_heads)):
        weight, bias = (weights.get(f"self_attn.{theirs}_proj.{kind}") for kind in ("weight", "bias"))
        if weight is None:
            continue
        kernel: Array = weight.T.reshape(hidden, count, -1)
        if not latent and theirs != "v":
            kernel = _rotary(config, kernel)
        if theirs == "q" and config["model_type"] in ("llama", "mistral", "mixtral", "gemma2"):
            kernel = (kernel.astype(np.float32) / np.sqrt(np.float32(kernel.shape[2]))).astype(weight.dtype)
        leaves[f"self_attention.{ours}.kernel"] = kernel
        if bias is not None:
            leaves[f"self_attention.{ours}.bias"] = bias.reshape(count, -1)
    return leaves


def _rotary(config: Mapping[str, Any], kernel: Array) -> Array:
    """Interleave the heads of Llama 3.1: first and second half by turns."""
    scaling = config.get("rope_scaling") or {}
    if config["model_type"] != "llama" or scaling.get("rope_type") != "llama3":
        return kernel
    turned = np.empty_like(kernel)
    half = kernel.shape[2] // 2
    turned[..., 0::2], turned[..., 1::2] = kernel[..., :half], kernel[..., half:]
    return turned


def _experts(config: Mapping[str, Any], weights: Mapping[str, Array]) -> dict[str, Array]:
    latent = "kv_lora_rank" in config
    router = next((n for n in ("mlp.gate.weight", "block_sparse_moe.gate.weight") if n in weights), None)
    if router is None:
        return {}
    module = router.removesuffix(".gate.weight")
    block = "DeepSeekMoeBlock_0.MoeBlock_0" if latent else "MoeBlock_0"
    block = "moe_block" if config["model_type"] == "qwen3_moe" else block
    leaves = {f"{block}.gate.kernel": weights[router].T}
    if "mlp.gate.e_score_correction_bias" in weights:
        leaves[f"{block}.gate.bias"] = weights["mlp.gate.e_score_correction_bias"]
    names = ("w1", "w3", "w2") if module == "block_sparse_moe" else ("gate_proj", "up_proj", "down_proj")
    n_experts = sum(name.endswith(f"{names[0]}.weight") and ".experts." in name for name in weights)
    for theirs, ours in zip(names, ("wi_0", "wi_1", "wo"), strict=True):
        experts = [weights[f"{module}.experts.{e}.{theirs}.weight"].T for e in range(n_experts)]
        leaves[f"{block}.{ours}"] = np.stack(experts)
        shared = weights.get(f"mlp.shared_experts.{theirs}.weight")
        if shared is not None:
            leaves[f"DeepSeekMoeBlock_0.shared_experts.{ours}.kernel"] = shared.T
    return leaves


def params(checkpoint: Checkpoint, *, scanned: bool = True, fused: bool = False) -> Tree:
    """Give a model's tree, below ``params/params``."""
    config, tensors = checkpoint.config, checkpoint.tensors
    tree: Tree = {}
    put(tree, "token_embedder.embedding", tensors["model.embed_tokens.weight"])
    put(tree, "decoder.decoder_norm.scale", tensors["model.norm.weight"])
    if "lm_head.weight" in tensors:
        put(tree, "decoder.logits_dense.kernel", tensors["lm_head.weight"].T)
    n_layers, dense = int(config["num_hidden_layers"]), config.get("first_k_dense_replace")
    layers = [layer_leaves(checkpoint, layer) for layer in range(n_layers)]
    if config["model_type"] == "gemma2":
        layers = _gemma(tree, config, layers)
    stacks = (
        {"layers": layers}
        if dense is None
        else {"dense_layers": layers[:dense], "moe_layers": layers[dense:]}
    )
    for stack, members in stacks.items():
        for leaves in members if fused else ():
            _fuse(leaves)
        if not scanned:
            for number, leaves in enumerate(members):
                for name, value in leaves.items():
                    put(tree, f"decoder.{stack}_{number}.{name}", value)
        elif members:
            for name in members[0]:
                put(tree, f"decoder.{stack}.{name}", np.stack([one[name] for one in members], axis=1))
    for extra in range(int(config.get("num_nextn_predict_layers") or 0)):
        _put_predicting(tree, checkpoint, n_layers + extra, extra + 1, fused=fused)
    return tree


def _gemma(tree: Tree, config: Mapping[str, Any], layers: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """Put two layers into one, 1 on every norm, and the embedding's scale into it."""
    embedding = tree["token_embedder"]["embedding"]
    scaled = embedding.astype(np.float32) * np.float32(int(config["hidden_size"]) ** 0.5)
    tree["token_embedder"]["embedding"] = scaled.astype(embedding.dtype)
    norm = tree["decoder"]["decoder_norm"]
    norm["scale"] = norm["scale"] + norm["scale"].dtype.type(1)
    renamed = {
        "pre_self_attention_layer_norm.scale": "pre_self_attention_norm",
        "post_self_attention_layer_norm.scale": "post_self_attention_norm",
        "pre_ffw": "pre_ffw_norm",
        "post_ffw": "post_ffw_norm",
    }
    pairs = []
    for number in range(0, len(layers), 2):
        pair: dict[str, Array] = {}
        for half, leaves in zip(("local", "global"), layers[number : number + 2], strict=True):
            for name, value in leaves.items():
                if name in renamed:
                    pair[f"{renamed[name]}_{half}.scale"] = value + value.dtype.type(1)
                else:
                    module, _, rest = name.partition(".")
                    pair[f"{module}_{half}.{rest}"] = value
        pairs.append(pair)
    return pairs


def _fuse(leaves: dict[str, Array]) -> None:
    query, below = (leaves.pop(f"self_attention.{name}.kernel") for name in ("wq_a", "wkv_a"))
    leaves["self_attention.wq_kv_a.kernel"] = np.concatenate([query, below], axis=1)


def _put_predicting(tree: Tree, checkpoint: Checkpoint, layer: int, number: int, *, fused: bool) -> None:
    """Put a layer that predicts a further token; MaxText shares embedding and head with the model."""
    place, prefix = f"mtp_block.mtp_layer_{number}.mtp_{number}_", f"model.layers.{layer}."
    put(tree, f"{place}embedding_norm.scale", checkpoint.tensors[f"{prefix}enorm.weight"])
    put(tree, f"{place}hidden_state_norm.scale", checkpoint.tensors[f"{prefix}hnorm.weight"])
    put(tree, f"{place}projection.kernel", checkpoint.tensors[f"{prefix}eh_proj.weight"].T)
    leaves = layer_leaves(checkpoint, layer)
    if fused:
        _fuse(leaves)
    for name, value in leaves.items():
        put(tree, f"{place}transformer_layer.{name}", value)


def train_state(model: Tree) -> Tree:
    """Give a state in training: the parameters, Adam's moments of them, and the step."""

    def moments(offset: float) -> Tree:
        found: Tree = {}
        for path, value in flat(model).items():
            noise = np.random.default_rng(len(".".join(path))).normal(offset, 1, value.shape)
            put(found, ".".join(path), noise.astype(np.float32))
        return found

    adam = {"count": np.int32(7), "mu": {"params": moments(0.0)}, "nu": {"params": moments(2.0)}}
    return {"params": {"params": model}, "opt_state": {"0": adam}, "step": np.int32(7)}


def write_orbax(
    directory: Path,
    tree: Tree,
    *,
    ocdbt: bool = True,
    zarr3: bool = True,
    chunks: Mapping[str, tuple[int, ...]] | None = None,
    custom: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tree as Orbax does: `chunks` gives the chunks of leaves by the last parts of their names."""
    directory.mkdir(parents=True)
    members, pending = {}, []
    context = ts.Context()  # one database, however many arrays
    for path, value in flat(tree).items():
        name, array = ".".join(path), np.asarray(value)
        keys = [{"key": key, "key_type": 1 if key.isdigit() else 2} for key in path]
        kind = {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": list(array.shape)}
        members[str(path)] = {"key_metadata": keys, "value_metadata": kind}
        shape = next((c for end, c in (chunks or {}).items() if name.endswith(end)), array.shape)
        spec = _spec(directory, name, array, shape, ocdbt=ocdbt, zarr3=zarr3)
        opened = ts.open(spec, create=True, dtype=ts.dtype(array.dtype.name), context=context)
        pending.append((opened, np.asarray(array, order="C")))
    for write in [opened.result().write(array) for opened, array in pending]:
        write.result()
    document = {
        "tree_metadata": members,
        "use_ocdbt": ocdbt,
        "use_zarr3": zarr3,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": custom,
    }
    (directory / "_METADATA").write_text(json.dumps(document))
    return directory


def _spec(
    directory: Path, name: str, array: Array, chunk: tuple[int, ...], *, ocdbt: bool, zarr3: bool
) -> dict[str, Any]:
    kvstore: dict[str, Any] = {"driver": "file", "path": f"{directory}/{name}/"}
    if ocdbt:
        kvstore = {"driver": "ocdbt", "base": f"file://{directory}/", "path": f"{name}/"}
    chunk = tuple(min(n, c) for n, c in zip(array.shape, chunk, strict=True))
    metadata: dict[str, Any] = {
        "shape": array.shape,
        "chunks": chunk,
        "compressor": {"id": "zstd", "level": 1},
    }
    if zarr3:
        grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
        metadata = {"shape": array.shape, "chunk_grid": grid}
    spec: dict[str, Any] = {"driver": "zarr3" if zarr3 else "zarr", "kvstore": kvstore, "metadata": metadata}
    spec["store_data_equal_to_fill_value"] = True
    return spec
