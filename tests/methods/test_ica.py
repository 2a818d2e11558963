"""ICA: sources come back; the mixing and the unmixing belong together."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from armillary.errors import InputError, TooFewRowsError
from armillary.methods.ica import ICA
from conformance import planted

DATA = planted.sources(n=4000)
X = DATA.x


def test_sources_come_back() -> None:
    fit = ICA(n_components=3).fit(X)
    assert planted.match(fit.dictionary.atoms, DATA.parts) > 0.999
    assert fit.provenance["is_converged"]
    torch.testing.assert_close(fit.dictionary.atoms.norm(dim=1), DATA.parts.norm(dim=1).sort(descending=True).values, rtol=0.05, atol=0)


def test_pca_does_not_find_them() -> None:
    """The data are hard enough: uncorrelated is not independent."""
    from armillary.methods.pca import PCA

    assert planted.match(PCA(n_components=3).fit(X).dictionary.atoms, DATA.parts) < 0.97


def test_agrees_with_scikit_learn() -> None:
    oracle = FastICA(n_components=3, whiten="unit-variance", random_state=0, tol=1e-8, max_iter=1000).fit(X.double().numpy())
    fit = ICA(n_components=3, tol=1e-8).fit(X)
    theirs = torch.from_numpy(oracle.transform(X.double().numpy()))
    correlation = torch.corrcoef(torch.cat([fit.encode(X).value.double(), theirs], dim=1).T)[:3, 3:]
    assert planted.match(fit.dictionary.atoms, torch.from_numpy(oracle.mixing_.T)) > 1 - 1e-6
    torch.testing.assert_close(correlation.abs().max(1).values, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_codes_are_uncorrelated_with_unit_variance() -> None:
    codes = ICA(n_components=3).fit(X).encode(X).value
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(3), rtol=0, atol=1e-3)


def test_unmixing_undoes_mixing() -> None:
    """Also where the fixed point does not exist: five of these dimensions are Gaussian noise."""
    with pytest.warns(ConvergenceWarning):
        fit = ICA(max_iter=50).fit(X)
    assert fit.n_features == X.shape[1], "all that the rows span"
    torch.testing.assert_close(fit.encoder.weight @ fit.dictionary.atoms.T, torch.eye(8), rtol=0, atol=1e-3)
    torch.testing.assert_close(fit.reconstruct(X), X, rtol=0, atol=1e-3)


def test_fits_a_seeded_sample_and_says_so() -> None:
    first, again, other = (ICA(n_components=3, max_rows=1000).fit(X, seed=seed) for seed in (0, 0, 1))
    assert first.provenance["n_rows_fitted"] == 1000 and first.provenance["options"]["max_rows"] == 1000
    assert torch.equal(first.dictionary.atoms, again.dictionary.atoms)
    assert not torch.equal(first.dictionary.atoms, other.dictionary.atoms)


def test_says_when_it_did_not_converge() -> None:
    with pytest.warns(ConvergenceWarning):
        fit = ICA(n_components=3, max_iter=1).fit(X)
    assert not fit.provenance["is_converged"]


@pytest.mark.parametrize("nonlinearity", ["logcosh", "exp", "cube"])
def test_every_contrast_finds_them(nonlinearity: str) -> None:
    assert planted.match(ICA(n_components=3, nonlinearity=nonlinearity).fit(X).dictionary.atoms, DATA.parts) > 0.99


@pytest.mark.parametrize(
    ("n_components", "rows", "error", "complaint"),
    [
        (9, X, InputError, "at most the width D=8, got 9"),
        (3, X[:3], TooFewRowsError, "ICA needs at least 4 rows, got 3"),
        (2, X[:, :1].repeat(1, 2), InputError, "span 1 of 2 dimensions, got n_components=2; try n_components=1"),
        (None, torch.ones(20, 3), InputError, "rows that vary, got 20 equal rows"),
    ],
)
def test_what_cannot_be_done_is_refused(n_components: int | None, rows: torch.Tensor, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        ICA(n_components=n_components).fit(rows)
