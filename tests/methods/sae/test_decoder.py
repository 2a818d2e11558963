"""Decoder: the gradients of parameters are autograd's through the weights they stand for, and steps keep them where they may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from armillary.methods.sae.decoder import Archetypes, Decoder, FreeRows, UnitRows, project_off
from armillary.methods.sae.weights import Weights, random_weights

M, D, P = 12, 6, 9


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decoders() -> dict[str, Decoder]:
    points = draw(P, D, seed=3)
    return {
        "unit": UnitRows(),
        "free": FreeRows(),
        "archetypes": Archetypes(points, slack=0.0, seed=0),
        "loose archetypes": Archetypes(points, slack=0.3, seed=0),
    }


def moved(decoder: Decoder) -> dict[str, Tensor]:
    """Parameters away from where they began."""
    start = random_weights(M, D, seed=0).to(dtype=torch.float64)
    parameters = {name: part + 0.1 * draw(*part.shape, seed=i) for i, (name, part) in enumerate(decoder.begin(start).items())}
    if isinstance(decoder, UnitRows):
        decoder.settle(parameters)
    return parameters


@pytest.mark.parametrize("name", ["free", "archetypes", "loose archetypes"])
def test_gradients_of_parameters_are_autograds(name: str) -> None:
    decoder = decoders()[name]
    parameters = moved(decoder)
    upstream = Weights(draw(M, D, seed=20), draw(M, seed=21), draw(M, D, seed=22), draw(D, seed=23))
    free = {key: part.clone().requires_grad_() for key, part in parameters.items()}
    with torch.enable_grad():
        weights = decoder.weights(free)
        loss = torch.stack([(a * b).sum() for a, b in zip(weights.tensors(), upstream.tensors(), strict=True)]).sum()
    wanted = dict(zip(free, torch.autograd.grad(loss, free.values()), strict=True))
    if "mix" in wanted:  # a mix cannot move along (1, ..., 1)
        wanted["mix"] = wanted["mix"] - wanted["mix"].mean(1, keepdim=True)
    found = decoder.gradient(parameters, decoder.weights(parameters), upstream)
    for key, part in wanted.items():
        torch.testing.assert_close(found[key], part, rtol=1e-9, atol=1e-10, msg=key)


def test_free_rows_scale_whatever_is_measured_in_the_units_of_codes() -> None:
    """Gradients of a gate's bias and of the norms are autograd's; a threshold is scaled, and leaves the norms alone."""
    decoder, own = FreeRows(), {"b_mag": draw(M, seed=8), "threshold": draw(M, seed=9).abs()}
    parameters, upstream = {**moved(decoder), **own}, Weights(*(draw(*s, seed=20 + i) for i, s in enumerate(((M, D), (M,), (M, D), (D,)))))
    upstream = upstream.given({"b_mag": draw(M, seed=24), "threshold": draw(M, seed=25)})
    free = {key: part.clone().requires_grad_() for key, part in parameters.items()}
    with torch.enable_grad():
        weights = decoder.weights(free)
        named = {**weights.named(), "threshold": free["threshold"] * free["W_dec"].norm(dim=1).detach()}
        loss = torch.stack([(named[key] * part).sum() for key, part in upstream.named().items()]).sum()
    torch.testing.assert_close(weights.threshold, named["threshold"])
    wanted = dict(zip(free, torch.autograd.grad(loss, free.values()), strict=True))
    found = decoder.gradient(parameters, decoder.weights(parameters), upstream)
    for key, part in wanted.items():
        torch.testing.assert_close(found[key], part, rtol=1e-9, atol=1e-10, msg=key)


def test_free_rows_are_counted_by_what_they_add() -> None:
    parameters = moved(FreeRows())
    longer = {**parameters, "W_dec": parameters["W_dec"] * 3}
    one, other = FreeRows().weights(parameters), FreeRows().weights(longer)
    torch.testing.assert_close(one.W_dec, other.W_dec)
    torch.testing.assert_close(one.W_enc * 3, other.W_enc)
    torch.testing.assert_close(one.W_dec.norm(dim=1), torch.ones(M, dtype=torch.float64))


def test_archetypes_stay_in_the_hull() -> None:
    decoder = decoders()["archetypes"]
    parameters = moved(decoder)
    decoder.settle(parameters)
    assert parameters["mix"].min() >= 0
    torch.testing.assert_close(parameters["mix"].sum(1), torch.ones(M, dtype=torch.float64))
    assert isinstance(decoder, Archetypes)
    torch.testing.assert_close(decoder.weights(parameters).W_dec, parameters["mix"] @ decoder.points)


def test_archetypes_begin_at_points_and_drift_as_far_as_they_may() -> None:
    decoder = decoders()["loose archetypes"]
    assert isinstance(decoder, Archetypes)
    start = decoder.weights(decoder.begin(random_weights(M, D, seed=0).to(dtype=torch.float64)))
    assert torch.cdist(start.W_dec, decoder.points).min(1).values.max() < 1e-6
    parameters = moved(decoder)
    decoder.settle(parameters)
    distance = (decoder.weights(parameters).W_dec - parameters["mix"] @ decoder.points).norm(dim=1)
    assert 0.1 < distance.max() <= 0.3 + 1e-9


@pytest.mark.parametrize("name", ["unit", "free", "archetypes", "loose archetypes"])
def test_a_planted_latent_points_along_its_row(name: str) -> None:
    decoder = decoders()[name]
    parameters, rows = moved(decoder), torch.nn.functional.normalize(draw(2, D, seed=30), dim=1)
    if isinstance(decoder, Archetypes):
        rows = torch.nn.functional.normalize(decoder.points[:2], dim=1)
    decoder.plant(parameters, torch.tensor([3, 8]), rows)
    planted = torch.nn.functional.normalize(decoder.weights(parameters).W_dec[[3, 8]], dim=1)
    if isinstance(decoder, Archetypes):  # the point with the largest product
        assert ((planted * rows).sum(1) > 0).all()
    else:
        torch.testing.assert_close(planted, rows)


def test_projection_leaves_no_part_along_the_rows() -> None:
    rows, gradient = torch.nn.functional.normalize(draw(3000, D, seed=1), dim=1), draw(3000, D, seed=2)
    wanted = gradient - (gradient * rows).sum(1, keepdim=True) * rows
    project_off(gradient, rows)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)
    assert (gradient * rows).sum(1).abs().max() < 1e-12
