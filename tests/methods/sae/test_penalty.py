"""The number of codes one asks for is met, and a fit that is gone on with is not undone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.methods.sae.penalty import NumberPrice, Penalty, SizePrice


def mixtures(n: int, d: int, n_parts: int, k: int, seed: int = 0) -> Tensor:
    """Rows [n, d] of k of n_parts orthonormal directions, each times 1 to 2."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.linalg.qr(torch.randn(d, n_parts, generator=generator))[0].T
    chosen = torch.rand(n, n_parts, generator=generator).topk(k).indices
    return torch.zeros(n, n_parts).scatter(1, chosen, 1 + torch.rand(n, k, generator=generator)) @ parts


@pytest.mark.parametrize("d, n_parts, m, l0", [(512, 64, 64, 4.0), (32, 24, 96, 3.0), (32, 24, 96, 4.0), (32, 24, 96, 8.0)])
def test_the_number_is_met(d: int, n_parts: int, m: int, l0: float) -> None:
    """Four parts are in each row. Where the rows are wide a code explains much, and a price of a fixed size would be too low."""
    x = mixtures(4096, d, n_parts, 4)
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    fit = arm.JumpReLUSAE(n_features=m, l0=l0, n_steps=500, batch_size=256).fit(x)
    assert fit.provenance["final"]["l0"] == pytest.approx(l0, rel=0.2)


def test_too_few_codes_are_brought_back() -> None:
    """Fewer than there are parts are asked for: thresholds rise through all codes of one size at once, and have to come down again."""
    x = mixtures(4096, 32, 24, 4)
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    curve = arm.JumpReLUSAE(n_features=96, l0=3, n_steps=2000, batch_size=256).fit(x).provenance["curve"]
    assert min(point["l0"] for point in curve) < 1.5, "or there is nothing to bring back"
    assert curve[-1]["l0"] == pytest.approx(3, rel=0.1)


def test_a_fit_that_is_gone_on_with_keeps_its_codes_few() -> None:
    x = mixtures(4096, 32, 24, 4)
    method = arm.JumpReLUSAE(n_features=96, l0=4, n_steps=300, batch_size=256)
    first = method.fit(x)
    again = method.model_copy(update={"n_steps": 60, "lr": 1e-3}).fit(x, start=first)
    assert max(point["l0"] for point in again.provenance["curve"]) < 1.5 * first.provenance["final"]["l0"]


def test_a_price_that_is_told_stays() -> None:
    for kind in (SizePrice, NumberPrice):
        penalty = kind(None, 0.7)
        penalty.steer(torch.tensor(1000.0), 0.5)
        assert float(penalty.weight) == penalty.settled == 0.7


@pytest.mark.parametrize("kind", [SizePrice, NumberPrice])
def test_a_price_follows_the_codes(kind: type[Penalty]) -> None:
    penalty = kind(10.0, times=4.0, until=0.5)
    weights = []
    for l0 in (60.0, 41.0, 39.0, 20.0):  # aimed at is 40 in the beginning
        penalty.steer(torch.tensor(l0), 0.0)
        weights.append(float(penalty.weight))
    assert weights == sorted(weights, reverse=True)
    penalty.steer(torch.tensor(20.0), 1.0)  # and 10 in the end
    assert float(penalty.weight) > weights[-1]


@pytest.mark.parametrize("kind", [SizePrice, NumberPrice])
def test_its_state_is_all_there_is(kind: type[Penalty]) -> None:
    one, other = (kind(10.0, scale=3.0, times=4.0, until=0.5) for _ in range(2))
    one.times = 1.0
    for l0 in (15.0, 11.0):
        one.steer(torch.tensor(l0), 0.5)
    other.load(one.state())
    for penalty in (one, other):
        penalty.steer(torch.tensor(10.5), 0.6)
    assert float(one.weight) == float(other.weight)


@pytest.mark.parametrize("kind", [arm.JumpReLUSAE, arm.GatedSAE, arm.ReLUSAE])
def test_a_batch_in_parts_is_the_batch(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many codes fire, rows are worked on one part after the other: the same gradient, and less memory."""
    from armillary.methods.sae import penalty

    x = mixtures(600, 32, 24, 4)
    curves = []
    for entries in (1 << 18, 500):
        monkeypatch.setattr(penalty, "ENTRIES", entries)
        curves.append(kind(n_features=96, l0=4, n_steps=20, batch_size=250).fit(x).provenance["curve"])
    for whole, parts in zip(*curves, strict=True):
        assert parts["l0"] == pytest.approx(whole["l0"], rel=1e-2) and parts["loss"] == pytest.approx(whole["loss"], rel=1e-3)
