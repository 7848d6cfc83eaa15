"""Singular values are those of numpy.linalg.svd."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

import wvindex as wv
from tests.support.packed import REPO_GOLDEN
from tests.support.tensors import plain_tensor
from wvindex.errors import SelectionError, UsageError
from wvindex.inspection.spectrum import Kind, Spectrum, gram_product, spectrum


def matrix(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """Give a matrix of noise with some strong directions."""
    random = np.random.default_rng(seed)
    strong = random.standard_normal((rows, 5)) * [9, 5, 3, 2, 1] @ random.standard_normal((5, columns))
    return (random.standard_normal((rows, columns)) + strong / 4).astype(np.float32)


def found(values: NDArray[np.float32], kind: Kind = "top", *, small: int = 512, top: int = 8) -> Spectrum:
    squares = float((values.astype(np.float64) ** 2).sum())
    return spectrum(plain_tensor(values), squares, kind, top=top, small=small)


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
        spectrum(plain_tensor(np.ones(4, np.float32)), 4.0)
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
    with pytest.raises(UsageError, match="pip install scipy"):
        found(values, small=0)
