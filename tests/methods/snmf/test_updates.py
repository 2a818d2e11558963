"""The updates of semi-NMF: each is the exact minimiser of its block, whatever the others are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from armillary.core.sweeps import nonnegative, sweep
from armillary.methods.snmf.updates import (
    Budget,
    accelerate,
    gram_of_codes,
    least_squares,
    multiply,
    quadratic,
    squared_error,
    violation,
)

N, D, F, S = 40, 25, 7, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Z = draw(N, D), Budget(S).keep(draw(F, D, seed=1))
Y = draw(F, N, seed=2).clamp_min(0)


def objective(z: Tensor, y: Tensor, price: float = 0.0) -> float:
    return float((X - y.T @ z).square().sum() / 2 + price * y.sum())


def test_no_other_atom_within_the_budget_is_better() -> None:
    """Against every support of a narrow problem, each solved by least squares."""
    from itertools import combinations

    x, y = draw(12, 6, seed=3), draw(1, 12, seed=4).abs()
    z = torch.zeros(1, 6, dtype=torch.float64)
    sweep(z, y @ x, y @ y.T, Budget(2).of_any_norm)
    free = (y @ x / (y @ y.T))[0]
    best = min(
        float((x - y.T @ torch.zeros(6).double().index_put((torch.tensor(c),), free[list(c)])[None]).square().sum())
        for c in combinations(range(6), 2)
    )
    assert float((x - y.T @ z).square().sum()) == pytest.approx(best)


@pytest.mark.parametrize("projection", ["of_any_norm", "of_norm_one"])
@pytest.mark.parametrize("is_signed", [True, False])
def test_sweeps_never_raise_the_objective(projection: str, is_signed: bool) -> None:
    budget = Budget(S, is_signed=is_signed)
    z, y, price = budget.keep(Z.clone()), Y.clone(), 0.2 * (projection == "of_norm_one")
    if price:
        z /= z.norm(dim=1, keepdim=True)
    before = objective(z, y, price)
    for _ in range(30):
        sweep(z, y @ X, y @ y.T, getattr(budget, projection))
        sweep(y, z @ X.T, z @ z.T, nonnegative(price))
        after = objective(z, y, price)
        assert after <= before * (1 + 1e-12)
        before = after
    assert (z != 0).sum(1).max() <= S and y.min() >= 0 and (is_signed or z.min() >= 0)


@pytest.mark.parametrize("price", [0.0, 0.3])
def test_accelerated_steps_reach_the_same_codes_and_never_rise(price: float) -> None:
    y, linear, gram = Y.clone(), Z @ X.T, Z @ Z.T
    for _ in range(100):
        new = accelerate(y, linear - price, lambda w: gram @ w, torch.linalg.eigvalsh(gram)[-1], 10)
        assert quadratic(new, linear - price, lambda w: gram @ w) <= quadratic(y, linear - price, lambda w: gram @ w) + 1e-12
        y = new
    assert violation(y, linear, gram, price) < 1e-6


def test_the_multiplicative_rule_is_dings_and_does_not_rise() -> None:
    linear, gram = Z @ X.T, Z @ Z.T
    y = Y + 0.1
    new = multiply(y, linear, gram)
    above = linear.clamp_min(0) + (-gram).clamp_min(0) @ y
    below = (-linear).clamp_min(0) + gram.clamp_min(0) @ y
    torch.testing.assert_close(new, y * (above / below).sqrt(), rtol=1e-6, atol=1e-9)
    assert objective(Z, new) <= objective(Z, y)


def test_the_error_without_a_residual_is_the_error() -> None:
    found = squared_error(float(X.square().sum()), Z @ X.T, Z @ Z.T, Y, gram_of_codes(Y))
    assert found == pytest.approx(float((X - Y.T @ Z).square().sum()), rel=1e-12)


def test_least_squares_solves_and_survives_a_singular_gram_matrix() -> None:
    torch.testing.assert_close(least_squares(Y @ X, Y @ Y.T, 0.0), torch.linalg.lstsq(Y.T, X).solution)
    twice = torch.cat([Y, Y[:1]])
    assert torch.isfinite(least_squares(twice @ X, twice @ twice.T, 1e-6)).all()
    assert torch.isfinite(least_squares(torch.zeros(2, 3), torch.zeros(2, 2), 1e-6)).all()


@pytest.mark.parametrize("s", [1, 3, 12])
def test_products_with_sparse_atoms_are_products(s: int) -> None:
    x, z = draw(30, 16).float(), Budget(s).keep(draw(5, 16, seed=1)).float()
    torch.testing.assert_close(Budget(s).inner(z, x, x.T.contiguous()), z @ x.T)
