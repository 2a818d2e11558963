"""Non-negative least squares against scipy and the conditions of optimality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from armillary.core import nnls as search
from armillary.core.nnls import Quadratic, nonnegative_least_squares
from core_fits import random


def problem(n: int = 30, m: int = 40, d: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [n, d] and atoms [m, d] of lengths between 0 and 5."""
    lengths = torch.rand(m, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5 + 0.01
    return random(n, d, seed=seed + 1), random(m, d, seed=seed + 2) * lengths


def budgeted(n: int = 300, m: int = 40, d: int = 90) -> tuple[Tensor, Tensor]:
    """Rows, and atoms of four entries each, one of them with none at all: few meet, so that they are swept in groups."""
    atoms = random(m, d, seed=3)
    keep = torch.stack([torch.randperm(d, generator=torch.Generator().manual_seed(i)) < 4 for i in range(m)])
    keep[5] = False
    return random(n, d, seed=4), atoms * keep


@pytest.mark.parametrize("m", [8, 40])
def test_nnls_agrees_with_scipy(m: int) -> None:
    y, atoms = problem(m=m)
    found = nonnegative_least_squares(y, atoms, tolerance=1e-9, max_steps=20_000)
    oracle = torch.from_numpy(np.stack([nnls(atoms.T.numpy(), row)[0] for row in y.numpy()]))
    assert torch.allclose(found @ atoms, oracle @ atoms, atol=1e-5)
    if m < y.shape[1]:  # with more atoms than dimensions the codes need not be unique
        assert torch.allclose(found, oracle, atol=1e-5)


@pytest.mark.parametrize("m", [8, 40])
def test_nnls_meets_the_optimality_conditions_it_promises(m: int) -> None:
    y, atoms = problem(m=m)
    code = nonnegative_least_squares(y, atoms, tolerance=1e-3)
    gradient = (code @ atoms - y) @ (atoms / atoms.norm(dim=1, keepdim=True)).T
    scale = (y @ (atoms / atoms.norm(dim=1, keepdim=True)).T).abs().amax(1, keepdim=True)
    assert (code >= 0).all()
    assert (torch.where(code > 0, gradient.abs(), -gradient) <= 1.001e-3 * scale).all()
    assert (code == 0).any()


def test_nnls_of_rows_that_no_atom_points_at_is_exactly_zero() -> None:
    _, atoms = problem()
    positive = atoms.abs()
    assert not nonnegative_least_squares(-positive[:5], positive).any()
    assert not nonnegative_least_squares(torch.zeros(3, 16), positive).any()


def test_nnls_works_in_groups_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    y, atoms = problem(m=8)
    whole = nonnegative_least_squares(y, atoms)
    monkeypatch.setattr(search, "CHUNK", 7 * 4 * 8)
    assert torch.allclose(nonnegative_least_squares(y, atoms), whole)
    assert nonnegative_least_squares(y[:0], atoms).shape == (0, 8)


def test_atoms_that_share_no_entry_are_swept_together_to_what_gradients_find(monkeypatch: pytest.MonkeyPatch) -> None:
    y, atoms = budgeted()
    price, within = 0.3, random(len(y), len(atoms), seed=9) > -1
    swept = nonnegative_least_squares(y, atoms, tolerance=1e-8, price=price, within=within)
    assert 1 < len(Quadratic.of(atoms).groups) < len(atoms) / 3
    monkeypatch.setattr(search, "MOST_SWEPT", 0)
    assert not Quadratic.of(atoms).groups
    stepped = nonnegative_least_squares(y, atoms, tolerance=1e-8, max_steps=20_000, price=price, within=within)
    torch.testing.assert_close(swept, stepped, rtol=1e-6, atol=1e-6)
    assert not swept[:, 5].any() and not swept[~within].any()


@pytest.mark.parametrize("swept", [1, 64])
def test_sweeps_meet_the_tolerance_for_every_row_whatever_the_part(swept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SWEPT", swept)
    y, atoms = budgeted(n=100)
    unit = torch.nn.functional.normalize(atoms, dim=1)
    code = nonnegative_least_squares(y, atoms, tolerance=1e-5) * atoms.norm(dim=1)
    assert float(search.violation(code, y @ unit.T, code @ unit @ unit.T).max()) <= 1e-5


def test_codes_that_are_swept_for_have_gradients() -> None:
    y, atoms = budgeted(n=3)
    assert torch.autograd.gradcheck(lambda rows: nonnegative_least_squares(rows, atoms, tolerance=1e-12), y.requires_grad_())
