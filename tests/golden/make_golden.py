"""Write the golden logits and transformers 5's configs: python tests/golden/make_golden.py [NAME ...].

Needs the versions below, beside NumPy, ml_dtypes, safetensors and gguf; the tests need none of torch and
transformers. For each recipe the model is loaded from a directory that `write_safetensors` wrote, in float32
with eager attention, and run over the recipe's 80 tokens. FP8 weights are decoded here first (code times
scale): transformers' own decoding is wrong where rows are no multiple of the block.

It stops where the model is not a sound yardstick: a tensor that transformers did not take, logits whose
standard deviation is far from 3, a nearly tied top token, or an expert chosen by a hair.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.checkpoints import (
    Checkpoint,
    checkpoint,
    config_v5_path,
    golden_path,
    names,
    tokens,
)
from tests.support.layouts import n_layers
from tests.support.recipes import RECIPES
from tests.support.safetensors_writer import Experts, Form, write_safetensors

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0"}

STD_RANGE = (2.0, 4.5)
LEAST_TOP_GAP = 5e-3
LEAST_ROUTING_MARGIN = 1e-3


def main(chosen: list[str]) -> None:
    """Make the golden files of the recipes named, or of all."""
    check_versions()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in chosen or names():
        save_config_v5(name)
        save_logits(name)


def check_versions() -> None:
    """Refuse other versions than the pinned ones."""
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if found != VERSIONS:
        raise SystemExit(f"make_golden.py needs {VERSIONS}, found {found}")


def save_config_v5(name: str) -> None:
    """Load the hub's config.json with transformers and save it in its own form."""
    with tempfile.TemporaryDirectory() as directory:
        hub = Path(directory) / "config.json"
        hub.write_text(json.dumps(known_to_transformers(checkpoint(name)).config))
        transformers.AutoConfig.from_pretrained(directory).save_pretrained(directory)
        saved = json.loads(hub.read_text())
    path = config_v5_path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")


def save_logits(name: str) -> None:
    """Run transformers, check the result, and save it."""
    model = decoded(known_to_transformers(checkpoint(name)))
    ids = tokens(name)
    logits, margin = run(model, ids, "hub", "each")
    others: tuple[tuple[Form, Experts], ...] = (("v5", "fused"), ("hub", "mixed"))
    for form, experts in others:
        again, _ = run(model, ids, form, experts)
        np.testing.assert_array_equal(again, logits, err_msg=f"{name}: {form}, {experts}")
    report(name, logits, margin)
    path = golden_path(name)
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        tokens=ids,
        logits=logits,
        sha256=np.asarray(checkpoint(name).sha256()),
        versions=np.asarray(json.dumps(VERSIONS)),
    )


def known_to_transformers(model: Checkpoint) -> Checkpoint:
    """Give a model in the words that transformers knows.

    Kimi-K2 gets the model_type of its architecture, DeepSeek-V3: its own needs code from the hub.
    LongCat-Flash's experts without weights get some, which transformers asks for and does not use.
    """
    if model.config["model_type"] == "longcat_flash":
        return replace(model, tensors=dict(model.tensors) | dict(_weights_of_zero_experts(model)))
    if model.config["model_type"] != "kimi_k2":
        return model
    config = model.config | {"model_type": "deepseek_v3"}
    return replace(model, recipe=replace(model.recipe, config=config))


def _weights_of_zero_experts(model: Checkpoint) -> Iterator[tuple[str, Any]]:
    first, zero = model.config["n_routed_experts"], model.config["zero_expert_num"]
    for name, tensor in model.tensors.items():
        for projection in ("gate", "up"):
            if name.endswith(f".mlp.experts.0.{projection}_proj.weight"):
                for expert in range(first, first + zero):
                    yield name.replace("experts.0.", f"experts.{expert}."), np.ones_like(tensor)


def decoded(model: Checkpoint) -> Checkpoint:
    """Give an FP8 model as a float32 one."""
    if "quantization_config" not in model.config:
        return model
    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    return replace(model, recipe=replace(model.recipe, config=config), tensors=model.decoded())


