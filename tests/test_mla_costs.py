"""docs/mla.md quotes what the script computes, and the script counts what a build writes."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wvindex
from benchmarks.mla_costs import MODELS, Geometry, tables
from tests.support.checkpoints import checkpoint
from tests.support.cli import EXAMPLE, environment
from tests.support.planned import plan_of
from wvindex.transform.plan import Plan

PAGE = (Path(__file__).parents[1] / "docs" / "mla.md").read_text(encoding="utf-8")


def test_the_page_has_the_tables_as_they_are_computed() -> None:
    for table in "\n".join(tables()).split("\n\n"):
        assert f"\n\n{table}\n\n" in PAGE


def weights(plan: Plan, layer: int = 1) -> dict[str, int]:
    """Count the weights of a layer's attention, by module, without norms and the output projection."""
    stem = f"model.layers.{layer}.self_attn."
    return {
        op.spec.key.removeprefix(stem).removesuffix(".weight"): math.prod(op.spec.shape)
        for op in plan.operations
        if op.spec.key.startswith(stem) and len(op.spec.shape) > 1 and "o_proj" not in op.spec.key
    }


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "deepseek_v2", "deepseek_v3"])
def test_the_script_counts_what_a_plan_writes(name: str) -> None:
    c = checkpoint(name).config
    geometry = Geometry(
        name,
        hidden=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        q_rank=c["q_lora_rank"],
        kv_rank=c["kv_lora_rank"],
        nope=c["qk_nope_head_dim"],
        rope=c["qk_rope_head_dim"],
        value=c["v_head_dim"],
    )
    kept, dense = weights(plan_of(name, mla="keep")), weights(plan_of(name))
    assert sorted(kept.values()) == sorted(geometry.factors().values())
    assert sorted(dense.values()) == sorted(geometry.dense().values())
    if geometry.q_rank:
        fused = weights(plan_of(name, mla="keep", fused_mla_lora_proj=True))
        assert sum(fused.values()) == sum(kept.values())
        assert len(fused) == len(kept) - 1


def test_the_models_are_as_large_as_they_are_known_to_be() -> None:
    """DeepSeek-V3's factors: 7168 x (1536 + 576) + 1536 x 24576 + 512 x 32768."""
    v3 = MODELS[-1]
    assert sum(v3.factors().values()) == 7168 * 2112 + 1536 * 24576 + 512 * 32768
    assert v3.cached() == (576, 128 * (192 + 128))


def test_the_pages_python_runs_and_says_what_it_should(tmp_path: Path) -> None:
    wvindex.build(EXAMPLE, tmp_path / "fused.zarr", mla="keep", fused_mla_lora_proj=True)
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    claims = re.sub(r"^    (\S.*?) {2,}# (.*)$", r"    assert \1 == \2", block, flags=re.MULTILINE)
    assert claims.count("assert") == 4
    subprocess.run(
        [sys.executable, "-W", "error", "-c", claims], cwd=tmp_path, env=environment(), check=True, timeout=60
    )
