"""``wvindex show``: one tensor, where it came from, and exactly the values that are asked for."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex
from tests.support.checkpoints import checkpoint, names
from tests.support.cli import EXAMPLE, document, invoke, on_terminal, succeed
from tests.support.safetensors_writer import write_weights
from tests.support.stores import Stores
from wvindex.cli import show, values
from wvindex.cli.provenance import TRANSFORMS

O_PROJ = "model.layers.1.self_attn.o_proj.weight"
EXPERTS = "model.layers.1.mlp.experts.gate_proj.weight"


def reference(name: str) -> NDArray[np.float32]:
    """Give a tensor of the example as the gguf package decodes it."""
    tensor = next(tensor for tensor in gguf.GGUFReader(EXAMPLE).tensors if tensor.name == name)
    values: NDArray[np.float32] = gguf.dequantize(tensor.data, tensor.tensor_type)
    return values


def printed_values(*arguments: object) -> NDArray[np.float32]:
    """Give the values that a command prints below its facts, read back from the text."""
    text = succeed("show", *arguments).partition("\n\n")[2].partition("\n")[2]
    return np.array(ast.literal_eval(text), np.float32)


def origin(store: Path, key: str) -> list[str]:
    """Give the lines of a tensor's ``from``."""
    lines = succeed("show", store, key).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("from "))
    last = next(i for i in range(first + 1, len(lines)) if not lines[i].startswith(" "))
    return [line[4:].strip() for line in lines[first:last]]


@pytest.mark.parametrize(
    "index", ["[0:4, 0:6]", "[-1]", "[..., ::64]", "[3, 250:]", "[10:0:-4, -2:]", "[...]", "[:]"]
)
def test_a_slice_prints_exactly_the_values(index: str, kjv: Path) -> None:
    expected = eval(f"array{index}", {"array": reference("blk.1.attn_output.weight")})
    np.testing.assert_array_equal(printed_values(kjv, f"{O_PROJ}{index}"), expected)


def test_one_value_is_a_number(kjv: Path) -> None:
    assert printed_values(kjv, f"{O_PROJ}[3, -1]") == reference("blk.1.attn_output.weight")[3, -1]


def test_a_bare_file_shows_the_same_values(kjv: Path) -> None:
    index = f"{O_PROJ}[:8, :8]"
    np.testing.assert_array_equal(printed_values(EXAMPLE, index), printed_values(kjv, index))


def test_without_an_index_a_corner_is_shown(kjv: Path) -> None:
    shown = succeed("show", kjv, EXPERTS).partition("\n\n")[2]
    assert shown.startswith(f"{EXPERTS}[0, :4, :5]\n")
    np.testing.assert_array_equal(
        printed_values(kjv, EXPERTS), reference("blk.1.ffn_gate_exps.weight")[0, :4, :5]
    )


@pytest.mark.parametrize("name", ["blk.1.attn_output.weight", O_PROJ])
def test_any_name_of_the_tensor_will_do(name: str, kjv: Path) -> None:
    assert succeed("show", kjv, name).startswith(f"key         {O_PROJ}\n")


@pytest.mark.parametrize(
    ("projection", "sources"),
    [
        (
            "q",
            [
                "attn_q_a.weight (down-projection,",
                "attn_q_a_norm.weight (norm weights,",
                "attn_q_b.weight (up-",
            ],
        ),
        ("k", ["attn_kv_a_mqa.weight (down-", "attn_kv_a_norm.weight (norm", "attn_k_b.weight (up-"]),
        ("v", ["attn_kv_a_mqa.weight (down-", "attn_kv_a_norm.weight (norm", "attn_v_b.weight (up-"]),
    ],
)
def test_absorbed_projections_say_plainly_where_they_came_from(
    projection: str, sources: list[str], kjv: Path
) -> None:
    key = f"model.layers.1.self_attn.{projection}_proj.weight"
    lines = origin(kjv, key)
    assert len(lines) == 3
    for line, source in zip(lines, sources, strict=True):
        assert line.startswith(f"blk.1.{source}")
        assert "tiny-kjv-Q8_0.gguf)" in line
    text = succeed("show", kjv, key)
    assert "up-projection x norm weights x down-projection" in text
    assert "1 / sqrt(mean(c ** 2) + 1e-06), one number a token" in text
    rows = "[0:256]" if projection == "q" else "[256:512]"
    assert f"model.layers.1.self_attn.latent_proj.weight{rows} @ x" in text


