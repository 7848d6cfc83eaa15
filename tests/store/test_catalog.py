"""The catalog reads back equal, is valid against its schema, and refuses what contradicts itself."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.arrays import CONFIG, catalog_of, memory_array, write_store
from wvindex.arch.config import MLA, ModelConfig, MoE, Rope
from wvindex.errors import CatalogError, StoreVersionError
from wvindex.formats.arrays import ByteRange, Heads, Link, Part, RowScale
from wvindex.formats.ledger import LedgerEntry
from wvindex.sources.base import FileFingerprint
from wvindex.store.catalog import Catalog, parse_catalog
from wvindex.store.entries import ArrayRecord
from wvindex.store.metadata import dumps
from wvindex.store.reader import open_catalog

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "schemas" / "catalog.schema.json").read_text()
)

FULL_CONFIG = replace(
    CONFIG,
    layer_types=("full_attention", "sliding_attention"),
    rope={"full_attention": Rope(rope_type="yarn", rope_theta=1e4, rotary_dim=4, inv_freq=(1.0, 0.1))},
    moe=MoE(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
    mla=MLA(q_lora_rank=None, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4),
    eos_token_ids=(1, 2),
    rms_norm_eps=1e-5,
)


PARTS = (
    Part(key="upper", rows=(0, 5), exactness="bit", sources=("u",), aliases=("U",)),
    Part(key="lower", rows=(5, 12), exactness="cast", sources=("l",), transforms=("cast",)),
)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    scale = RowScale(weight="model.layers.0.w.weight", rows=(0, 3), eps=1e-6, head_slice=(0, 4))
    arrays = [
        memory_array(
            "model.layers.0.w.weight", (12, 64), "F32", heads=Heads(axis=0, count=3), row_scale=scale
        ),
        memory_array(
            "lm_head.weight", (12, 256), "Q4_K", aliases=("output.weight",), transforms=("permute",)
        ),
        memory_array("odd/Name", (2, 5, 30), "FP8", mapped=False, mtp=True, part_aliases=("a", "b")),
        memory_array("fused", (12, 8), "BF16", widths=(5, 4, 3), parts=PARTS),
        memory_array("scalar", (), "BF16"),
        memory_array("empty", (0, 5), "F16"),
    ]
    return open_catalog(write_store(tmp_path / "x.zarr", arrays, config=FULL_CONFIG))


def as_json(catalog: Catalog) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(dumps(catalog.to_json()))
    return document


def test_reads_back_equal(catalog: Catalog) -> None:
    assert Catalog.from_json(as_json(catalog)) == catalog
    assert Catalog.from_json(catalog.to_json()) == catalog
    assert catalog.config == FULL_CONFIG


def test_is_valid_against_the_schema(catalog: Catalog) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(as_json(catalog))


@pytest.mark.parametrize(
    ("definition", "record"),
    [
        ("config", ModelConfig),
        ("rope", Rope),
        ("moe", MoE),
        ("mla", MLA),
        ("array", ArrayRecord),
        ("heads", Heads),
        ("row_scale", RowScale),
        ("ledger_entry", LedgerEntry),
        ("file", FileFingerprint),
        ("link", Link),
        ("byte_range", ByteRange),
        ("part", Part),
    ],
)
def test_the_schema_knows_every_field(definition: str, record: Any) -> None:
    described = SCHEMA["$defs"][definition]
    assert set(described["properties"]) == {field.name for field in fields(record)}
    assert described["additionalProperties"] is False


CONTRADICTIONS: list[tuple[str, Any, str]] = [
    ("generator", 3, "generator"),
    ("generator", None, "generator"),
    ("unknown", 1, "unknown"),
    ("arrays", [], "arrays"),
    ("files", ["../x"], "files"),
    ("config.hidden_size", "256", "config.hidden_size"),
    ("config.hidden_size", 2.5, "config.hidden_size"),
    ("config.hidden_size", True, "config.hidden_size"),
    ("config.tie_word_embeddings", 1, "config.tie_word_embeddings"),
    ("config.colour", "red", "config.colour"),
    ("config.attention_form", "sparse", "config.attention_form"),
    ("config.rms_norm_eps", 10**400, "config.rms_norm_eps"),
    ("config.rope.full_attention.inv_freq", [1.0, "2"], r"config.rope.full_attention.inv_freq.\[1\]"),
    ("arrays.scalar.shape", [-1], "arrays.scalar.shape"),
    ("arrays.scalar.shape", [1 << 60], "arrays.scalar.shape"),
    ("arrays.scalar.encoding", "Q9", "arrays.scalar.encoding"),
    ("arrays.scalar.path", "../scalar", "arrays.scalar.path"),
    ("arrays.scalar.chunk_rows", 0, "arrays.scalar.chunk_rows"),
    ("arrays.scalar.chunk_rows", 2, "arrays.scalar.chunk_rows"),
    ("arrays.scalar.crc32c", [], "arrays.scalar.crc32c"),
    ("arrays.scalar.crc32c", [1, 2], "arrays.scalar.crc32c"),
    ("arrays.scalar.crc32c", [-1], "arrays.scalar.crc32c"),
    ("arrays.scalar.crc32c", [1 << 32], "arrays.scalar.crc32c"),
    ("arrays.scalar.nan", 2, "arrays.scalar.nan"),
    ("arrays.scalar.inf", -1, "arrays.scalar.nan"),
    ("arrays.scalar.part_aliases", ["a"], "arrays.scalar.part_aliases"),
    ("arrays.odd/Name.part_aliases", ["a"], "part_aliases"),
    ("arrays.odd/Name.part_aliases", ["a", "b", "c"], "part_aliases"),
    ("arrays.fused.parts", [], "parts"),
    ("arrays.fused.parts.[1].rows", [4, 12], "parts"),
    ("arrays.fused.parts.[1].rows", [5, 11], "parts"),
    ("arrays.fused.parts.[1].key", "scalar", "arrays.fused.parts"),
    ("arrays.fused.parts.[1].key", "upper", "arrays.fused.parts"),
    ("arrays.fused.parts.[0].exactness", "exact", r"parts.\[0\].exactness"),
    ("arrays.odd/Name.widths", [2], "arrays.odd/Name.parts"),
    ("arrays.fused.widths", [5, 4], "arrays.fused.widths"),
    ("arrays.fused.widths", [12, 0], "arrays.fused.widths"),
    ("arrays.scalar.scale_block", [1, 1], "scale_block"),
    ("arrays.scalar.heads", {"axis": 0, "count": 1}, "arrays.scalar.heads.axis"),
    ("arrays.empty.heads", {"axis": 1, "count": 2}, "arrays.empty.heads.count"),
    ("arrays.odd/Name.scale_block", [0, 5], "scale_block"),
    ("arrays.odd/Name.chunk_rows", 1, "chunk_rows"),
    ("arrays.lm_head%weight.shape", [12, 255], "shape"),
    ("arrays.model%layers%0%w%weight.row_scale.weight", "gone", "row_scale.weight"),
    ("arrays.model%layers%0%w%weight.row_scale.rows", [0, 13], "row_scale.rows"),
    ("arrays.model%layers%0%w%weight.row_scale.rows", [3, 3], "row_scale.rows"),
    ("arrays.model%layers%0%w%weight.row_scale.weight", "lm_head.weight", "row_scale.weight"),
    ("arrays.model%layers%0%w%weight.row_scale.weight", "scalar", "row_scale.weight"),
    ("arrays.model%layers%0%w%weight.row_scale.eps", -1e-6, "row_scale.eps"),
    ("arrays.model%layers%0%w%weight.row_scale.head_slice", [0, 5], "row_scale.head_slice"),
    ("arrays.model%layers%0%w%weight.row_scale.head_slice", [2, 2], "row_scale.head_slice"),
    ("config.num_hidden_layers", 1 << 45, "config.num_hidden_layers"),
    ("config.num_hidden_layers", -1, "config.num_hidden_layers"),
    ("config.vocab_size", -1, "config.vocab_size"),
    ("config.vocab_size", 1 << 40, "config.vocab_size"),
    ("config.sliding_window", -1, "config.sliding_window"),
    ("config.max_position_embeddings", -5, "config.max_position_embeddings"),
    ("config.num_nextn_predict_layers", 1 << 60, "config.num_nextn_predict_layers"),
    ("config.rms_norm_eps", -1e-5, "config.rms_norm_eps"),
    ("config.rms_norm_eps", math.inf, "config.rms_norm_eps"),
    ("config.attention_scale", 1e30, "config.attention_scale"),
    ("config.mla.norm_eps", -1e-6, "config.mla.norm_eps"),
    ("config.moe.n_group", 0, "config.moe.n_group"),
    ("config.moe.num_experts_per_tok", 5, "config.moe.num_experts_per_tok"),
    ("config.moe.topk_group", 2, "config.moe.topk_group"),
]


@pytest.mark.parametrize(("place", "value", "field"), CONTRADICTIONS)
def test_a_contradiction_is_named(catalog: Catalog, place: str, value: Any, field: str) -> None:
    document = copy.deepcopy(as_json(catalog))
    node: Any = document
    *outer, last = place.split(".")
    for step in outer:
        node = node[int(step[1:-1]) if step.startswith("[") else step.replace("%", ".")]
    node[last] = value
    with pytest.raises(CatalogError, match=field) as caught:
        Catalog.from_json(document)
    assert caught.value.expected is not None


def test_a_missing_field_is_named(catalog: Catalog) -> None:
    document = as_json(catalog)
    del document["ledger"]
    with pytest.raises(CatalogError, match=r"ledger.*nothing"):
        Catalog.from_json(document)


def test_a_newer_format_is_refused_before_anything_else() -> None:
    with pytest.raises(StoreVersionError, match="newer"):
        Catalog.from_json({"format": 2, "whatever": None})


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"format": 1, "format": 1}', b'{"format": NaN}', b"[" * 9999, b"\xff"]
)
def test_other_bytes_are_no_catalog(data: bytes) -> None:
    with pytest.raises(CatalogError, match=r"here/catalog\.json"):
        parse_catalog(data, file="here/catalog.json")


def test_floats_that_json_lacks_are_spelled_out() -> None:
    found = catalog_of({}, source_config={"a": [math.nan, math.inf], "b": {"c": -math.inf}}).to_json()
    assert found["source"]["config"] == {"a": ["NaN", "Infinity"], "b": {"c": "-Infinity"}}
    dumps(found)
