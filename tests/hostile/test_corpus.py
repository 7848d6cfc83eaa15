"""Input that is wrong or meant to harm is refused: by kind, with the facts, at once, with nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import wvindex as wv
from tests.hostile import gguf_faults, safetensors_faults, store_faults
from tests.hostile.make import Corpus, make
from tests.support.cli import REPOSITORY, environment, invoke, process
from wvindex.sources.detect import open_source

MOST_SECONDS: Final = 1.0
MOST_GROWTH: Final = 64 << 20

Facts = dict[str, Any]
Verdicts = dict[str, dict[str, Facts]]


@dataclass(frozen=True)
class Refused:
    """What a fault must be refused with.

    Attributes
    ----------
    kind : str
        ``WvindexError.kind``.
    tensor, field : str or None
        The place that is named; None where the error names none.
    offset : int or None
        None where it is not looked at.
    """

    kind: str
    tensor: str | None = None
    field: str | None = None
    offset: int | None = None


F32, FP8, Q4_K = (f"model.layers.0.{name}" for name in ("f32", "fp8", "q4_k"))
_ROOM: Final = "num_attention_heads x head_dim"
_BLOCK_SIZE: Final = "quantization_config.weight_block_size"

REFUSED: Final[dict[str, Refused]] = {
    "gguf/tensor-count-2pow63": Refused("limit", field="number of tensors", offset=8),
    "gguf/tensor-count-past-end": Refused("truncated", field="number of tensors", offset=8),
    "gguf/key-count-2pow63": Refused("limit", field="number of metadata keys", offset=16),
    "gguf/string-length-2pow63": Refused("truncated", field="k", offset=45),
    "gguf/string-past-end": Refused("truncated", field="k", offset=45),
    "gguf/key-empty": Refused("malformed-header", field="metadata key 0", offset=24),
    "gguf/key-twice": Refused("duplicate-name", field="k", offset=38),
    "gguf/key-with-nul": Refused("malformed-header", field="metadata key 0", offset=32),
    "gguf/key-bad-utf8": Refused("malformed-header", field="metadata key 0", offset=32),
    "gguf/key-64-KiB": Refused("limit", field="metadata key 0", offset=24),
    "gguf/array-count-in-49-bytes": Refused("limit", field="k", offset=37),
    "gguf/array-past-end": Refused("truncated", field="k", offset=37),
    "gguf/arrays-nested-3000-deep": Refused("limit", field="k", offset=85),
    "gguf/arrays-nested-131072-wide": Refused("limit", field="k", offset=49),
    "gguf/value-type-unknown": Refused("malformed-header", field="k", offset=33),
    "gguf/item-type-unknown": Refused("malformed-header", field="k", offset=37),
    "gguf/tensor-type-unknown": Refused("tensor-layout", "a", offset=45),
    "gguf/tensor-type-removed": Refused("tensor-layout", "a", offset=45),
    "gguf/dims-0": Refused("tensor-layout", "a", offset=33),
    "gguf/dims-5": Refused("tensor-layout", "a", offset=33),
    "gguf/dims-9": Refused("tensor-layout", "a", offset=33),
    "gguf/dims-2pow31": Refused("tensor-layout", "a", offset=33),
    "gguf/product-wraps-to-zero": Refused("limit", "a", offset=33),
    "gguf/product-wraps-to-minus-one": Refused("limit", "a", offset=33),
    "gguf/product-wraps-to-minus-two": Refused("limit", "a", offset=33),
    "gguf/dim-huge": Refused("truncated", "a", offset=64),
    "gguf/dim-beyond-all-disks": Refused("limit", "a", offset=33),
    "gguf/dim-huge-beside-zero": Refused("limit", "a", offset=33),
    "gguf/offset-2pow64-minus-32": Refused("truncated", "a", offset=64 + 2**64 - 32),
    "gguf/offset-past-end": Refused("truncated", "a", offset=128),
    "gguf/offset-misaligned": Refused("tensor-layout", "a", offset=72),
    "gguf/offset-overlapping": Refused("tensor-layout", "b", offset=128),
    "gguf/offset-out-of-order": Refused("tensor-layout", "b", offset=96),
    "gguf/alignment-0": Refused("malformed-header", field="general.alignment"),
    "gguf/alignment-13": Refused("malformed-header", field="general.alignment"),
    "gguf/alignment-2pow31": Refused("truncated", "a", offset=2**31),
    "gguf/alignment-of-wrong-type": Refused("malformed-header", field="general.alignment", offset=49),
    "gguf/tensor-twice": Refused("duplicate-name", "a"),
    "gguf/name-empty": Refused("malformed-header", field="name of tensor 0", offset=24),
    "gguf/name-with-nul": Refused("malformed-header", field="name of tensor 0", offset=32),
    "gguf/name-bad-utf8": Refused("malformed-header", field="name of tensor 0", offset=33),
    "gguf/name-64-bytes": Refused("limit", field="name of tensor 0", offset=24),
    "gguf/name-1000-bytes": Refused("limit", field="name of tensor 0", offset=24),
    "gguf/version-0": Refused("unsupported", field="version", offset=4),
    "gguf/version-1": Refused("unsupported", field="version", offset=4),
    "gguf/version-99": Refused("unsupported", field="version", offset=4),
    "gguf/big-endian": Refused("unsupported", field="version", offset=4),
    "gguf/empty": Refused("unknown-format"),
    **{
        f"gguf/row-no-whole-blocks-{n}": Refused("tensor-layout", "a", offset=33)
        for n in gguf_faults.BLOCK_TYPES
    },
    **{f"gguf/cut-at-{n:03d}": Refused("unknown-format" if n < 4 else "truncated") for n in gguf_faults.CUTS},
    "gguf/shard-missing": Refused("shards"),
    "gguf/shard-extra": Refused("shards"),
    "gguf/shard-doubled": Refused("shards", field="split.no"),
    "gguf/shard-number-against-name": Refused("shards", field="split.no"),
    "gguf/shard-count-against-name": Refused("shards", field="split.count"),
    "gguf/shard-tensor-count-lies": Refused("shards", field="split.tensors.count"),
    "gguf/shard-tensor-in-two": Refused("shards", "a"),
    "gguf/shard-symlink-out": Refused("unsafe-path"),
    "model/layers-too-many": Refused("metadata", field="num_hidden_layers"),
    "model/layers-too-few": Refused("metadata", field="num_hidden_layers"),
    "model/layers-2pow31": Refused("metadata", field="num_hidden_layers"),
    "model/layers-0": Refused("metadata", field="num_hidden_layers"),
    "model/layers-as-text": Refused("metadata", field="block_count"),
    "model/layers-missing": Refused("metadata", field="block_count"),
    "model/width-too-large": Refused("metadata", "token_embd.weight", "hidden_size"),
    "model/width-0": Refused("metadata", field="hidden_size"),
    "model/heads-too-many": Refused("metadata", "blk.0.attn_q.weight", _ROOM),
    "model/heads-0": Refused("metadata", field="num_attention_heads"),
    "model/heads-not-shared-evenly": Refused("metadata", field="num_key_value_heads"),
    "model/mlp-too-wide": Refused("metadata", "blk.0.ffn_gate.weight", "intermediate_size"),
    "model/rotary-wider-than-head": Refused("metadata", field="rope_scaling.partial_rotary_factor"),
    "model/query-of-another-shape": Refused("metadata", "blk.0.attn_q.weight"),
    "model/norm-of-another-shape": Refused("metadata", "blk.0.ffn_norm.weight", "hidden_size"),
    "safetensors/header-length-2pow63": Refused("limit", field="header length", offset=0),
    "safetensors/header-length-101-MB": Refused("limit", field="header length", offset=0),
    "safetensors/header-length-past-end": Refused("truncated", field="header length", offset=0),
    "safetensors/key-twice": Refused("duplicate-name", field="a"),
    "safetensors/key-twice-once-escaped": Refused("duplicate-name", field="a"),
    "safetensors/field-twice": Refused("duplicate-name", field="dtype"),
    "safetensors/depth-200000": Refused("limit"),
    "safetensors/depth-200000-closed": Refused("limit"),
    "safetensors/lone-surrogate": Refused("malformed-header"),
    "safetensors/not-utf8": Refused("malformed-header", offset=10),
    "safetensors/not-json": Refused("malformed-header", offset=13),
    "safetensors/nan": Refused("malformed-header"),
    "safetensors/number-infinite": Refused("malformed-header"),
    "safetensors/number-of-a-million-digits": Refused("malformed-header"),
    "safetensors/shape-float": Refused("malformed-header", "a", "shape"),
    "safetensors/shape-negative": Refused("malformed-header", "a", "shape"),
    "safetensors/shape-bool": Refused("malformed-header", "a", "shape"),
    "safetensors/shape-overflows": Refused("limit", "a", "shape"),
    "safetensors/shape-huge": Refused("tensor-layout", "a", offset=83),
    "safetensors/shape-huge-beside-zero": Refused("limit", "a", "shape"),
    "safetensors/shape-of-9-dims": Refused("limit", "a", "shape"),
    "safetensors/dtype-unknown": Refused("tensor-layout", "a", "dtype"),
    "safetensors/dtype-unsupported": Refused("unsupported", "a", "dtype"),
    "safetensors/span-against-shape": Refused("tensor-layout", "a", offset=69),
    "safetensors/span-reversed": Refused("malformed-header", "a", "data_offsets"),
    "safetensors/span-negative": Refused("malformed-header", "a", "data_offsets"),
    "safetensors/span-overflows": Refused("tensor-layout", "a", offset=107 + 2**64 - 8),
    "safetensors/span-past-end": Refused("truncated", "a", offset=81),
    "safetensors/overlap": Refused("tensor-layout", "b", offset=135),
    "safetensors/hole": Refused("tensor-layout", "b", offset=148),
    "safetensors/trailing-bytes": Refused("tensor-layout", offset=147),
    "safetensors/name-empty": Refused("malformed-header", field="tensor name"),
    "safetensors/name-1000-bytes": Refused("limit", "n" * 1000),
    "safetensors/empty": Refused("truncated"),
    **{
        name: Refused("truncated")
        for name in (f"safetensors/{name}" for name in safetensors_faults.FILES if name.startswith("cut-at"))
    },
    "safetensors/weight-map-absolute": Refused("unsafe-path", field="file name"),
    "safetensors/weight-map-up": Refused("unsafe-path", field="file name"),
    "safetensors/weight-map-up-from-below": Refused("unsafe-path", field="file name"),
    "safetensors/weight-map-symlink-out": Refused("unsafe-path"),
    "safetensors/weight-map-through-linked-directory": Refused("unsafe-path"),
    "safetensors/snapshot-symlink-out": Refused("unsafe-path"),
    "safetensors/config-symlink-out": Refused("unsafe-path"),
    "safetensors/index-symlink-out": Refused("unsafe-path"),
    "safetensors/weight-map-backslash": Refused("unsafe-path", field="file name"),
    "safetensors/weight-map-nul": Refused("unsafe-path", field="file name"),
    "safetensors/weight-map-empty-name": Refused("unsafe-path", field="file name"),
    "safetensors/weight-map-not-names": Refused("malformed-header", field="weight_map"),
    "safetensors/weight-map-twice": Refused("duplicate-name", field="a"),
    "safetensors/index-depth-200000": Refused("limit"),
    "safetensors/shard-missing": Refused("shards"),
    "safetensors/shard-missing-without-index": Refused("shards"),
    "safetensors/tensor-missing": Refused("shards", "x"),
    "safetensors/tensor-extra": Refused("shards", "x"),
    "safetensors/tensor-double": Refused("shards", "a"),
    "safetensors/tensor-in-another-shard": Refused("shards", "a"),
    "safetensors/config-not-json": Refused("malformed-header", offset=1),
    "safetensors/config-key-twice": Refused("duplicate-name", field="model_type"),
    "safetensors/fp8-scale-missing": Refused("metadata", "w"),
    "safetensors/fp8-scale-of-wrong-shape": Refused("tensor-layout", "w_scale_inv"),
    "safetensors/fp8-block-size-missing": Refused("metadata", "w", _BLOCK_SIZE),
    "safetensors/fp8-block-size-0": Refused("metadata", "w", _BLOCK_SIZE),
    "store/catalog-shape-2pow45": Refused("catalog", field=f"arrays.{F32}.crc32c"),
    "store/catalog-shape-2pow60": Refused("catalog", field=f"arrays.{F32}.shape"),
    "store/catalog-shape-negative": Refused("catalog", field=f"arrays.{F32}.shape"),
    "store/catalog-checksums-missing": Refused("catalog", field=f"arrays.{F32}.crc32c"),
    "store/catalog-checksums-too-many": Refused("catalog", field="arrays.vector.crc32c"),
    "store/catalog-checksum-of-33-bits": Refused("catalog", field=f"arrays.{F32}.crc32c"),
    "store/catalog-checksum-negative": Refused("catalog", field=f"arrays.{F32}.crc32c"),
    "store/catalog-counts-of-nothing": Refused("catalog", field=f"arrays.{F32}.nan"),
    "store/catalog-chunks-2pow40": Refused("catalog", field=f"arrays.{F32}.crc32c"),
    "store/catalog-chunk-rows-0": Refused("catalog", field=f"arrays.{F32}.chunk_rows"),
    "store/catalog-chunk-rows-2pow40": Refused("catalog", field=f"arrays.{F32}.chunk_rows"),
    "store/catalog-heads-no-divisor": Refused("catalog", field=f"arrays.{F32}.heads.count"),
    "store/catalog-part-names-too-many": Refused("catalog", field=f"arrays.{F32}.part_aliases"),
    "store/catalog-scale-of-nothing": Refused("catalog", field=f"arrays.{F32}.row_scale.weight"),
    "store/catalog-scale-of-another-width": Refused("catalog", field=f"arrays.{F32}.row_scale.weight"),
    "store/catalog-scale-rows-past-end": Refused("catalog", field=f"arrays.{F32}.row_scale.rows"),
    "store/catalog-scale-slice-past-end": Refused("catalog", field=f"arrays.{F32}.row_scale.head_slice"),
    "store/catalog-scale-eps-negative": Refused("catalog", field=f"arrays.{F32}.row_scale.eps"),
    "store/catalog-layers-2pow45": Refused("catalog", field="config.num_hidden_layers"),
    "store/catalog-path-up": Refused("catalog", field=f"arrays.{F32}.path"),
    "store/catalog-path-of-another": Refused("catalog", field=f"arrays.{F32}.path"),
    "store/catalog-key-up": Refused("catalog", field="arrays.../vector.path"),
    "store/catalog-key-into-another": Refused("catalog", field="arrays.layers/0/f32/zarr.json/b.path"),
    "store/catalog-key-reserved": Refused("catalog", field="arrays.__vector.path"),
    "store/catalog-key-with-tab": Refused("catalog", field="arrays.vec\ttor.path"),
    "store/catalog-keys-that-differ-in-case": Refused("catalog", field="arrays.Vector.path"),
    "store/catalog-keys-that-differ-in-unicode-form": Refused("catalog", field="arrays.v\u00e9ctor.path"),
    "store/catalog-file-up": Refused("catalog", field="files.[0]"),
    "store/catalog-link-absolute": Refused("catalog", field="source.links.[0]"),
    "store/catalog-link-past-end": Refused("catalog", field="arrays.vector.link.rows.[0].nbytes"),
    "store/catalog-link-into-header": Refused("catalog", field="arrays.vector.link.rows.[0].offset"),
    "store/catalog-link-negative": Refused("catalog", field="arrays.vector.link.rows.[0].offset"),
    "store/catalog-link-empty": Refused("catalog", field="arrays.vector.link.rows"),
    "store/catalog-link-too-short": Refused("catalog", field="arrays.vector.link.rows"),
    "store/catalog-link-of-no-file": Refused("catalog", field="arrays.vector.link.rows.[0].file"),
    "store/catalog-encoding-unknown": Refused("catalog", field=f"arrays.{F32}.encoding"),
    "store/catalog-field-unknown": Refused("catalog", field="colour"),
    "store/catalog-field-of-wrong-type": Refused("catalog", field="ledger"),
    "store/catalog-key-twice": Refused("catalog", field="format"),
    "store/catalog-depth-200000": Refused("catalog"),
    "store/catalog-nan": Refused("catalog"),
    "store/catalog-not-utf8": Refused("catalog", offset=0),
    "store/catalog-empty": Refused("catalog", offset=0),
    "store/catalog-cut": Refused("catalog", field="crc32c"),
    "store/catalog-missing": Refused("not-a-store"),
    "store/catalog-symlink": Refused("unsafe-path"),
    "store/catalog-fifo": Refused("unreadable"),
    "store/catalog-directory": Refused("unreadable"),
    "store/catalog-of-format-2": Refused("store-version", field="format"),
    "store/root-symlink": Refused("unsafe-path"),
    "store/root-fifo": Refused("unreadable"),
    "store/format-2": Refused("store-version", field="format"),
    "store/format-2pow70": Refused("store-version", field="format"),
    "store/format-0": Refused("catalog", field="format"),
    "store/format-true": Refused("catalog", field="format"),
    "store/format-as-text": Refused("catalog", field="format"),
    "store/unfinished": Refused("not-a-store"),
    "store/chunk-missing": Refused("chunk", F32),
    "store/chunk-empty": Refused("chunk", F32),
    "store/chunk-truncated": Refused("chunk", F32),
    "store/chunk-too-long": Refused("chunk", F32),
    "store/chunk-bomb-alone": Refused("chunk", F32),
    "store/chunk-bit-flipped": Refused("checksum", F32),
    "store/chunk-bit-flipped-in-blocks": Refused("checksum", Q4_K),
    "store/chunk-bit-flipped-in-scales": Refused("checksum", FP8),
    "store/chunk-swapped": Refused("checksum", F32),
    "store/chunk-of-another-array": Refused("checksum", F32),
    "store/chunk-bomb": Refused("catalog", F32, field="codecs"),
    "store/chunk-symlink": Refused("unsafe-path", F32),
    "store/chunk-fifo": Refused("unreadable", F32),
    "store/chunk-directory": Refused("unreadable", F32),
    "store/directory-symlink": Refused("unsafe-path"),
    "store/directory-of-layers-symlink": Refused("unsafe-path"),
    "store/directory-file": Refused("unreadable"),
    "store/directory-missing": Refused("catalog", F32),
    "store/catalog-encoding-against-chunks": Refused("catalog", F32, field="data_type"),
    "store/catalog-shape-against-chunks": Refused("catalog", F32, field="shape"),
    "store/catalog-checksum-lies": Refused("checksum", "vector"),
    "store/catalog-vector-2pow45": Refused("catalog", "vector", field="shape"),
    "store/catalog-link-2pow45": Refused("source-changed"),
    "store/catalog-link-to-nothing": Refused("source-changed"),
    "store/array-vector-2pow45": Refused("chunk", "vector"),
    "store/array-rows-2pow39": Refused("chunk", F32),
    "store/array-shape-lies": Refused("catalog", F32, field="shape"),
    "store/array-dtype-lies": Refused("catalog", F32, field="data_type"),
    "store/array-chunk-shape-lies": Refused("catalog", F32, field="chunk_grid"),
    "store/array-chunk-names-lie": Refused("catalog", F32, field="chunk_key_encoding"),
    "store/array-codec-lies": Refused("catalog", Q4_K, field="codecs"),
    "store/array-scale-block-lies": Refused("catalog", FP8, field="codecs"),
    "store/array-of-another-key": Refused("catalog", F32, field="attributes.wvindex"),
    "store/array-is-a-group": Refused("catalog", F32, field="node_type"),
    "store/array-without-attributes": Refused("catalog", F32, field="attributes.wvindex"),
    "store/array-document-missing": Refused("catalog", F32),
    "store/array-document-not-json": Refused("catalog", F32),
    "store/array-document-depth-200000": Refused("catalog", F32),
    "store/array-document-symlink": Refused("unsafe-path"),
    "store/array-document-2-MB": Refused("limit"),
}
"""What each fault is refused with, whoever asks: the plan, the view of a checkpoint, the build, a read."""

CUT: Final = [name for name in REFUSED if "/cut-at-" in name]
NAMED: Final = [name for name in REFUSED if name not in CUT]
LEADS_OUT: Final = [name for name, refused in REFUSED.items() if refused.kind == "unsafe-path"]
EXIT_CODES: Final = {"unsupported": 4}
"""Of kinds; 3 for all others."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Give what a process of its own found: by fault, then by call."""
    root = tmp_path_factory.mktemp("judged")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.hostile.judge", str(root)],
        cwd=REPOSITORY,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Verdicts = json.loads(done.stdout)
    return found


