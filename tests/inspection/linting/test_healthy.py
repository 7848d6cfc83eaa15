"""A healthy model gives no findings, whatever its family, its file's format and its encodings."""

from __future__ import annotations

import pytest

import wvindex as wv
from tests.support.checkpoints import names
from tests.support.cli import EXAMPLE
from tests.support.golden import COMMITTED
from tests.support.stores import Stores


@pytest.mark.parametrize("name", names())
def test_checkpoints_of_the_hub(name: str, stores: Stores) -> None:
    assert wv.check(stores.safetensors(name)).findings == ()


@pytest.mark.parametrize("name", names())
def test_stores_of_them(name: str, stores: Stores) -> None:
    assert wv.check(stores.build(stores.safetensors(name))).findings == ()


@pytest.mark.parametrize("dtype", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", names(gguf=True))
def test_gguf_files(name: str, dtype: str, stores: Stores) -> None:
    assert wv.check(stores.gguf(name, dtype=dtype)).findings == ()


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3-fp8"])
def test_experts_that_come_fused(name: str, stores: Stores) -> None:
    assert wv.check(stores.safetensors(name, "v5", "fused", 2)).findings == ()


def test_linked_stores(stores: Stores) -> None:
    assert wv.check(stores.build(stores.gguf("mixtral"), link=True)).findings == ()


@pytest.mark.parametrize("kind", ["Q2_K", "Q4_K_M"])
def test_k_quants_that_llama_cpp_wrote(kind: str) -> None:
    assert wv.check(COMMITTED / f"llama-tiny-{kind}.gguf").findings == ()


def test_the_example() -> None:
    report = wv.check(EXAMPLE)
    assert (report.findings, report.notes) == ((), ())
    assert report.tensors == 52
