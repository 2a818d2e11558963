"""Trainer: the same weights as a plain dense implementation, and dead latents that come back."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from armillary.methods.sae.decoder import UnitRows
from armillary.methods.sae.step import Sample
from armillary.methods.sae.topk import TopK
from armillary.methods.sae.trainer import Recipe, Trainer
from armillary.methods.sae.weights import Weights, random_weights

D, M, K, SIZE = 16, 96, 4, 64


def batches(n: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Sparse combinations of fixed directions, so that there is something to learn."""
    generator = torch.Generator().manual_seed(5)
    parts = torch.nn.functional.normalize(torch.randn(M, D, generator=generator, dtype=torch.float64), dim=1)
    for _ in range(n):
        codes = torch.rand(SIZE, M, generator=generator, dtype=torch.float64)
        yield ((codes * (codes > 0.95)) @ parts * 4).to(dtype)


def start(dtype: torch.dtype) -> Weights:
    return random_weights(M, D, seed=0).to(dtype=dtype)


def trainer_of(weights: Weights, k: int, recipe: Recipe) -> Trainer:
    return Trainer(weights.named(), TopK(k), UnitRows(), recipe)


class Reference:
    """The same training, dense and by autograd: unit-norm decoder, projected gradient, clipping, torch.optim.Adam."""

    def __init__(self, weights: Weights, recipe: Recipe) -> None:
        self.free = [part.clone().requires_grad_() for part in weights.tensors()]
        self.adam = torch.optim.Adam(self.free, lr=recipe.lr)
        self.recipe, self.silent = recipe, torch.zeros(M)

    def step(self, x: Tensor, lr: float) -> None:
        W_enc, b_enc, W_dec, b_dec = self.free
        pre = (x - b_dec) @ W_enc.T + b_enc
        value, index = pre.topk(K, dim=1)
        codes = torch.zeros_like(pre).scatter(1, index, value.relu())
        x_hat = codes @ W_dec + b_dec
        loss = (x_hat - x).square().sum() / self.recipe.batch_size
        dead = (self.silent > self.recipe.dead_after).nonzero().flatten()
        if self.recipe.auxk and len(dead):
            value, index = pre[:, dead].topk(min(self.recipe.auxk, len(dead)), dim=1)
            e_hat = torch.zeros(len(x), len(dead), dtype=x.dtype).scatter(1, index, value) @ W_dec[dead]
            loss = loss + self.recipe.auxk_weight * (e_hat - (x - x_hat).detach()).square().sum() / self.recipe.batch_size
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            if self.recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.free, self.recipe.clip)
            self.adam.param_groups[0]["lr"] = lr
            self.adam.step()
            W_dec /= W_dec.norm(dim=1, keepdim=True)
            self.silent += len(x)
            self.silent[(codes > 0).any(0)] = 0


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("settings", [{}, {"clip": 0.05}, {"auxk": 3, "dead_after": 60, "auxk_weight": 0.3}], ids=["plain", "clip", "auxk"])
def test_sixteen_steps_equal_a_dense_reference(dtype: torch.dtype, tolerance: float, settings: dict[str, float]) -> None:
    recipe = Recipe(n_steps=20, batch_size=SIZE, lr=3e-3, n_warmup=4, n_decay=6, **settings)  # type: ignore[arg-type]
    ours, reference = trainer_of(start(dtype), K, recipe), Reference(start(dtype), recipe)
    for i, x in enumerate(batches(16, dtype)):
        ours.step(Sample(x, x))
        reference.step(x, recipe.lr_at(i))
    assert torch.equal(ours.silent.to(torch.float32), reference.silent)
    assert not settings.get("auxk") or ours.dead.any()
    for found, wanted in zip(ours.weights.tensors(), reference.free, strict=True):
        assert (found - wanted).norm() < tolerance * wanted.norm()


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(n_steps=100, batch_size=1, lr=2.0, n_warmup=9, n_decay=49)
    rates = [recipe.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) and rates[50] == pytest.approx(2.0)
    assert rates[75] == pytest.approx(1.0) and rates[99] == pytest.approx(0.04)
    assert max(rates) == 2.0 and min(rates) > 0


def revived(**settings: int) -> tuple[int, float]:
    """Latents alive at the end, and the error, when 8 of 32 must explain 16 orthonormal parts until the others are revived.

    The 24 others start with negative codes on every row, so no code of theirs is ever selected.
    """
    generator = torch.Generator().manual_seed(1)
    parts = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    weights = random_weights(32, D, seed=0)
    weights.b_enc[8:] = -6.0
    recipe = Recipe(n_steps=400, batch_size=SIZE, lr=2e-2, n_decay=200, dead_after=10 * SIZE, **settings)
    trainer = trainer_of(weights, 2, recipe)
    for _ in range(400):
        chosen = torch.rand(SIZE, D, generator=generator).topk(2).indices
        x = torch.zeros(SIZE, D).scatter(1, chosen, 1 + torch.rand(SIZE, 2, generator=generator)) @ parts * 2
        assert trainer.n_steps or (x @ weights.W_enc.T + weights.b_enc)[:, 8:].max() < 0
        sums = trainer.step(Sample(x, x))
    return int((~trainer.dead).sum()), float(sums.values[1] / sums.values[2])


def test_auxk_revives_dead_latents() -> None:
    (alive, error), (alive_with, error_with) = revived(), revived(auxk=D // 2)
    assert alive <= 8, "without it they stay dead"
    assert alive_with >= 16
    assert error_with < error / 4


def test_resampling_revives_dead_latents() -> None:
    (alive, error), (alive_with, error_with) = revived(), revived(resample_every=50)
    assert alive <= 8 and alive_with >= 16
    assert error_with < error / 4


def test_nothing_is_resampled_at_the_very_end() -> None:
    recipe = Recipe(n_steps=100, batch_size=1, lr=1.0, resample_every=30)
    assert [step for step in range(1, 101) if recipe.resamples_after(step)] == [30, 60, 90]
    assert not any(Recipe(n_steps=100, batch_size=1, lr=1.0).resamples_after(step) for step in range(1, 101))


def test_the_state_holds_everything() -> None:
    recipe = Recipe(n_steps=20, batch_size=SIZE, lr=3e-3, n_warmup=4, dead_after=100, auxk=3)
    data = list(batches(12, torch.float32))
    whole = trainer_of(start(torch.float32), K, recipe)
    for x in data:
        whole.step(Sample(x, x))
    first = trainer_of(start(torch.float32), K, recipe)
    for x in data[:5]:
        first.step(Sample(x, x))
    second = Trainer.resume(first.state(), TopK(K), UnitRows(), recipe)
    for x in data[5:]:
        second.step(Sample(x, x))
    assert second.n_steps == whole.n_steps
    assert torch.equal(second.silent, whole.silent)
    for found, wanted in zip(second.weights.tensors(), whole.weights.tensors(), strict=True):
        assert torch.equal(found, wanted)


def test_the_start_is_a_scaled_copy() -> None:
    weights = random_weights(50, 8, seed=3)
    torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.ones(50))
    torch.testing.assert_close(weights.W_enc, weights.W_dec / math.sqrt(3))
    assert torch.equal(weights.W_dec, random_weights(50, 8, seed=3).W_dec)
    assert not torch.equal(weights.W_dec, random_weights(50, 8, seed=4).W_dec)
