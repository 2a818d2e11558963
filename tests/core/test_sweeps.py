"""Sweeps: each update is the exact minimiser of its row, whatever the others are."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from armillary.core.sweeps import apart, nonnegative, sweep, sweep_codes, within
from core_fits import random

N, D, F = 40, 25, 7
X, Z = random(N, D), random(F, D, seed=1)
Y = random(F, N, seed=2).clamp_min(0)


def objective(z: Tensor, y: Tensor, price: float = 0.0) -> float:
    return float((X - y.T @ z).square().sum() / 2 + price * y.sum())


@pytest.mark.parametrize("price", [0.0, 0.3])
@pytest.mark.parametrize("feature", [0, 6])
def test_no_other_code_of_one_feature_is_better(price: float, feature: int) -> None:
    y = Y.clone()
    only = torch.zeros(F, F, dtype=torch.float64)  # a Gram matrix in which the other features are flat, so that they stay
    only[feature] = (Z @ Z.T)[feature]
    sweep(y, Z @ X.T, only, nonnegative(price))
    best = objective(Z, y, price)
    for seed in range(20):
        other = y.clone()
        other[feature] = (other[feature] + 0.1 * random(N, seed=seed)).clamp_min(0)
        assert objective(Z, other, price) >= best
    assert torch.equal(y[torch.arange(F) != feature], Y[torch.arange(F) != feature])


def test_sweeps_solve_nonnegative_least_squares() -> None:
    y = torch.zeros(F, N, dtype=torch.float64)
    for _ in range(300):
        sweep(y, Z @ X.T, Z @ Z.T, nonnegative())
    oracle = torch.stack([torch.from_numpy(nnls(Z.T.numpy(), row.numpy())[0]) for row in X], dim=1)
    torch.testing.assert_close(y, oracle, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("price", [0.0, 0.3])
def test_groups_of_features_that_share_nothing_are_solved_to_the_same_codes(price: float) -> None:
    z = torch.zeros(12, 40, dtype=torch.float64)
    for i in range(12):
        z[i, 3 * (i % 6) : 3 * (i % 6) + 4] = random(4, seed=i)  # each meets its twin and its neighbours
    x, groups = random(30, 40), apart(z @ z.T)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(12)) and len(groups) <= 4
    for group in groups:
        assert ((z[group] != 0).sum(0) <= 1).all()
    together, alone = torch.zeros(12, 30, dtype=torch.float64), torch.zeros(12, 30, dtype=torch.float64)
    sweep_codes(together, z @ x.T, z @ z.T, 300, price=price)
    for _ in range(300):
        sweep(alone, z @ x.T, z @ z.T, nonnegative(price))
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-9)
    on = alone > 0.1
    sweep_codes(together, z @ x.T, z @ z.T, 5, on=on)
    assert (together[~on] == 0).all() and together.min() >= 0
    assert apart(torch.ones(4, 4)) == []


def test_codes_outside_their_support_stay_zero() -> None:
    y, on = Y.clone(), Y > 0.5
    sweep(y, Z @ X.T, Z @ Z.T, within(on))
    assert (y[~on] == 0).all() and y.min() >= 0
