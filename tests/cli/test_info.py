"""``wvindex info``: one page that says what a store or a checkpoint is."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import wvindex
from tests.support.checkpoints import names
from tests.support.cli import EXAMPLE, document, invoke, on_terminal, succeed
from tests.support.safetensors_writer import write_weights
from tests.support.stores import Stores
from wvindex.query.summary import summarize


def facts(*arguments: object) -> dict[str, str]:
    """Give the page's facts by label, the lines of one joined by semicolons."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in succeed("info", *arguments).partition("\n\n")[0].splitlines():
        match = re.fullmatch(r"(\S(?:.*?\S)??)? {2,}(.*)", line)
        assert match is not None, line
        label = match[1] or label
        found.setdefault(label, []).append(match[2])
    return {label: "; ".join(values) for label, values in found.items()}


def test_a_store_says_what_it_is(kjv: Path) -> None:
    page = facts(kjv)
    assert page["path"].startswith(f"{kjv} (a store, format 1, written by wvindex ")
    assert page["source"].startswith("tiny-kjv-Q8_0.gguf, ")
    assert page["built with"] == "--mla absorb --dtype keep --absorbed-dtype float32"
    assert page["family"] == "deepseek_v3"
    assert page["attention"] == (
        "8 heads, 8 key/value heads; query and key 48 wide, value 32; "
        "absorbed from q_lora_rank 256, kv_lora_rank 256, rope 16 + nope 32"
    )
    assert page["rotary"] == "yarn, theta 10000, 16 of 48 dimensions"
    assert page["experts"] == ("4 routed, 1 a token; 1 shared; 256 wide; sigmoid, noaux_tc, 1 of 2 groups")
    assert page["vocabulary"] == "1024"
    assert page["runs"] == "yes"


def test_the_page_ends_with_a_histogram_of_encodings(kjv: Path) -> None:
    table = [line.split() for line in succeed("info", kjv).partition("\n\n")[2].splitlines()]
    with wvindex.open(kjv) as db:
        counts = summarize(db).encodings
    assert table[0] == ["ENCODING", "ARRAYS", "PARAMETERS", "SIZE"]
    assert [row[:3] for row in table[1:]] == [
        [c.encoding, str(c.arrays), f"{c.parameters:,}"] for c in counts
    ]


def test_a_bare_file_of_factors_says_how_to_run_it() -> None:
    page = facts(EXAMPLE)
    assert page["path"] == f"{EXAMPLE} (a bare checkpoint)"
    assert "kept as factors: q_lora_rank 256" in page["attention"]
    assert page["runs"].startswith("no: Multi-head Latent Attention is kept as factors here")
    assert f"`wvindex build {EXAMPLE}`" in page["runs"]


def test_windows_and_several_rotations(stores: Stores) -> None:
    page = facts(stores.safetensors("gemma3"))
    assert page["window"] == "16 tokens, in 6 layers"
    assert "sliding_attention: default, theta 10000" in page["rotary"]
    assert "full_attention: linear, theta 1e+06" in page["rotary"]
    assert page["vocabulary"] == "264, embedding and head tied"


@pytest.mark.parametrize(
    ("name", "label", "text"),
    [
        ("gpt_oss", "experts", "6 routed, 2 a token; 64 wide, SwiGLU clamped at 7; softmax, greedy"),
        (
            "longcat_flash",
            "experts",
            "3 without weights; 64 wide; softmax, greedy; beside the MLP, added a layer later",
        ),
        ("mistral4", "scale", "queries sharpen every 32 tokens, by 0.4 of the logarithm"),
        (
            "glm_moe_dsa",
            "runs",
            "yes, up to 80 tokens: beyond, an indexer would choose among them (index_topk)",
        ),
    ],
)
def test_what_only_some_families_have(name: str, label: str, text: str, stores: Stores) -> None:
    assert text in facts(stores.build(stores.safetensors(name)))[label]


def test_multi_token_prediction_is_told_apart(stores: Stores) -> None:
    assert facts(stores.safetensors("deepseek_v3"))["layers"] == "3, and 1 for multi-token prediction"


def test_what_is_odd_is_told(tmp_path: Path) -> None:
    odd = np.array([np.nan, np.inf, np.inf], ml_dtypes.bfloat16)
    write_weights({"odd": odd}, tmp_path)
    page = facts(wvindex.build(tmp_path, tmp_path / "odd.zarr"))
    assert page["family"].startswith("unknown")
    assert page["unmapped"] == "odd"
    assert page["not finite"] == "odd: 1 NaN, 2 infinite"
    assert page["runs"].startswith("no: the forward pass does not know this model's family")


def test_long_lists_are_cut_on_the_page_not_in_json(tmp_path: Path) -> None:
    write_weights({f"tensor.{i:03d}": np.zeros(1, np.float32) for i in range(50)}, tmp_path)
    assert facts(tmp_path)["unmapped"].endswith("tensor.019; and 30 more; --json names them")
    assert len(document("info", tmp_path)["summary"]["unmapped"]) == 50


def test_json_of_a_store(kjv: Path) -> None:
    info = document("info", kjv)
    with wvindex.open(kjv) as db:
        assert info["config"]["mla"]["kv_lora_rank"] == 256
        assert info["summary"]["parameters"] == summarize(db).parameters
    assert (info["kind"], info["runs"], info["refusal"]) == ("store", True, None)
    assert info["store"]["options"]["mla"] == "absorb"
    (source,) = info["store"]["sources"]
    assert (source["name"], source["size"]) == (EXAMPLE.name, EXAMPLE.stat().st_size)


def test_linked_arrays_are_counted(tmp_path: Path) -> None:
    store = wvindex.build(EXAMPLE, tmp_path / "linked.zarr", link=True)
    page = facts(store)
    assert page["built with"] == "--mla absorb --dtype keep --absorbed-dtype float32 --link"
    assert page["linked"] == "34 arrays, 3.5 MiB, are bytes of the source's files"
    info = document("info", store)
    assert info["summary"]["linked"] == 34
    (link,) = info["store"]["links"]
    assert (store / link).resolve() == EXAMPLE.resolve()
    assert "linked" not in facts(EXAMPLE)


def test_json_of_a_bare_file() -> None:
    info = document("info", EXAMPLE)
    assert (info["kind"], info["runs"], info["store"]) == ("checkpoint", False, None)
    assert info["refusal"]["kind"] == "unsupported-model"


@pytest.mark.parametrize("name", names())
def test_every_family_has_a_page(name: str, stores: Stores) -> None:
    page = facts(stores.safetensors(name))
    assert {
        "family",
        "layers",
        "attention",
        "rotary",
        "parameters",
        "size",
        "exactness",
        "runs",
    } <= page.keys()


def test_a_terminal_gets_lines_of_its_width(kjv: Path) -> None:
    exit_code, shown = on_terminal("info", kjv, columns=60)
    assert exit_code == 0
    assert all(len(line) <= 60 for line in shown.splitlines())
    assert "written by" in shown


def test_a_directory_without_a_model_is_unreadable(tmp_path: Path) -> None:
    assert invoke("info", tmp_path).exit_code == 3
