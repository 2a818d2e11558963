"""Searching encoders against scikit-learn, scipy and the dense reference of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from armillary.core import pursuit
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.nnls import NNLS
from armillary.core.pursuit import (
    GradientPursuit,
    MatchingPursuit,
    OrthogonalPursuit,
    gradient_pursuit,
    orthogonal_pursuit,
)
from armillary.errors import InputError, ShapeError
from core_fits import FITS, random


def problem(n: int = 30, m: int = 40, d: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [n, d] and atoms [m, d] of lengths between 0 and 5."""
    lengths = torch.rand(m, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5 + 0.01
    return random(n, d, seed=seed + 1), random(m, d, seed=seed + 2) * lengths


def planted(n: int = 200, m: int = 64, d: int = 48, k: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that are sums of k of m nearly orthogonal atoms with positive coefficients, the atoms, and the coefficients."""
    atoms = random(m, d) * 3
    chosen = random(n, m, seed=1).argsort(1) < k
    code = torch.where(chosen, random(n, m, seed=2).abs() + 0.5, 0.0)
    return code @ atoms, atoms, code


def unexplained(y: Tensor, atoms: Tensor, code: Tensor) -> float:
    return float((y - code @ atoms).square().sum() / y.square().sum())


# ---------------------------------------------------------------- orthogonal pursuit


@pytest.mark.parametrize("k", [1, 5, 16])
def test_orthogonal_pursuit_agrees_with_scikit_learn(k: int) -> None:
    y, atoms = problem()
    norm = atoms.norm(dim=1)
    oracle = orthogonal_mp((atoms / norm[:, None]).T.numpy(), y.T.numpy(), n_nonzero_coefs=k)
    oracle = torch.from_numpy(np.atleast_2d(oracle.T)) / norm
    assert torch.allclose(orthogonal_pursuit(y, atoms, k).dense(), oracle, atol=1e-8)


def test_nonnegative_pursuit_with_enough_atoms_is_nnls() -> None:
    y, atoms = problem()
    oracle = torch.from_numpy(np.stack([nnls(atoms.T.numpy(), row)[0] for row in y.numpy()]))
    found = orthogonal_pursuit(y, atoms, 16, nonnegative=True).dense()
    assert torch.allclose(found @ atoms, oracle @ atoms, atol=1e-7)


def test_residual_is_orthogonal_to_the_chosen_atoms() -> None:
    y, atoms = problem()
    codes = orthogonal_pursuit(y, atoms, 6)
    residual = y - codes.dense() @ atoms
    inner = torch.einsum("nkd,nd->nk", atoms[codes.index], residual)
    assert inner.abs().max() < 1e-9


# ---------------------------------------------------------------- gradient pursuit


def reference_gradient_pursuit(y: Tensor, atoms: Tensor, k: int) -> Tensor:
    """Blumensath & Davies (2008), one dense row at a time."""
    norm = atoms.norm(dim=1)
    unit, out = atoms / norm[:, None], []
    for row in y:
        code, support = torch.zeros(len(atoms), dtype=y.dtype), torch.zeros(len(atoms), dtype=torch.bool)
        for _ in range(k):
            residual = row - code @ unit
            support[(unit @ residual).abs().masked_fill(support, -1).argmax()] = True
            gradient = torch.where(support, unit @ residual, 0.0)
            image = gradient @ unit
            code = code + (residual @ image) / (image @ image) * gradient
        out.append(code / norm)
    return torch.stack(out)


def test_gradient_pursuit_is_the_papers() -> None:
    y, atoms = problem()
    assert torch.allclose(gradient_pursuit(y, atoms, 5).dense(), reference_gradient_pursuit(y, atoms, 5), atol=1e-9)


def test_orthogonal_pursuit_explains_at_least_as_much_as_gradient_pursuit() -> None:
    y, atoms = problem(n=200)
    for nonnegative in (False, True):
        better = unexplained(y, atoms, orthogonal_pursuit(y, atoms, 8, nonnegative=nonnegative).dense())
        assert better < unexplained(y, atoms, gradient_pursuit(y, atoms, 8, nonnegative=nonnegative).dense()) < 1


# ---------------------------------------------------------------- both

BOTH = pytest.mark.parametrize("search", [orthogonal_pursuit, gradient_pursuit])
SIGNS = pytest.mark.parametrize("nonnegative", [False, True])


@BOTH
@SIGNS
def test_planted_codes_are_found(search: type, nonnegative: bool) -> None:
    y, atoms, code = planted()
    found = search(y, atoms, 4, nonnegative=nonnegative)
    recall = ((found.dense() != 0) & (code != 0)).sum() / (code != 0).sum()
    assert recall > 0.9
    assert unexplained(y, atoms, found.dense()) < 0.05


@BOTH
@SIGNS
def test_never_more_than_k_and_no_atom_twice(search: type, nonnegative: bool) -> None:
    y, atoms = problem()
    codes = search(y, atoms, 7, nonnegative=nonnegative)
    assert codes.value.shape == (30, 7)
    used = [row[value != 0].tolist() for row, value in zip(codes.index, codes.value, strict=True)]
    assert all(len(set(row)) == len(row) for row in used)
    assert not nonnegative or (codes.value >= 0).all()


@BOTH
def test_atoms_that_drop_out_are_replaced_until_k_are_in_use(search: type) -> None:
    y, atoms = problem(n=200)
    assert (search(y, atoms, 5, nonnegative=True).l0() == 5).all()


@BOTH
def test_length_of_an_atom_gives_it_no_advantage(search: type) -> None:
    y, atoms = problem()
    scale = torch.linspace(0.1, 30, len(atoms), dtype=y.dtype)[:, None]
    plain, scaled = search(y, atoms, 5), search(y, atoms * scale, 5)
    assert torch.equal(plain.index, scaled.index)
    assert torch.allclose(scaled.dense() * scale.T, plain.dense())


@BOTH
def test_every_row_may_have_a_k_of_its_own(search: type, monkeypatch: pytest.MonkeyPatch) -> None:
    y, atoms = problem()
    k = torch.arange(30) % 6
    codes = search(y, atoms, k)
    assert torch.equal(codes.l0(), k)
    for row in (1, 5, 28):
        assert torch.allclose(codes.dense()[row], search(y[row : row + 1], atoms, int(k[row])).dense()[0])
    monkeypatch.setattr(pursuit, "CHUNK", 500)
    assert torch.allclose(search(y, atoms, k).dense(), codes.dense())


@BOTH
def test_an_exact_row_stops_early(search: type) -> None:
    atoms = torch.eye(8, dtype=torch.float64)
    codes = search(3 * atoms[[2, 5]], atoms, 4)
    assert torch.equal(codes.dense(), 3 * atoms[[2, 5]])
    assert (codes.l0() == 1).all()


@BOTH
@SIGNS
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
def test_nearly_equal_atoms_do_no_harm_in_float32(search: type, nonnegative: bool, noise: float) -> None:
    copies = random(8, 16).repeat(6, 1) + noise * random(48, 16, seed=1)
    y = random(60, 16, seed=2)
    codes = search(y.float(), copies.float(), 15, nonnegative=nonnegative)
    assert torch.isfinite(codes.value).all()
    assert unexplained(y, copies, codes.dense().double()) < 1


@BOTH
def test_edges(search: type) -> None:
    y, atoms = problem()
    assert len(search(y[:0], atoms, 3)) == 0
    assert not search(y, atoms * 0, 3).dense().any()
    assert not search(y * 0, atoms, 3).dense().any()
    assert search(y, atoms[:2], 5).value.shape == (30, 2)
    assert not search(y, atoms, torch.zeros(30, dtype=torch.int64)).dense().any()


def test_the_gradient_is_that_of_least_squares_on_the_support() -> None:
    y, atoms = problem(n=3)
    leaf = y.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: orthogonal_pursuit(rows, atoms, 4).dense(), leaf)
    assert torch.autograd.gradcheck(lambda rows: gradient_pursuit(rows, atoms, 4).dense(), leaf)


# ---------------------------------------------------------------- bound to a dictionary

RULES = [NNLS(), OrthogonalPursuit(k=3), GradientPursuit(k=3, nonnegative=True)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("name", FITS)
def test_rules_serve_any_dictionary_and_take_its_base_off(rule: NNLS, name: str) -> None:
    fit = FITS[name]().with_encoder(rule)
    x = random(20, fit.inputs[0][1], seed=5)
    y = random(20, fit.dictionary.d, seed=6)
    codes = fit.encode(x, target=y)
    base = fit.base(codes)
    assert (y - fit.decode(codes)).square().sum() < (y - base).square().sum()
    assert torch.allclose(fit.decode(codes), base + fit.part(codes, range(fit.n_features)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_search_needs_the_target_of_a_fit_that_writes_another_space(rule: NNLS) -> None:
    fit = FITS["skip"]().with_encoder(rule)
    with pytest.raises(ShapeError, match="atoms of width 4 needs a target that wide, got x of width 6; pass target="):
        fit.encode(random(3, 6))


def test_half_precision_dictionaries_are_searched_in_float32() -> None:
    y, atoms = problem()
    dictionary = Dictionary.of_directions(atoms.bfloat16())
    layout = ((None, 16),)
    fit = Decomposition(dictionary, OrthogonalPursuit(k=4).bind(dictionary), layout, layout)
    codes = fit.encode(y)
    assert codes.value.dtype == torch.float32
    assert unexplained(y, atoms, codes.dense().double()) < 0.6


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="option 'k' of OrthogonalPursuit"):
        OrthogonalPursuit(k=0)
    with pytest.raises(InputError, match="Did you mean 'tolerance'"):
        NNLS(tolerence=1e-3)  # type: ignore[call-arg]


# ---------------------------------------------------------------- matching pursuit, budgets and tolerances


def plain_matching_pursuit(y: Tensor, unit: Tensor, k: int, *, nonnegative: bool) -> Tensor:
    """The algorithm of Mallat & Zhang 1993, one row and one atom after the other."""
    code = torch.zeros(len(y), len(unit), dtype=y.dtype)
    for row in range(len(y)):
        residual = y[row].clone()
        for _ in range(k):
            score = unit @ residual
            atom = int((score if nonnegative else score.abs()).argmax())
            value = score[atom].clamp_min(0) if nonnegative else score[atom]
            code[row, atom] += value
            residual -= value * unit[atom]
    return code


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("k", [1, 6, 25])
def test_matching_pursuit_is_the_papers(k: int, nonnegative: bool) -> None:
    """Twenty-five steps among eight atoms choose every atom again and again."""
    y, atoms = problem(m=8)
    norm = atoms.norm(dim=1)
    found = pursuit.matching_pursuit(y, atoms, k, nonnegative=nonnegative)
    wanted = plain_matching_pursuit(y, atoms / norm[:, None], k, nonnegative=nonnegative)
    torch.testing.assert_close(found.dense() * norm, wanted)
    assert int(found.l0().max()) <= min(k, 8)


@pytest.mark.parametrize("search", [orthogonal_pursuit, gradient_pursuit])
def test_a_tolerance_stops_a_row_as_soon_as_it_is_good_enough(search: type) -> None:
    y, atoms, _ = planted()
    loose = search(y, atoms, 12, tolerance=0.3)
    off = (y - loose.dense() @ atoms).norm(dim=1) / y.norm(dim=1)
    assert off.max() <= 0.3
    one_less = search(y, atoms, loose.l0() - 1)
    assert ((y - one_less.dense() @ atoms).norm(dim=1) / y.norm(dim=1)).min() > 0.3, "the last atom was needed"


def test_matching_pursuit_stops_by_share_or_by_norm() -> None:
    y, atoms, _ = planted()
    dictionary = Dictionary.of_directions(atoms)
    codes = MatchingPursuit(k=60, tolerance=0.2).bind(dictionary).encode(y)
    off = (y - codes.dense() @ atoms).norm(dim=1)
    assert (off <= 0.2 * y.norm(dim=1) + 1e-9).all() and int(codes.l0().min()) < 60
    by_norm = pursuit.MatchingPursuitEncoder(dictionary, 200, residual=1.0).encode(y)
    assert (y - by_norm.dense() @ atoms).norm(dim=1).max() < 1.0


def test_a_search_takes_as_many_atoms_as_the_encoder_it_replaces() -> None:
    from armillary.methods.sae.encoders import ThresholdEncoder

    y, atoms, _ = planted()
    y = y + random(*y.shape, seed=5)
    unit = atoms / atoms.norm(dim=1, keepdim=True)
    encoder = ThresholdEncoder(unit, torch.zeros(64, dtype=torch.float64), torch.zeros(48, dtype=torch.float64), torch.full((64,), 2.0))
    fit = Decomposition(Dictionary.of_directions(unit), encoder, ((None, 48),), ((None, 48),))
    own = fit.encode(y).l0()
    assert own.min() < own.max()
    for rule in (OrthogonalPursuit(), GradientPursuit(nonnegative=True)):
        searched = fit.with_encoder(rule)
        assert (searched.encode(y).l0() <= own).all() and searched.encode(y).l0().double().mean() > 0.9 * own.double().mean()
        assert (y - searched.reconstruct(y)).square().sum() < (y - fit.reconstruct(y)).square().sum()
    assert fit.with_encoder(OrthogonalPursuit()).with_encoder(GradientPursuit(k=3)).encode(y).l0().max() == 3
    with pytest.raises(InputError, match="needs k, the atoms per row"):
        OrthogonalPursuit().bind(fit.dictionary)
    with pytest.raises(InputError, match="needs k, the atoms per row"):
        Decomposition(fit.dictionary, LinearEncoder(unit, unit[0] * 0), ((None, 48),), ((None, 48),)).with_encoder(OrthogonalPursuit())


def test_a_better_error_is_not_a_better_recovery() -> None:
    """Among many coherent atoms a search explains more of a row than its true codes do, noise and all, with the wrong atoms."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(64, 24, generator=generator)[torch.arange(512) // 8]
    atoms = torch.nn.functional.normalize(common + 0.7 * torch.randn(512, 24, generator=generator), dim=1)
    on = torch.rand(300, 512, generator=generator).argsort(1) < 8
    code = on * (0.5 + torch.rand(300, 512, generator=generator))
    clean = code @ atoms
    y = clean + 0.3 * clean.std() * torch.randn(300, 24, generator=generator)
    found = orthogonal_pursuit(y, atoms, 8, nonnegative=True).dense()
    assert unexplained(y, atoms, found) < 0.9 * unexplained(y, atoms, code)
    recall = float(((found > 0) & on).sum() / on.sum())
    assert 0.05 < recall < 0.5
