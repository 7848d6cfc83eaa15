"""What did Q3_K do to my model? Two quantizations of one model, held against it tensor by tensor.

A notebook as a script: each `# %%` is a cell, in Jupyter, VS Code or Spyder. Run as it is,

    python examples/compare_quantizations.py [DIRECTORY]

it writes the models into DIRECTORY (a new temporary one by default), and needs no network.
"""

# %% The model: 4 million parameters, trained on the King James Bible, with DeepSeek-V3's architecture.
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

import wvindex as wv

MODEL = Path(__file__).parent / "tiny-kjv-Q8_0.gguf"
DIRECTORY = Path(sys.argv[1] if len(sys.argv) == 2 else tempfile.mkdtemp())

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


# %% Q3_K by rounding to the nearest. llama.cpp searches for better scales; the layout is its `block_q3_K`.
def to_q3_k(rows: Floats) -> Bytes:
    """Pack rows (n, width), width a multiple of 256: 16 scales of 6 bits, 256 levels of 3 bits, a float16."""
    x = rows.reshape(-1, 16, 16)
    largest = np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1)  # with its sign
    wanted = largest / -4  # the largest becomes the level -4
    d = (np.abs(wanted).max(1, keepdims=True) / 31).astype(np.float16).astype(np.float32)
    steps = np.clip(np.rint(wanted / np.where(d == 0, 1, d)), -32, 31)
    scale = d * steps
    levels = np.clip(np.rint(x / np.where(scale == 0, 1, scale)), -4, 3).astype(np.int8) + 4
    low = (levels & 3).astype(np.uint8).reshape(-1, 2, 4, 32)
    high = (levels >> 2).astype(np.uint8).reshape(-1, 8, 32)
    six = (steps + 32).astype(np.uint8).reshape(-1, 16)
    return np.concatenate(
        [
            np.bitwise_or.reduce(high << np.arange(8, dtype=np.uint8)[:, None], axis=1),
            np.bitwise_or.reduce(low << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=2).reshape(-1, 64),
            six[:, :8] & 15 | six[:, 8:] << 4,
            np.bitwise_or.reduce(
                six.reshape(-1, 4, 4) >> 4 << np.arange(0, 8, 2, dtype=np.uint8)[:, None], 1
            ),
            d.reshape(-1, 1).astype(np.float16).view(np.uint8),
        ],
        axis=1,
    ).reshape(len(rows), -1)


# %% A copy of the model in another encoding. Rows that are too short for it become Q5_0; vectors stay.
def quantized(path: Path, kind: Type) -> Path:
    """Write the model with its matrices in another encoding, and give its path."""
    model = gguf.GGUFReader(MODEL)
    writer = gguf.GGUFWriter(path, model.fields["general.architecture"].contents())
    for name, field in model.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), *field.types[:2])
    for tensor in model.tensors:
        if tensor.tensor_type == Type.F32:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        fits = values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        chosen = kind if fits else Type.Q5_0
        rows = values.reshape(-1, values.shape[-1])
        packed = to_q3_k(rows) if chosen == Type.Q3_K else gguf.quantize(rows, chosen)
        writer.add_tensor(tensor.name, packed.reshape(*values.shape[:-1], -1), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


DIRECTORY.mkdir(parents=True, exist_ok=True)
VARIANTS = {
    kind.name: quantized(DIRECTORY / f"tiny-kjv-{kind.name}.gguf", kind)
    for kind in (Type.Q5_0, Type.Q4_0, Type.Q3_K)
}

# %% How far each is from the model that it was made of, over all weights. 6 dB are a bit.
DIFFS = {name: wv.diff(MODEL, path) for name, path in VARIANTS.items()}
print("encoding  bits per weight  rel. error  SQNR dB  cosine")
for name, found in DIFFS.items():
    (model,) = found.model
    print(
        f"{name:<8}  {model['b_bits']:15.2f}  {model['rel_l2']:10.4f}"
        f"  {model['sqnr_db']:7.2f}  {model['cosine']:.4f}"
    )

# %% Where the damage is: roles, the most damaged first. All of `Table` works on each of a diff's tables.
worst = DIFFS["Q3_K"]
print("\nroles that Q3_K damaged most")
for row in worst.roles.head(5):
    print(f"{row['role']:<28} {row['rel_l2']:.4f} at {row['b_bits']:.2f} bits")

# %% One tensor and its rows: the output features that lost most.
first = next(iter(worst.tensors))
print(f"\n{first['key']}: rel. error {first['rel_l2']:.4f}, largest {first['max_abs']:.4f} at {first['at']}")
for row in worst.rows:
    if row["key"] == first["key"]:
        print(f"  row {row['row']}: {row['rel_l2']:.4f}")

# %% Which tensors gain most from Q4_0's bits: the error that goes away, of all that Q3_K made.
finer = {row["key"]: row["rmse"] ** 2 * row["count"] for row in DIFFS["Q4_0"].tensors}
gain = {row["key"]: row["rmse"] ** 2 * row["count"] - finer[row["key"]] for row in worst.tensors}
total = sum(row["rmse"] ** 2 * row["count"] for row in worst.tensors)
print("\ntensors that gain most from Q4_0")
for key in sorted(gain, key=gain.__getitem__, reverse=True)[:5]:
    print(f"{key:<48} {gain[key] / total:6.1%} of the squared error")
