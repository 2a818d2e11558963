"""Edits: only chosen tokens change, what is not edited stays, and everything can be differentiated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Ablate, Add, Affine, Clamp, Interchange, Splice, Toward
from armillary.core.encoders import LinearEncoder
from armillary.core.model import At, Edit
from armillary.core.site import Site
from armillary.errors import InputError
from core_fits import FITS, D, linear, nearest, random, regions, skip, soft_regions, sparse

B, T = 3, 4
SITE = Site("resid_post", 0)
OUT = Site("mlp_out", 0)


def at(read: Callable[[Site], Tensor] | None = None) -> At:
    """The last two tokens of the last sequence are padding; position counts from 0."""
    where = torch.ones(B, T, dtype=torch.bool)
    where[-1, 2:] = False
    position = torch.arange(T).expand(B, T)
    nothing: dict[Site, Tensor] = {}
    return At(where, position, position, torch.zeros(B, T, dtype=torch.bool), read or nothing.__getitem__)


def x(seed: int = 5, d: int = D) -> Tensor:
    return (random(B, T, d, seed=seed) * 2 + 1).float()


def orthonormal() -> Decomposition:
    """Three orthonormal directions over a bias, read by their own transpose, in float32."""
    atoms = torch.linalg.qr(random(D, D))[0][:3].float()
    dictionary = Dictionary.of_directions(atoms, bias=random(D, seed=1).float())
    layout = linear().inputs
    return Decomposition(dictionary, LinearEncoder(atoms, dictionary.base[0]), layout, layout)


def first_two(at: At) -> Tensor:
    return at.position < 2


EDITS: dict[str, Callable[..., Edit]] = {
    "add": lambda where: Add(SITE, random(D), 2.0, where),
    "toward": lambda where: Toward(SITE, random(D), 0.3, where),
    "clamp": lambda where: Clamp(SITE, linear(), 1, 3.0, where),
    "ablate": lambda where: Ablate(SITE, linear(), (0, 3), None, where),
    "ablate_region": lambda where: Ablate(SITE, soft_regions(), (1,), None, where),
    "interchange": lambda where: Interchange(SITE, x(6), linear(), (0, 2), None, where),
    "interchange_basis": lambda where: Interchange(SITE, x(6), basis=torch.eye(D, dtype=torch.float64)[:2], where=where),
    "interchange_all": lambda where: Interchange(SITE, x(6), where=where),
    "splice": lambda where: Splice(SITE, sparse(), None, where),
    "affine": lambda where: Affine(SITE, random(D, D), random(D, seed=1), where),
    "affine_offset": lambda where: Affine(SITE, None, random(B, T, D), where),
}
EVERY = pytest.mark.parametrize("name", EDITS)


# ---------------------------------------------------------------- what all edits share


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_the_chosen_tokens_change_to_the_bit(name: str, dtype: torch.dtype) -> None:
    before = x().to(dtype)
    copy = before.clone()
    after = EDITS[name](first_two)(before, at())
    chosen = at().where & first_two(at())
    assert after.dtype == dtype
    assert torch.equal(after[~chosen], before[~chosen])
    assert (after[chosen] != before[chosen]).any(dim=1).all()
    assert torch.equal(before, copy)


@EVERY
def test_without_a_choice_all_tokens_but_padding_change(name: str) -> None:
    before = x()
    after = EDITS[name](None)(before, at())
    assert torch.equal(after[~at().where], before[~at().where])
    assert (after != before).any(dim=2)[at().where].all()


@EVERY
def test_a_tokens_edit_does_not_depend_on_the_others(name: str) -> None:
    edit = EDITS[name](None)
    changed = x()
    changed[:, 1:] = 7.0
    assert torch.allclose(edit(changed, at())[:, 0], edit(x(), at())[:, 0], atol=1e-5)


@EVERY
def test_gradients_reach_the_activations_through_the_edit(name: str) -> None:
    leaf = x().requires_grad_()
    EDITS[name](first_two)(leaf, at()).square().sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    untouched = leaf.grad[~(at().where & first_two(at()))]
    assert torch.allclose(untouched, 2 * leaf.detach()[~(at().where & first_two(at()))])


@EVERY
def test_sites_are_declared_and_edits_are_frozen(name: str) -> None:
    edit = EDITS[name](None)
    assert edit.writes == SITE
    assert edit.reads == ()
    with pytest.raises(AttributeError, match="cannot assign"):
        edit.site = OUT


# ---------------------------------------------------------------- directions and points


def test_strengths_may_differ_between_sequences_and_carry_gradients() -> None:
    direction, strength = random(D).float(), torch.tensor([0.0, 1.0, -2.0], requires_grad=True)
    after = Add(SITE, direction, strength)(x(), at())
    assert torch.equal(after[0], x()[0])
    assert torch.allclose(after[1], x()[1] + direction)
    assert torch.allclose(after[2, :2], (x()[2] - 2 * direction)[:2])
    after.sum().backward()
    assert strength.grad is not None
    assert torch.allclose(strength.grad, direction.sum() * torch.tensor([4.0, 4.0, 2.0]), rtol=1e-4)


def test_toward_goes_from_x_to_exactly_the_point() -> None:
    point = random(D).float() * 100
    assert torch.equal(Toward(SITE, point, 0.0)(x(), at()), x())
    assert torch.equal(Toward(SITE, point, 1.0)(x(), at())[0], point.expand(T, D))
    assert torch.allclose(Toward(SITE, point, 0.25)(x(), at())[0], 0.75 * x()[0] + 0.25 * point)


# ---------------------------------------------------------------- code space


def test_clamp_sets_one_code_and_leaves_the_others_and_the_error() -> None:
    fit = orthonormal()
    after = Clamp(SITE, fit, 1, torch.tensor([5.0, -1.0, 0.0]))(x(), at())
    old, new = (fit.encode(value[:2].reshape(-1, D)).value for value in (x(), after))
    assert torch.allclose(new[:, 1], torch.tensor([5.0] * T + [-1.0] * T), atol=1e-5)
    assert torch.allclose(new[:, [0, 2]], old[:, [0, 2]], atol=1e-5)
    residual = [value[:2].reshape(-1, D) - fit.reconstruct(value[:2].reshape(-1, D)) for value in (x(), after)]
    assert torch.allclose(residual[0], residual[1], atol=1e-5)


def test_clamp_to_its_own_code_changes_nothing() -> None:
    fit = linear()
    own = fit.encode(x()[:, :1].reshape(B, D)).value[:, 2]
    assert torch.allclose(Clamp(SITE, fit, 2, own)(x(), at())[:, 0], x()[:, 0], atol=1e-5)


def test_clamp_refuses_features_of_several_atoms() -> None:
    with pytest.raises(InputError, match="feature 1 has 3 atoms; use Toward its position, or Interchange"):
        Clamp(SITE, regions(), 1, 0.0)


@pytest.mark.parametrize("name", [name for name in FITS if name != "skip"])
def test_ablating_all_features_leaves_x_without_their_contributions(name: str) -> None:
    fit = FITS[name]()
    after = Ablate(SITE, fit, tuple(range(fit.n_features)))(x(), at())
    flat = x().reshape(-1, D).double()
    expected = flat - fit.contributions(flat, range(fit.n_features)).sum(1)
    base_and_error = fit.base(fit.encode(flat)) + (flat - fit.reconstruct(flat))
    chosen = at().where
    assert torch.allclose(after[chosen].double(), expected.reshape(B, T, D)[chosen], atol=1e-4)
    assert torch.allclose(expected, base_and_error)


def test_ablating_to_the_mean_puts_the_means_codes_there() -> None:
    fit = orthonormal()
    after = Ablate(SITE, fit, (2, 0), mean=torch.tensor([7.0, -3.0]))(x(), at())
    codes = fit.encode(after[0]).value
    assert torch.allclose(codes[:, [2, 0]], torch.tensor([7.0, -3.0]).expand(T, 2), atol=1e-5)
    assert torch.allclose(codes[:, 1], fit.encode(x()[0]).value[:, 1], atol=1e-5)


def test_ablating_nothing_changes_nothing() -> None:
    assert torch.equal(Ablate(SITE, sparse(), ())(x(), at()), x())


# ---------------------------------------------------------------- interchange and splice


def test_interchange_of_everything_is_the_source() -> None:
    assert torch.equal(Interchange(SITE, x(6))(x(), at())[:2], x(6)[:2])


def test_interchange_of_a_whole_basis_is_the_source_and_of_a_part_that_part() -> None:
    basis = torch.linalg.qr(random(D, D, seed=3))[0]
    assert torch.allclose(Interchange(SITE, x(6), basis=basis)(x(), at())[0], x(6)[0], atol=1e-5)
    part = basis[:2].float()
    after = Interchange(SITE, x(6), basis=part)(x(), at())[0]
    assert torch.allclose(after @ part.T, x(6)[0] @ part.T, atol=1e-5)
    rest = basis[2:].float()
    assert torch.allclose(after @ rest.T, x()[0] @ rest.T, atol=1e-5)


def test_interchange_of_all_features_leaves_only_the_error_of_x() -> None:
    fit = orthonormal()
    after = Interchange(SITE, x(6), fit, (0, 1, 2))(x(), at())[0]
    assert torch.allclose(fit.encode(after).value, fit.encode(x(6)[0]).value, atol=1e-5)
    assert torch.allclose(after - fit.reconstruct(after), x()[0] - fit.reconstruct(x()[0]), atol=1e-5)


def test_one_source_token_serves_all_positions() -> None:
    source = x(6)[:, :1]
    after = Interchange(SITE, source)(x(), at())
    assert torch.equal(after[:2], source[:2].expand(2, T, D))


def test_interchange_with_itself_changes_nothing() -> None:
    assert torch.equal(Interchange(SITE, x(), nearest(), (0, 3))(x(), at()), x())


def test_interchange_takes_a_fit_or_a_basis() -> None:
    with pytest.raises(InputError, match="not both"):
        Interchange(SITE, x(), linear(), (0,), basis=random(2, D))


def test_splice_drops_the_error() -> None:
    fit = sparse()
    after = Splice(SITE, fit)(x(), at())[0]
    assert torch.allclose(after.double(), fit.reconstruct(x()[0].double()), atol=1e-4)


def test_affine_of_identity_and_nothing_is_x() -> None:
    assert torch.equal(Affine(SITE, None, torch.zeros(D))(x(), at()), x())
    assert torch.equal(Affine(SITE, torch.zeros(D, D), random(D))(x(), at())[0], random(D).float().expand(T, D))


# ---------------------------------------------------------------- fits that read another site than they write


@pytest.mark.parametrize(
    "edit",
    [lambda fit: Ablate(OUT, fit, (0, 3)), lambda fit: Clamp(OUT, fit, 2, 1.5), lambda fit: Interchange(OUT, x(6), fit, (1,)),
     lambda fit: Splice(OUT, fit), lambda fit: Splice(OUT, fit, source=SITE)],
    ids=["ablate", "clamp", "interchange", "splice", "splice_source"],
)  # fmt: skip
def test_a_transcoders_codes_are_read_where_it_reads(edit: Callable[[Decomposition], Edit]) -> None:
    fit, written = skip(), x(7, d=4)
    made = edit(fit)
    assert made.reads == (SITE,)
    after = made(written, at(read={SITE: x()}.__getitem__))
    codes = fit.encode(x().reshape(-1, D).double())
    change = {"Splice": fit.decode(codes) - written.reshape(-1, 4)}
    change["Ablate"] = -fit.part(codes, [0, 3])
    change["Clamp"] = (1.5 - codes.columns([2])) @ fit.dictionary.atoms[[2]]
    change["Interchange"] = fit.part(fit.encode(x(6).reshape(-1, D).double()), [1]) - fit.part(codes, [1])
    expected = written + change[type(made).__name__].reshape(B, T, 4)
    assert torch.allclose(after[at().where].double(), expected[at().where], atol=1e-4)


def test_a_fit_carried_through_a_projection_is_edited_where_it_writes() -> None:
    readout = random(D, 4, seed=2)
    fit = sparse().through(readout)
    hidden, written = x(), x(7, d=4)
    after = Ablate(OUT, fit, (1, 2, 3))(written, at(read={SITE: hidden}.__getitem__))
    lost = sparse().part(sparse().encode(hidden.reshape(-1, D).double()), [1, 2, 3]) @ readout
    assert torch.allclose(after[0].double(), (written - lost.reshape(B, T, 4))[0], atol=1e-4)


def test_a_site_may_be_spelled() -> None:
    edit = Add("blocks.3.hook_resid_post", torch.zeros(4))
    assert edit.writes == Site("resid_post", 3)
