"""k-means against scikit-learn's, and each of its parts against what it stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Oracle

from armillary.core.rows import Batch
from armillary.errors import InputError, ShapeError, TooFewRowsError
from armillary.methods.kmeans import KMeans, means, plus_plus, seeds
from conformance import planted

DATA = planted.clusters(n=4000, m=12)
X = DATA.x
Algorithm = Literal["lloyd", "minibatch"]


def inertia(centroids: torch.Tensor, x: torch.Tensor) -> float:
    return float(torch.cdist(x.double(), centroids.double()).min(1).values.square().sum())


def fit(x: torch.Tensor = X, n: int = 12, seed: int = 0, **options: Any) -> torch.Tensor:
    return KMeans(n_features=n, **options).fit(x, seed=seed).dictionary.atoms


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_come_back(algorithm: Algorithm, seed: int) -> None:
    centroids = fit(seed=seed, algorithm=algorithm, batch_size=256)
    assert planted.distance(centroids, DATA.parts) < 0.15


@pytest.mark.parametrize(("algorithm", "slack"), [("lloyd", 1.005), ("minibatch", 1.02)])
def test_as_good_as_scikit_learn(algorithm: Algorithm, slack: float) -> None:
    """On rows without clusters too, where every start ends in another optimum."""
    shapeless = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    for x, n in ((X, 12), (shapeless, 20)):
        theirs = Oracle(n_clusters=n, n_init=10, random_state=0).fit(x.numpy()).inertia_
        assert inertia(fit(x, n, algorithm=algorithm, batch_size=256), x) < slack * theirs


def test_a_fit_is_a_fixed_point() -> None:
    fitted = KMeans(n_features=12, tol=0.0, n_epochs=100).fit(X)
    nearest = fitted.encode(X).index[:, 0]
    mean = torch.stack([X[nearest == i].mean(0) for i in range(12)])
    torch.testing.assert_close(fitted.dictionary.atoms, mean, rtol=0, atol=1e-5)


def test_codes_are_regions() -> None:
    fitted = KMeans(n_features=12).fit(X)
    codes = fitted.encode(X)
    assert (codes.value == 1).all() and codes.value.shape[1] == 1
    assert fitted.dictionary.feature(0).kind == "region"
    assert torch.equal(fitted.reconstruct(X), fitted.dictionary.atoms[codes.index[:, 0]])


def test_lloyd_does_not_depend_on_batches() -> None:
    torch.testing.assert_close(fit(batch_size=64), fit(batch_size=5000), rtol=0, atol=1e-5)


def test_more_passes_do_not_harm() -> None:
    shapeless = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))
    quality = [inertia(fit(shapeless, 30, n_epochs=n, tol=0.0, n_init=1), shapeless) for n in (1, 2, 4, 8)]
    assert quality == sorted(quality, reverse=True) and quality[-1] < quality[0]


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_empty_clusters_are_refilled(algorithm: Algorithm) -> None:
    """From centroids that all lie in one place far away: one takes every row, the others are empty."""
    lost = KMeans(n_features=12, n_epochs=1).fit(X)
    start = replace(lost, dictionary=lost.dictionary.with_atoms(torch.full((12, 10), 50.0), lost.dictionary.base))
    fitted = KMeans(n_features=12, algorithm=algorithm, batch_size=256).fit(X, start=start)
    assert set(fitted.encode(X).index[:, 0].tolist()) == set(range(12))
    assert inertia(fitted.dictionary.atoms, X) < 0.25 * inertia(fit(n=1), X)


def test_goes_on_from_a_fit() -> None:
    shapeless = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))
    coarse = KMeans(n_features=20, algorithm="minibatch", n_epochs=1, batch_size=200).fit(shapeless)
    fine = KMeans(n_features=20).fit(shapeless, start=coarse)
    assert inertia(fine.dictionary.atoms, shapeless) < 0.995 * inertia(coarse.dictionary.atoms, shapeless)
    with pytest.raises(ShapeError, match=r"start has atoms \[20, 4\], this fit needs centroids \[21, 4\]"):
        KMeans(n_features=21).fit(shapeless, start=coarse)


def test_fewer_different_rows_than_clusters_end_well() -> None:
    x = torch.eye(3).repeat(10, 1)
    fitted = KMeans(n_features=5, n_epochs=50).fit(x)
    assert fitted.provenance["n_passes"] < 50, "it sees that nothing can be gained"
    assert inertia(fitted.dictionary.atoms, x) < 1e-9


def test_one_cluster_is_the_mean() -> None:
    torch.testing.assert_close(fit(n=1)[0], X.mean(0), rtol=0, atol=1e-5)


def test_a_large_mean_costs_little() -> None:
    assert inertia(fit(X + 100), X + 100) < 1.01 * inertia(fit(), X)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(TooFewRowsError, match="KMeans needs at least 20 rows, got 10"):
        KMeans(n_features=20).fit(X[:10])
    with pytest.raises(InputError, match="'n_features'"):
        KMeans(n_features=0)
    with pytest.raises(InputError, match="Did you mean 'n_features'"):
        KMeans(n_feature=3)


# ------------------------------------------------------------ the parts


def test_plus_plus_takes_one_row_of_every_far_cluster() -> None:
    """With clusters as far apart as these any other choice has vanishing probability."""
    far = planted.clusters(n=600, m=8, spread=1e-3)
    for seed in range(5):
        chosen = plus_plus(far.x, 8, torch.Generator().manual_seed(seed))
        assert planted.distance(chosen, far.parts) < 0.1


def test_plus_plus_draws_in_proportion_to_the_squared_distance() -> None:
    """With two seeds and one candidate's worth of freedom: from 0, the rows at 1 and 3 are drawn 1 : 9, and the better of two is kept."""
    x = torch.tensor([[0.0], [1.0], [3.0]])
    picks = []
    for seed in range(600):
        chosen = plus_plus(x, 2, torch.Generator().manual_seed(seed)).flatten().tolist()
        if chosen[0] == 0:
            picks.append(chosen[1])
    # Keeping 1 leaves 2^2 to pay for 3, keeping 3 leaves 1: 3 wins unless both draws are 1.
    assert np.mean(np.array(picks) == 1) == pytest.approx(0.1**2, abs=0.03)


def test_seeds_are_the_best_of_several_runs() -> None:
    shapeless = torch.randn(500, 3, generator=torch.Generator().manual_seed(2))
    assert inertia(seeds(shapeless, 15, 6, seed=0), shapeless) <= inertia(seeds(shapeless, 15, 1, seed=0), shapeless)


def test_means_keep_what_no_row_belongs_to() -> None:
    got = means(torch.tensor([[4.0], [0.0]]), torch.tensor([2.0, 0.0]), torch.tensor([[9.0], [7.0]]))
    assert got.tolist() == [[2.0], [7.0]]


def test_a_minibatch_centroid_is_the_mean_of_its_rows_so_far() -> None:
    """Sculley's algorithm 1 with rate 1 / count, by hand."""
    consumer = KMeans(n_features=2, algorithm="minibatch", batch_size=2).consumer(_rows([[0.0], [10.0]]), seed=0, start=None)
    consumer.centroids = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    consumer.epoch = 0
    for values in ([1.0, 9.0], [3.0, 2.0], [8.0]):
        consumer.update(Batch(torch.tensor(values)[:, None], np.arange(len(values))))
    assert consumer.centroids.flatten().tolist() == [2.0, 8.5]


def _rows(values: list[list[float]]) -> Any:
    from armillary.core.rows import as_rows

    return as_rows(values)
