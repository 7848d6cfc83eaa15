"""Every tensor of llama.cpp's quantized files decodes to the hash of what ggml's C code decodes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.golden import golden
from wvindex.formats.decode import decode_rows
from wvindex.formats.encodings import ENCODINGS


@pytest.mark.parametrize("path", golden("*/*.dequant.json"), ids=lambda path: path.name.split(".")[0])
def test_every_tensor_has_its_hash(path: Path) -> None:
    hashes = json.loads(path.read_text())["tensors"]
    tensors = gguf.GGUFReader(path.with_name(path.name.replace(".dequant.json", ".gguf"))).tensors
    assert {tensor.name for tensor in tensors} == set(hashes)
    for tensor in tensors:
        columns = int(tensor.shape[0])
        raw = tensor.data.view(np.uint8).reshape(tensor.n_elements // columns, -1)
        out = np.empty((raw.shape[0], columns), np.float32)
        decode_rows(raw, ENCODINGS[tensor.tensor_type.name], out)
        assert hashlib.sha256(out.tobytes()).hexdigest() == hashes[tensor.name]["f32_sha256"], tensor.name
