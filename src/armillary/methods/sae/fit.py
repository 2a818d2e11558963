"""SAE: the settings every sparse autoencoder shares, and the fit in progress that the one loop drives.

Rows of one site make an autoencoder, `Targeted` rows a transcoder (with `skip` one that also passes its input on linearly), rows of
several sites or models side by side a crosscoder: that is a matter of the data, so every variant can be any of them.

Letters: N rows, D width, M latents.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from armillary.core import journal
from armillary.core.decomposition import Decomposition
from armillary.core.devices import device_of
from armillary.core.dictionary import Dictionary
from armillary.core.method import Consumer, Method, Pass, refuse_start
from armillary.core.rows import Batch, Rows, width
from armillary.core.targeted import Targeted
from armillary.errors import InputError, NonFiniteError
from armillary.methods.sae.curve import Curve
from armillary.methods.sae.decoder import Decoder, FreeRows, UnitRows
from armillary.methods.sae.encoders import SAEEncoder
from armillary.methods.sae.frame import Frame, Side
from armillary.methods.sae.ranks import ByLatents, Work
from armillary.methods.sae.step import Objective, Sample
from armillary.methods.sae.trainer import Recipe, Trainer
from armillary.methods.sae.weights import ENCODER_NORM, Weights, random_weights, unit_rows


class SAE(Method):
    """What every sparse autoencoder is told. Abstract; see `TopKSAE`."""

    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift"})
    takes_targets: ClassVar[bool] = True
    #: Whether training can begin from an earlier fit.
    can_go_on: ClassVar[bool] = True
    #: Whether codes are kept and atoms stretched when the coordinates of training are left; else atoms keep norm 1.
    keeps_codes: ClassVar[bool] = False
    #: Norms at which rows of the encoder and the decoder begin, where they are free.
    free_norms: ClassVar[tuple[float, float]] = (ENCODER_NORM, 1.0)

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
    decoder_norm: Literal["unit", "free"] = "unit"
    """Hold the atoms at norm 1 while training, or train their norms too and count a code by what it adds, norm included."""
    resample_every: int | None = Field(default=None, ge=1)
    """Steps after which dead latents are given the direction of a badly rebuilt row, again and again; by default never."""
    bf16: bool = False
    """Form pre-activations in bfloat16 and score in float32 what is found: faster on hardware that has it, and the same but for ties."""
    shard: bool = False
    """Share the latents among the ranks instead of the rows, for a dictionary too large for one device."""
    skip: bool = False
    """Also pass the input on through a linear map; for rows with a target only."""
    device: str | None = None
    """Where to train, for instance "cuda"; by default where the rows are."""

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if self.shard and self.resample_every is not None:
            raise ValueError("shard and resample_every do not go together; dead latents of a shared dictionary are revived by AuxK")
        return self

    @abstractmethod
    def objective(self, recipe: Recipe) -> Objective:
        """Which codes are active, and what is minimised, in a run of these numbers."""

    def decoder(self, y: Tensor, *, seed: int) -> Decoder:
        """How the decoder's rows are kept; `y` are this rank's rows [n, D] of the first batch, in the coordinates of training."""
        return UnitRows() if self.decoder_norm == "unit" else FreeRows()

    def decoder_of(self, state: Mapping[str, Any]) -> Decoder:
        """The decoder with this state."""
        return UnitRows() if self.decoder_norm == "unit" else FreeRows()

    def min_rows(self, d: int) -> int:
        return 1

    @final
    def consumer(self, data: Rows | Targeted, *, seed: int, start: Decomposition | None) -> Consumer:
        return SAEFit(self, data, seed=seed, start=start)

    @final
    def recipe(self, n_rows: int | None, d: int, *, seed: int = 0) -> Recipe:
        """The numbers of a run on `n_rows` rows (None: a stream of unknown length) of width `d`."""
        n_steps = self.n_steps or default_steps(n_rows, self.batch_size)
        rows_per_step = self.batch_size if n_rows is None else min(self.batch_size, n_rows)
        dead_after = self.dead_after_tokens or min(10_000_000, math.ceil(n_steps * rows_per_step / 20))
        return Recipe(
            n_steps=n_steps,
            batch_size=self.batch_size,
            d=d,
            lr=self.lr or default_lr(self.n_features, rows_per_step, n_steps),
            n_warmup=round(self.warmup * n_steps),
            n_decay=round(self.decay * n_steps),
            dead_after=dead_after,
            auxk=max(1, d // 2) if self.auxk is None else self.auxk,
            auxk_weight=self.auxk_weight,
            clip=self.clip,
            resample_every=self.resample_every,
            seed=seed,
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
class Run:
    """What exists once the first batch was seen."""

    frame: Frame
    trainer: Trainer
    curve: Curve


@final
class SAEFit(Consumer):
    """A sparse autoencoder being fitted.

    Args:
        method: the settings.
        data: what it will be driven over; of `Targeted` rows only its own columns, the inputs before the targets.
        seed: of the weights and of the order of rows.
        start: a fit to go on from.
    """

    merges = False  # gradients are summed at every step, so all ranks hold the same weights, or their own share

    def __init__(self, method: SAE, data: Rows | Targeted, *, seed: int, start: Decomposition | None) -> None:
        self.method, self.seed = method, seed
        if method.device is not None:
            device_of(method.device)
        self.inputs, self.targets = (data.input_layout, data.target_layout) if isinstance(data, Targeted) else (data.layout, data.layout)
        self.is_own = not isinstance(data, Targeted) or data.is_own
        if method.skip and self.is_own:
            raise InputError(f"option 'skip' of {type(method).__name__} needs rows with a target; see Targeted")
        self.d_in, self.d = width(self.inputs), width(self.targets)
        n_rows = data.rows.n_rows if isinstance(data, Targeted) else data.n_rows
        self.recipe = method.recipe(n_rows, self.d, seed=seed)
        self._start = None if start is None else self._checked(start)
        self._run: Run | None = None
        self._epoch, self._before_epoch = 0, 0  # passes finished, and the steps made in them

    def _checked(self, start: Decomposition) -> Decomposition:
        """A fit to go on from.

        Raises:
            InputError: it is not an autoencoder of the same widths, or the method cannot go on from one.
        """
        m, encoder = self.method.n_features, start.encoder
        if not self.method.can_go_on:
            refuse_start(self.method, start)
        if not isinstance(encoder, SAEEncoder):
            raise InputError(f"cannot go on from {start!r}: its encoder is a {type(encoder).__name__}, not that of a sparse autoencoder")
        if (encoder.W_enc.shape, start.dictionary.atoms.shape) != ((m, self.d_in), (m, self.d)):
            widths = f"{self.d_in}" if self.is_own else f"{self.d_in} to {self.d}"
            raise InputError(f"cannot go on from {start!r}: a sparse autoencoder with {m} features on rows of width {widths} is needed")
        if start.dictionary.base_rule not in ("constant", *(["skip"] if self.method.skip else [])):
            raise InputError(f"cannot go on from {start!r}: its base is of the kind {start.dictionary.base_rule}; skip=True may help")
        # A threshold is how a batch-wise or k-sparse autoencoder is read, not how it is trained; nothing else may be lost.
        known = {*self.method.objective(self.recipe).own, *(["threshold"] if isinstance(self.method, KSparseSAE) else [])}
        lost = [name for name, tensor in encoder.own().items() if name not in known and bool(tensor.any())]
        if lost:
            raise InputError(f"cannot go on from {start!r}: {type(self.method).__name__} has no place for its {' and '.join(lost)}")
        return start

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
        run = self._run = self._begin(x) if self._run is None else self._moved(self._run, x.device)
        sums = run.trainer.step(self._sample(run, x))
        point = run.curve.add(run.trainer.n_steps, sums, run.trainer.dead_share)
        if point is not None:
            self._refuse_divergence(point)
            journal.record(self.label, run.trainer.n_steps, point)

    def _refuse_divergence(self, point: Mapping[str, float]) -> None:
        """Stop at a loss that is no number, before a checkpoint could be replaced by it.

        Raises:
            NonFiniteError: it is.
        """
        if not math.isfinite(point["loss"]):
            lr, name = self.recipe.lr, type(self.method).__name__
            raise NonFiniteError(
                f"training of {name} diverged: its loss is {point['loss']} at step {point['step']}; nothing after the last checkpoint is "
                f"kept. Try lr={lr / 4:.1g} (it was {lr:.2g}), or clip=1"
            )

    def _sample(self, run: Run, x: Tensor) -> Sample:
        """The rows this rank works on, in the coordinates of training."""
        return _sample(run.frame, run.trainer.objective.work, x, self.d_in)

    def _begin(self, x: Tensor) -> Run:
        """Choose the coordinates by the first batch, and the weights in them."""
        read = Side.of(x[:, : self.d_in], [columns for _, columns in self.inputs])
        built = read if self.is_own else Side.of(x[:, self.d_in :], [columns for _, columns in self.targets])
        frame = Frame(read, built, keeps_codes=self.method.keeps_codes)
        objective = self._objective()
        sample = _sample(frame, objective.work, x, self.d_in)
        start = self._first_weights() if self._start is None else self._gone_on(self._start, frame, objective)
        weights = objective.work.share(start).to(x.device, torch.float32, copy=True)
        decoder = self.method.decoder(sample.y, seed=self.seed)
        parameters = decoder.begin(objective.begin(weights, sample.centred(weights), is_fresh=self._start is None))
        return Run(frame, Trainer(parameters, objective, decoder, self.recipe), Curve(self.recipe.n_steps, frame.size))

    def _gone_on(self, start: Decomposition, frame: Frame, objective: Objective) -> Weights:
        """The weights of an earlier fit, in these coordinates and with atoms of norm 1."""
        raw, center = _weights_of(start, objective)
        device = frame.read.mean.device
        weights = unit_rows(frame.weights_in(raw.to(device, torch.float32), center.to(device, torch.float32)))
        if self.method.skip and weights.W_skip is None:
            return weights.given({"W_skip": torch.zeros(self.d_in, self.d, device=device)})
        return weights

    def _objective(self) -> Objective:
        """The variant, with this rank's share of the work."""
        objective = self.method.objective(self.recipe)
        objective.bf16 = self.method.bf16
        if self.method.shard:
            objective.work = ByLatents(self.method.n_features)
        return objective

    def _first_weights(self) -> Weights:
        norms = self.method.free_norms if self.method.decoder_norm == "free" else (ENCODER_NORM, 1.0)
        weights = random_weights(self.method.n_features, self.d_in, None if self.is_own else self.d, seed=self.seed, norms=norms)
        return weights.given({"W_skip": torch.zeros(self.d_in, self.d)}) if self.method.skip else weights

    def _moved(self, run: Run, device: torch.device) -> Run:
        """The same run on another device: a checkpoint is read on the CPU before it is known where the rows are."""
        if run.frame.read.mean.device == device:
            return run
        frame, decoder = run.frame.to(device), run.trainer.decoder.to(device)
        trainer = Trainer.resume(run.trainer.state(), run.trainer.objective, decoder, self.recipe, device)
        return Run(frame, trainer, run.curve)

    def end_pass(self) -> None:
        self._epoch, self._before_epoch = self._epoch + 1, self.n_steps

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        raise NotImplementedError("ranks work together in every batch")

    def state(self) -> Mapping[str, Any]:
        if self._run is None:
            return {}
        frame, trainer, curve = self._run.frame, self._run.trainer, self._run.curve
        if not bool(torch.isfinite(trainer.parameters["b_dec"]).all()):
            self._refuse_divergence({"loss": math.nan, "step": trainer.n_steps})
        return {
            "epoch": self._epoch,
            "before_epoch": self._before_epoch,
            "frame": frame.state(),
            "decoder": trainer.decoder.state(),
            "trainer": trainer.state(),
            "curve": curve.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        self._epoch, self._before_epoch = state["epoch"], state["before_epoch"]
        frame = Frame.of_state(state["frame"])
        curve = Curve(self.recipe.n_steps, frame.size)
        curve.load(state["curve"])
        decoder = self.method.decoder_of(state["decoder"])
        self._run = Run(frame, Trainer.resume(state["trainer"], self._objective(), decoder, self.recipe), curve)

    def finish(self) -> Decomposition:
        assert self._run is not None  # the loop refuses to read no rows at all
        trainer, points = self._run.trainer, self._run.curve.points
        whole = trainer.objective.work.whole(trainer.weights)
        frame = self._run.frame.to(whole.W_enc.device)
        weights, center = frame.weights_out(trainer.objective.outer(whole))
        encoder = trainer.objective.encoder(weights, center, trainer.threshold / frame.unit)
        record = {"final": points[-1], "curve": points, **trainer.objective.record()}
        if len(self.targets) > 1:
            first = [0, *itertools.accumulate(columns for _, columns in self.targets)][:-1]
            record["scales"] = frame.built.scale[first].tolist()
        return Decomposition(_dictionary(weights), encoder, self.inputs, self.targets, provenance=record)

    def describe(self) -> str:
        return "" if self._run is None else str(self._run.curve)


def _sample(frame: Frame, work: Work, x: Tensor, d_in: int) -> Sample:
    """Rows in the coordinates of training, from this rank's share [n, D_in] or [n, D_in + D] of a batch."""
    read = work.rows(frame.read.into(x[:, :d_in]))
    return Sample(read, read if frame.is_own else work.rows(frame.built.into(x[:, d_in:])))


def _dictionary(weights: Weights) -> Dictionary:
    """Atoms over the bias, and over the skip connection where there is one."""
    dictionary = Dictionary.of_directions(weights.W_dec, weights.b_dec)
    if weights.W_skip is None:
        return dictionary
    return replace(dictionary, base=torch.cat([weights.b_dec[None], weights.W_skip]), base_rule="skip")


def _weights_of(fit: Decomposition, objective: Objective) -> tuple[Weights, Tensor]:
    """The weights an autoencoder holds, those that the objective has a use for, and what its encoder subtracts."""
    encoder, base = fit.encoder, fit.dictionary.base
    assert isinstance(encoder, SAEEncoder)
    own = {name: tensor for name, tensor in encoder.own().items() if name in objective.own}
    skip = {"W_skip": base[1:]} if fit.dictionary.base_rule == "skip" else {}
    b_dec = base[0] if len(base) else fit.dictionary.atoms.new_zeros(fit.dictionary.d)
    return Weights(encoder.W_enc, encoder.b_enc, fit.dictionary.atoms, b_dec, **own, **skip), encoder.center