def test_factors_from_safetensors_are_told_apart(stores: Stores) -> None:
    store = stores.build(stores.safetensors("deepseek_v3"))
    layer = "model.layers.1.self_attn"
    assert [line.partition(",")[0] for line in origin(store, f"{layer}.k_proj.weight")] == [
        f"{layer}.kv_a_proj_with_mqa.weight (down-projection",
        f"{layer}.kv_a_layernorm.weight (norm weights",
        f"{layer}.kv_b_proj.weight (up-projection",
    ]


@pytest.mark.parametrize("mla", ["absorb", "keep"])
@pytest.mark.parametrize("name", names())
def test_every_transform_has_words(name: str, mla: str, stores: Stores) -> None:
    sources = [stores.safetensors(name), *([stores.gguf(name)] if name in names(gguf=True) else [])]
    for source in sources:
        for operation in wvindex.plan(source, mla=mla, dtype="float32").operations:
            assert set(operation.spec.transforms) <= TRANSFORMS.keys()


def test_a_head_is_its_rows(kjv: Path) -> None:
    key = "model.layers.1.self_attn.q_proj.weight"
    with wvindex.open(kjv) as db:
        expected = db[key][3 * 48 : 3 * 48 + 2]
    np.testing.assert_array_equal(printed_values(kjv, f"{key}[:2]", "--head", "3"), expected)


@pytest.mark.parametrize(
    "arguments",
    [[f"{EXPERTS}[:4, :4]", "--expert", "2"], [EXPERTS.replace("experts", "experts.2") + "[:4, :4]"]],
)
def test_an_expert_is_its_matrix(arguments: list[str], kjv: Path) -> None:
    expected = reference("blk.1.ffn_gate_exps.weight")[2, :4, :4]
    np.testing.assert_array_equal(printed_values(kjv, *arguments), expected)


@pytest.mark.parametrize("option", ["--head", "--expert"])
def test_what_has_no_heads_or_experts_refuses(option: str, kjv: Path) -> None:
    result = invoke("show", kjv, "model.norm.weight", option, "0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error[selection]: ")


def test_raw_shows_the_blocks_of_the_file(kjv: Path) -> None:
    stored = next(t for t in gguf.GGUFReader(EXAMPLE).tensors if t.name == "blk.1.attn_output.weight").data
    shown = succeed("show", kjv, f"{O_PROJ}[5:7]", "--raw").partition("\n\n")[2].splitlines()
    assert shown[0] == f"stored blocks of {O_PROJ}[5:7]"
    assert [bytes.fromhex(line) for line in shown[1:]] == [stored[5].tobytes(), stored[6].tobytes()]
    assert document("show", kjv, f"{O_PROJ}[-1]", "--raw")["blocks"] == [stored[-1].tobytes().hex()]


def test_a_preview_of_blocks_is_short(kjv: Path) -> None:
    shown = succeed("show", kjv, O_PROJ, "--raw").partition("\n\n")[2].splitlines()
    assert len(shown) == 5
    assert all(line.endswith(" ...") and len(line) < 60 for line in shown[1:])


def test_blocks_of_one_matrix_of_a_stack(kjv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "MAX_PRINTED", 300)  # a preview reads no more than it shows
    stored = next(t for t in gguf.GGUFReader(EXAMPLE).tensors if t.name == "blk.1.ffn_gate_exps.weight").data
    for index, expected in (("[-1, 3]", stored[3, 3:4]), ("[0, :1]", stored[0, :1])):
        blocks = document("show", kjv, f"{EXPERTS}{index}", "--raw")["blocks"]
        assert blocks == [row.tobytes().hex() for row in expected]
    shown = succeed("show", kjv, EXPERTS, "--raw").partition("\n\n")[2]
    assert shown.startswith(
        f"stored blocks of {EXPERTS}[0, :4]\n{stored[0, 0, :16].tobytes().hex(' ')} ...\n"
    )


@pytest.mark.parametrize("index", ["[:, :4]", "[::2]", "[...]", "[256]"])
def test_blocks_are_chosen_by_rows_alone(index: str, kjv: Path) -> None:
    result = invoke("show", kjv, f"{O_PROJ}{index}", "--raw")
    assert result.exit_code == 2
    assert "stored blocks are chosen by rows alone" in result.stderr


def test_npy_holds_the_whole_tensor(kjv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_TILE_BYTES", 4 << 10)  # four rows a piece
    result = invoke("show", kjv, O_PROJ, "--npy", tmp_path / "o.npy")
    assert result.stderr == f"wrote {tmp_path / 'o.npy'}\n"
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), reference("blk.1.attn_output.weight"))


