"""Hierarchies keep their constraints, never raise the error, and find planted groups."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import armillary as arm
from armillary.core.tree import by_overlap
from armillary.errors import ArmillaryWarning, InputError
from armillary.methods.snmf.hierarchy import Products, hierarchy, refined
from armillary.methods.snmf.updates import Budget
from neurons import Neurons, groups_of, planted, shared


def fitted(seed: int = 0) -> tuple[Neurons, arm.Decomposition]:
    data = shared(1500, 500, groups=5, siblings=4, seed=seed)
    return data, arm.SemiNMF(n_features=20, neurons_per_feature=14, target_l0=2).fit(data.x, seed=seed)


DATA, FIT = fitted()


def test_planted_groups_are_the_level_above() -> None:
    tree = hierarchy(FIT, DATA.x, [5])
    assert adjusted_rand_score(groups_of(FIT.dictionary.atoms, DATA), [tree.above[i] for i in range(20)]) >= 0.85
    cores = [set(tree.core(node).tolist()) for node in range(20, 25)]
    planted_cores = [set(core.nonzero().flatten().tolist()) for core in DATA.cores]
    assert sum(max(len(a & b) / len(a | b) for b in cores) for a in planted_cores) / 5 >= 0.85


def test_a_tree_from_shared_neurons_finds_them_too() -> None:
    tree = by_overlap(FIT.dictionary)
    assert adjusted_rand_score(groups_of(FIT.dictionary.atoms, DATA), tree.cut(0.85)) >= 0.85


def test_constraints_hold_on_every_level() -> None:
    """i-13: the authors' fine-tuning leaves a fifth of the edges positive and no entry 0."""
    tree = hierarchy(FIT, DATA.x, [12, 8, 5])
    assert tree.is_layered and tree.record["parents"] == 1.5 and tree.record["fit"]["relative_error"] == FIT.provenance["relative_error"]
    assert (tree.vectors != 0).sum(1).max() <= 14
    assert tree.record["n_features"] == [20, 12, 8, 5]
    first = [0, 20, 32, 40, 45]
    for level, (a, b) in enumerate(itertools.pairwise(first)):
        here = tree.parent[(tree.child >= a) & (tree.child < b)]
        assert level == 3 or ((here >= first[level + 1]) & (here < first[level + 2])).all()
    assert all(tree.above[i] is not None for i in range(40))


def test_fewer_features_never_explain_more_and_refining_never_raises_the_error() -> None:
    tree = hierarchy(FIT, DATA.x, [12, 8, 5])
    errors = tree.record["relative_error"]
    assert all(after >= before for before, after in itertools.pairwise(errors))
    assert all(after <= before for before, after in zip(tree.record["refined_from"], errors[1:], strict=True))
    codes = FIT.encode(DATA.x).dense()
    assert errors[0] == pytest.approx(float((DATA.x - codes @ FIT.dictionary.atoms).square().sum() / DATA.x.square().sum()), rel=1e-4)


def test_every_round_of_refining_lowers_the_error_and_keeps_what_is_zero() -> None:
    g = torch.Generator().manual_seed(0)
    x, codes = torch.randn(60, 30, generator=g).double(), torch.rand(8, 60, generator=g).double()
    products = Products(codes @ codes.T, codes @ x, float(x.square().sum()))
    edges = torch.rand(8, 3, generator=g).double() * (torch.rand(8, 3, generator=g) < 0.6)
    atoms = Budget(5).keep(torch.randn(3, 30, generator=g).double())
    before = atoms.clone()
    level = refined(edges, atoms, products, Budget(5))
    assert torch.equal(atoms, before)
    assert len(level.errors) > 5
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(level.errors))
    assert level.edges.min() >= 0 and (level.edges[edges == 0] == 0).all() and (level.atoms != 0).sum(1).max() <= 5
    rebuilt = (level.edges @ level.atoms).double()
    assert level.errors[-1] == pytest.approx(float((x - codes.T @ rebuilt).square().sum() / x.square().sum()), rel=1e-5)


def test_a_level_that_explains_almost_nothing_is_told() -> None:
    data = planted(600, 300, 20, share=0.03, actives=3)
    fit = arm.SemiNMF(n_features=20, neurons_per_feature=9).fit(data.x)
    with pytest.warns(ArmillaryWarning, match="the level of 2 features explains"):
        hierarchy(fit, data.x, [2])


@pytest.mark.parametrize("sizes", [[], [20], [30, 10], [10, 10], [5, 0]])
def test_levels_that_do_not_become_smaller_are_refused(sizes: Any) -> None:
    with pytest.raises(InputError, match=r"levels become smaller from the fit's 20 features up.*try \[10, 5, 2\]"):
        hierarchy(FIT, DATA.x, sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neurons_per_feature": 0}, "a count of at most the width, 500, or a share"),
        ({"neurons_per_feature": -5}, "neurons_per_feature"),
        ({"neurons_per_feature": 501}, "got 501"),
        ({"parents": -1}, "must be above 0 or None, got -1"),
        ({"parents": 0}, "must be above 0 or None, got 0"),
    ],
)
def test_budgets_that_cannot_be_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hierarchy(FIT, DATA.x, [5], **options)


def test_a_budget_is_a_count_or_a_share() -> None:
    as_share, as_count = (hierarchy(FIT, DATA.x[:300], [5], neurons_per_feature=budget) for budget in (0.04, 20))
    assert torch.equal(as_share.vectors, as_count.vectors) and (as_count.vectors != 0).sum(1).max() <= 20


def test_rows_that_no_feature_fires_on_are_refused() -> None:
    with pytest.raises(InputError, match="no row has a code above 0"):
        hierarchy(FIT, torch.zeros(10, 500), [5])


def test_codes_of_either_sign_are_refused() -> None:
    with pytest.raises(InputError, match="codes that are not negative, the smallest of PCA"):
        hierarchy(arm.PCA(n_components=6).fit(DATA.x[:, :10]), DATA.x[:, :10], [2])


def test_regions_and_transcoders_have_no_hierarchy() -> None:
    regions = arm.KMeans(n_features=6).fit(DATA.x[:, :10])
    with pytest.raises(InputError, match="of directions"):
        hierarchy(regions, DATA.x[:, :10], [2])
