"""Trainer: weights, Adam and dead latents of a sparse autoencoder, one batch at a time, the same on one rank or several.

Letters: n rows of this rank, D width, M latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.methods.sae.curve import Sums
from armillary.methods.sae.step import Active, Dead, Selection, Weights, gradients, normalise, project_off

#: Norm of a row of the encoder at the start, for decoder rows of norm 1: the norm torch's linear layer starts with.
ENCODER_NORM = 1 / math.sqrt(3)


@dataclass(frozen=True)
class Recipe:
    """The numbers of one run, all decided.

    Args:
        n_steps: batches to train on.
        batch_size: rows in a full batch over all ranks.
        lr: Adam's highest learning rate.
        n_warmup, n_decay: steps of linear rise at the beginning and of linear fall to zero at the end.
        dead_after: rows without firing after which a latent counts as dead.
        auxk: dead latents kept per row by AuxK; 0 switches it off.
        auxk_weight: its coefficient.
        clip: largest norm of the gradient, or None.
    """

    n_steps: int
    batch_size: int
    lr: float
    n_warmup: int = 0
    n_decay: int = 0
    dead_after: int = 10_000_000
    auxk: int = 0
    auxk_weight: float = 1 / 32
    clip: float | None = None

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..., n_steps - 1."""
        rise = (step + 1) / (self.n_warmup + 1)
        fall = (self.n_steps - step) / (self.n_decay + 1)
        return self.lr * min(1.0, rise, fall)


class Trainer:
    """Training in progress.

    Args:
        weights: where to begin; updated in place.
        selection: which codes are active.
        recipe: the numbers of the run.
    """

    def __init__(self, weights: Weights, selection: Selection, recipe: Recipe) -> None:
        self.weights, self.selection, self.recipe = weights, selection, recipe
        self.n_steps = 0
        self.silent = torch.zeros(len(weights.b_enc), dtype=torch.int64, device=weights.b_enc.device)  # [M] rows since each latent fired
        fused = weights.b_enc.device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam(weights.tensors(), lr=recipe.lr, fused=fused)

    @property
    def dead(self) -> Tensor:
        """[M] bool: latents that have not fired for `dead_after` rows."""
        return self.silent > self.recipe.dead_after

    def step(self, x: Tensor) -> Sums:
        """One update from this rank's rows [n, D] of a batch; n may be 0."""
        weights, recipe = self.weights, self.recipe
        c = x - weights.b_dec  # [n, D]
        active = self.selection.active(c, weights)
        gradient, residual = gradients(c, active, weights, size=recipe.batch_size, dead=self._to_revive())
        sums, fired = Sums.of(x, residual, active), _fired(active, len(weights.b_enc))
        distributed.sum_(*gradient.tensors(), sums.values, fired)
        self._descend(gradient)
        self.silent = (self.silent + sums.values[0].long()).masked_fill_(fired > 0, 0)
        self.n_steps += 1
        return sums

    def _to_revive(self) -> Dead | None:
        if not self.recipe.auxk:
            return None
        latent = self.dead.nonzero().flatten()
        return Dead(latent, self.recipe.auxk, self.recipe.auxk_weight) if len(latent) else None

    def _descend(self, gradient: Weights) -> None:
        """Adam on gradients that leave the norm of the decoder's rows alone, then these norms set to 1 again."""
        project_off(gradient.W_dec, self.weights.W_dec)
        if self.recipe.clip is not None:
            _clip(gradient, self.recipe.clip)
        for group in self._adam.param_groups:
            group["lr"] = self.recipe.lr_at(self.n_steps)
        for parameter, part in zip(self.weights.tensors(), gradient.tensors(), strict=True):
            parameter.grad = part
        self._adam.step()
        self._adam.zero_grad()
        normalise(self.weights.W_dec)

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on, from the first step on."""
        moments = [self._adam.state[parameter] for parameter in self.weights.tensors()]
        return {
            "weights": list(self.weights.tensors()),
            "mean": [moment["exp_avg"] for moment in moments],
            "square": [moment["exp_avg_sq"] for moment in moments],
            "silent": self.silent,
            "n_steps": self.n_steps,
        }

    @staticmethod
    def resume(state: Mapping[str, Any], selection: Selection, recipe: Recipe, device: torch.device | None = None) -> Trainer:
        """A trainer that goes on from a state to the same bits, where the state's tensors are or on `device`."""
        trainer = Trainer(Weights(*(part.to(device) for part in state["weights"])), selection, recipe)
        trainer.silent, trainer.n_steps = state["silent"].to(device), state["n_steps"]
        for parameter, mean, square in zip(trainer.weights.tensors(), state["mean"], state["square"], strict=True):
            step = torch.tensor(float(trainer.n_steps), device=device)
            trainer._adam.state[parameter] = {"step": step, "exp_avg": mean.to(device), "exp_avg_sq": square.to(device)}
        return trainer

    def to(self, device: torch.device) -> Trainer:
        """The same trainer on another device."""
        return Trainer.resume(self.state(), self.selection, self.recipe, device)


def _fired(active: Active, m: int) -> Tensor:
    """[M] in how many rows each latent is above zero."""
    return torch.bincount(active.latent, weights=(active.value > 0).double(), minlength=m)


def _clip(gradient: Weights, largest: float) -> None:
    """Shrink the gradient so that its norm over all parameters is at most `largest`, in place."""
    norm = torch.stack([part.norm() for part in gradient.tensors()]).norm()
    factor = (largest / (norm + 1e-6)).clamp_max(1.0)
    for part in gradient.tensors():
        part.mul_(factor)


def random_weights(m: int, d: int, *, seed: int) -> Weights:
    """Decoder rows uniform on the sphere, the encoder their scaled copy, no biases; the same on every rank.

    Args:
        m: latents.
        d: width of a row.
        seed: of the draw.
    """
    W_dec = torch.randn(m, d, generator=torch.Generator().manual_seed(seed))  # [M, D]
    normalise(W_dec)
    return Weights(W_dec * ENCODER_NORM, torch.zeros(m), W_dec, torch.zeros(d))
