"""Agreement of regions: against scikit-learn, brute force and what must come out of equal, turned and unrelated fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.metrics import adjusted_rand_score

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import NearestEncoder
from armillary.core.report import Report
from armillary.core.rows import TensorRows
from armillary.errors import InputError, TooFewRowsError
from armillary.inspect.agreement import assigned, bases, nearest_pairs, region_agreement
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from documents import in_documents
from mixtures import draw
from toys import random_sae

DATA = draw(3000, k=5, d=10, r=2, apart=2.0)


def fit_of(mixture: Mixture) -> arm.Decomposition:
    layout = ((None, mixture.d),)
    return arm.Decomposition(Dictionary.of_regions(mixture.centroids, mixture.loadings), MFAEncoder(mixture), layout, layout)


TRUTH = fit_of(DATA.mixture)
ORDER = torch.tensor([3, 1, 4, 0, 2])


def turned() -> arm.Decomposition:
    """The same mixture, its regions in another order and its loadings rotated inside their subspaces."""
    m = DATA.mixture
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    return fit_of(Mixture(m.log_weight[ORDER], m.centroids[ORDER], (turn @ m.loadings)[ORDER], m.noise))


def numbers(report: Report) -> list[float | None]:
    return [one.value for one in report.estimates.values()]


def test_the_same_mixture_in_another_order_agrees_wholly() -> None:
    report = region_agreement(TRUTH, turned(), DATA.x)
    assert numbers(report) == [pytest.approx(1), pytest.approx(0, abs=1e-12), pytest.approx(1)]
    table = report.tables["regions"]
    assert [int(ORDER[i]) for i in table["partner"]] == table["region"] == list(range(5))
    assert table["shared_rows"] == pytest.approx([1] * 5)
    assert report["rand_index"].null == pytest.approx(0, abs=0.01)


def test_every_measure_equals_its_definition() -> None:
    other = arm.MFA(n_regions=4, rank=3).fit(DATA.x, seed=0)
    report = region_agreement(TRUTH, other, DATA.x)
    ours, theirs = TRUTH.encoder.regions(DATA.x), other.encoder.regions(DATA.x)
    assert report["rand_index"].value == pytest.approx(adjusted_rand_score(ours, theirs))
    gap = torch.cdist(DATA.mixture.centroids, other.encoder.mixture.centroids.double())
    pairs = min(permutations(range(5), 4), key=lambda chosen: sum(float(gap[i, j]) ** 2 for j, i in enumerate(chosen)))
    spreads = [
        (DATA.x - fit.dictionary.directions().double()[region]).square().sum(1).mean().sqrt()
        for fit, region in ((TRUTH, ours), (other, theirs))
    ]
    expected = np.mean([float(gap[i, j]) for j, i in enumerate(pairs)]) / float(sum(spreads) / 2)
    assert report["centroid_distance"].value == pytest.approx(expected, rel=1e-6)
    cosines = [
        np.cos(subspace_angles(DATA.mixture.loadings[i].T.numpy(), other.encoder.mixture.loadings[j].T.double().numpy())) ** 2
        for j, i in enumerate(pairs)
    ]
    assert report["subspace_overlap"].value == pytest.approx(np.mean(cosines), rel=1e-6)


def test_unrelated_regions_agree_as_chance_does() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 10, generator=g, dtype=torch.float64)
    fits = [
        fit_of(Mixture(
            torch.full((8,), 1 / 8).double().log(), torch.randn(8, 10, generator=g).double(),
            torch.randn(8, 2, 10, generator=g).double(), torch.ones(1, 10).double(),
        ))
        for _ in range(2)
    ]  # fmt: skip
    report = region_agreement(*fits, x)
    assert report["rand_index"].value < 0.2
    assert report["centroid_distance"].value == pytest.approx(report["centroid_distance"].null, rel=0.4)
    assert report["subspace_overlap"].null == pytest.approx(2 / 10, abs=0.08)
    assert report["subspace_overlap"].value == pytest.approx(0.2, abs=0.15)


def test_intervals_are_over_documents() -> None:
    rows = in_documents(DATA.x[:2000])
    other = arm.KMeans(n_features=5).fit(DATA.x, seed=0)
    report = region_agreement(TRUTH, other, rows, n_rows=500)
    assert report["rand_index"].n == 500
    assert report["rand_index"].low < report["rand_index"].value < report["rand_index"].high
    assert report["subspace_overlap"].reason == "regions without axes"
    again = region_agreement(TRUTH, other, TensorRows(rows.x), n_rows=500)
    assert again["rand_index"].value == report["rand_index"].value  # the same rows are drawn


def test_atoms_in_any_order() -> None:
    """Nothing takes for granted that a region's atoms lie side by side."""
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    d = TRUTH.dictionary
    mixed = replace(TRUTH, dictionary=replace(d, atoms=d.atoms[order], group=d.group[order], role=d.role[order]))
    torch.testing.assert_close(mixed.dictionary.directions(), DATA.mixture.centroids)
    found = bases(mixed, np.arange(5))
    assert found is not None
    torch.testing.assert_close(found.mT @ found, (plain := bases(TRUTH, np.arange(5))).mT @ plain)


def test_rows_without_a_region_have_none() -> None:
    kept = arm.Decomposition(Dictionary.of_regions(DATA.mixture.centroids), NearestEncoder(DATA.mixture.centroids), *[((None, 10),)] * 2)
    region = assigned(kept.subset([2, 4]), DATA.x)
    nearest = torch.cdist(DATA.x, DATA.mixture.centroids).argmin(1)
    assert ((region >= 0) == ((nearest == 2) | (nearest == 4))).all()
    assert ((region == 1) == (nearest == 4)).all()


def test_pairs_add_up_to_the_least() -> None:
    g = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(4, 3, generator=g), torch.randn(6, 3, generator=g)
    left, right, distance = nearest_pairs(ours, theirs)
    gap = torch.cdist(ours, theirs).square()
    least = min(sum(float(gap[i, j]) for i, j in enumerate(chosen)) for chosen in permutations(range(6), 4))
    assert (distance**2).sum() == pytest.approx(least, rel=1e-5)
    assert left.tolist() == [0, 1, 2, 3]
    assert len(set(right.tolist())) == 4


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="has no regions"):
        region_agreement(TRUTH, random_sae(TensorRows(DATA.x)), DATA.x)
    with pytest.raises(TooFewRowsError, match="special tokens"):
        region_agreement(TRUTH, TRUTH, in_documents(DATA.x, special=True))
