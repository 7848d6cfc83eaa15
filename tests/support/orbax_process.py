"""Orbax itself, in a process of its own: it brings JAX, whose threads and warnings no other test should have.

``python -m tests.support.orbax_process save DIRECTORY`` saves a state in four forms, as MaxText would;
``... restore PATH...`` prints, for each, what every leaf that Orbax restores is.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.maxtext_writer import Tree, flat, put

FORMS = {"ocdbt3": (True, True), "ocdbt2": (True, False), "plain3": (False, True), "plain2": (False, False)}


def state() -> Tree:
    """Give a small state in training: two scanned stacks, Adam's moments, an empty node, a step."""
    rng = np.random.default_rng(0)
    model: Tree = {}
    for stack, layers in (("dense_layers", 1), ("moe_layers", 2)):
        for name, width in (("wq_a", 24), ("wkv_a", 20)):
            kernel = rng.standard_normal((16, layers, width)).astype(np.float32)
            put(model, f"decoder.{stack}.self_attention.{name}.kernel", kernel)
        scale = rng.standard_normal((24, layers)).astype(np.float32)
        put(model, f"decoder.{stack}.self_attention.q_norm.scale", scale)
    put(model, "token_embedder.embedding", rng.standard_normal((32, 16)).astype(np.float32))
    moments: dict[str, Tree] = {name: {"params": {}} for name in ("mu", "nu")}
    for path, value in flat(model).items():
        for place, name in enumerate(moments):
            put(moments[name]["params"], ".".join(path), value * np.float32(place + 2))
    adam: dict[str, Any] = {"count": np.int32(7), **moments}
    return {"params": {"params": model}, "opt_state": {"0": adam, "1": {}}, "step": np.int32(7)}


def digest(tree: Tree) -> dict[str, list[Any]]:
    """Give what every leaf is: its dtype, its shape, the hash of its bytes."""
    found = {}
    for path, value in flat(tree).items():
        array = np.asarray(value)
        data = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        found[".".join(path)] = [array.dtype.name, list(array.shape), data]
    return found


def save(directory: str) -> None:
    """Save the state in each form."""
    import jax
    import orbax.checkpoint as ocp

    arrays = jax.tree.map(jax.numpy.asarray, state())
    for name, (ocdbt, zarr3) in FORMS.items():
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
        with ocp.Checkpointer(handler) as checkpointer:
            custom = {"model": "tiny", "list": [1, 2]}
            place = Path(directory).resolve() / name
            checkpointer.save(place, args=ocp.args.PyTreeSave(arrays, custom_metadata=custom))


def restore(*paths: str) -> None:
    """Print a document with what each checkpoint holds."""
    import orbax.checkpoint as ocp

    found = {}
    for path in paths:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            place = Path(path).resolve()
            tree = checkpointer.restore(place)
            about = checkpointer.metadata(place)
        custom = about.item_metadata.custom_metadata
        found[path] = {"leaves": digest(tree), "custom": custom, "step": about.custom_metadata}
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.simplefilter("ignore")
    if sys.argv[1] == "save":
        save(sys.argv[2])
    else:
        restore(*sys.argv[2:])
