"""Densities, responsibilities and posteriors against dense Gaussian algebra and scikit-learn (experiments 1 and 2 of the note)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import armillary as arm
from armillary.core.codes import Codes
from armillary.errors import InputError
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture, grouped
from armillary.methods.mfa.rotation import canonical, effective_ranks, varimax
from mixtures import dense, draw

TRUTH = draw(300, k=4, d=12, r=3).mixture
X = draw(300, k=4, d=12, r=3).x
PER_REGION = Mixture(TRUTH.log_weight, TRUTH.centroids, TRUTH.loadings, TRUTH.noise * torch.tensor([[1.0], [2], [0.5], [3]]).double())
BOTH = pytest.mark.parametrize("mixture", [TRUTH, PER_REGION], ids=["shared", "per region"])


@BOTH
def test_densities_are_those_of_gaussians_with_whole_covariances(mixture: Mixture) -> None:
    joint, _ = mixture.log_joint(X)
    for k in range(4):
        wanted = dense(mixture, k).log_prob(X) + mixture.log_weight[k]
        assert (joint[:, k] - wanted).abs().max() < 1e-10
        assert (mixture.log_joint_at(X, torch.full((len(X),), k))[0] - wanted).abs().max() < 1e-10


@BOTH
def test_posteriors_are_those_of_a_joint_gaussian(mixture: Mixture) -> None:
    """z and x are jointly Gaussian: E[z | x] = W C^-1 (x - mu), Cov[z | x] = I - W C^-1 W^T."""
    _, white = mixture.log_joint(X)
    for k in range(4):
        w, c = mixture.loadings[k], dense(mixture, k).covariance_matrix
        z = mixture.coordinates(white[:, k], torch.full((len(X),), k))
        assert (z - (X - mixture.centroids[k]) @ torch.linalg.solve(c, w.T)).abs().max() < 1e-10
        assert (mixture.covariance(k) - (torch.eye(3).double() - w @ torch.linalg.solve(c, w.T))).abs().max() < 1e-10


@BOTH
def test_the_encoder_scores_rows_as_scikit_learns_mixture_of_whole_covariances_does(mixture: Mixture) -> None:
    oracle = GaussianMixture(4, covariance_type="full")
    oracle.weights_, oracle.means_ = mixture.log_weight.exp().numpy(), mixture.centroids.numpy()
    covariances = torch.stack([dense(mixture, k).covariance_matrix for k in range(4)])
    oracle.precisions_cholesky_ = torch.linalg.inv(torch.linalg.cholesky(covariances)).mT.numpy()
    encoder = MFAEncoder(mixture)
    np.testing.assert_allclose(encoder.log_likelihood(X), oracle.score_samples(X.numpy()), atol=1e-10)
    np.testing.assert_allclose(encoder.responsibilities(X), oracle.predict_proba(X.numpy()), atol=1e-10)
    assert torch.equal(encoder.regions(X), torch.from_numpy(oracle.predict(X.numpy())))
    share, region = encoder.top(X, 2)
    torch.testing.assert_close(share, encoder.responsibilities(X).gather(1, region))
    density = encoder.log_density(X, region[:, 0])
    assert density[5] == pytest.approx(float(dense(mixture, int(region[5, 0])).log_prob(X[5])), abs=1e-9)
    one = dense(mixture, int(region[5, 0]))
    away = X[5] - one.mean
    assert encoder.distance(X, region[:, 0])[5] == pytest.approx(float(away @ torch.linalg.solve(one.covariance_matrix, away)), abs=1e-9)
    assert encoder.overlap(torch.tensor([0, 1]), torch.tensor([0, 1])).tolist() == pytest.approx([1, 1])
    total, best = encoder.evidence(X)
    torch.testing.assert_close(best - total, share[:, 0].log())
    assert float(encoder.weights.sum()) == pytest.approx(1)


def test_float32_is_safe_where_means_are_large() -> None:
    """The authors' expansion is off by 14 nats here."""
    g = torch.Generator().manual_seed(0)
    d = 2304
    centroids = 30 + torch.randn(6, d, generator=g, dtype=torch.float64)
    loadings = torch.randn(6, 4, d, generator=g, dtype=torch.float64)
    mixture = Mixture(torch.full((6,), 1 / 6).log().double(), centroids, loadings, torch.full((1, d), 0.1, dtype=torch.float64))
    x = centroids[torch.arange(30) % 6] + torch.randn(30, 4, generator=g).double()[:, None].matmul(loadings[torch.arange(30) % 6])[:, 0]
    x = (x + 0.1**0.5 * torch.randn(30, d, generator=g)).float()  # the rows that float32 holds
    exact = MFAEncoder(mixture).log_likelihood(x)
    short = MFAEncoder(mixture.to(torch.float32))
    # What is left is the rounding of the parameters themselves.
    rounded = MFAEncoder(mixture.to(torch.float32).to(torch.float64)).log_likelihood(x)
    assert (short.log_likelihood(x).double() - rounded).abs().max() < 0.01
    assert (rounded - exact).abs().max() < 1


