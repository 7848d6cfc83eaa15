"""Singular values are those of numpy.linalg.svd."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray
from safetensors.numpy import save_file

import wvindex as wv
import wvindex.inspection.spectrum as module
from tests.support.cli import EXAMPLE
from tests.support.packed import REPO_GOLDEN
from tests.support.tensors import plain_tensor
from wvindex.errors import SelectionError, SpectrumNotFound, UsageError
from wvindex.inspection.moments import Moments
from wvindex.inspection.spectrum import Kind, Spectrum, gram_product, spectrum


def matrix(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """Give a matrix of noise with some strong directions."""
    random = np.random.default_rng(seed)
    strong = random.standard_normal((rows, 5)) * [9, 5, 3, 2, 1] @ random.standard_normal((5, columns))
    return (random.standard_normal((rows, columns)) + strong / 4).astype(np.float32)


def moments_of(values: NDArray[Any]) -> Moments:
    """Give the moments that singular values are told from, by NumPy."""
    exact = values.astype(np.float64)
    with np.errstate(over="ignore"):
        m2 = float(((exact - exact.mean()) ** 2).sum())
    return Moments(exact.size, float(exact.mean()), m2, min=float(exact.min()), max=float(exact.max()))


def found(values: NDArray[Any], kind: Kind = "top", *, small: int = 512, top: int = 8) -> Spectrum:
    return spectrum(plain_tensor(values), moments_of(values), kind, top=top, small=small)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (700, 650), (1, 5), (5, 1)])
def test_all_singular_values(shape: tuple[int, int]) -> None:
    values = matrix(*shape)
    exact = np.linalg.svd(values.astype(np.float64), compute_uv=False)
    one = found(values, "full")
    share = exact / exact.sum()
    np.testing.assert_allclose(one.top, exact[:8], rtol=1e-10)
    assert one.stable_rank == pytest.approx((exact**2).sum() / exact[0] ** 2)
    assert one.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (900, 300)])
def test_the_largest_without_decoding_the_matrix(shape: tuple[int, int]) -> None:
    values = matrix(*shape)
    exact = np.linalg.svd(values.astype(np.float64), compute_uv=False)
    one = found(values, small=0)
    np.testing.assert_allclose(one.top, exact[:8], rtol=1e-5)
    assert one.stable_rank == pytest.approx((exact**2).sum() / exact[0] ** 2, rel=1e-5)
    assert one.effective_rank is None


def test_products_with_the_gram_matrix() -> None:
    values = matrix(800, 700)
    x = np.random.default_rng(1).standard_normal(700)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(gram_product(plain_tensor(values), x), exact.T @ (exact @ x), rtol=1e-3)


def test_the_effective_rank_of_equal_directions_is_their_number() -> None:
    values = np.zeros((40, 30), np.float32)
    values[range(7), range(7)] = 2.5
    one = found(values, "full")
    assert one.stable_rank == pytest.approx(7)
    assert one.effective_rank == pytest.approx(7)


def test_zeros_have_no_rank() -> None:
    one = found(np.zeros((6, 7), np.float32))
    assert math.isnan(one.stable_rank)
    assert one.top[0] == 0


def test_packed_matrices_of_a_model() -> None:
    with wv.open(REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf") as db:
        table = wv.stats(db, "*.q_proj.weight", spectrum="full", top=3)
        exact = [np.linalg.svd(db[key][:].astype(np.float64), compute_uv=False) for key in table["key"]]
    for values, singular in zip(table["singular_values"], exact, strict=True):
        np.testing.assert_allclose(values, singular[:3], rtol=1e-10)


def test_vectors_stacks_and_what_is_not_finite_have_none() -> None:
    with pytest.raises(SelectionError, match="matrix"):
        spectrum(plain_tensor(np.ones(4, np.float32)), moments_of(np.ones(4)))
    with wv.open(REPO_GOLDEN / "llama-tiny-Q4_K_M.gguf") as db:
        (row,) = wv.stats(db, "model.norm.weight", spectrum="top")
    assert row["singular_values"] is None


@pytest.mark.parametrize(("kind", "top"), [("half", 8), ("top", 0)])
def test_no_other_spectrum(kind: Kind, top: int) -> None:
    with pytest.raises(UsageError):
        found(np.ones((4, 4), np.float32), kind, top=top)


def test_scipy_is_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    values = matrix(60, 90)
    assert found(values, "full").top
    with pytest.raises(UsageError, match=r"pip install 'wvindex\[spectrum\]'"):
        found(values, small=0)


@pytest.mark.parametrize("kind", ["top", "full"])
def test_each_expert_of_a_stack_has_its_own(kind: Kind) -> None:
    with wv.open(EXAMPLE) as db:
        stacks = {key: db[key][:].astype(np.float64) for key in db if ".mlp.experts." in key}
        rows = wv.stats(db, "*.mlp.experts.*", by="expert", spectrum=kind, top=5).to_dicts()
    assert len(rows) == sum(map(len, stacks.values())) == 24
    for row in rows:
        exact = scipy.linalg.svdvals(stacks[row["key"]][row["expert"]])
        share = exact / exact.sum()
        np.testing.assert_allclose(row["singular_values"], exact[:5], rtol=1e-10)
        assert row["spectral_norm"] == row["singular_values"][0]
        assert row["stable_rank"] == pytest.approx((exact**2).sum() / exact[0] ** 2, rel=1e-10)
        assert row["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-10)


def test_an_expert_too_large_to_decode_has_the_largest() -> None:
    values = np.stack([matrix(130, 110, seed) for seed in range(3)])
    stack = plain_tensor(values)
    for e in range(3):
        one = spectrum(stack.expert(e), moments_of(values[e]), "top", small=0)
        np.testing.assert_allclose(one.top, scipy.linalg.svdvals(values[e].astype(np.float64))[:8], rtol=1e-5)


def test_a_stack_as_a_whole_has_none_and_a_note_says_so() -> None:
    with wv.open(EXAMPLE) as db:
        table = wv.stats(db, "*.1.mlp.experts.up_proj.weight", spectrum="top")
        matrices = wv.stats(db, "*.0.mlp.up_proj.weight", spectrum="top")
    assert (table["singular_values"], table["stable_rank"]) == ([None], [None])
    assert "by expert" in table.notes[0]
    assert matrices.notes == ()


def test_an_expert_that_is_not_finite_has_none_and_spoils_no_other(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 8, 16), np.float32)
    values[1, 2, 3] = np.nan
    path = tmp_path / "m.safetensors"
    save_file({"stack": values}, path)
    assert wv.stats(path, by="expert", spectrum="full")["spectral_norm"] == [
        pytest.approx(np.linalg.norm(values[0], 2)),
        None,
        pytest.approx(np.linalg.norm(values[2], 2)),
    ]


def test_the_spectra_of_experts_are_kept_apart(tmp_path: Path) -> None:
    store = wv.build(EXAMPLE, tmp_path / "kjv.zarr")
    first = wv.stats(store, "*.mlp.experts.*", by="expert", spectrum="top")
    assert (store / "stats" / "expert-spectrum-top-8.json").is_file()
    assert wv.stats(store, "*.mlp.experts.*", by="expert", spectrum="top") == first


NORMAL = np.random.default_rng(3).standard_normal((40, 36))
SPIKED = NORMAL.copy()
SPIKED[4, 5] = 1e25

HARD: dict[str, NDArray[Any]] = {
    "one huge weight": SPIKED.astype(np.float32),
    "huge": (NORMAL * 1e22).astype(np.float32),
    "tiny": (NORMAL * 1e-25).astype(np.float32),
    "least": np.full((40, 36), 1e-44, np.float32),
    "a mean and noise": (1000 + 1e-4 * NORMAL).astype(np.float32),
    "of rank one": np.outer(NORMAL[:, 0], NORMAL[0]).astype(np.float32),
    "beyond the squares of float64": NORMAL * 1e200,
    "below the squares of float64": NORMAL * 1e-200,
}


@pytest.mark.parametrize("kind", ["top", "full"])
@pytest.mark.parametrize("name", HARD)
def test_matrices_whose_squares_leave_the_range_of_floats(name: str, kind: Kind) -> None:
    values = HARD[name]
    exact = scipy.linalg.svdvals(values.astype(np.float64))
    one = found(values, kind, small=0, top=4)
    assert one.top == pytest.approx(tuple(exact[:4]), rel=1e-4, abs=1e-3 * float(exact[0]))
    assert one.top[0] == pytest.approx(exact[0], rel=1e-5)
    assert one.stable_rank == pytest.approx(float(((exact / exact[0]) ** 2).sum()), rel=1e-4)
    assert one.stable_rank >= 1


def test_zeros_too_large_to_decode_have_no_rank() -> None:
    one = found(np.zeros((40, 36), np.float32), small=0, top=4)
    assert one.top == (0, 0, 0, 0)
    assert math.isnan(one.stable_rank)


def test_where_the_method_fails_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.sparse import linalg

    def fail(*arguments: object, **options: object) -> None:
        raise linalg.ArpackNoConvergence("no", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr(linalg, "eigsh", fail)
    values = matrix(60, 90)
    exact = scipy.linalg.svdvals(values.astype(np.float64))
    one = found(values, small=0)
    np.testing.assert_allclose(one.top, exact[:8], rtol=1e-10)
    assert one.effective_rank is None


def test_a_matrix_without_a_spectrum_is_noted_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.sparse import linalg

    def fail(*arguments: object, **options: object) -> None:
        raise linalg.ArpackNoConvergence("no", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr(linalg, "eigsh", fail)
    monkeypatch.setattr(module, "_FULL_VALUES", 1000)
    save_file(
        {"large": np.ones((520, 514), np.float32), "small": np.eye(4, dtype=np.float32)},
        tmp_path / "m.safetensors",
    )
    table = wv.stats(tmp_path / "m.safetensors", spectrum="top")
    assert table["spectral_norm"] == [None, 1.0]
    assert [text.partition(":")[0] for text in table.notes] == ["large"]
    with pytest.raises(SpectrumNotFound) as caught:
        found(matrix(60, 90), small=0)
    assert caught.value.tensor is not None
