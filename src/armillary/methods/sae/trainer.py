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
from torch.optim.adam import adam

from armillary.core import distributed
from armillary.methods.sae.curve import Sums
from armillary.methods.sae.step import Active, Dead, Selection, Weights, gradients, normalise, project_off

#: Norm of a row of the encoder at the start, for decoder rows of norm 1: the norm torch's linear layer starts with.
ENCODER_NORM = 1 / math.sqrt(3)

#: Share of the newest batch in the running mean of the threshold, once there are a hundred.
THRESHOLD_RATE = 0.01


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
        self.threshold = 0.0  # running mean of the smallest code that was kept
        self.silent = torch.zeros(len(weights.b_enc), dtype=torch.int64, device=weights.b_enc.device)  # [M] rows since each latent fired
        self._mean = [torch.zeros_like(part) for part in weights.tensors()]  # Adam's first and second moments
        self._square = [torch.zeros_like(part) for part in weights.tensors()]

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
        if active.cut is not None:
            self.threshold += (active.cut - self.threshold) * max(1 / (self.n_steps + 1), THRESHOLD_RATE)
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
        self._adam(gradient)
        normalise(self.weights.W_dec)

    def _adam(self, gradient: Weights) -> None:
        """Kingma & Ba 2015, in one pass over the parameters.

        This is the function behind torch.optim.Adam, whose class would load torch's compiler, a second and 70 MB, at its first step.
        """
        parameters = list(self.weights.tensors())
        device = parameters[0].device
        adam(
            parameters,
            list(gradient.tensors()),
            self._mean,
            self._square,
            max_exp_avg_sqs=[],
            state_steps=[torch.tensor(float(self.n_steps), device=device) for _ in parameters],
            fused=device.type in ("cpu", "cuda"),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.recipe.lr_at(self.n_steps),
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "weights": list(self.weights.tensors()),
            "mean": self._mean,
            "square": self._square,
            "silent": self.silent,
            "n_steps": self.n_steps,
            "threshold": self.threshold,
        }

    @staticmethod
    def resume(state: Mapping[str, Any], selection: Selection, recipe: Recipe, device: torch.device | None = None) -> Trainer:
        """A trainer that goes on from a state to the same bits, where the state's tensors are or on `device`."""
        trainer = Trainer(Weights(*(part.to(device) for part in state["weights"])), selection, recipe)
        trainer._mean, trainer._square = ([part.to(device) for part in state[name]] for name in ("mean", "square"))
        trainer.silent, trainer.n_steps, trainer.threshold = state["silent"].to(device), state["n_steps"], state["threshold"]
        return trainer

    def to(self, device: torch.device) -> Trainer:
        """The same trainer on another device."""
        return Trainer.resume(self.state(), self.selection, self.recipe, device)


def _fired(active: Active, m: int) -> Tensor:
    """[M] in how many rows each latent is not zero."""
    return torch.bincount(active.latent, weights=(active.value != 0).double(), minlength=m)


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
