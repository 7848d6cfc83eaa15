"""A number that the tensors contradict is refused, whichever form of checkpoint states it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.memory_source import MemorySource
from tests.support.stores import Stores
from wvindex.arch.registry import identify
from wvindex.errors import MetadataError
from wvindex.sources.base import Source
from wvindex.sources.detect import open_source


class Restated:
    """A source with another configuration."""

    def __init__(self, source: Source, **changes: Any) -> None:
        self._source = source
        self._config = {**source.config(), **changes}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def config(self) -> dict[str, Any]:
        return self._config


def refused(source: Any) -> MetadataError:
    with pytest.raises(MetadataError) as caught:
        identify(source)
    assert caught.value.tensor is not None
    assert caught.value.expected is not None
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("vocab_size", 0, "vocab_size"),
        ("vocab_size", 1 << 20, "vocab_size"),
        ("leading_dense_block_count", 0, "first_k_dense_replace"),
        ("leading_dense_block_count", 99, "first_k_dense_replace"),
        ("expert_shared_count", 0, "n_shared_experts"),
        ("expert_shared_count", 9, "n_shared_experts"),
    ],
)
@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_gguf_metadata_must_agree(name: str, key: str, value: int, field: str, stores: Stores) -> None:
    with open_source(stores.gguf(name)) as source:
        assert identify(source)[0] is not None
        error = refused(Restated(source, **{f"deepseek2.{key}": value}))
    assert (error.field, error.found) == (field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 1 << 20),
        ("first_k_dense_replace", 0),
        ("first_k_dense_replace", 99),
        ("n_shared_experts", 0),
        ("n_shared_experts", 9),
    ],
)
@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_a_hub_configuration_must_agree(name: str, field: str, value: int, stores: Stores) -> None:
    with open_source(stores.safetensors(name)) as source:
        assert identify(source)[0] is not None
        error = refused(Restated(source, **{field: value}))
    assert (error.field, error.found) == (field, value)


def test_a_padded_embedding_is_legal(stores: Stores) -> None:
    with open_source(stores.safetensors("llama")) as source:
        rows = source.config()["vocab_size"]
        padded: Any = Restated(source, vocab_size=rows - 1)
        assert identify(padded)[1].vocab_size == rows - 1


def test_one_shard_alone_says_nothing_against_the_rest() -> None:
    whole = checkpoint("deepseek_v3")
    experts = {k: v for k, v in whole.tensors.items() if ".layers.2." in k}
    identify(MemorySource(experts, whole.config))
