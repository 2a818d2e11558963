"""Fit: a mixture in progress, driven by the one loop.

    sample      one pass in stored order: a sample of the rows, their mean and variances
                then, in memory: the start, EM and moves between regions
    stepwise    a pass in random order, where there are more rows: sums move toward those of every batch
    exact       passes whose sums are those of all rows, until one gains hardly anything
    adam        in place of all but the start: passes in random order, a gradient step for every batch

Rows are worked on less their mean and at a scale near 1, and the parameters carried back at the end.

Letters: n rows of a batch, D width, K regions, R rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.devices import device_of
from armillary.core.dictionary import Dictionary
from armillary.core.method import Consumer, Pass, one_to_one, require_rows
from armillary.core.rows import Batch, Layout, width
from armillary.core.summary import MomentSums, Reservoir
from armillary.errors import ArmillaryWarning, InputError
from armillary.methods.mfa.adam import Ascent
from armillary.methods.mfa.em import Shape, Sums, collect, maximise
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.gate import MANY, PROBED, Gate, gate_for, part_size
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.rotation import canonical
from armillary.methods.mfa.sharing import ALL, ByRegions, Work
from armillary.methods.mfa.solver import solve, sums_of
from armillary.methods.mfa.start import first_mixture, given_mixture

if TYPE_CHECKING:
    from armillary.methods.mfa.method import MFA

W = TypeVar("W")
Stage = Literal["sample", "stepwise", "adam", "exact", "done"]

#: Least variance of the noise, as a share of the median column's variance.
FLOOR = 1e-4
#: Step t of stepwise EM moves sums by (t + DELAY)^-DECAY of the way (Cappe and Moulines 2009).
DELAY, DECAY = 10, 0.6
#: Least deviation of rows whose variances float32 can still tell from 0.
SMALLEST = 1e-15
#: Batches after which a gate is made anew.
REFRESH = 16
#: Share of a batch in the running mean of Adam's log-likelihoods.
RECENT = 0.1
#: A fall of the log-likelihood below this share of it is rounding.
ROUNDING = 1e-6
#: Rows per region, and per number of its rank and centroid, below which a warning says that there are few.
FEW = 10


@final
class Fit(Consumer):
    """See the module.

    Args:
        method: the options.
        layout: of the rows.
        seed: of the sample, the start, the moves and the order.
        start: a fit with regions to begin from, or None.
    """

    def __init__(self, method: MFA, layout: Layout, seed: int, start: Decomposition | None) -> None:
        self.method, self.layout, self.seed, self.start = method, layout, seed, start
        self.device = torch.device("cpu")
        self.stage: Stage = "sample"
        self.epoch = 0  # passes of this stage
        self.work: Work = ByRegions(method.n_regions) if method.shard else ALL
        self.n_batch = method.n_in_batch(width(layout))
        self.sample = Reservoir(method.n_in_memory(width(layout)), seed)
        self.moments = MomentSums(width(layout), covariance=False)
        self.mean, self.scale, self.floor = torch.zeros(width(layout), dtype=torch.float64), 1.0, 0.0
        self.mixture: Mixture | None = None
        self.sums: Sums | None = None
        self.pending: Sums | None = None  # since the last step of stepwise EM
        self.n_pending = 0  # batches in them
        self.n_steps = 0  # of stepwise EM
        self.ascent: Ascent | None = None
        self.gate: Gate | None = None
        self.probe = torch.zeros(0, width(layout))  # rows that gates are tried on
        self.n_batches = 0  # of this pass
        self.trace: list[float] = []  # mean log-likelihood in the rows' own units: on the sample, then of every exact pass
        self.recent = 0.0  # running mean of the log-likelihoods of Adam's batches
        self.record: dict[str, Any] = {}

    @property
    def merges(self) -> bool:
        return self.stage == "sample"  # from there on ranks add up what they need themselves

    def next_pass(self) -> Pass | None:
        if self.stage == "done":
            return None
        if self.stage == "adam":
            return Pass(self.method.step_size, seed=self.seed, epoch=self.epoch)
        if self.stage == "stepwise":
            return Pass(self.n_batch, seed=self.seed, epoch=self.epoch)
        return Pass(self.method.batch_size if self.stage == "sample" else self.n_batch)

    def update(self, batch: Batch) -> None:
        self.device = batch.x.device if self.method.device is None else device_of(self.method.device)
        if self.stage == "sample":
            self.sample.update(batch)
            self.moments.update(batch)
            return
        x = self.work.rows(self._scaled(batch.x, self.device))
        if self.ascent is not None:
            self.recent += RECENT * (self.ascent.step(x) - self._shift - self.recent)
            return
        if self.n_batches == 0 or (self.stage == "stepwise" and self.n_batches % REFRESH == 0):
            self.gate = gate_for(self._now, self.method.n_candidates, self.probe, self.work)
        self.n_batches += 1
        if self.stage == "exact":
            self._collect(self._sums, x)
            return
        for part in torch.tensor_split(x, max(1, self.n_batch // self.method.step_rows)):
            self._collect(there(self.pending), part)
            self.n_pending += 1
            if self.n_pending * self.n_batch >= self.method.step_rows:
                self._step()

    def _collect(self, sums: Sums, x: Tensor) -> None:
        for part in torch.split(x, part_size(self._now, self.gate, self.work)):
            collect(sums, self._now, part, self.gate, self.work)

    def _step(self) -> None:
        """A step of stepwise EM on the rows since the last one: a shorter one where these are few, as at the end of a pass."""
        pending = there(self.pending)
        self.work.add_up(*pending.tensors)
        if pending.total[1] > 0:
            self.n_steps += 1
            whole = float(pending.total[1]) / self.method.step_rows
            self._sums.step(pending, min(1.0, whole) * (self.n_steps + DELAY) ** -DECAY)
            self.mixture = maximise(self._sums, self._now, self._shape, self.work)
        self.pending, self.n_pending = Sums.empty(self._now), 0

    @property
    def _now(self) -> Mixture:
        return there(self.mixture)

    @property
    def _sums(self) -> Sums:
        return there(self.sums)

    @property
    def _shape(self) -> Shape:
        return Shape(self.method.n_regions, self.method.rank, self.method.noise, self.floor)

    def _scaled(self, x: Tensor, device: torch.device) -> Tensor:
        """Rows as they are worked on."""
        self._move(device)
        return x.to(device, torch.float32, copy=True).sub_(self.mean.float()).mul_(self.scale)

    def _move(self, device: torch.device) -> None:
        """Be on a device: a checkpoint is read on the CPU before it is known where the rows are."""
        if self.mean.device == device:
            return
        self.mean, self.probe = self.mean.to(device), self.probe.to(device)
        self.mixture = None if self.mixture is None else self.mixture.to(device)
        self.sums, self.pending = (None if sums is None else sums.to(device) for sums in (self.sums, self.pending))
        self.gate = None if self.gate is None else self.gate.to(device)
        if self.ascent is not None:
            state = self.ascent.state()
            self.ascent = Ascent(self._now, self._shape, self.method.learning_rate)
            self.ascent.load(state)

    @property
    def _shift(self) -> float:
        """What a log-likelihood of scaled rows is larger by than one of the rows."""
        return -width(self.layout) * math.log(self.scale)

    # ------------------------------------------------------------ passes

    def end_pass(self) -> None:
        self._move(self.device)
        if self.stage == "sample":
            self._begin()
        elif self.stage == "adam":
            self.epoch += 1
            self.trace.append(self.recent)
            self.mixture = there(self.ascent).mixture().detach()
            if self.epoch >= self.method.n_passes:
                self._enter("done")
        elif self.stage == "stepwise":
            self._step()
            self._enter("exact" if self.method.n_passes else "done")
        else:
            self._end_exact()

    def _enter(self, stage: Stage) -> None:
        self.stage, self.epoch = stage, 0
        self.gate, self.n_batches, self.sums = None, 0, Sums.empty(self._now)
        self.pending = Sums.empty(self._now) if stage == "stepwise" else None

    def _begin(self) -> None:
        """Solve for the sample, and go on with all rows where there are more."""
        n = self.moments.n_rows
        require_rows(self.method, n, width(self.layout))
        self._measure(n)
        rows = self._scaled(self.sample.sample()[0], self.device)
        self.sample, self.probe = Reservoir(1, self.seed), rows[:PROBED].clone()
        first = self._first(rows)
        if self.method.solver == "adam":
            self._ascend(rows, first)
        else:
            self._solve(rows, first, is_all=len(rows) == n)

    def _first(self, rows: Tensor) -> Mixture:
        if self.start is None:
            return first_mixture(rows, self._shape, seed=self.seed, init=self.method.init, work=self.work)
        return given_mixture(rows, self.start, self._shape, mean=self.mean, scale=self.scale, seed=self.seed, work=self.work)

    def _ascend(self, rows: Tensor, first: Mixture) -> None:
        """From here on by Adam."""
        self.mixture, self.record = first, {"n_rows_in_memory": len(rows)}
        self.trace = [sums_of(first, rows, self.method.n_candidates).log_likelihood - self._shift]
        self.recent, self.stage, self.epoch = self.trace[-1], "adam", 0
        self.ascent = Ascent(first, self._shape, self.method.learning_rate)
        if self.method.n_passes == 0:
            self._enter("done")

    def _solve(self, rows: Tensor, first: Mixture, *, is_all: bool) -> None:
        """A solution for rows in memory, and what follows it."""
        method = self.method
        run = solve(
            rows,
            first,
            self._shape,
            n_steps=method.n_iter if is_all or method.n_regions < MANY else 0,  # of many regions what follows does as much
            tol=method.tol,
            moves=method.split_merge,
            seed=self.seed,
            n_candidates=method.n_candidates,
            ranks=method.rank_selection,
            work=self.work,
        )
        self.mixture = run.mixture
        self.trace = [value - self._shift for value in run.trace]
        self.record = {"n_rows_in_memory": len(rows), "n_iter": len(run.trace), "n_moves": run.n_moves}
        if is_all or (method.solver == "em" and not method.n_passes):
            self._enter("done")
        elif method.solver == "em":
            self._enter("exact")
        else:  # from the sample's sums, so that the first batches do not undo what is known
            self._enter("stepwise")
            self.sums = sums_of(self._now, rows, method.n_candidates, self.work)

    def _measure(self, n: int) -> None:
        """The mean, the scale and the floor of the noise."""
        self.mean = self.moments.moments.mean
        variance = self.moments.moments.variance
        positive = variance[variance > 0]
        if len(positive) == 0:
            raise InputError(f"MFA needs rows that differ, got {n} rows that are all the same")
        size = float(variance.mean()) ** 0.5
        if not SMALLEST < size < 1 / SMALLEST:
            raise InputError(
                f"rows deviate from their mean by {size:.3g}, whose squares float32 cannot hold; divide them by {size:.0e} first"
            )
        self.scale = 2.0 ** -round(math.log2(float(variance.mean())) / 2)
        middle = variance.median() if float(variance.median()) > 0 else positive.median()
        self.floor = FLOOR * float(middle) * self.scale**2
        wanted = FEW * (self.method.rank + 1) * self.method.n_regions
        if n < wanted:
            warnings.warn(
                f"{n} rows are few for {self.method.n_regions} regions of rank {self.method.rank}: some {wanted} would hold them down; "
                "take fewer regions or a lower rank",
                ArmillaryWarning,
                stacklevel=4,
            )

    def _end_exact(self) -> None:
        self.work.add_up(*self._sums.tensors)
        self.trace.append(self._sums.log_likelihood - self._shift)
        self.epoch += 1
        gain = self.trace[-1] - self.trace[-2] if self.epoch > 1 else math.inf
        if gain < -ROUNDING * abs(self.trace[-1]):
            message = f"pass {self.epoch} lowered the log-likelihood by {-gain:.3g} nats per row: float32 can tell no more of these rows"
            warnings.warn(message, ArmillaryWarning, stacklevel=4)
        self.mixture = maximise(self._sums, self._now, self._shape, self.work)
        is_done = self.epoch == self.method.n_passes or gain < self.method.tol
        self.stage = "done" if is_done else "exact"
        self.gate, self.n_batches, self.sums = None, 0, Sums.empty(self._now)

    # ------------------------------------------------------------ states

    def state(self) -> Mapping[str, Any]:
        names = ("stage", "epoch", "n_steps", "n_batches", "n_pending", "scale", "floor", "recent", "mean", "probe")
        told: dict[str, Any] = {name: getattr(self, name) for name in names} | {"device": str(self.device)}
        told |= {"trace": list(self.trace), "record": dict(self.record), "ascent": None if self.ascent is None else self.ascent.state()}
        values = {"mixture": self.mixture, "sums": self.sums, "pending": self.pending, "gate": self.gate}
        parts = {name: None if value is None else _parts(value) for name, value in values.items()}
        return {**told, **parts, "sample": self.sample.state(), "moments": self.moments.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.device = device_of(state["device"])
        self.stage, self.epoch, self.n_steps = state["stage"], state["epoch"], state["n_steps"]
        self.scale, self.floor, self.mean = state["scale"], state["floor"], state["mean"]
        self.trace, self.record = list(state["trace"]), dict(state["record"])
        self.mixture = None if state["mixture"] is None else Mixture(**state["mixture"])
        self.sums, self.pending = (None if state[name] is None else Sums(**state[name]) for name in ("sums", "pending"))
        self.n_pending = state["n_pending"]
        self.recent, self.n_batches, self.probe = state["recent"], state["n_batches"], state["probe"]
        self.gate = None if state["gate"] is None else Gate(**state["gate"])
        if state["ascent"] is not None:
            self.ascent = Ascent(self._now, self._shape, self.method.learning_rate)
            self.ascent.load(state["ascent"])
        self.sample.merge([state["sample"]])
        self.moments.merge([state["moments"]])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.sample.merge([state["sample"] for state in states])
        self.moments.merge([state["moments"] for state in states])

    # ------------------------------------------------------------ the result

    def finish(self) -> Decomposition:
        mixture = self.work.whole(canonical(self._now))
        tried = gate_for(mixture, self.method.n_candidates, self.probe.to(mixture.centroids.device))
        order = mixture.log_weight.argsort(descending=True, stable=True)
        centroids = (mixture.centroids.double() / self.scale + self.mean.to(mixture.centroids.device)).float()
        loadings, noise = mixture.loadings / self.scale, mixture.noise / self.scale**2
        noise = noise[order] if len(noise) > 1 else noise
        found = Mixture(mixture.log_weight[order], centroids[order], loadings[order], noise)
        dictionary = Dictionary.of_regions(found.centroids, found.loadings)
        told: dict[str, Any] = {"log_likelihood": self.trace[-1], "n_dead": int((found.log_weight < -20).sum())}
        told |= {"mean_rank": float(found.loadings.any(2).sum(1).double().mean())}
        gate = None if tried is None else Gate.of(found, tried.n_candidates)
        told["curve"] = [{"step": i, "log_likelihood": value} for i, value in enumerate(self.trace, 1)]
        return Decomposition(dictionary, MFAEncoder(found, gate=gate), **one_to_one(self.layout), provenance={**self.record, **told})

    def describe(self) -> str:
        return self.stage if not self.trace else f"{self.stage}, {self.trace[-1]:.5g} nats per row"


def there(value: W | None) -> W:
    """What a stage after the sample has."""
    assert value is not None
    return value


def _parts(value: Mixture | Sums | Gate) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in fields(value)}
