"""PCA against scikit-learn's, and against what it promises."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA as Oracle

from armillary.core.method import Labelled
from armillary.core.rows import TensorRows
from armillary.errors import InputError, TooFewRowsError
from armillary.methods.pca import PCA, principal_axes
from conformance import planted

DATA = planted.axes(n=5000)
X = DATA.x


@pytest.mark.parametrize("whiten", [False, True])
def test_agrees_with_scikit_learn(whiten: bool) -> None:
    oracle = Oracle(n_components=4, whiten=whiten).fit(X.double().numpy())
    fit = PCA(n_components=4, whiten=whiten).fit(X)
    theirs = torch.from_numpy(oracle.transform(X.double().numpy())).float()
    ours = fit.encode(X).value
    sign = (ours * theirs).sum(0).sign()  # the direction of an axis is a matter of convention
    torch.testing.assert_close(ours, theirs * sign, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fit.reconstruct(X), torch.from_numpy(oracle.inverse_transform(theirs.numpy())).float(), rtol=1e-4, atol=1e-4)
    assert fit.provenance["explained_variance"] == pytest.approx(oracle.explained_variance_ratio_.sum(), rel=1e-9)


def test_finds_the_planted_axes_in_order() -> None:
    fit = PCA(n_components=3).fit(X)
    cosine = (fit.dictionary.atoms * DATA.parts).sum(1).abs()
    assert cosine.min() > 0.995
    assert fit.encode(X).value.var(0).diff().max() < 0, "the largest variance comes first"


def test_signs_do_not_depend_on_the_machine() -> None:
    atoms = PCA().fit(X).dictionary.atoms
    assert (atoms.gather(1, atoms.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("share", "n"), [(0.3, 1), (0.7, 2), (0.9, 3), (0.9999, 10)])
def test_a_share_takes_the_fewest_components_that_explain_it(share: float, n: int) -> None:
    fit = PCA(n_components=share).fit(X)
    assert fit.n_features == n and fit.provenance["explained_variance"] >= share


def test_all_components_lose_nothing() -> None:
    fit = PCA().fit(X)
    assert fit.n_features == X.shape[1]
    torch.testing.assert_close(fit.reconstruct(X), X, rtol=0, atol=1e-5)


def test_whitened_atoms_are_loadings() -> None:
    fit, variance = PCA(whiten=True).fit(X), PCA().fit(X).encode(X).value.var(0)
    torch.testing.assert_close(fit.dictionary.atoms.square().sum(1), variance, rtol=1e-4, atol=0)


def test_whitening_leaves_out_what_does_not_vary() -> None:
    flat = X * torch.tensor([0.0] + [1.0] * 9)
    fit = PCA(whiten=True).fit(flat)
    assert fit.encode(flat).value.isfinite().all()
    torch.testing.assert_close(fit.reconstruct(flat), flat, rtol=0, atol=1e-4)


def test_no_more_components_than_rows() -> None:
    assert PCA().fit(X[:4]).n_features == 4


def test_a_large_mean_costs_no_accuracy() -> None:
    near, far = PCA(n_components=3).fit(X), PCA(n_components=3).fit(X.double() + 1e6)
    assert planted.match(far.dictionary.atoms, near.dictionary.atoms) > 1 - 1e-6


def test_labels_are_not_asked_for_but_do_not_harm() -> None:
    labelled = Labelled.of(X, [0, 1] * 2500)
    assert torch.equal(PCA().fit(labelled).dictionary.atoms, PCA().fit(X).dictionary.atoms)


@pytest.mark.parametrize(
    ("method", "rows", "error", "complaint"),
    [
        (PCA(n_components=11), X, InputError, "at most the width D=10, got 11"),
        (PCA(n_components=5), X[:4], TooFewRowsError, "PCA needs at least 5 rows, got 4"),
    ],
)
def test_impossible_sizes_are_refused(method: PCA, rows: torch.Tensor, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        method.fit(rows)


@pytest.mark.parametrize("n_components", [0, -1, 0.0, 1.5])
def test_impossible_numbers_are_refused(n_components: float) -> None:
    with pytest.raises(InputError, match="option 'n_components"):
        PCA(n_components=n_components)


def test_cannot_go_on_from_a_fit() -> None:
    fit = PCA().fit(X)
    with pytest.raises(InputError, match="PCA cannot go on from an earlier fit"):
        PCA().fit(TensorRows(X), start=fit)


def test_principal_axes_diagonalise() -> None:
    covariance = torch.cov(X.double().T)
    variance, axes = principal_axes(covariance)
    torch.testing.assert_close(axes @ covariance @ axes.T, torch.diag(variance), rtol=0, atol=1e-12)
