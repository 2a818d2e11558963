"""The closed-form step of every variant against autograd on the dense formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from armillary.methods.sae.abs_topk import AbsTopK
from armillary.methods.sae.auxk import Dead, add_auxk
from armillary.methods.sae.batch_topk import BatchTopK
from armillary.methods.sae.gated import Gated
from armillary.methods.sae.jump_relu import NARROWEST, UNIT, JumpReLU
from armillary.methods.sae.matryoshka import Matryoshka
from armillary.methods.sae.penalty import Penalty, SizePrice
from armillary.methods.sae.ranks import ByRows
from armillary.methods.sae.relu import ReLU
from armillary.methods.sae.step import Active, Objective, Sample, gradients
from armillary.methods.sae.topk import TopK
from armillary.methods.sae.weights import Weights, normalise

N, D_IN, D, M, K, SIZE, PRICE = 23, 10, 7, 40, 5, 31, 0.7


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(d_in: int = D_IN, d: int = D_IN, **own: Tensor) -> Weights:
    W_dec = torch.nn.functional.normalize(draw(M, d, seed=1), dim=1)
    W_enc = 0.7 * W_dec + 0.2 * draw(M, d, seed=2) if d == d_in else 0.5 * draw(M, d_in, seed=2)
    return Weights(W_enc, 0.3 * draw(M, seed=3), W_dec, 0.2 * draw(d, seed=4), **own)


def sample(n: int = N, *, other: bool = False) -> Sample:
    x = draw(n, D_IN, seed=0) + 0.5
    return Sample(x, draw(n, D, seed=8) if other else x)


def top(p: Tensor, k: int) -> Tensor:
    """The k largest of each row as a dense matrix that autograd follows."""
    value, index = p.topk(k, dim=1)
    return torch.zeros_like(p).scatter(1, index, value)


def largest(p: Tensor, n: int) -> Tensor:
    """The n largest positive entries of the whole of p."""
    value, index = p.flatten().topk(n)
    return torch.zeros_like(p.flatten()).scatter(0, index, value.relu()).view_as(p)


# ---------------------------------------------------------------- the dense formulas


def pre(s: Sample, w: Weights) -> Tensor:
    return (s.x - w.b_dec if s.is_own else s.x) @ w.W_enc.T + w.b_enc


def rebuilt(a: Tensor, s: Sample, w: Weights) -> Tensor:
    y_hat = a @ w.W_dec + w.b_dec
    return y_hat if w.W_skip is None else y_hat + s.x @ w.W_skip


def squared(y_hat: Tensor, s: Sample) -> Tensor:
    return (y_hat - s.y).square().sum() / SIZE


def simple(code: Callable[[Tensor], Tensor]) -> Callable[[Sample, Weights], Tensor]:
    return lambda s, w: squared(rebuilt(code(pre(s, w)), s, w), s)


def l1(s: Sample, w: Weights) -> Tensor:
    a = pre(s, w).relu()
    return squared(rebuilt(a, s, w), s) + PRICE * a.sum() / SIZE


def gated(s: Sample, w: Weights) -> Tensor:
    assert w.r_mag is not None and w.b_mag is not None
    h = pre(s, w) - w.b_enc
    gate = h + w.b_enc
    a = (gate > 0) * (w.r_mag.exp() * h + w.b_mag).relu()
    frozen = w.given({"W_dec": w.W_dec.detach()})
    aside = gate.relu() @ frozen.W_dec + w.b_dec.detach() + (0 if w.W_skip is None else s.x @ w.W_skip.detach())
    return squared(rebuilt(a, s, w), s) + PRICE * gate.relu().sum() / SIZE + squared(aside, s)


class Jump(torch.autograd.Function):
    """p [p > theta] with the pseudo-derivative of Rajamanoharan et al. 2024, eq. 11; with `counts`, [p > theta] with that of eq. 12."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, theta: Tensor, width: float, counts: bool) -> Tensor:
        ctx.save_for_backward(p, theta)
        ctx.width, ctx.counts = width, counts
        return (p > theta).to(p) if counts else p * (p > theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        p, theta = ctx.saved_tensors
        kernel = ((p - theta).abs() <= ctx.width / 2).to(p) / ctx.width
        to_theta = -(1 if ctx.counts else theta) * kernel * grad
        return None if ctx.counts else (p > theta) * grad, to_theta.sum(0), None, None


def jump(s: Sample, w: Weights) -> Tensor:
    """Thresholds are trained in units of their own, and the kernel is as wide as a share of them."""
    assert w.threshold is not None
    p, theta = pre(s, w), w.threshold * UNIT
    width = 0.4 * theta.detach().clamp_min(NARROWEST)
    counted = Jump.apply(p, theta, width, True)
    return squared(rebuilt(Jump.apply(p, theta, width, False), s, w), s) + PRICE * counted.sum() / SIZE


WIDTHS = (3, 11, M)


def matryoshka(s: Sample, w: Weights) -> Tensor:
    a = largest(pre(s, w), K * len(s.x))
    losses = []
    for width in WIDTHS:
        keep = (torch.arange(M) < width).to(a)
        losses.append(squared(rebuilt(a * keep, s, w), s))
    return torch.stack(losses).mean()


def price() -> Penalty:
    return SizePrice(None, PRICE)


GATE = {"r_mag": 0.3 * draw(M, seed=5), "b_mag": 0.2 * draw(M, seed=6)}
THRESHOLD = {"threshold": draw(M, seed=5).abs() / 2 / UNIT}
VARIANTS: dict[str, tuple[Callable[[], Objective], dict[str, Tensor], Callable[[Sample, Weights], Tensor]]] = {
    "topk": (lambda: TopK(K), {}, simple(lambda p: top(p, K).relu())),
    "topk, some rectified": (lambda: TopK(20), {}, simple(lambda p: top(p, 20).relu())),
    "abs topk": (lambda: AbsTopK(K), {}, simple(lambda p: torch.where(p.abs() >= p.abs().topk(K, 1).values[:, -1:], p, 0.0))),
    "batch topk": (lambda: BatchTopK(K), {}, simple(lambda p: largest(p, K * len(p)))),
    "relu": (lambda: ReLU(price(), 1.0), {}, l1),
    "gated": (lambda: Gated(price()), GATE, gated),
    "jumprelu": (lambda: JumpReLU(price(), 0.4), THRESHOLD, jump),
    "matryoshka": (lambda: Matryoshka(K, WIDTHS), {}, matryoshka),
}


@pytest.mark.parametrize("kind", ["autoencoder", "transcoder", "skip transcoder"])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n", [N, 1])
def test_gradients_are_autograds(name: str, kind: str, n: int) -> None:
    make, own, loss = VARIANTS[name]
    s, w = (sample(n), weights(**own)) if kind == "autoencoder" else (sample(n, other=True), weights(d=D, **own))
    if kind == "skip transcoder":
        w = w.given({"W_skip": draw(D_IN, D, seed=7)})
    found, _, residual = gradients(s, make(), w, size=SIZE)
    free = {name: part.clone().requires_grad_() for name, part in w.named().items()}
    wanted = dict(zip(free, torch.autograd.grad(loss(s, Weights(**free)), free.values()), strict=True))
    assert found.named().keys() == wanted.keys()
    for part, gradient in found.named().items():
        torch.testing.assert_close(gradient, wanted[part], rtol=1e-9, atol=1e-10, msg=part)
    assert residual.shape == s.y.shape


@pytest.mark.parametrize("name", VARIANTS)
def test_the_residual_is_the_encoders_own(name: str) -> None:
    """What training sees of a row is what the encoder makes of it, wherever the batch does not matter."""
    make, own, _ = VARIANTS[name]
    s, w, objective = sample(), weights(**own), make()
    _, active, residual = gradients(s, objective, w, size=SIZE)
    codes = objective.encoder(objective.outer(w), w.b_dec, active.cut * (1 - 1e-12) if active.cut else 0.0).encode(s.x)
    torch.testing.assert_close(codes.dense() @ w.W_dec + w.b_dec - s.x, residual, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_rows_send_no_gradient(name: str) -> None:
    make, own, _ = VARIANTS[name]
    found, _, residual = gradients(sample(0), make(), weights(**own), size=8)
    assert residual.shape == (0, D_IN)
    assert all(not part.any() for part in found.tensors())


def test_some_codes_are_rectified_in_these_tests() -> None:
    """Or the mask of the rectifier would go unseen."""
    active = TopK(20).active(sample().x, weights())
    assert 0 < (active.value == 0).sum() < active.value.numel()


def test_annealed_prices_are_autograds() -> None:
    """The sum of powers is rescaled to the sum itself by a factor that is held fixed."""
    objective = ReLU(price(), 0.2)
    objective.steer(torch.tensor(1.0), 0.55)
    assert objective.p == pytest.approx(0.6)
    s, w = sample(), weights()
    found, _, _ = gradients(s, objective, w, size=SIZE)
    free = Weights(**{name: part.clone().requires_grad_() for name, part in w.named().items()})
    a = pre(s, free).relu()
    power = torch.where(a > 0, a + 0.05, 1.0).pow(0.6) * (a > 0)
    size = (a + 0.05 * (a > 0).double()).sum()
    loss = squared(rebuilt(a, s, free), s) + PRICE * power.sum() * (size / power.sum()).detach() / SIZE
    for part, wanted in zip(found.tensors(), torch.autograd.grad(loss, free.tensors()), strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-9, atol=1e-10)


# ---------------------------------------------------------------- AuxK

DEAD = {
    "all": Dead(torch.arange(0, M, 3), k=100, weight=1 / 32),
    "the top ones": Dead(torch.arange(0, M, 3), k=4, weight=0.5),
    "one": Dead(torch.tensor([7]), k=4, weight=1.0),
}


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("n", [N, 1, 0])
def test_auxk_is_autograds(dead: str, n: int, other: bool) -> None:
    s, w, latents = sample(n, other=other), weights(d=D if other else D_IN), DEAD[dead]
    found, _, residual = gradients(s, TopK(K), w, size=SIZE)
    add_auxk(found, s, residual, w, size=SIZE, dead=latents, work=ByRows())
    free = Weights(**{name: part.clone().requires_grad_() for name, part in w.named().items()})
    y_hat = rebuilt(top(pre(s, free), K).relu(), s, free)
    e_hat = top(pre(s, free)[:, latents.latent], min(latents.k, len(latents.latent))) @ free.W_dec[latents.latent]
    loss = squared(y_hat, s) + latents.weight * (e_hat - (s.y - y_hat).detach()).square().sum() / SIZE
    for part, wanted in zip(found.tensors(), torch.autograd.grad(loss, free.tensors()), strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-9, atol=1e-10)


# ---------------------------------------------------------------- codes


def test_rows_may_have_different_numbers_of_codes() -> None:
    active = Active.of_entries(torch.ones(4), torch.tensor([4, 9, 30, 4]), torch.tensor([1, 1, 1, 2]), 3)
    assert active.start.tolist() == [0, 0, 3]


def test_normalised_rows_have_norm_one_and_zero_stays_finite() -> None:
    rows = draw(6, D, seed=1) * 1e-3
    rows[2] = 0
    normalise(rows)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=torch.float64))
