"""SAE: the settings every sparse autoencoder shares, and the fit in progress that the one loop drives.

Rows are centred by the first batch's mean and scaled to a mean square of 1 per dimension before they are trained on; both are folded
into the weights at the end, so that the fit reads activations as they come.

Letters: N rows, D width, M latents.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from armillary.core import distributed
from armillary.core.decomposition import Decomposition
from armillary.core.devices import device_of
from armillary.core.dictionary import Dictionary
from armillary.core.method import Consumer, Method, Pass, one_to_one
from armillary.core.moments import Moments
from armillary.core.rows import Batch, Rows, width
from armillary.errors import InputError
from armillary.methods.sae.curve import Curve
from armillary.methods.sae.encoders import SAEEncoder
from armillary.methods.sae.step import Selection, Weights
from armillary.methods.sae.trainer import Recipe, Trainer, random_weights


class SAE(Method):
    """What every sparse autoencoder is told. Abstract; see `TopKSAE`."""

    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift"})

    n_features: int = Field(ge=1)
    """Latents: features of the dictionary."""
    n_steps: int | None = Field(default=None, ge=1)
    """Batches to train on; by default ten passes over the rows, but at least 1,000 and at most 20,000 steps."""
    batch_size: int = Field(default=4096, ge=1)
    """Rows per step, over all ranks."""
    lr: float | None = Field(default=None, gt=0)
    """Highest learning rate of Adam; by default chosen by n_features, batch_size and n_steps."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    dead_after_tokens: int | None = Field(default=None, ge=1)
    """Rows without firing after which a latent is dead; by default a twentieth of the rows trained on, at most 10 million."""
    auxk: int | None = Field(default=None, ge=0)
    """Dead latents per row that are trained on what is left unexplained; by default half the width, 0 for none."""
    auxk_weight: float = Field(default=1 / 32, ge=0)
    """Weight of that second loss."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; by default it is not clipped."""
    device: str | None = None
    """Where to train, for instance "cuda"; by default where the rows are."""

    @abstractmethod
    def selection(self) -> Selection:
        """Which codes are active."""

    def min_rows(self, d: int) -> int:
        return 1

    @final
    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        return SAEFit(self, data, seed=seed, start=start)

    @final
    def recipe(self, n_rows: int | None, d: int) -> Recipe:
        """The numbers of a run on `n_rows` rows (None: a stream of unknown length) of width `d`."""
        n_steps = self.n_steps or default_steps(n_rows, self.batch_size)
        rows_per_step = self.batch_size if n_rows is None else min(self.batch_size, n_rows)
        dead_after = self.dead_after_tokens or min(10_000_000, math.ceil(n_steps * rows_per_step / 20))
        return Recipe(
            n_steps=n_steps,
            batch_size=self.batch_size,
            lr=self.lr or default_lr(self.n_features, rows_per_step, n_steps),
            n_warmup=round(self.warmup * n_steps),
            n_decay=round(self.decay * n_steps),
            dead_after=dead_after,
            auxk=max(1, d // 2) if self.auxk is None else self.auxk,
            auxk_weight=self.auxk_weight,
            clip=self.clip,
        )


class KSparseSAE(SAE):
    """An autoencoder whose number of active latents is told, not penalised. Abstract; see `TopKSAE`.

    Raises:
        InputError: k is above n_features.
    """

    k: int = Field(ge=1)
    """Latents that fire for each row (of BatchTopK: on average), at most n_features."""

    @field_validator("k")
    @classmethod
    def _fits(cls, k: int, info: ValidationInfo) -> int:
        n_features = info.data.get("n_features", k)
        if k > n_features:
            raise ValueError(f"must be at most n_features, {n_features}")
        return k


def default_steps(n_rows: int | None, batch_size: int) -> int:
    """Ten passes over the rows, but at least 1,000 and at most 20,000 steps; 5,000 for a stream of unknown length."""
    if n_rows is None:
        return 5_000
    return min(20_000, max(1_000, 10 * math.ceil(n_rows / batch_size)))


def default_lr(n_features: int, batch_size: int, n_steps: int) -> float:
    """Adam's learning rate: 2.8e-3 at 16,384 latents, batches of 2,048 and up to 1,000 steps.

    It falls with the width as 1 / sqrt(M) (Gao et al. 2024, section A.3), grows with the batch as sqrt(B), and falls with the length of
    long runs, to near the usual 2e-4 after 200,000 steps. The constant is the best of sweeps on a small model's residual stream.
    """
    width, batch, length = 2**14 / n_features, batch_size / 2048, min(1.0, 1_000 / n_steps)
    return min(2e-2, 2.8e-3 * math.sqrt(width * batch * length))


@dataclass(frozen=True)
class Frame:
    """The coordinates of training: z = (x - mean) * scale.

    Args:
        mean: [D].
        scale: one number.
    """

    mean: Tensor
    scale: float

    @staticmethod
    def of(x: Tensor) -> Frame:
        """From the first batch of all ranks; constant rows are not scaled."""
        moments = reduce(add, distributed.gather(Moments.of(x)))
        mean_square = moments.total / (max(1, moments.n) * x.shape[1])
        scale = 1 / math.sqrt(mean_square) if mean_square > 0 else 1.0
        return Frame(moments.mean.float().to(x.device), scale)

    def into(self, x: Tensor) -> Tensor:
        """[n, D] float32 rows in these coordinates."""
        return (x.float() - self.mean).mul_(self.scale)

    def weights_in(self, raw: Weights) -> Weights:
        """Weights that do in these coordinates what `raw` do outside; codes grow by `scale`, which a top-k does not mind."""
        return Weights(raw.W_enc, raw.b_enc * self.scale, raw.W_dec, (raw.b_dec - self.mean) * self.scale)

    def weights_out(self, inner: Weights) -> Weights:
        """The inverse of `weights_in`."""
        return Weights(inner.W_enc, inner.b_enc / self.scale, inner.W_dec, self.mean + inner.b_dec / self.scale)


@dataclass(frozen=True)
class Run:
    """What exists once the first batch was seen."""

    frame: Frame
    trainer: Trainer
    curve: Curve

    def to(self, device: torch.device) -> Run:
        """The same run on another device: a checkpoint is read on the CPU before it is known where the rows are."""
        if self.frame.mean.device == device:
            return self
        frame = Frame(self.frame.mean.to(device), self.frame.scale)
        return Run(frame, self.trainer.to(device), self.curve)


@final
class SAEFit(Consumer):
    """A sparse autoencoder being fitted.

    Args:
        method: the settings.
        rows: what it will be driven over.
        seed: of the weights and of the order of rows.
        start: a fit to go on from.
    """

    def __init__(self, method: SAE, rows: Rows, *, seed: int, start: Decomposition | None) -> None:
        self.method, self.layout, self.seed = method, rows.layout, seed
        if method.device is not None:
            device_of(method.device)
        self.d = width(rows.layout)
        self.recipe = method.recipe(rows.n_rows, self.d)
        self._start = None if start is None else _weights_of(start, method.n_features, self.d)
        self._run: Run | None = None
        self._epoch, self._before_epoch = 0, 0  # passes finished, and the steps made in them

    @property
    def n_steps(self) -> int:
        """Steps made so far."""
        return 0 if self._run is None else self._run.trainer.n_steps

    def next_pass(self) -> Pass | None:
        if self.n_steps >= self.recipe.n_steps:
            return None
        return Pass(self.method.batch_size, self.seed, self._epoch, n_batches=self.recipe.n_steps - self._before_epoch)

    def update(self, batch: Batch) -> None:
        x = batch.x.to(self.method.device)
        run = self._run = self._begin(x) if self._run is None else self._run.to(x.device)
        sums = run.trainer.step(run.frame.into(x))
        run.curve.add(run.trainer.n_steps, sums, run.trainer.dead)

    def _begin(self, x: Tensor) -> Run:
        """Choose the coordinates by the first batch, and the weights in them."""
        frame = Frame.of(x)
        start = random_weights(self.method.n_features, self.d, seed=self.seed) if self._start is None else frame.weights_in(self._start)
        weights = Weights(*(part.to(x.device, torch.float32, copy=True) for part in start.tensors()))
        return Run(frame, Trainer(weights, self.method.selection(), self.recipe), Curve(self.recipe.n_steps, frame.scale))

    def end_pass(self) -> None:
        self._epoch, self._before_epoch = self._epoch + 1, self.n_steps

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Nothing to do: gradients are summed at every step, so all ranks hold the same weights."""

    def state(self) -> Mapping[str, Any]:
        if self._run is None:
            return {}
        frame, trainer, curve = self._run.frame, self._run.trainer, self._run.curve
        return {
            "epoch": self._epoch,
            "before_epoch": self._before_epoch,
            "frame": {"mean": frame.mean, "scale": frame.scale},
            "trainer": trainer.state(),
            "curve": curve.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        self._epoch, self._before_epoch = state["epoch"], state["before_epoch"]
        frame = Frame(state["frame"]["mean"], state["frame"]["scale"])
        curve = Curve(self.recipe.n_steps, frame.scale)
        curve.load(state["curve"])
        self._run = Run(frame, Trainer.resume(state["trainer"], self.method.selection(), self.recipe), curve)

    def finish(self) -> Decomposition:
        assert self._run is not None  # the loop refuses to read no rows at all
        weights = self._run.frame.weights_out(self._run.trainer.weights)
        points = self._run.curve.points
        record = {"final": points[-1], "curve": points}
        dictionary = Dictionary.of_directions(weights.W_dec, weights.b_dec)
        encoder = self.method.selection().encoder(weights, self._run.trainer.threshold / self._run.frame.scale)
        return Decomposition(dictionary, encoder, **one_to_one(self.layout), provenance=record)

    def describe(self) -> str:
        return "" if self._run is None else str(self._run.curve)


def _weights_of(fit: Decomposition, m: int, d: int) -> Weights:
    """The weights a fit holds.

    Raises:
        InputError: it is not an autoencoder of M = `m` latents on rows of width `d`.
    """
    encoder = fit.encoder
    if not isinstance(encoder, SAEEncoder) or tuple(encoder.W_enc.shape) != (m, d):
        raise InputError(f"cannot go on from {fit!r}: a sparse autoencoder with {m} features on rows of width {d} is needed")
    return Weights(encoder.W_enc, encoder.b_enc, fit.dictionary.atoms, encoder.center)