def test_the_table_has_every_fault(corpus: Corpus) -> None:
    assert {*corpus.sources, *corpus.stores} == set(REFUSED)


@pytest.mark.parametrize("fault", NAMED)
def test_it_is_refused_by_kind_wherever_it_is_met(verdicts: Verdicts, fault: str) -> None:
    _require_kind(verdicts, fault)


@pytest.mark.parametrize("fault", NAMED)
def test_the_message_says_where_and_what(verdicts: Verdicts, fault: str) -> None:
    refused = REFUSED[fault]
    for verdict in verdicts[fault].values():
        facts = verdict["facts"]
        assert (facts.get("tensor"), facts.get("field")) == (refused.tensor, refused.field)
        if refused.offset is not None:
            assert facts["offset"] == str(refused.offset)
        _require_facts(verdict)


@pytest.mark.parametrize("fault", NAMED)
def test_it_takes_no_time_no_memory_and_leaves_nothing(verdicts: Verdicts, fault: str) -> None:
    _require_cheap(verdicts, fault)


def test_a_file_cut_anywhere_is_refused_likewise(verdicts: Verdicts) -> None:
    assert len(CUT) > 400
    for fault in CUT:
        _require_kind(verdicts, fault)
        _require_cheap(verdicts, fault)
        for verdict in verdicts[fault].values():
            _require_facts(verdict)


