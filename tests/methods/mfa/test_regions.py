"""What can be done with a fit: against dense algebra, Monte Carlo and scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.rows import Layout, TensorRows
from armillary.core.site import Source
from armillary.errors import InputError, ShapeError
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.regions import mixture_of
from mixtures import dense, draw, log_likelihood

DATA = draw(3000, k=4, d=10, r=2, apart=2.0)


def fit_of(mixture: Mixture) -> arm.Decomposition:
    layout = ((None, mixture.d),)
    return arm.Decomposition(Dictionary.of_regions(mixture.centroids, mixture.loadings), MFAEncoder(mixture), layout, layout)


TRUTH = fit_of(DATA.mixture)
NOISE = DATA.mixture.noise * torch.rand(4, 10, generator=torch.Generator().manual_seed(0)).double() * 2 + 0.1
OWN_NOISE = fit_of(Mixture(DATA.mixture.log_weight, DATA.mixture.centroids, DATA.mixture.loadings, NOISE))


@pytest.mark.parametrize("fit", [TRUTH, OWN_NOISE], ids=["shared noise", "own noise"])
def test_overlap_is_bhattacharyyas_of_whole_covariances(fit: arm.Decomposition) -> None:
    found = arm.mfa.overlap(fit)
    for i in range(4):
        for j in range(4):
            one, other = dense(mixture_of(fit), i), dense(mixture_of(fit), j)
            s = (one.covariance_matrix + other.covariance_matrix) / 2
            d = one.mean - other.mean
            log_det = torch.logdet(s) - (torch.logdet(one.covariance_matrix) + torch.logdet(other.covariance_matrix)) / 2
            assert float(found[i, j]) == pytest.approx(math.exp(-float(d @ torch.linalg.solve(s, d) / 8 + log_det / 2)), rel=1e-8)
    assert float(arm.mfa.overlap(fit, [2, 0])[0, 1]) == pytest.approx(float(found[2, 0]))


def test_neighbours_overlap_most() -> None:
    whole = arm.mfa.overlap(TRUTH)
    found = arm.mfa.neighbors(TRUTH, 1, n=2)
    others = [0, 2, 3]
    assert [k for k, _ in found] == sorted(others, key=lambda k: -float(whole[1, k]))[:2]
    assert found[0][1] == pytest.approx(float(whole[1, found[0][0]]))
    assert len(arm.mfa.neighbors(TRUTH, 1)) == 3


def test_rows_are_drawn_from_the_mixture() -> None:
    x, region = arm.mfa.sample(TRUTH, 40_000, seed=3)
    np.testing.assert_allclose(torch.bincount(region) / 40_000, DATA.mixture.log_weight.exp(), atol=0.01)
    for k in range(4):
        covariance = torch.cov(x[region == k].T)
        wanted = dense(DATA.mixture, k).covariance_matrix
        assert (covariance - wanted).norm() < 0.1 * wanted.norm()
    assert log_likelihood(DATA.mixture, x) == pytest.approx(DATA.oracle, abs=0.1)
    assert (arm.mfa.sample(TRUTH, 5, region=2)[1] == 2).all()


@pytest.mark.parametrize("fit", [TRUTH, OWN_NOISE], ids=["shared noise", "own noise"])
def test_a_merged_region_has_the_mean_and_the_covariance_of_both(fit: arm.Decomposition) -> None:
    before, after = mixture_of(fit), mixture_of(arm.mfa.merge(fit, 1, 3))
    share = before.log_weight[[1, 3]].softmax(0)
    assert after.n_regions == 3 and float(after.log_weight.logsumexp(0)) == pytest.approx(0, abs=1e-12)
    assert float(after.log_weight[1].exp()) == pytest.approx(float(before.log_weight[[1, 3]].exp().sum()))
    torch.testing.assert_close(after.centroids[1], share @ before.centroids[[1, 3]])
    d = before.centroids[1] - before.centroids[3]
    wanted = sum(share[i] * dense(before, k).covariance_matrix for i, k in enumerate((1, 3))) + share.prod() * torch.outer(d, d)
    found = dense(after, 1).covariance_matrix
    assert (found - wanted).norm() < 0.5 * wanted.norm()  # two loadings of five
    assert torch.equal(after.centroids[0], before.centroids[0]) and torch.equal(after.centroids[2], before.centroids[2])


def test_halves_of_a_region_merge_to_the_region() -> None:
    halves = arm.mfa.split(TRUTH, 2)
    assert halves.n_features == 5 and halves.provenance["changes"] == ["split 2"]
    again = mixture_of(arm.mfa.merge(halves, 2, 4))
    for k in range(4):
        torch.testing.assert_close(dense(again, k).covariance_matrix, dense(DATA.mixture, k).covariance_matrix)
    torch.testing.assert_close(again.centroids, DATA.mixture.centroids)
    # Two halves of a Gaussian are nearly that Gaussian.
    assert log_likelihood(mixture_of(halves), DATA.held_out) > DATA.oracle - 0.1


def test_a_split_that_is_fitted_to_rows_finds_what_was_merged() -> None:
    merged = arm.mfa.merge(TRUTH, 0, 1)
    rows = DATA.x[(DATA.region == 0) | (DATA.region == 1)]
    again = arm.mfa.split(merged, 0, rows)
    assert log_likelihood(mixture_of(merged), DATA.held_out) < DATA.oracle - 0.5
    assert log_likelihood(mixture_of(again), DATA.held_out) > DATA.oracle - 0.1


def test_regions_without_weight_are_pruned() -> None:
    weight = DATA.mixture.log_weight.exp()
    light = int(weight.argmin())
    found = arm.mfa.prune(TRUTH, weight=float(weight.min()) * 1.01)
    assert found.n_features == 3 and float(mixture_of(found).log_weight.exp().sum()) == pytest.approx(1)
    assert torch.equal(mixture_of(found).centroids, DATA.mixture.centroids[[k for k in range(4) if k != light]])
    assert arm.mfa.prune(TRUTH, regions=[0, 2]).n_features == 2
    with pytest.raises(InputError, match=r"none of the 4 regions would be left; the largest weight is 0\.\d+"):
        arm.mfa.prune(TRUTH, weight=1.1)


@pytest.mark.parametrize("how", ["pca", "varimax"])
def test_rotated_fits_have_the_same_densities(how: Any) -> None:
    found = arm.mfa.rotate(TRUTH, how)
    torch.testing.assert_close(found.encoder.log_likelihood(DATA.x), TRUTH.encoder.log_likelihood(DATA.x))  # type: ignore[attr-defined]
    torch.testing.assert_close(found.reconstruct(DATA.x), TRUTH.reconstruct(DATA.x))
    assert arm.mfa.effective_ranks(found).tolist() == [2, 2, 2, 2]


def test_criteria_are_scikit_learns_where_a_mixture_is_of_full_rank() -> None:
    data = draw(2000, k=3, d=4, r=2, apart=6.0)
    oracle = GaussianMixture(3, reg_covar=0.0).fit(data.x.numpy())
    loadings, noise = [], []
    for covariance in oracle.covariances_:
        size, axes = np.linalg.eigh(covariance)
        noise.append(np.full(4, size[0]))
        loadings.append((np.sqrt(np.maximum(size[1:] - size[0], 0)) * axes[:, 1:]).T)
    weight, rest = np.log(oracle.weights_), (oracle.means_, np.array(loadings), np.array(noise))
    fit = fit_of(Mixture(torch.from_numpy(weight), *(torch.from_numpy(one) for one in rest)))
    found = arm.mfa.criteria(fit, data.x)
    assert found.n_parameters == oracle._n_parameters()
    assert found.bic.value == pytest.approx(oracle.bic(data.x.numpy()), rel=1e-6)
    assert found.aic.value == pytest.approx(oracle.aic(data.x.numpy()), rel=1e-6)
    assert found.icl.value >= found.bic.value and found.log_likelihood.value == pytest.approx(oracle.score(data.x.numpy()), rel=1e-5)
    assert found.bic.low < found.bic.value < found.bic.high and found.bic.better == "lower"


def test_bic_has_its_least_value_at_the_planted_number() -> None:
    """Experiment 6, smaller."""
    data = draw(4000, k=5, d=16, r=2)
    fits = {k: arm.MFA(n_regions=k, rank=2).fit(data.x.float(), seed=0) for k in (3, 5, 7)}
    bic = {k: arm.mfa.criteria(fit, data.x.float()).bic.value for k, fit in fits.items()}
    assert bic[5] < bic[3] and bic[5] < bic[7]


def test_a_gate_follows_what_is_done_to_its_regions() -> None:
    data = draw(2000, k=20, d=16, r=2, apart=3.0)
    fit = arm.MFA(n_regions=20, rank=2, gating=6).fit(data.x.float(), seed=0)
    x = data.held_out[:300].float()
    changed = {
        "prune": arm.mfa.prune(fit, regions=[3, 17]),
        "merge": arm.mfa.merge(fit, 0, 5),
        "split": arm.mfa.split(fit, 2),
        "grow": arm.mfa.grow(fit, 30),
    }
    for name, found in changed.items():
        assert found.encoder.gate is not None, name  # type: ignore[attr-defined]
        exact = torch.logsumexp(mixture_of(found).log_joint(x)[0], 1)
        assert float((exact - found.encoder.log_likelihood(x)).abs().mean()) < 0.02, name  # type: ignore[attr-defined]


def test_criteria_read_the_columns_of_the_fit() -> None:
    other, own = (Source("toy", "0", arm.Site("resid_post", layer)) for layer in (0, 1))

    class Both(TensorRows):
        @property
        def layout(self) -> Layout:
            return ((other, 10), (own, 10))

    fit = replace(TRUTH, inputs=((own, 10),), targets=((own, 10),))
    both = Both(torch.cat([torch.randn(3000, 10, dtype=torch.float64), DATA.x], 1))
    assert arm.mfa.criteria(fit, both).bic.value == pytest.approx(arm.mfa.criteria(TRUTH, DATA.x).bic.value)
    with pytest.raises(ShapeError):
        arm.mfa.criteria(fit, TensorRows(DATA.x, source=other))


def test_a_region_without_loadings_is_cut_along_its_loudest_column() -> None:
    flat = Mixture(
        torch.zeros(1).double(), torch.zeros(1, 4).double(), torch.zeros(1, 2, 4).double(), torch.tensor([[1.0, 4, 1, 1]]).double()
    )
    two = mixture_of(arm.mfa.grow(fit_of(flat), 2)).centroids
    assert (two[0] - two[1]).abs().argmax() == 1 and float((two[0] - two[1]).abs()[1]) > 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="region 9 is out of range: there are 4"):
        arm.mfa.neighbors(TRUTH, 9)
    with pytest.raises(InputError, match=r"have to differ, got \[1, 1\]"):
        arm.mfa.merge(TRUTH, 1, 1)
    with pytest.raises(InputError, match="at least 16 rows are needed to fit two regions of rank 2, got 3"):
        arm.mfa.split(TRUTH, 0, DATA.x[:3])
    with pytest.raises(InputError, match="'pca' and 'varimax', got 'promax'"):
        arm.mfa.rotate(TRUTH, "promax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mixtures of factor analyzers, got KMeans"):
        arm.mfa.overlap(arm.KMeans(n_features=3).fit(DATA.x.float()))
