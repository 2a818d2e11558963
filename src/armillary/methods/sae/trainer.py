"""Trainer: parameters, Adam and dead latents of a sparse autoencoder, one batch at a time, the same on one rank or several.

Letters: n rows of this rank, D width, M latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from armillary.core import distributed
from armillary.methods.sae.auxk import Dead, add_auxk
from armillary.methods.sae.curve import Sums
from armillary.methods.sae.decoder import Decoder, Parameters
from armillary.methods.sae.ranks import COMMON, ByRows, Work
from armillary.methods.sae.resample import replant
from armillary.methods.sae.step import Active, Objective, Sample, gradients
from armillary.methods.sae.weights import Weights

#: Share of the newest batch in the running mean of the threshold, once there are ten.
THRESHOLD_RATE = 0.1


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
        resample_every: steps between the moments at which dead latents are given new weights; None for never.
        seed: of that draw.
        d: width of what is rebuilt, and so its mean square in the coordinates of training.
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
    resample_every: int | None = None
    seed: int = 0
    d: int = 1

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..., n_steps - 1."""
        rise = (step + 1) / (self.n_warmup + 1)
        fall = (self.n_steps - step) / (self.n_decay + 1)
        return self.lr * min(1.0, rise, fall)

    def resamples_after(self, step: int) -> bool:
        """Whether dead latents are given new weights after `step` steps; never in the last tenth, which would not train them."""
        return self.resample_every is not None and step % self.resample_every == 0 and step <= 0.9 * self.n_steps


@dataclass
class _Learnt:
    """What some rows of a batch say.

    Args:
        gradient: of the weights.
        sums: for the curve.
        fired: [M] in how many rows each latent is not zero.
        residual: [N, D] y_hat - y.
        cut: the smallest code that was kept, where one bound serves all rows.
    """

    gradient: Weights
    sums: Sums
    fired: Tensor
    residual: Tensor
    cut: float | None

    def add_(self, other: _Learnt) -> None:
        """Take in further rows."""
        self.gradient.add_(other.gradient)
        self.sums, self.fired = self.sums + other.sums, self.fired + other.fired
        self.residual = torch.cat([self.residual, other.residual])