def test_npy_holds_a_selection(kjv: Path, tmp_path: Path) -> None:
    succeed("show", kjv, f"{O_PROJ}[::3, 1]", "--npy", tmp_path / "o.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), reference("blk.1.attn_output.weight")[::3, 1])


def test_npy_holds_blocks(kjv: Path, tmp_path: Path) -> None:
    succeed("show", kjv, O_PROJ, "--raw", "--npy", tmp_path / "o.npy")
    stored = next(t for t in gguf.GGUFReader(EXAMPLE).tensors if t.name == "blk.1.attn_output.weight").data
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), stored)


def test_npy_widens_what_numpy_lacks(stores: Stores, tmp_path: Path) -> None:
    succeed("show", stores.safetensors("llama"), "lm_head.weight", "--npy", tmp_path / "head.npy")
    loaded = np.load(tmp_path / "head.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, checkpoint("llama").decoded()["lm_head.weight"])


def test_npy_keeps_empty_and_scalar_tensors(tmp_path: Path) -> None:
    tensors: dict[str, NDArray[Any]] = {"empty": np.zeros((0, 3), np.float32), "one": np.array(7, np.int64)}
    save_file(tensors, tmp_path / "model.safetensors")
    for name, shape in (("empty", (0, 3)), ("one", ())):
        succeed("show", tmp_path, name, "--npy", tmp_path / f"{name}.npy")
        assert np.load(tmp_path / f"{name}.npy").shape == shape
        succeed("show", tmp_path, name)


def test_npy_replaces_a_file_only_if_asked(kjv: Path, tmp_path: Path) -> None:
    file = tmp_path / "o.npy"
    file.write_text("mine")
    result = invoke("show", kjv, O_PROJ, "--npy", file)
    assert (result.exit_code, file.read_text()) == (3, "mine")
    assert result.stderr.startswith("error[target-exists]")
    succeed("show", kjv, O_PROJ, "--npy", file, "--overwrite")
    np.testing.assert_array_equal(np.load(file), reference("blk.1.attn_output.weight"))
    assert [one.name for one in tmp_path.iterdir()] == ["o.npy"]


def test_a_file_that_cannot_be_written(kjv: Path, tmp_path: Path) -> None:
    result = invoke("show", kjv, O_PROJ, "--npy", tmp_path / "missing" / "o.npy")
    assert result.exit_code == 3
    assert result.stderr.startswith("error[store]: the directory to write in does not exist")


def test_a_selection_that_does_not_fit_leaves_no_file(kjv: Path, tmp_path: Path) -> None:
    assert invoke("show", kjv, f"{O_PROJ}[999]", "--npy", tmp_path / "o.npy").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_too_much_to_print_is_refused(kjv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_PRINTED", 100)
    monkeypatch.setattr(show, "MAX_PRINTED", 100)
    for arguments in ([f"{O_PROJ}[:1]"], [f"{O_PROJ}[:1]", "--raw"]):
        result = invoke("show", kjv, *arguments)
        assert result.exit_code == 2
        assert "--npy writes it to a file" in result.stderr


def test_json_holds_facts_and_exact_values(kjv: Path) -> None:
    shown = document("show", kjv, f"{O_PROJ}[:2, :3]")
    assert (shown["key"], shown["encoding"], shown["selection"]) == (O_PROJ, "Q8_0", "[:2, :3]")
    expected = reference("blk.1.attn_output.weight")[:2, :3]
    np.testing.assert_array_equal(np.array(shown["values"], np.float32), expected)


def test_json_spells_what_json_lacks(tmp_path: Path) -> None:
    write_weights({"odd": np.array([np.nan, np.inf, -np.inf, 1], ml_dtypes.bfloat16)}, tmp_path)
    assert document("show", tmp_path, "odd")["values"] == ["NaN", "Infinity", "-Infinity", 1.0]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float64, np.float16])
def test_plain_values_are_shown_as_they_are(dtype: type, tmp_path: Path) -> None:
    array: NDArray[Any] = np.arange(6).reshape(2, 3).astype(dtype)
    write_weights({"plain": array}, tmp_path)
    assert document("show", tmp_path, "plain[...]")["values"] == array.tolist()


def test_an_unmapped_tensor_says_so(tmp_path: Path) -> None:
    write_weights({"mine": np.zeros(3, np.float32)}, tmp_path)
    assert "no rule maps this tensor" in succeed("show", tmp_path, "mine")


def test_a_stack_of_experts_names_a_few_sources(stores: Stores) -> None:
    store = stores.build(stores.safetensors("mixtral"))
    assert len(origin(store, EXPERTS)) == 4


def test_a_terminal_gets_lines_of_its_width(kjv: Path) -> None:
    exit_code, shown = on_terminal("show", kjv, f"{O_PROJ}[:4]", columns=80)
    assert exit_code == 0
    assert all(len(line) <= 80 for line in shown.splitlines())