def _require_kind(verdicts: Verdicts, fault: str) -> None:
    calls = ("read", "read parts") if fault.startswith("store/") else ("plan", "open", "build")
    found = {call: verdict["kind"] for call, verdict in verdicts[fault].items()}
    assert found == dict.fromkeys(calls, REFUSED[fault].kind), fault


def _require_facts(verdict: Facts) -> None:
    facts = verdict["facts"]
    assert {"file", "expected", "found"} <= facts.keys()
    assert all(f"{name}: " in verdict["message"] for name in facts)
    assert verdict["message"].isprintable()


def _require_cheap(verdicts: Verdicts, fault: str) -> None:
    for verdict in verdicts[fault].values():
        assert verdict["seconds"] < MOST_SECONDS, fault
        assert verdict["growth"] < MOST_GROWTH, fault
        assert verdict["left"] == [], fault


@pytest.mark.parametrize("fault", LEADS_OUT)
def test_what_lies_outside_is_never_opened(verdicts: Verdicts, fault: str) -> None:
    assert all(verdict["opened"] == [] for verdict in verdicts[fault].values())


class TestCommandLine:
    """Exit codes and messages; the target's directory stays empty."""

    @pytest.mark.parametrize("command", ["build", "plan", "info"])
    def test_every_fault_of_a_source(self, corpus: Corpus, tmp_path: Path, command: str) -> None:
        wrong = {}
        for fault, path in corpus.sources.items():
            if fault in CUT and not fault.endswith("7"):
                continue  # a tenth of them will do
            arguments = ("-o", tmp_path / "x.zarr") if command == "build" else ()
            result = invoke(command, path, *arguments)
            # A plan prints what a build would refuse, and exits with 4.
            planned = command == "plan" and result.stdout != ""
            code = 4 if planned else EXIT_CODES.get(REFUSED[fault].kind, 3)
            named = planned or f"error[{REFUSED[fault].kind}]" in result.stderr
            if result.exit_code != code or not named:
                wrong[fault] = (result.exit_code, result.stderr)
        assert wrong == {}
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("fault", "code"),
        [("gguf/array-count-in-49-bytes", 3), ("safetensors/weight-map-absolute", 3), ("gguf/version-99", 4)],
    )
    def test_in_a_process_of_its_own(self, corpus: Corpus, tmp_path: Path, fault: str, code: int) -> None:
        done = process("build", corpus.sources[fault], "-o", tmp_path / "x.zarr", cwd=tmp_path)
        assert done.returncode == code
        assert f"error[{REFUSED[fault].kind}]" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("fault", [f"store/{name}" for name in store_faults.OPENING])
    def test_a_damaged_store(self, corpus: Corpus, fault: str) -> None:
        result = invoke("info", corpus.stores[fault])
        assert result.exit_code == 3
        assert f"error[{REFUSED[fault].kind}]" in result.stderr

    def test_bytes_that_belong_to_no_tensor_are_told(self, corpus: Corpus) -> None:
        result = invoke("plan", corpus.valid["gguf/trailing-bytes"])
        assert result.exit_code == 0
        assert "belong to no tensor" in result.stdout


