"""``Store.neighbors``: which matrices are searched, what a row of the table says, what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex as wv
from tests.support.arrays import CONFIG, MemoryArray, memory_array, write_store
from tests.support.cli import EXAMPLE, REPOSITORY
from tests.support.stores import Stores
from wvindex.errors import SelectionError, UsageError
from wvindex.query.database import Store


@pytest.fixture
def db() -> Iterator[Store]:
    with wv.open(EXAMPLE) as opened:
        yield opened


def unit(values: Any, axis: int) -> Any:
    wide = np.asarray(values).astype(np.float64)
    return wide / np.linalg.norm(wide, axis=axis, keepdims=True)


@pytest.mark.parametrize("role", ["mlp.experts.gate_proj", "mlp.experts.down_proj", "self_attn.o_proj"])
def test_ranks_are_those_of_numpy(role: str, db: Store) -> None:
    vector = db["model.embed_tokens.weight"][342]
    table = db.neighbors(vector, role, k=7)
    scored = []
    for tensor in db.select(role=role):
        writes = tensor.key.endswith(("down_proj.weight", "o_proj.weight"))
        cosines = np.tensordot(unit(tensor, -2 if writes else -1), unit(vector, 0), (-2 if writes else -1, 0))
        scored += [(score, tensor.key, place) for place, score in np.ndenumerate(cosines)]
    best = sorted(scored, key=lambda one: -one[0])[:7]
    where = "column" if table["row"][0] is None else "row"
    found = [(r["key"], (r[where],) if r["expert"] is None else (r["expert"], r[where])) for r in table]
    assert found == [(key, place) for _, key, place in best]
    assert table["score"] == pytest.approx([score for score, _, _ in best], rel=1e-12)


def test_a_vector_is_its_own_nearest_neighbour_and_tokens_are_spelled(db: Store) -> None:
    first, second = db.neighbors(db["model.embed_tokens.weight"][342], "model.embed_tokens", k=2)
    assert first == {
        "layer": None,
        "key": "model.embed_tokens.weight",
        "expert": None,
        "row": 342,
        "column": None,
        "text": "ĠLORD",
        "score": 1.0,
    }
    assert second["text"] == "ĠMoses"


def test_several_vectors_are_what_each_is_alone(db: Store) -> None:
    vectors = db["model.embed_tokens.weight"][340:343]
    together = db.neighbors(vectors, "mlp.gate_proj", k=4, metric="dot")
    alone = [
        {"query": i} | row
        for i, vector in enumerate(vectors)
        for row in db.neighbors(vector, "mlp.gate_proj", k=4, metric="dot")
    ]
    assert together.to_dicts() == alone


def test_layers_are_chosen_as_select_does(db: Store) -> None:
    vector = np.ones(256)
    assert set(db.neighbors(vector, "self_attn.o_proj", layers=range(1, 3), k=600)["layer"]) == {1, 2}
    assert set(db.neighbors(vector, "self_attn.o_proj", layers=0)["layer"]) == {0}


def test_without_a_role_everything_of_the_stream_is_searched_and_the_rest_is_named(db: Store) -> None:
    table = db.neighbors(np.ones(256), k=100_000, metric="dot")
    n_vectors = {key: table["key"].count(key) for key in db}
    for key, tensor in db.items():
        is_factor = "_b_proj" in key
        n_expected = 0 if tensor.ndim < 2 or is_factor else tensor.size // 256
        assert n_vectors[key] == n_expected, key
    (note,) = (note for note in table.notes if note.startswith("not searched"))
    assert note.endswith("self_attn.k_b_proj, self_attn.q_b_proj, self_attn.v_b_proj")


def test_one_expert_by_name(db: Store) -> None:
    key = "model.layers.1.mlp.experts.2.down_proj.weight"
    vector = db[key][:, 9]
    first = next(iter(db.neighbors(vector, "mlp.experts.2.down_proj")))
    assert (first["key"], first["expert"], first["column"]) == (key, None, 9)


def test_every_table_says_what_it_is_evidence_of(db: Store) -> None:
    assert "evidence from weights alone" in db.neighbors(np.ones(256), "lm_head").notes[0]


def test_a_store_and_its_source_have_the_same_neighbours(stores: Stores) -> None:
    source = stores.gguf("mixtral")
    with wv.open(source) as bare, wv.open(stores.build(source)) as built:
        vector = bare["model.embed_tokens.weight"][5]
        for role in ("mlp.experts.up_proj", "mlp.experts.down_proj"):
            found = bare.neighbors(vector, role)
            assert len(found) == 10
            assert found == built.neighbors(vector, role)


def test_k_larger_than_all_rows_gives_all(db: Store) -> None:
    assert len(db.neighbors(np.ones(256), "mlp.gate", k=1000)) == 8


def test_nan_and_zero_vectors_are_left_out_and_counted() -> None:
    array = memory_array("model.layers.0.mlp.gate_proj.weight", (9, 256), "F32")
    array.values[2], array.values[4, 7], array.values[5, 0] = 0, np.nan, np.inf
    db = in_memory(array)
    cosine = db.neighbors(np.ones(256), k=20)
    assert sorted(cosine["row"]) == [0, 1, 3, 6, 7, 8]
    assert cosine.notes[1:] == (
        "vectors left out, for they hold NaN or infinity: 2",
        "vectors left out, for they are zero and have no direction: 1",
    )
    dot = db.neighbors(np.ones(256), k=20, metric="dot")
    assert sorted(dot["row"]) == [0, 1, 2, 3, 6, 7, 8]


def in_memory(*arrays: MemoryArray) -> Store:
    return Store("memory", CONFIG, {array.spec.key: (array.spec, array) for array in arrays})


@pytest.mark.parametrize(
    ("vector", "options", "error", "words"),
    [
        (np.ones(255), {}, SelectionError, "expected: 256 values, found: 255"),
        (np.ones((2, 3, 256)), {}, UsageError, "(256,) or (n, 256)"),
        (["a"] * 256, {}, UsageError, "real numbers"),
        ([[1.0], [1.0, 2.0]], {}, UsageError, "not vectors"),
        (np.full(256, np.nan), {}, UsageError, "NaN or infinity"),
        (np.eye(2, 256) * [[1], [0]], {}, UsageError, "zeros in vector 1"),
        (np.ones(256), {"k": 0}, UsageError, "1 or more"),
        (np.ones(256), {"k": 2.5}, UsageError, "k is no integer"),
        (np.ones(256), {"k": "3"}, UsageError, "k is no integer"),
        (np.ones(256), {"k": True}, UsageError, "k is no integer"),
        ("x", {}, UsageError, "not vectors"),
        (None, {}, UsageError, "not vectors"),
        ([], {}, SelectionError, "expected: 256 values, found: 0"),
        (np.ones((0, 256)), {}, UsageError, "there is no vector"),
        (np.ones(256), {"role": 5}, SelectionError, "field: role, expected: a glob, found: 5"),
        (np.ones(256), {"layers": 3}, SelectionError, "layers 0 to 2"),
        (np.ones(256), {"layers": True}, SelectionError, "not a choice of layers"),
        (np.ones(256), {"metric": "l2"}, UsageError, "cosine or dot"),
        (np.ones(256), {"role": "self_attn.q_b_proj"}, UsageError, "two factors"),
        (np.ones(256), {"role": "input_layernorm"}, UsageError, "no matrix"),
        (np.ones(256), {"role": "mlp.gate_prj"}, SelectionError, "mlp.gate_proj"),
        (np.ones(256), {"role": "lm_head", "layers": 1}, SelectionError, "lm_head"),
    ],
)
def test_what_cannot_be_is_refused(
    vector: Any, options: dict[str, Any], error: type[Exception], words: str, db: Store
) -> None:
    with pytest.raises(error) as caught:
        db.neighbors(vector, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("layers", [None, 1])
def test_the_roles_that_are_named_are_all_that_are_accepted(layers: int | None, db: Store) -> None:
    with pytest.raises(SelectionError) as caught:
        db.neighbors(np.ones(256), "nope", layers=layers)
    (listed,) = re.findall(r"residual stream: (.*?) \(field", str(caught.value))
    roles = {
        tensor.key.split(".", 3 if "layers" in tensor.key else 0)[-1] for tensor in db.select(layer=layers)
    }
    accepted = set()
    for role in (role.removesuffix(".weight") for role in roles):
        with suppress(UsageError):
            db.neighbors(np.ones(256), role, layers=layers, k=1)
            accepted.add(role)
    assert set(listed.split(", ")) == accepted


def test_layers_count_from_the_end(db: Store) -> None:
    last = db.neighbors(np.ones(256), "mlp.experts.*", layers=-1)
    assert last.rows == db.neighbors(np.ones(256), "mlp.experts.*", layers=[2]).rows


def test_progress_ends_at_all_bytes(db: Store) -> None:
    told: list[tuple[int, int]] = []
    db.neighbors(np.ones(256), "mlp.*", progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == sum(t.nbytes for t in db.select(role="mlp.*") if t.ndim > 1)


# Kernels and BLAS are loaded before the count begins.
SCRIPT = """
import sys
import numpy as np
import wvindex as wv
from tests.support.memory import peak_memory