class Trainer:
    """Training in progress.

    Args:
        parameters: where to begin; updated in place.
        objective: the variant.
        decoder: what the parameters of the decoder are.
        recipe: the numbers of the run.
    """

    def __init__(self, parameters: Parameters, objective: Objective, decoder: Decoder, recipe: Recipe) -> None:
        self.parameters, self.objective, self.decoder, self.recipe = parameters, objective, decoder, recipe
        self.n_steps = 0
        self.threshold = 0.0  # running mean of the smallest code that was kept
        b_enc = parameters["b_enc"]
        self.silent = torch.zeros(len(b_enc), dtype=torch.int64, device=b_enc.device)  # [M] rows since each latent fired
        self._mean = {name: torch.zeros_like(part) for name, part in parameters.items()}  # Adam's first and second moments
        self._square = {name: torch.zeros_like(part) for name, part in parameters.items()}

    @property
    def weights(self) -> Weights:
        """The weights as they are now."""
        return self.decoder.weights(self.parameters)

    @property
    def dead(self) -> Tensor:
        """[M] bool: latents that have not fired for `dead_after` rows."""
        return self.silent > self.recipe.dead_after

    def dead_share(self) -> float:
        """The share of dead latents among those of all ranks."""
        count = torch.stack([self.dead.sum(), torch.tensor(len(self.silent), device=self.silent.device)])
        dead, m = self.objective.work.total(count).tolist()
        return float(dead / m)

    def step(self, sample: Sample) -> Sums:
        """One update from this rank's share of a batch, which may have no rows."""
        weights, recipe = self.weights, self.recipe
        work = self.objective.work
        learnt = self._learn(sample, weights)
        gradient, sums, fired = learnt.gradient, learnt.sums, learnt.fired
        self._add_auxk(gradient, sample, learnt.residual, weights)
        work.sum_gradient(gradient)
        distributed.sum_(sums.values)
        if isinstance(work, ByRows):
            distributed.sum_(fired)
        self._descend(weights, gradient)
        if learnt.cut is not None:
            self.threshold += (learnt.cut - self.threshold) * max(1 / (self.n_steps + 1), THRESHOLD_RATE)
        self.silent = (self.silent + sums.values[0].long()).masked_fill_(fired > 0, 0)
        self.n_steps += 1
        self.objective.steer(sums.l0, self.n_steps / recipe.n_steps)
        if recipe.resamples_after(self.n_steps):
            self._resample(sample, learnt.residual)
        return sums

    def _learn(self, sample: Sample, weights: Weights) -> _Learnt:
        """What the rows of a sample say, one part after the other where all at once would need much memory."""
        first, *others = sample.parts(self.objective.n_parts(len(sample.x)))
        learnt = self._learn_part(first, weights)
        for part in others:
            learnt.add_(self._learn_part(part, weights))
        return learnt

    def _learn_part(self, sample: Sample, weights: Weights) -> _Learnt:
        gradient, active, residual = gradients(sample, self.objective, weights, size=self.recipe.batch_size)
        sums = Sums.of(sample.y, residual, active, counts_rows=self.objective.work.counts_rows)
        return _Learnt(gradient, sums, _fired(active, len(weights.b_enc)), residual, active.cut)

    def _add_auxk(self, gradient: Weights, sample: Sample, residual: Tensor, weights: Weights) -> None:
        latent, work = self.dead.nonzero().flatten() if self.recipe.auxk else self.silent[:0], self.objective.work
        if int(work.total(torch.tensor(len(latent), device=latent.device))):
            dead = Dead(latent, self.recipe.auxk, self.recipe.auxk_weight)
            add_auxk(gradient, sample, residual, weights, size=self.recipe.batch_size, dead=dead, work=work)

    def _descend(self, weights: Weights, gradient: Weights) -> None:
        """Adam on the parameters, which are then brought back to where they may be."""
        parts = self.decoder.gradient(self.parameters, weights, gradient)
        if self.recipe.clip is not None:
            _clip(parts, self.recipe.clip, self.objective.work)
        self._adam(parts)
        self.decoder.settle(self.parameters)
        self.objective.settle(self.parameters)

    def _adam(self, gradient: Parameters) -> None:
        """Kingma & Ba 2015, in one pass over the parameters.

        This is the function behind torch.optim.Adam, whose class would load torch's compiler, a second and 70 MB, at its first step.
        """
        parameters = list(self.parameters.values())
        device = parameters[0].device
        adam(
            parameters,
            [gradient[name] for name in self.parameters],
            list(self._mean.values()),
            list(self._square.values()),
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

    def _resample(self, sample: Sample, residual: Tensor) -> None:
        latent = self.dead.nonzero().flatten()
        if len(latent):
            replant(self.parameters, self.decoder, latent, sample, residual, seed=(self.recipe.seed, self.n_steps))
            for name in self.parameters.keys() - set(COMMON):  # those that have a row per latent
                self._mean[name][latent] = 0
                self._square[name][latent] = 0
            self.silent[latent] = 0

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "parameters": self.parameters,
            "mean": self._mean,
            "square": self._square,
            "silent": self.silent,
            "n_steps": self.n_steps,
            "threshold": self.threshold,
            "objective": self.objective.state(),
        }

    @staticmethod
    def resume(
        state: Mapping[str, Any], objective: Objective, decoder: Decoder, recipe: Recipe, device: torch.device | None = None
    ) -> Trainer:
        """A trainer that goes on from a state to the same bits, where the state's tensors are or on `device`."""
        trainer = Trainer(_moved(state["parameters"], device), objective, decoder, recipe)
        trainer._mean, trainer._square = _moved(state["mean"], device), _moved(state["square"], device)
        trainer.silent, trainer.n_steps, trainer.threshold = state["silent"].to(device), state["n_steps"], state["threshold"]
        objective.load(state["objective"])
        return trainer


def _moved(tensors: Mapping[str, Tensor], device: torch.device | None) -> Parameters:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _fired(active: Active, m: int) -> Tensor:
    """[M] in how many rows each latent is not zero."""
    # Of no codes at all torch counts in integers, which another rank could not add to its own.
    return torch.bincount(active.latent, weights=(active.value != 0).double(), minlength=m).double()


def _clip(gradient: Parameters, largest: float, work: Work) -> None:
    """Shrink the gradient so that its norm over all parameters, of all ranks' latents, is at most `largest`, in place."""
    squares = {name: part.norm().square() for name, part in gradient.items()}
    of_latents = torch.stack([square for name, square in squares.items() if name not in COMMON]).sum()
    norm = (work.total(of_latents) + sum(square for name, square in squares.items() if name in COMMON)).sqrt()
    factor = (largest / (norm + 1e-6)).clamp_max(1.0)
    for part in gradient.values():
        part.mul_(factor)