def test_whatever_is_valid_round_trips(corpus: Corpus, tmp_path: Path) -> None:
    for i, (name, path) in enumerate(corpus.valid.items()):
        store = wv.build(path, tmp_path / f"{i}.zarr")
        with open_source(path) as source, wv.open(store) as db:
            assert db.catalog is not None
            keys = {entry.tensor: entry.keys for entry in db.catalog.ledger}
            assert {key for found in keys.values() for key in found} == set(db)
            for info in source.tensors():
                tensor = db[keys[info.name][0]]
                if tensor.exactness == "bit":
                    found = tensor.scales() if info.name.endswith("_scale_inv") else tensor.raw()
                    assert found.tobytes() == bytes(source.read(info, 0, info.nbytes)), name


def test_notes_tell_of_what_is_odd(corpus: Corpus) -> None:
    notes = {}
    for name, path in corpus.valid.items():
        with open_source(path) as source:
            notes[name] = source.notes
    assert "belong to no tensor" in notes.pop("gguf/trailing-bytes")[0]
    assert set(notes.values()) == {()}


def test_names_that_are_paths_stay_apart_within_the_store(corpus: Corpus, tmp_path: Path) -> None:
    store = wv.build(corpus.valid["safetensors/odd-names"], tmp_path / "x.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]
    with wv.open(store) as db:
        assert set(db) == set(safetensors_faults.ODD_NAMES)
        assert len({np.asarray(db[name]).tobytes() for name in db}) == len(db)
    folded = [str(path.relative_to(store)).casefold() for path in store.rglob("zarr.json")]
    assert len(set(folded)) == len(folded)
    assert all(path.isascii() for path in folded)
