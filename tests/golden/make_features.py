"""Write features.npz: what the MLPs of transformers 5.23.0 (torch 2.13) do with embeddings alone.

    python tests/golden/make_features.py

For each recipe, and each layer: the norm before the MLP and the MLP are called with the embeddings of a few
tokens, as transformers gives them to its first layer, without attention. Saved are the MLP's output, and
where it is one pair of projections what its down_proj is given: the activations of its features.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden.make_golden import check_loading, check_versions, decoded, known_to_transformers
from tests.support.checkpoints import checkpoint
from tests.support.features import MODELS, TOKENS
from tests.support.safetensors_writer import write_safetensors

Arrays = dict[str, Any]


def main() -> None:
    """Run every model's MLPs."""
    check_versions()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arrays: Arrays = {}
    for name in MODELS:
        arrays |= {f"{name}.{key}": value for key, value in outputs(name).items()}
        arrays[f"{name}.sha256"] = np.asarray(checkpoint(name).sha256())
    np.savez_compressed(Path(__file__).with_name("features.npz"), **arrays)


def outputs(name: str) -> Arrays:
    """Give what each layer's MLP gives and is given at its down_proj, (tokens, width) each."""
    found: Arrays = {}
    with torch.no_grad():
        model = load(name)
        embedded = embeddings(model)
        for number, layer in enumerate(model.model.layers):
            norm = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
            down = getattr(layer.mlp, "down_proj", None)
            given: list[Any] = []
            if down is not None:
                down.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs[0]))
            out = layer.mlp(norm(embedded))
            found[f"{number}.out"] = (out[0] if isinstance(out, tuple) else out)[0].numpy()
            if given:
                found[f"{number}.activations"] = given[0][0].numpy()
    return found


def embeddings(model: Any) -> Any:
    """Give what the first layer is given, (1, tokens, hidden_size)."""
    seen: list[Any] = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.tensor([TOKENS]))
    handle.remove()
    return seen[0]


def load(name: str) -> Any:
    """Load a recipe's model, in float32."""
    model = decoded(known_to_transformers(checkpoint(name)))
    with tempfile.TemporaryDirectory() as directory:
        write_safetensors(model, Path(directory), form="hub", experts="each")
        loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    check_loading(model, info)
    return loaded


if __name__ == "__main__":
    main()
