"""EM, the start and the moves: monotone, at scikit-learn's optimum where there is one, and at the planted regions (experiments 2, 3, 5)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

from armillary.methods.mfa import start
from armillary.methods.mfa.em import Noise, Shape, Sums, expect, maximise
from armillary.methods.mfa.leap import leap
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.moves import losses, made, proposed, put, split
from armillary.methods.mfa.solver import solve, sums_of
from armillary.methods.mfa.start import around, cluster, first_mixture, principal, ward
from mixtures import draw, log_likelihood

NOISES: list[Noise] = ["diagonal", "isotropic", "diagonal_per_region", "isotropic_per_region"]


def rough(x: Tensor, shape: Shape, seed: int = 0) -> Mixture:
    """A poor start, float64."""
    g = torch.Generator().manual_seed(seed)
    centroids = x[torch.randperm(len(x), generator=g)[: shape.n_regions]]
    loadings = torch.randn(shape.n_regions, shape.rank, x.shape[1], generator=g, dtype=torch.float64)
    log_weight = torch.full((shape.n_regions,), 1 / shape.n_regions, dtype=torch.float64).log()
    return Mixture(log_weight, centroids, loadings, shape.spread(torch.ones(1, x.shape[1], dtype=torch.float64)))


def em(x: Tensor, shape: Shape, n: int, first: Mixture | None = None) -> tuple[Mixture, list[float]]:
    mixture, trace = first or rough(x, shape), []
    for _ in range(n):
        sums = expect(mixture, x)
        trace.append(sums.log_likelihood)
        mixture = maximise(sums, mixture, shape)
    return mixture, trace


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seed", range(5))
def test_the_log_likelihood_never_falls(noise: Noise, seed: int) -> None:
    """20 random problems, some with more regions than there are and rows that leave regions without any."""
    x = draw(300, k=4, d=9, r=2, seed=seed).x
    _, trace = em(x, Shape(3 + seed, 1 + seed % 3, noise, 1e-6), 40)
    assert all(after - before >= -1e-9 * abs(before) for before, after in itertools.pairwise(trace))
    assert trace[-1] > trace[0] + 1


def test_one_region_is_factor_analysis() -> None:
    x = draw(2000, k=1, d=20, r=3).x
    _, trace = em(x, Shape(1, 3, "diagonal", 1e-9), 1500)
    oracle = FactorAnalysis(3, tol=1e-10, max_iter=3000).fit(x.numpy())
    assert trace[-1] == pytest.approx(oracle.score(x.numpy()), abs=1e-6)


def test_one_region_with_one_variance_is_probabilistic_pca() -> None:
    x = draw(2000, k=1, d=12, r=3).x
    _, trace = em(x, Shape(1, 3, "isotropic", 1e-9), 500)
    assert trace[-1] == pytest.approx(PCA(3).fit(x.numpy()).score(x.numpy()), abs=1e-6)


def test_full_rank_is_a_mixture_of_whole_covariances() -> None:
    data = draw(1500, k=3, d=5, r=2, apart=6.0)
    shape = Shape(3, 4, "isotropic_per_region", 1e-9)
    first = around(data.x.float(), data.region, shape, torch.Generator().manual_seed(0)).to(torch.float64)
    _, trace = em(data.x, shape, 400, first)
    oracle = GaussianMixture(3, tol=1e-12, max_iter=2000, means_init=first.centroids.numpy(), reg_covar=0.0).fit(data.x.numpy())
    assert trace[-1] == pytest.approx(oracle.score(data.x.numpy()), abs=1e-6)


def test_sums_are_those_of_their_definitions() -> None:
    data = draw(80, k=3, d=6, r=2)
    m, sums = data.mixture, expect(data.mixture, data.x)
    joint, white = m.log_joint(data.x)
    share = joint.softmax(1)
    z = torch.stack([m.coordinates(white[:, k], torch.full((80,), k)) for k in range(3)], 1)  # [n, K, R]
    torch.testing.assert_close(sums.n, share.sum(0))
    torch.testing.assert_close(sums.x, share.T @ data.x)
    torch.testing.assert_close(sums.z, torch.einsum("nk,nkr->kr", share, z))
    torch.testing.assert_close(sums.zx, torch.einsum("nk,nkr,nd->krd", share, z, data.x))
    zz = torch.einsum("nk,nkr,nks->krs", share, z, z) + share.sum(0)[:, None, None] * torch.stack([m.covariance(k) for k in range(3)])
    torch.testing.assert_close(sums.zz, zz)
    torch.testing.assert_close(sums.xx, data.x.square().sum(0, keepdim=True))
    parts = Sums.empty(m)
    for part in data.x.split(30):
        parts.add(expect(m, part))
    for one, other in zip(parts.tensors, sums.tensors, strict=True):
        torch.testing.assert_close(one, other)


def test_averaged_sums_of_equal_batches_are_the_batchs() -> None:
    data = draw(200, k=3, d=6, r=2)
    sums = expect(data.mixture, data.x)
    mean = Sums.empty(data.mixture)
    for share in (1.0, 0.5, 0.3):
        mean.step(sums, share)
    after, wanted = (maximise(one, data.mixture, Shape(3, 2, "diagonal", 1e-9)) for one in (mean, sums))
    torch.testing.assert_close(after.loadings, wanted.loadings)
    torch.testing.assert_close(after.noise, wanted.noise)


def test_a_region_without_rows_stays_where_it_is() -> None:
    data = draw(100, k=2, d=6, r=2)
    far = put(
        data.mixture,
        [1],
        Mixture(torch.tensor([-1.0]).double(), torch.full((1, 6), 1e4).double(), data.mixture.loadings[1:], data.mixture.noise),
    )
    after, trace = em(data.x, Shape(2, 2, "diagonal", 1e-9), 5, far)
    assert torch.equal(after.centroids[1], far.centroids[1]) and torch.equal(after.loadings[1], far.loadings[1])
    assert all(one.isfinite().all() for one in (after.log_weight, after.noise)) and np.isfinite(trace).all()


# ---------------------------------------------------------------- the start


@pytest.mark.parametrize("n", [2, 5, 11])
def test_merging_by_wards_cost_is_scipys(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(40, 3))
    wanted = fcluster(linkage(points, "ward"), n, "maxclust")
    assert adjusted_rand_score(ward(points, np.ones(40), n), wanted) == 1


def test_merging_counts_rows() -> None:
    """Two heavy centres near each other cost more than a light one further away."""
    found = ward(np.array([[0.0], [1.0], [3.0]]), np.array([1000.0, 1000.0, 1.0]), 2)
    assert found[0] != found[1] and found[1] == found[2]


@pytest.mark.parametrize("d", [20, 400])
def test_principal_axes_are_those_of_the_rows(d: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, generator=g) * torch.tensor([5.0, 4, 3, 2, 1]) @ torch.randn(5, d, generator=g) + 0.01 * torch.randn(
        500, d, generator=g
    )
    size, axes = principal(x, 3, torch.randn(d, 13, generator=g))
    _, wanted, right = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(size, wanted[:3].square() / 500, rtol=1e-3, atol=0)
    assert (axes * right[:3]).sum(1).abs().min() > 0.999


def test_over_seeding_finds_more_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [draw(3000, k=20, d=40, r=1, apart=6.0, noise=0.1, seed=seed) for seed in range(4)]

    def found() -> float:
        generator = torch.Generator().manual_seed(0)
        return float(np.mean([adjusted_rand_score(data.region, cluster(data.x.float(), 20, generator)) for data in drawn]))

    over = found()
    monkeypatch.setattr(start, "OVER", 1)
    assert over > 0.9 and over > found() + 0.03


def test_the_start_around_the_truth_is_near_it() -> None:
    data = draw(4000, k=5, d=20, r=3)
    x = data.x.float()
    found = around(x, data.region, Shape(5, 3, "diagonal", 1e-6), torch.Generator().manual_seed(0))
    assert log_likelihood(found.to(torch.float64), data.held_out) > data.oracle - 2


# ---------------------------------------------------------------- moves and the whole


@pytest.mark.parametrize("seed", range(3))
def test_planted_regions_are_found(seed: int) -> None:
    """Experiment 5, smaller."""
    data = draw(5000, k=10, d=32, r=3, seed=seed)
    x = data.x.float()
    shape = Shape(10, 3, "diagonal", 1e-4)
    run = solve(x, first_mixture(x, shape, seed=seed), shape, n_steps=40, tol=1e-3, moves=True, seed=seed)
    found = run.mixture.to(torch.float64)
    assert log_likelihood(found, data.held_out) > data.oracle - 1
    assert adjusted_rand_score(data.held_out_region, found.log_joint(data.held_out)[0].argmax(1)) > 0.97
    assert (found.noise / data.mixture.noise - 1).abs().max() < 0.15


def merged(x: Tensor, region: Tensor, shape: Shape) -> Mixture:
    """Two true regions in one, and one in two."""
    wrong = region.clone()
    wrong[region == 1] = 0
    half = (region == 2) & (torch.arange(len(region)) % 2 == 0)
    wrong[half] = 1
    return around(x, wrong, shape, torch.Generator().manual_seed(0))


def test_a_merged_region_is_split_at_the_cost_of_one_that_is_there_twice() -> None:
    data = draw(3000, k=4, d=16, r=2)
    x, shape = data.x.float(), Shape(4, 2, "diagonal", 1e-4)
    first = merged(x, data.region, shape)
    stuck, _ = em(data.x, shape, 60, first.to(torch.float64))
    assert log_likelihood(stuck, data.held_out) < data.oracle - 2
    region, loss, excess, heir = losses(stuck, data.x)
    assert int(excess.argmax()) == 0
    assert {int(i) for i in loss.argsort()[:2]} == {1, 2} and (heir[1], heir[2]) == (2, 1)
    gains = [split(stuck, k, data.x[region == k], shape, seed=0)[1] for k in range(4)]
    assert int(np.argmax(gains)) == 0 and gains[0] > 10 * loss[1]
    moves = proposed(stuck, data.x, shape, seed=0)
    after = made(stuck, moves, 1)
    assert len(moves.pairs) == 1 and moves.pairs[0][0] == 0 and float(after.log_weight.logsumexp(0)) == pytest.approx(0, abs=1e-9)
    run = solve(x, first, shape, n_steps=30, tol=1e-3, moves=True, seed=0)
    assert run.n_moves >= 1 and log_likelihood(run.mixture.to(torch.float64), data.held_out) > data.oracle - 1


def test_of_two_regions_that_hold_the_same_rows_one_stays() -> None:
    """Each alone could go, as the other holds its rows; both at once could not."""
    data = draw(4000, k=5, d=16, r=2)
    wrong = data.region.clone()
    wrong[(data.region == 1) | (data.region == 2)] = 0  # three regions in one
    for twin, k in ((1, 3), (2, 3)):
        wrong[(data.region == k) & (torch.arange(4000) % 3 == twin)] = twin  # and one in three
    shape = Shape(5, 2, "diagonal", 1e-4)
    stuck, _ = em(data.x, shape, 40, around(data.x.float(), wrong, shape, torch.Generator().manual_seed(0)).to(torch.float64))
    moves = proposed(stuck, data.x, shape, seed=0)
    before, after = (float(torch.logsumexp(m.log_joint(data.x)[0], 1).mean()) for m in (stuck, made(stuck, moves, len(moves.pairs))))
    assert after > before


def test_nothing_is_moved_where_the_truth_is_known() -> None:
    data = draw(3000, k=4, d=16, r=2)
    assert not proposed(data.mixture, data.x, Shape(4, 2, "diagonal", 1e-4), seed=0).pairs


def test_a_leap_lands_at_the_limit_of_sequences_that_shrink_evenly() -> None:
    """Each region at a pace of its own; weights and noise are the last ones."""
    m, toward = draw(10, k=3, d=6, r=2).mixture, draw(10, k=3, d=6, r=2, seed=1).mixture
    pace = torch.tensor([0.3, 0.6, 0.8]).double()

    def after(n: int) -> Mixture:
        share = pace[:, None] ** n
        centroids = toward.centroids + share * (m.centroids - toward.centroids)
        loadings = toward.loadings + share[:, :, None] * (m.loadings - toward.loadings)
        return Mixture(m.log_weight + n, centroids, loadings, m.noise * (1 + n))

    found = leap(after(0), after(1), after(2))
    torch.testing.assert_close(found.centroids, toward.centroids)
    torch.testing.assert_close(found.loadings, toward.loadings)
    assert torch.equal(found.log_weight, after(2).log_weight) and torch.equal(found.noise, after(2).noise)


def test_leaps_never_lower_the_log_likelihood_and_save_steps() -> None:
    x, shape = draw(2000, k=1, d=20, r=3).x, Shape(1, 3, "diagonal", 1e-9)
    first = rough(x, shape)
    _, plain = em(x, shape, 60, first)
    run = solve(x, first, shape, n_steps=60, tol=-1.0, moves=False, seed=0)
    trace = run.trace[:60]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(run.trace))
    ended = em(x, shape, 2000, first)[1][-1]
    assert ended - trace[-1] < 0.5 * (ended - plain[-1])
    assert sums_of(run.mixture, x).log_likelihood >= run.trace[-1] - 1e-9


@pytest.mark.parametrize("options", [{"moves": False}, {"moves": True}], ids=str)
def test_every_scale_and_place_ends_alike(options: Any) -> None:
    data = draw(1500, k=4, d=12, r=2)
    x, shape = data.x.float(), Shape(4, 2, "diagonal", 1e-4)
    plain = solve(x, first_mixture(x, shape, seed=0), shape, n_steps=10, tol=0, seed=0, **options)
    larger = Shape(4, 2, "diagonal", 16e-4)
    scaled = solve(4 * x, first_mixture(4 * x, larger, seed=0), larger, n_steps=10, tol=0, seed=0, **options)
    assert scaled.trace[-1] + 12 * np.log(4) == pytest.approx(plain.trace[-1], abs=1e-3)
    assert sums_of(plain.mixture, x).log_likelihood >= plain.trace[-1] - 1e-4