def run(
    model: Checkpoint, ids: npt.NDArray[np.int64], form: Form, experts: Experts
) -> tuple[npt.NDArray[np.float32], float]:
    """Give transformers' logits (tokens, vocab_size), and the narrowest choice of an expert."""
    if model.config["model_type"] == "mistral4":
        experts = "fused"  # as its checkpoints have them, and transformers takes no others
    with tempfile.TemporaryDirectory() as directory:
        write_safetensors(model, Path(directory), form=form, experts=experts)
        if form == "v5":
            drop_quantization(Path(directory) / "config.json")
        # not AutoModelForCausalLM, which does not know Mistral 4
        loaded, info = getattr(transformers, model.config["architectures"][0]).from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    check_loading(model, info)
    with torch.no_grad(), routing_margins(loaded) as margins:
        logits = loaded(torch.from_numpy(ids)[None]).logits[0].numpy()
    return logits.astype(np.float32), min(margins, default=np.inf)


def drop_quantization(path: Path) -> None:
    """Take the FP8 settings out of a config whose weights have been decoded."""
    config = json.loads(path.read_text())
    config.pop("quantization_config", None)
    path.write_text(json.dumps(config))


def check_loading(model: Checkpoint, info: dict[str, Any]) -> None:
    """Refuse a model of which transformers missed a tensor, or did not take one."""
    layers = n_layers(model.config)
    beyond = tuple(
        f"model.layers.{layers + i}." for i in range(model.config.get("num_nextn_predict_layers", 0))
    )
    unused = [key for key in info["unexpected_keys"] if not (beyond and key.startswith(beyond))]
    missing = [key for key in info["missing_keys"] if key != "lm_head.weight"]
    if unused or missing or info["mismatched_keys"]:
        raise SystemExit(f"{model.name}: unused {unused}, missing {missing}, {info['mismatched_keys']}")


@contextmanager
def routing_margins(model: torch.nn.Module) -> Iterator[list[float]]:
    """Collect, while the model runs, by how much each router preferred its last expert to the next."""
    margins: list[float] = []

    def watch(router: Any, _: Any, outputs: Any) -> None:
        margins.append(routing_margin(router, outputs[0], model.config))

    routers = [module for module in model.modules() if type(module).__name__.lower().endswith("topkrouter")]
    handles = [router.register_forward_hook(watch) for router in routers]
    yield margins
    for handle in handles:
        handle.remove()


def routing_margin(router: Any, router_logits: torch.Tensor, config: Any) -> float:
    """Give the least gap between scores that a choice fell between, over all tokens, groups included."""
    bias = getattr(router, "e_score_correction_bias", None)
    softmax = bias is None or config.model_type == "longcat_flash"
    scores = router_logits.softmax(-1) if softmax else router_logits.sigmoid()
    scores = scores if bias is None else scores + bias
    groups = int(getattr(config, "n_group", None) or 1)
    if groups == 1:
        return gap(scores, router.top_k)
    parts = scores.view(len(scores), groups, -1)
    best = parts.amax(-1) if config.model_type == "deepseek_v2" else parts.topk(2).values.sum(-1)
    keep = best.topk(config.topk_group).indices
    mask = torch.zeros_like(best).scatter(1, keep, 1.0).bool()
    allowed = parts.masked_fill(~mask[..., None], float("-inf")).flatten(1)
    return min(gap(best, config.topk_group), gap(allowed, router.top_k))


def gap(scores: torch.Tensor, count: int) -> float:
    """Give the least difference between the `count` highest scores and the rest."""
    ordered = scores.sort(descending=True).values
    return float((ordered[:, count - 1] - ordered[:, count]).min())


def report(name: str, logits: npt.NDArray[np.float32], margin: float) -> None:
    """Print what matters, and refuse a model that would be a poor yardstick."""
    ordered = np.sort(logits, axis=-1)
    top_gap = float((ordered[:, -1] - ordered[:, -2]).min())
    std = float(logits.std())
    print(f"{name:28} std {std:.2f}  least top-1 gap {top_gap:.4f}  least routing margin {margin:.5f}")
    if not STD_RANGE[0] <= std <= STD_RANGE[1]:
        raise SystemExit(f"{name}: the logits' standard deviation is {std:.2f}, not about 3")
    if top_gap < LEAST_TOP_GAP or margin < LEAST_ROUTING_MARGIN:
        raise SystemExit(f"{name}: nearly tied; choose another seed than {RECIPES[name].seed}")


if __name__ == "__main__":
    main(sys.argv[1:])
