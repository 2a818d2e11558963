"""Are features found again? Matching against brute force, nulls that say no, and the choice of a number of features."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.selection import agreement, held_out_errors, match, shuffle, told_apart, trade
from armillary.errors import ArmillaryWarning, InputError, ShapeError
from conformance import planted as rows
from neurons import planted

DATA = planted(600, 300, 12, share=0.03, actives=3, noise=0.3)
METHOD = arm.SemiNMF(n_features=12, neurons_per_feature=9)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("is_signed", [True, False])
def test_matching_is_the_best_of_all(is_signed: bool) -> None:
    a, b = draw(5, 7), draw(6, 7, seed=1)
    cosine = (torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T).numpy()
    cosine = cosine if is_signed else abs(cosine)
    best = max(sum(cosine[i, j] for i, j in enumerate(p)) for p in permutations(range(6), 5))
    found = match(a, b, is_signed=is_signed)
    assert found.cosine.sum() == pytest.approx(best, rel=1e-5)
    assert len(set(found.right)) == 5


def test_widths_have_to_be_equal() -> None:
    with pytest.raises(ShapeError, match="width 7 cannot be matched with directions of width 6"):
        match(draw(2, 7), draw(2, 6))


def test_a_planted_problem_is_stable_and_its_null_is_not() -> None:
    found = arm.stability(METHOD, DATA.x, seeds=3)
    cosine, support, share = (found.report[name] for name in ("matched_cosine", "support_jaccard", "consensus"))
    assert cosine.value > 0.98 and cosine.null < 0.5 and cosine.low <= cosine.value <= cosine.high
    assert support.value > 0.8 and support.null < 0.2
    assert share.value > 0.9 and share.null == 0
    assert found.consensus().n_features == round(share.value * 12)


def test_noise_is_not_stable() -> None:
    found = arm.stability(METHOD, draw(600, 300), seeds=2)
    assert found.report["matched_cosine"].value < 0.7 and found.report["consensus"].value == 0
    with pytest.raises(InputError, match=r"no feature has a partner of cosine 0\.9 in every fit"):
        found.consensus()


def test_the_sign_of_dense_directions_does_not_count() -> None:
    fit = arm.PCA(n_components=3).fit(rows.axes().x)
    turned = fit.rotate(-torch.eye(fit.dictionary.d))
    assert agreement([fit, turned]).report["matched_cosine"].value == pytest.approx(1)
    assert agreement([fit, turned], is_signed=True).report["matched_cosine"].value < 0.5
    assert agreement([fit, turned]).report["support_jaccard"].value is None


def test_features_without_a_partner_count_as_not_found() -> None:
    fit = METHOD.fit(DATA.x)
    report = agreement([fit, fit.subset(range(6))]).report
    assert report["matched_cosine"].value == pytest.approx(0.5) and report["consensus"].value == pytest.approx(0.5)


def test_shuffling_keeps_every_atoms_entries() -> None:
    atoms = METHOD.fit(DATA.x).dictionary.atoms
    assert torch.equal(shuffle(atoms, 0).sort(dim=1).values, atoms.sort(dim=1).values)
    assert not torch.equal(shuffle(atoms, 0), atoms)


def test_trading_keeps_how_many_neurons_an_atom_and_how_many_atoms_a_neuron_has() -> None:
    atoms = METHOD.fit(DATA.x).dictionary.atoms
    traded = trade(atoms, 0)
    for axis in (0, 1):
        assert torch.equal((traded != 0).sum(axis), (atoms != 0).sum(axis))
    assert torch.equal(traded.sort(dim=1).values, atoms.sort(dim=1).values)
    assert not torch.equal(traded != 0, atoms != 0) and torch.equal(traded, trade(atoms, 0))
    assert torch.equal(trade(atoms[:1], 0).sort(dim=1).values, atoms[:1].sort(dim=1).values)


def test_nothing_that_explains_nothing_is_chosen_silently() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) + 100
    with pytest.warns(ArmillaryWarning, match="explains more of the held-out rows than their mean"):
        found = arm.select([arm.SemiNMF(n_features=3, neurons_per_feature=2)], x[:200], x[200:])
    assert found.report.tables["methods"]["score"] == [0]
    with pytest.raises(InputError, match="held-out rows are all the same; hold out others"):
        arm.select([arm.PCA(n_components=2)], x, x[:1].repeat(20, 1))


def test_the_planted_number_of_features_is_chosen() -> None:
    methods = [arm.SemiNMF(n_features=k, neurons_per_feature=9) for k in (6, 12, 18)]
    found = arm.select(methods, DATA.x[:450], DATA.x[450:])
    assert found.method.n_features == 12 and found.fit.n_features == 12
    assert found.report.tables["methods"]["method"] == ["n_features=6", "n_features=12", "n_features=18"]
    assert "Best: n_features=12" in found.report.notes[0]


def test_held_out_errors_are_shares_of_the_variance() -> None:
    x = rows.axes().x
    fit = arm.PCA(n_components=2).fit(x)
    (found,) = held_out_errors([fit], x)
    fvu = (x - fit.reconstruct(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert found.value == pytest.approx(float(fvu), rel=1e-4)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("seeds", [1, [3], [2, 2], 0])
def test_one_seed_is_no_comparison(seeds: int) -> None:
    with pytest.raises(InputError, match="two different seeds"):
        arm.stability(METHOD, DATA.x, seeds=seeds)
    with pytest.raises(InputError, match="two different seeds"):
        arm.select([METHOD], DATA.x, DATA.x, seeds=seeds)
    with pytest.raises(InputError, match="at least two fits"):
        agreement([METHOD.fit(DATA.x)])


def test_methods_are_told_apart_by_what_differs() -> None:
    assert told_apart([arm.PCA(n_components=2), arm.KMeans(n_features=3)])[0].startswith("PCA")
    assert told_apart([METHOD]) == ["SemiNMF"]
    assert np.unique(told_apart([METHOD, METHOD.model_copy(update={"init": "svd"})])).tolist() == ["init=als", "init=svd"]