with wv.open(sys.argv[1]) as db:
    vectors = np.random.default_rng(0).standard_normal((3, 1024))
    warm = db.neighbors(vectors, "adapter"), db.neighbors(vectors, "mlp.down_proj", layers=1)
    before = peak_memory()
    rows = db.neighbors(vectors, "mlp.gate_proj")
    columns = db.neighbors(vectors, "mlp.down_proj", layers=0)
    assert len(rows) == len(columns) == 30
    print(peak_memory() - before)
"""


def tall(key: str, rows: int, columns: int) -> MemoryArray:
    """Give Q4_K blocks of 64 rows over and over: decoding more of them is of no use here."""
    part = memory_array(key, (64, columns), "Q4_K")
    raw = np.tile(part.raw, (rows // 64, 1))
    return MemoryArray(replace(part.spec, shape=(rows, columns)), raw, part.scales, part.values)


def test_a_packed_matrix_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """Two matrices of 256 MB in float32, 38 MB each as they are stored; the bound is a quarter of one."""
    layer = "model.layers.0"
    arrays = [
        tall(f"{layer}.mlp.gate_proj.weight", 65536, 1024),
        tall(f"{layer}.mlp.down_proj.weight", 1024, 65536),
        tall("model.layers.1.mlp.down_proj.weight", 1024, 512),
        tall(f"{layer}.adapter.weight", 4096, 1024),
    ]
    config = replace(CONFIG, hidden_size=1024)
    path = write_store(tmp_path / "x.zarr", arrays, chunk_bytes=4 << 20, workspace=64 << 20, config=config)
    command = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 64 << 20