def reconstruction(fit: arm.Decomposition, x: Tensor) -> tuple[Tensor, Codes]:
    codes = fit.encode(x)
    return fit.decode(codes), codes


def test_regions_are_ranked_where_responsibilities_are_too_small_for_float32() -> None:
    """Two regions hundreds of nats behind the first: the nearer one comes second, whatever its number."""
    centroids = torch.tensor([[60.0, 0], [40.0, 0], [0.0, 0]])
    mixture = Mixture(torch.zeros(3), centroids, torch.zeros(3, 1, 2), torch.ones(1, 2))
    share, region = MFAEncoder(mixture).top(torch.zeros(1, 2), 3)
    assert region.tolist() == [[2, 1, 0]] and share[0].tolist() == [1, 0, 0]


@pytest.fixture(scope="module")
def fit() -> arm.Decomposition:
    return arm.MFA(n_regions=4, rank=3).fit(draw(3000, k=4, d=12, r=3).x, seed=0)


def test_the_readings_of_a_row(fit: arm.Decomposition) -> None:
    x = draw(300, k=4, d=12, r=3).held_out[:200].float()
    encoder = fit.encoder
    assert isinstance(encoder, MFAEncoder)
    region, share = encoder.regions(x), encoder.responsibilities(x)
    hard, codes = reconstruction(fit.with_encoder(arm.mfa.Reading(how="hard")), x)
    z = encoder.posterior(x, region)
    offset = torch.einsum("nr,nrd->nd", z, encoder.mixture.loadings[region])
    torch.testing.assert_close(hard, encoder.mixture.centroids[region] + offset, rtol=1e-4, atol=1e-4)
    assert (codes.l0() == 4).all()
    bare, codes = reconstruction(fit.with_encoder(arm.mfa.Reading(how="centroid")), x)
    assert torch.equal(bare, encoder.mixture.centroids[region]) and (codes.l0() == 1).all()
    assert encoder.readings()["hard"] == fit.with_encoder(arm.mfa.Reading(how="hard")).encoder
    assert len(fit.with_encoder(arm.mfa.Reading(how="centroid")).encode(x[:0])) == 0
    soft, _ = reconstruction(fit, x)
    parts = [encoder.mixture.centroids[k] + encoder.posterior(x, torch.full((len(x),), k)) @ encoder.mixture.loadings[k] for k in range(4)]
    wanted = sum(share[:, k, None] * parts[k] for k in range(4))
    torch.testing.assert_close(soft, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(fit.activations(x).dense().argmax(1), region)
    errors = [float((found - x).square().sum()) for found in (soft, hard)]
    additive = fit.with_encoder(arm.mfa.Reading(how="additive", n_top=2)).reconstruct(x)
    assert float((additive - x).square().sum()) < min(errors)  # it has more to choose from


def test_an_additive_reading_holds_two_blocks_at_once() -> None:
    """Experiment 13: blocks of two dimensions, two of which are active in a row."""
    g = torch.Generator().manual_seed(0)
    blocks = torch.linalg.qr(torch.randn(16, 16, generator=g))[0].view(8, 2, 16)
    on = torch.rand(4000, 8, generator=g).argsort(1)[:, :2]
    x = torch.einsum("ntr,ntrd->nd", 2 * torch.randn(4000, 2, 2, generator=g), blocks[on]) + 0.05 * torch.randn(4000, 16, generator=g)
    fit = arm.MFA(n_regions=8, rank=2, noise="isotropic").fit(x, seed=0)
    left = [
        float((x - fit.with_encoder(arm.mfa.Reading(how=how, n_top=n)).reconstruct(x)).square().sum() / x.square().sum())  # type: ignore[arg-type]
        for how, n in (("soft", 8), ("additive", 2))
    ]
    assert left[0] > 0.2 and left[1] < 0.2 * left[0]


def test_rows_are_read_in_parts(monkeypatch: pytest.MonkeyPatch, fit: arm.Decomposition) -> None:
    from armillary.methods.mfa import gate as module

    x = draw(50, k=4, d=12, r=3).x.float()
    whole = fit.encode(x)
    monkeypatch.setattr(module, "CHUNK", 7 * 4 * 5)
    parts = fit.encode(x)
    torch.testing.assert_close(parts.dense(), whole.dense())
    assert fit.encode(x[:0]).dense().shape == (0, 16)
    assert isinstance(fit.encoder, MFAEncoder) and fit.encoder.responsibilities(x[:0]).shape == (0, 4)


def test_another_fit_has_no_such_reading() -> None:
    with pytest.raises(InputError, match=r"of a mixture of factor analyzers, got NearestEncoder; fit with arm\.MFA"):
        arm.KMeans(n_features=2).fit(X.float()).with_encoder(arm.mfa.Reading())


# ---------------------------------------------------------------- rotations


def test_rotations_change_no_density() -> None:
    before = TRUTH.log_joint(X)[0]
    for turn in (canonical, varimax):
        torch.testing.assert_close(turn(TRUTH).log_joint(X)[0], before, rtol=1e-9, atol=1e-9)
    w = canonical(TRUTH).loadings
    gram = (w * TRUTH.precision[:, None]) @ w.mT
    size = gram.diagonal(dim1=1, dim2=2)
    assert (gram - torch.diag_embed(size)).abs().max() < 1e-8 * size.max() and (size.diff(dim=1) <= 0).all()
    assert (w.gather(2, w.abs().argmax(2, keepdim=True)) > 0).all()


def test_varimax_finds_sparse_loadings_again() -> None:
    g = torch.Generator().manual_seed(0)
    sparse = torch.zeros(2, 3, 30, dtype=torch.float64)
    for k in range(2):
        for r in range(3):
            sparse[k, r, 10 * r : 10 * r + 8] = torch.randn(8, generator=g).double() + 2
    turn = torch.linalg.qr(torch.randn(2, 3, 3, generator=g).double())[0]
    mixture = Mixture(torch.zeros(2).double(), torch.zeros(2, 30).double(), turn @ sparse, torch.ones(1, 30).double())
    found = varimax(mixture).loadings
    cosine = (torch.nn.functional.normalize(found, dim=2) @ torch.nn.functional.normalize(sparse, dim=2).mT).abs()
    assert cosine.amax(2).min() > 0.99


def test_effective_ranks_count_axes_above_the_noise() -> None:
    axes = torch.eye(5).double()[:3]
    loadings = torch.stack([axes * torch.tensor([[3.0], [2], [0.1]]), axes * torch.tensor([[0.2], [0.1], [0.1]])]).double()
    mixture = Mixture(torch.zeros(2).double(), torch.zeros(2, 5).double(), loadings, torch.ones(1, 5).double())
    assert effective_ranks(mixture).tolist() == [2, 0]


def test_rows_of_a_region_are_grouped() -> None:
    assert [(k, rows.tolist()) for k, rows in grouped(torch.tensor([2, 0, 2]))] == [(0, [1]), (2, [0, 2])]
    assert grouped(torch.zeros(0, dtype=torch.int64)) == []
