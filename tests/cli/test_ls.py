"""``wvindex ls``: keys in order, chosen by glob, layer and role."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

import wvindex
from tests.support.cli import EXAMPLE, document, invoke, on_terminal, succeed
from tests.support.stores import Stores


def listed(*arguments: object) -> list[str]:
    """Give the keys that a listing shows."""
    return [line.split()[0] for line in succeed("ls", *arguments).splitlines()[1:]]


def test_lists_every_key_in_order(kjv: Path) -> None:
    with wvindex.open(kjv) as db:
        assert listed(kjv) == list(db)


def test_a_row_is_key_shape_type_size_and_exactness(kjv: Path) -> None:
    (header, row) = succeed("ls", kjv, "lm_head.weight").splitlines()
    assert header.split() == ["KEY", "SHAPE", "TYPE", "SIZE", "EXACTNESS"]
    assert row.split() == ["lm_head.weight", "1024x256", "Q8_0", "272.0", "KiB", "bit"]


def test_a_bare_file_is_listed_as_the_gguf_package_finds_it() -> None:
    found = {t["sources"][0]: t for t in document("ls", EXAMPLE)["tensors"]}
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(EXAMPLE).tensors}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name]["shape"] == tensor.shape.tolist()[::-1]
        assert found[name]["encoding"] == tensor.tensor_type.name
        assert found[name]["nbytes"] == tensor.n_bytes


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["*.q_proj.weight"], [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3)]),
        (["blk.2.attn_q.weight"], ["model.layers.2.self_attn.q_proj.weight"]),
        (["--layer", "1", "--role", "mlp.gate"], ["model.layers.1.mlp.gate.weight"]),
        (
            ["--layer", "2,0", "--role", "*.o_proj"],
            [f"model.layers.{i}.self_attn.o_proj.weight" for i in (0, 2)],
        ),
        (
            ["--layer", "1:3", "--role", "*.o_proj"],
            [f"model.layers.{i}.self_attn.o_proj.weight" for i in (1, 2)],
        ),
        (["*.q_proj.*", "--layer", "1,1:"], [f"model.layers.{i}.self_attn.q_proj.weight" for i in (1, 2)]),
        (["lm_head.*", "--layer", "1"], []),
    ],
)
def test_selectors(arguments: list[str], keys: list[str], kjv: Path) -> None:
    assert listed(kjv, *arguments) == keys


def test_nothing_matching_is_said_not_failed(kjv: Path) -> None:
    result = invoke("ls", kjv, "*.sinks")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no tensor matches\n")


def test_nothing_matching_is_an_empty_json_list(kjv: Path) -> None:
    assert document("ls", kjv, "*.sinks")["tensors"] == []


@pytest.mark.parametrize("option", ["-l", "--long"])
def test_long_tells_sources_transforms_and_aliases(option: str, kjv: Path) -> None:
    assert succeed("ls", kjv, "model.layers.1.self_attn.q_proj.weight", option).splitlines() == [
        "model.layers.1.self_attn.q_proj.weight",
        "  is    384x256, F32, 384.0 KiB, derived",
        "  from  blk.1.attn_q_a.weight, blk.1.attn_q_a_norm.weight, blk.1.attn_q_b.weight",
        "  by    absorb_mla",
        "  also  blk.1.attn_q.weight",
    ]


def test_json_describes_every_tensor(kjv: Path) -> None:
    (found,) = document("ls", kjv, "model.layers.1.self_attn.k_proj.weight")["tensors"]
    with wvindex.open(kjv) as db:
        tensor = db[found["key"]]
    assert tuple(found["shape"]) == tensor.shape
    assert tuple(found["sources"]) == tensor.source
    assert tuple(found["aliases"]) == tensor.aliases
    assert found["heads"] == 8
    assert found["row_scale"] == {
        "weight": "model.layers.1.self_attn.latent_proj.weight",
        "rows": [256, 512],
        "eps": 1e-6,
        "head_slice": [16, 48],
    }


def test_fp8_scales_are_counted(stores: Stores) -> None:
    tensors = document("ls", stores.safetensors("deepseek_v3-fp8"))["tensors"]
    scaled = next(t for t in tensors if t["key"] == "model.layers.0.self_attn.o_proj.weight")
    assert scaled["scale_block"] == [128, 128]
    assert scaled["nbytes"] == 256 * 192 + 2 * 2 * 4


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_terminal_gets_a_table_of_its_width(columns: int, kjv: Path) -> None:
    exit_code, shown = on_terminal("ls", kjv, "--layer", "1", columns=columns)
    lines = shown.splitlines()
    assert exit_code == 0
    assert all(len(line) <= columns for line in lines)
    assert lines[0].startswith("key ")


def test_a_narrow_terminal_breaks_keys_after_dots(kjv: Path) -> None:
    _, shown = on_terminal("ls", kjv, "--layer", "1", columns=80)
    assert "model.layers.1.mlp.shared_experts. " in shown
    assert "\ngate_proj.weight " in shown
    assert re.search(r"\nmodel\.layers\.1\.self_attn\.q_proj\.weight +384x256 ", shown)
