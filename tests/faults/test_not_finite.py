"""NaN and infinity are kept bit by bit and counted; who wants none of them is told where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex
from tests.support.checkpoints import checkpoint, made
from tests.support.cli import invoke
from tests.support.gguf_writer import write_gguf
from tests.support.interrupted import SMALL_RECIPE, small_steps
from tests.support.safetensors_writer import write_safetensors, write_weights
from tests.support.trees import names
from wvindex.errors import NonFiniteWeights, UsageError
from wvindex.sources.detect import open_source

PAYLOADS: Final[dict[str, tuple[Any, list[int]]]] = {
    "F32": (np.uint32, [0x7FC00001, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000]),
    "F16": (np.uint16, [0x7E01, 0xFFFF, 0x7C01, 0x7C00, 0xFC00]),
    "BF16": (np.uint16, [0x7FC1, 0xFFFF, 0x7F81, 0x7F80, 0xFF80]),
    "F64": (np.uint64, [0x7FF8000000000001, 2**64 - 1, 0x7FF0000000000001, 0x7FF << 52, 0xFFF << 52]),
}
"""By encoding: three NaNs, quiet, negative and signalling, each with a payload; and both infinities."""

_TYPES: Final = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


def odd(encoding: str) -> NDArray[Any]:
    """Give 32 values of which three are NaN and two infinite."""
    bits, payloads = PAYLOADS[encoding]
    words = np.zeros(32, bits)
    words[3:8] = payloads
    values: NDArray[Any] = words.view(_TYPES[encoding]).reshape(4, 8)
    return values


@pytest.mark.parametrize("encoding", PAYLOADS)
def test_plain_weights_are_kept_bit_by_bit_and_counted(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_weights({"odd": odd(encoding), "even": np.ones(3, np.float32)}, tmp_path / "model")
    with wvindex.open(wvindex.build(tmp_path / "model", tmp_path / "out.zarr")) as db:
        assert db["odd"].raw().tobytes() == odd(encoding).tobytes()
        assert np.asarray(db["odd"]).tobytes() == odd(encoding).tobytes()
        assert db.catalog is not None
        found = {key: (entry.nan, entry.inf) for key, entry in db.catalog.arrays.items()}
    assert found == {"odd": (3, 2), "even": (0, 0)}


def test_packed_blocks_whose_scale_is_nan_are_kept_bit_by_bit_and_counted(tmp_path: Path) -> None:
    source = write_gguf(made(SMALL_RECIPE), tmp_path / "model.gguf", dtype="Q8_0")[0]
    with open_source(source) as opened:
        info = next(info for info in opened.tensors() if info.name == "blk.0.ffn_up_exps.weight")
    with source.open("r+b") as file:  # Q8_0: a block is a float16 scale and 32 integers
        file.seek(info.offset)
        file.write(np.uint16(0x7E55).tobytes())
        file.seek(info.offset + 34)
        file.write(np.uint16(0xFC00).tobytes() + bytes([1] * 30 + [0] * 2))
        file.seek(info.offset)
        expected = info.offset, source.read_bytes()[info.offset : info.offset + info.nbytes]
    with wvindex.open(wvindex.build(source, tmp_path / "out.zarr")) as db:
        stored = db["blk.0.ffn_up_exps.weight"]
        assert stored.raw().tobytes() == expected[1]
        assert db.catalog is not None
        entry = db.catalog.arrays[stored.key]
        values = np.asarray(stored)
        assert (entry.nan, entry.inf) == (int(np.isnan(values).sum()), int(np.isinf(values).sum()))
        assert (entry.nan, entry.inf) == (32 + 2, 30)  # 0 x infinity is NaN


def test_fp8_scales_that_are_nan_are_kept_bit_by_bit_and_counted(tmp_path: Path) -> None:
    model = checkpoint("deepseek_v3-fp8")
    name = "model.layers.0.mlp.gate_proj.weight"
    scales = model.tensors[f"{name}_scale_inv"].copy()
    scales.view(np.uint32)[0, 0] = 0x7FC12345
    source = write_safetensors(model, tmp_path / "model")
    write_weights(dict(model.tensors) | {f"{name}_scale_inv": scales}, source)
    with wvindex.open(wvindex.build(source, tmp_path / "out.zarr")) as db:
        assert np.asarray(db[name].scales()).tobytes() == scales.tobytes()
        assert db.catalog is not None
        assert db.catalog.arrays[name].nan == 128 * 128
    with pytest.raises(NonFiniteWeights, match=name):
        wvindex.build(source, tmp_path / "strict.zarr", strict_finite=True)


class TestStrict:
    @pytest.mark.parametrize("encoding", PAYLOADS)
    def test_the_tensor_is_named_and_nothing_is_left(self, encoding: str, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        tensors = {f"a{i}": np.ones((99, 99), np.float32) for i in range(9)} | {"odd": odd(encoding)}
        write_weights(tensors, tmp_path / "model")
        with small_steps(), pytest.raises(NonFiniteWeights) as caught:
            wvindex.build(tmp_path / "model", tmp_path / "out.zarr", strict_finite=True)
        assert (caught.value.tensor, caught.value.found) == ("odd", "3 NaN, 2 infinite")
        assert names(tmp_path) == ["model"]
        result = invoke("build", tmp_path / "model", "-o", tmp_path / "out.zarr", "--strict-finite")
        assert result.exit_code == 4
        [line] = result.stderr.splitlines()
        assert line.startswith("error[non-finite]: weights are not finite (file: ")
        assert "tensor: odd" in line
        assert names(tmp_path) == ["model"]

    def test_finite_weights_pass(self, tmp_path: Path) -> None:
        source = write_gguf(made(SMALL_RECIPE), tmp_path / "model.gguf", dtype="Q8_0")[0]
        assert invoke("build", source, "-o", tmp_path / "out.zarr", "--strict-finite").exit_code == 0

    def test_the_first_is_refused_before_the_rest_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        later = {f"w{i:02}": np.ones((64, 64), np.float32) for i in range(60)}
        write_weights({"a": odd("F32")} | later, tmp_path / "model")
        seen = set()
        with small_steps(), pytest.raises(NonFiniteWeights):
            wvindex.build(
                tmp_path / "model",
                tmp_path / "out.zarr",
                strict_finite=True,
                progress=lambda progress: seen.add(progress.key),
            )
        assert len(seen) < 20

    def test_what_is_linked_is_not_read_and_cannot_be_promised(self, tmp_path: Path) -> None:
        source = write_gguf(made(SMALL_RECIPE), tmp_path / "model.gguf", dtype="Q8_0")[0]
        with pytest.raises(UsageError, match="linked"):
            wvindex.build(source, tmp_path / "out.zarr", link=True, strict_finite=True)
