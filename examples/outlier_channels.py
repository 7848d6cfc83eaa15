"""Finding outlier channels: inputs that a layer's matrices multiply by far larger weights than all others.

A notebook as a script: each `# %%` is a cell, in Jupyter, VS Code or Spyder. Run as it is,

    python examples/outlier_channels.py [DIRECTORY]

it needs no network. The model beside it is too small to have grown such channels, as large ones do (Dettmers
et al. 2022, arXiv:2208.07339), so the script writes a copy that has two into DIRECTORY (a new temporary one
by default), finds them, and shows what they cost a quantizer.
"""

# %% The model: 4 million parameters, trained on the King James Bible. Which layers have outlier channels?
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

import wvindex as wv

MODEL = Path(__file__).parent / "tiny-kjv-Q8_0.gguf"
DIRECTORY = Path(sys.argv[1] if len(sys.argv) == 2 else tempfile.mkdtemp())

Floats = NDArray[np.float32]

model = wv.inspect(MODEL)
print("layer  channels above 5 times the median")
for row in model.layers:
    print(f"{'none' if row['layer'] is None else row['layer']!s:>5}  {row['outlier_channels']}")

# %% The strongest channels of one layer, matrix by matrix: none stands out.
columns = wv.stats(MODEL, layers=1, role="mlp.shared_experts.*", by="column")
for row in columns.sorted("absmax_ratio").head(3):
    print(f"{row['role']:30} input {row['column']:3} is {row['absmax_ratio']:.1f} times the median")

# %% A copy with two channels that do: layer 1 reads them twelve times as strongly, and its norm gives them a
# twelfth. Every product of the two is as it was, and so is the model, but for rounding.
PLANTED = (41, 200)
FACTOR = np.float32(12)
READERS = ("attn_q_a", "attn_kv_a_mqa", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp")


def spread(name: str, values: Floats) -> Floats:
    """Move a factor from layer 1's norms into the matrices that read what they norm."""
    columns = list(PLANTED)
    values = values.copy()
    if name in {"blk.1.attn_norm.weight", "blk.1.ffn_norm.weight"}:
        values[columns] /= FACTOR
    elif name in {f"blk.1.{reader}.weight" for reader in (*READERS, "ffn_gate_inp")}:
        values[..., columns] *= FACTOR
    return values


def copy_with_outliers(path: Path) -> Path:
    """Write a GGUF file of the same model with channels that stand out, decoded to F32."""
    reader = gguf.GGUFReader(MODEL)
    writer = gguf.GGUFWriter(path, "deepseek2")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1])
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, spread(tensor.name, values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


copy = copy_with_outliers(DIRECTORY / "outliers.gguf")

# %% They are on the layer's page, under what is out of the ordinary.
page = wv.inspect(copy, 1)
print()
for row in page.anomalies:
    print(f"{row['kind']}: {row['count']} in {row['key'].partition('layers.1.')[2]}, {row['detail']}")

# %% A channel that stands out in every matrix that reads the residual stream is one of the stream itself.
votes = np.zeros(256, np.int64)
for row in wv.stats(copy, layers=1, by="column"):
    votes[row["column"]] += row["absmax_ratio"] >= 5
found = np.flatnonzero(votes > votes.max() / 2)
print(f"\nchannels of the stream: {found.tolist()}, each in {votes[found[0]]} matrices")
assert found.tolist() == list(PLANTED)


# %% What they cost: 4 bits, with a scale for each block of 32 values. The block's scale is the outlier's.
def rounded(values: Floats) -> Floats:
    """Pack to Q4_0 and decode again, by the gguf package."""
    kind = gguf.GGMLQuantizationType.Q4_0
    return gguf.dequantize(gguf.quantize(values, kind), kind)


print("\nerror of Q4_0, relative to the weights, in channels that share a block with an outlier:")
neighbours = [c for c in range(256) if c not in PLANTED and c // 32 in {p // 32 for p in PLANTED}]
with wv.open(MODEL) as before, wv.open(copy) as after:
    for role in ("self_attn.q_a_proj", "mlp.shared_experts.gate_proj"):
        errors = []
        for db in (before, after):
            w = db[f"model.layers.1.{role}.weight"][:]
            difference = (rounded(w) - w)[:, neighbours]
            errors.append(np.linalg.norm(difference) / np.linalg.norm(w[:, neighbours]))
        print(f"  {role:30} {errors[0]:.3f} without, {errors[1]:.3f} with")
