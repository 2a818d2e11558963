"""The closed-form step against autograd on the dense formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from armillary.methods.sae.step import Active, Dead, TopK, Weights, gradients, normalise, project_off

N, D, M, K = 23, 10, 40, 5


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights() -> Weights:
    W_dec = torch.nn.functional.normalize(draw(M, D, seed=1), dim=1)
    return Weights(0.7 * W_dec + 0.2 * draw(M, D, seed=2), 0.3 * draw(M, seed=3), W_dec, 0.2 * draw(D, seed=4))


def top(p: Tensor, k: int) -> Tensor:
    """The k largest of each row as a dense matrix that autograd follows."""
    value, index = p.topk(k, dim=1)
    return torch.zeros_like(p).scatter(1, index, value)


def dense_loss(x: Tensor, w: Weights, size: int, dead: Dead | None) -> Tensor:
    c = x - w.b_dec
    x_hat = top(c @ w.W_enc.T + w.b_enc, K).relu() @ w.W_dec + w.b_dec
    loss = (x_hat - x).square().sum() / size
    if dead is not None:
        e = (x - x_hat).detach()
        e_hat = top((c @ w.W_enc.T + w.b_enc)[:, dead.latent], min(dead.k, len(dead.latent))) @ w.W_dec[dead.latent]
        loss = loss + dead.weight * (e_hat - e).square().sum() / size
    return loss


def autograd(x: Tensor, w: Weights, size: int, dead: Dead | None) -> Weights:
    free = [part.clone().requires_grad_() for part in w.tensors()]
    return Weights(*torch.autograd.grad(dense_loss(x, Weights(*free), size, dead), free))


CASES = {
    "plain": None,
    "all dead latents": Dead(torch.arange(0, M, 3), k=100, weight=1 / 32),
    "top dead latents": Dead(torch.arange(0, M, 3), k=4, weight=0.5),
    "one dead latent": Dead(torch.tensor([7]), k=4, weight=1.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [N, 1])
def test_gradients_are_autograds(case: str, n: int) -> None:
    x, w, dead = draw(n, D, seed=0) + 0.5, weights(), CASES[case]
    c = x - w.b_dec
    found, residual = gradients(c, TopK(K).active(c, w), w, size=31, dead=dead)
    wanted = autograd(x, w, 31, dead)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-10, atol=1e-10, msg=name)
    torch.testing.assert_close(residual, top(c @ w.W_enc.T + w.b_enc, K).relu() @ w.W_dec - c, rtol=1e-10, atol=1e-12)


def test_some_codes_are_rectified_in_these_tests() -> None:
    """Or the mask of the rectifier would go unseen."""
    w = weights()
    codes = TopK(20).active(draw(N, D, seed=0), w)
    assert 0 < (codes.value == 0).sum() < codes.value.numel()
    c = draw(N, D, seed=0)
    found, _ = gradients(c, codes, w, size=1)
    free = [part.clone().requires_grad_() for part in w.tensors()]
    loss = (top(c @ free[0].T + free[1], 20).relu() @ free[2] - c).square().sum()
    wanted = torch.autograd.grad(loss, free[:3])
    for part, other in zip(found.tensors()[:3], wanted, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-10)


def test_rows_may_have_different_numbers_of_codes() -> None:
    """What a batch-wide selection will need: 0, 3 and 1 codes in three rows."""
    w, c = weights(), draw(3, D, seed=5)
    latent, row = torch.tensor([4, 9, 30, 4]), torch.tensor([1, 1, 1, 2])
    value = (c[row] * w.W_enc[latent]).sum(1) + w.b_enc[latent]
    w.b_enc[latent] += 5 - value.clamp_max(0)
    value = (c[row] * w.W_enc[latent]).sum(1) + w.b_enc[latent]
    found, residual = gradients(c, Active(value, latent, row, torch.tensor([0, 0, 3])), w, size=3)
    free = [part.clone().requires_grad_() for part in w.tensors()]
    codes = torch.zeros(3, M, dtype=torch.float64).index_put((row, latent), (c[row] * free[0][latent]).sum(1) + free[1][latent])
    loss = (codes @ free[2] - c).square().sum() / 3
    wanted = torch.autograd.grad(loss, free[:3])
    for part, other in zip(found.tensors()[:3], wanted, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(residual[0], -c[0])


def test_no_rows_send_no_gradient() -> None:
    w, c = weights(), draw(0, D, seed=0)
    found, residual = gradients(c, TopK(K).active(c, w), w, size=8, dead=CASES["top dead latents"])
    assert residual.shape == (0, D)
    assert all(not part.any() for part in found.tensors())


def test_projection_leaves_no_part_along_the_rows() -> None:
    rows, gradient = torch.nn.functional.normalize(draw(3000, D, seed=1), dim=1), draw(3000, D, seed=2)
    wanted = gradient - (gradient * rows).sum(1, keepdim=True) * rows
    project_off(gradient, rows)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)
    assert (gradient * rows).sum(1).abs().max() < 1e-12


def test_normalised_rows_have_norm_one_and_zero_stays_finite() -> None:
    rows = draw(6, D, seed=1) * 1e-3
    rows[2] = 0
    normalise(rows)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=torch.float64))
