"""Sums of one pass over the rows from which a fit's regions are judged: a consumer of the one loop.

The Mahalanobis distance is of a row to a region that is drawn by the row's responsibilities, as then, and only then, it is chi-squared of D
degrees if the model holds: the most responsible region of a row that lies between two is the nearer one.

Letters: n rows, D width, K regions, R rank, U units, G groups of units, T regions that are looked at for a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.columns import Columns
from armillary.core.decomposition import Decomposition
from armillary.core.encoders import Encoder, MixtureEncoder
from armillary.core.jackknife import GROUPS
from armillary.core.method import Consumer, Pass
from armillary.core.rows import Batch, Permutation, Rows
from armillary.core.statistics import Floats
from armillary.core.summary import Reservoir
from armillary.core.tokens import Bools, Ints
from armillary.inspect.agreement import assigned
from armillary.studies.quality.reconstruction import Target, TargetSums
from armillary.studies.quality.region_counts import BASE, SparseCounts
from armillary.studies.units import MAX_UNITS, RowUnits

#: T: what further regions have of a row is left out of its entropy.
N_TOP = 32
#: Bins of the distribution function of the distances, of all rows and of each region's.
BINS, REGION_BINS = 1000, 20
#: The quantile beyond which a distance is called far.
FAR = 0.95
#: Numbers that a draw is made of.
RANGE = 1 << 53
#: Keys of the draws that a seed makes.
REGION_KEY, READING_KEY, SAMPLE_KEY = 1, 2, 3


@dataclass(frozen=True)
class Draws:
    """What is drawn at random among rows, by their indices alone.

    Args:
        seed: of all draws.
        n_sample: rows kept with their region and coordinates.
        reading_share: share of the rows that are rebuilt by every reading.
    """

    seed: int
    n_sample: int
    reading_share: float

    def uniform(self, row: Ints, key: int) -> Floats:
        """[n] numbers in (0, 1), one per row."""
        return (Permutation(RANGE, self.seed, key)(row) + 0.5) / RANGE


@dataclass(frozen=True)
class Seen:
    """What a fit makes of rows.

    Args:
        region: [n] most responsible region.
        z: [n, R] coordinates in it, none where the fit gives none.
        terms: [3, n] float64 log-likelihood, entropy of the responsibilities and the largest of them; None without densities.
        drawn: [n] a region drawn by responsibility.
        place: [n] float64 distribution function, chi-squared of D degrees, of the squared distance to it.
    """

    region: Tensor
    z: Tensor
    terms: Tensor | None = None
    drawn: Tensor | None = None
    place: Tensor | None = None


def look(fit: Decomposition, x: Tensor, u: Tensor) -> Seen:
    """What a fit makes of rows [n, D], with a number in (0, 1) per row [n] to draw a region by."""
    encoder = fit.encoder
    if not isinstance(encoder, MixtureEncoder):
        return Seen(assigned(fit, x), x.new_zeros(len(x), 0))
    share, regions = encoder.top(x, min(N_TOP, fit.n_features))  # [n, T]
    share, region = share.double(), regions[:, 0]
    # Bayes' rule of the most responsible region: the whole mixture need not be worked out again.
    likelihood = encoder.log_density(x, region).double() + encoder.weights.double()[region].log() - share[:, 0].log()
    entropy = torch.special.entr(share).sum(1)
    slot = (share.cumsum(1) < u[:, None] * share.sum(1, keepdim=True)).sum(1).clamp_max(share.shape[1] - 1)
    drawn = regions.gather(1, slot[:, None])[:, 0]
    squared = encoder.distance(x, drawn).double().clamp_min(0)
    place = torch.special.gammainc(torch.full_like(squared, x.shape[1] / 2), squared / 2)
    return Seen(region, encoder.posterior(x, region), torch.stack([likelihood, entropy, share[:, 0]]), drawn, place)


@dataclass(frozen=True)
class Found:
    """The sums of one fit.

    Args:
        n: [U] rows.
        occupancy: [G, K] rows by group of units and most responsible region.
        terms: [3, U] sums of `Seen.terms`.
        far: [U] rows whose distance is beyond the quantile `FAR`.
        place: [G, BINS] rows by where their distance lies.
        region_place: [K, REGION_BINS] the same by the region it was measured from, and
        region_far: [K] those beyond the quantile.
        tokens, documents: counts of (group, region, what).
        errors: reading -> [U] squared errors of the rows that were rebuilt, and
        target: moments of these rows.
        squares: squared distance of all rows to their region's centroid, together.
        sample: [m, 1 + R] region and coordinates of rows drawn at random, and
        sample_row: [m] their indices.
    """

    n: Ints
    occupancy: Ints
    terms: Floats
    far: Floats
    place: Ints
    region_place: Ints
    region_far: Ints
    tokens: SparseCounts
    documents: SparseCounts
    errors: Mapping[str, Floats]
    target: Target
    squares: float
    sample: Floats
    sample_row: Ints


@dataclass(frozen=True)
class Reads:
    """How rows are read: the pass, the columns of the fit's input, and the rows' units and tokens."""

    order: Pass
    columns: Columns
    units: RowUnits
    rows: Rows = field(repr=False)

    def kept(self, batch: Batch) -> Batch:
        """The rows that count, and the columns that the fit reads."""
        kept = self.units.counts(batch.row)
        return Batch(batch.x[torch.from_numpy(kept).to(batch.x.device)][:, self.columns], batch.row[kept])


class RegionSums(Consumer):
    """Everything that one pass over the rows tells of a fit's regions.

    Args:
        fit: the decomposition, all of whose features are regions.
        reads: how rows are read.
        draws: what is drawn.
    """

    #: What is added up over ranks, and what knows itself how to be.
    _PARTS = ("tokens", "documents", "sample", "target")
    _ADDED = ("n", "occupancy", "terms", "far", "place", "region_place", "region_far", "squares")

    def __init__(self, fit: Decomposition, reads: Reads, draws: Draws) -> None:
        self.fit, self.reads, self.draws = fit, reads, draws
        self.centroids = fit.dictionary.directions()
        k, u = fit.n_features, reads.units.size
        self.is_done = False
        self.n, self.far = torch.zeros(u, dtype=torch.int64), torch.zeros(u, dtype=torch.float64)
        self.occupancy, self.place = torch.zeros(GROUPS, k, dtype=torch.int64), torch.zeros(GROUPS, BINS, dtype=torch.int64)
        self.terms, self.squares = torch.zeros(3, u, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        self.region_place, self.region_far = torch.zeros(k, REGION_BINS, dtype=torch.int64), torch.zeros(k, dtype=torch.int64)
        self.tokens, self.documents = SparseCounts(), SparseCounts()
        self.sample = Reservoir(draws.n_sample, draws.seed, SAMPLE_KEY)
        readings = fit.encoder.readings() if isinstance(fit.encoder, MixtureEncoder) else {}
        self.readings: dict[str, Encoder | None] = {"centroid": None, **{how: one for how, one in readings.items() if how != "centroid"}}
        self.errors = {how: torch.zeros(u, dtype=torch.float64) for how in self.readings}
        self.target = TargetSums(slice(None), self.centroids.shape[1], reads.units, reads.order, n_sample=k, seed=draws.seed)

    def next_pass(self) -> Pass | None:
        return None if self.is_done else self.reads.order

    def end_pass(self) -> None:
        self.is_done = True

    def update(self, batch: Batch) -> None:
        rows = self.reads.kept(batch)
        x = rows.x.to(self.centroids.device, self.centroids.dtype)
        seen = look(self.fit, x, torch.from_numpy(self.draws.uniform(rows.row, REGION_KEY)).to(x.device))
        on = (seen.region >= 0).cpu().numpy()  # a fit cut down to some regions may have none for a row
        rebuilt = on & (self.draws.uniform(rows.row, READING_KEY) < self.draws.reading_share)
        if not on.all():
            rows, x, seen, rebuilt = _subset(rows, x, seen, rebuilt, on)
        if len(rows) == 0:
            return
        unit = self.reads.units.unit(rows.row)
        self._count(seen, rows.row, unit)
        if seen.terms is not None:
            self._judge(seen, torch.from_numpy(unit))
        error = (x - self.centroids[seen.region]).double().square().sum(1).cpu()
        self.squares += error.sum()
        self.sample.update(Batch(torch.cat([seen.region[:, None].double(), seen.z.double()], dim=1), rows.row))
        if rebuilt.any():
            self._rebuild(x, rows.row, unit, error, torch.from_numpy(rebuilt))

    def _count(self, seen: Seen, row: Ints, unit: Ints) -> None:
        """Rows by group and region, and what they are."""
        region = seen.region.cpu().numpy()
        cell = unit % GROUPS * self.fit.n_features + region
        self.n += torch.from_numpy(np.bincount(unit, minlength=len(self.n)))
        self.occupancy += torch.from_numpy(np.bincount(cell, minlength=self.occupancy.numel())).view_as(self.occupancy)
        tokens = self.reads.rows.tokens
        if tokens is not None:
            token = tokens.rows[row]
            self.tokens.add(cell * BASE + tokens.ids[token])
            self.documents.add(cell * BASE + tokens.document[token] % MAX_UNITS)

    def _judge(self, seen: Seen, unit: Tensor) -> None:
        """Likelihood, responsibilities and distances."""
        assert seen.terms is not None and seen.drawn is not None and seen.place is not None
        place, drawn, far = seen.place.cpu(), seen.drawn.cpu(), (seen.place > FAR).cpu()
        self.terms.index_add_(1, unit, seen.terms.cpu())
        self.far.index_add_(0, unit, far.double())
        self.place += binned(place, unit % GROUPS, self.place)
        self.region_place += binned(place, drawn, self.region_place)
        self.region_far += torch.bincount(drawn[far], minlength=len(self.region_far))

    def _rebuild(self, x: Tensor, row: Ints, unit: Ints, error: Tensor, which: Tensor) -> None:
        """Squared errors of the rows that were drawn for it, in every reading."""
        at, of = which.to(x.device), torch.from_numpy(unit)[which]
        some = x[at]
        self.target.update(Batch(some, row[which.numpy()]))
        for how, encoder in self.readings.items():
            if encoder is not None:
                codes = encoder.encode(some).with_base(self.fit.dictionary.base_codes(some))
                squared = (some - self.fit.decode(codes)).double().square().sum(1).cpu()
            else:
                squared = error[which]
            self.errors[how].index_add_(0, of, squared)

    # ------------------------------------------------------------ checkpoints, ranks

    def state(self) -> Mapping[str, Any]:
        parts = {name: getattr(self, name).state() for name in self._PARTS}
        return {"is_done": self.is_done, "errors": self.errors, **parts, **{name: getattr(self, name) for name in self._ADDED}}

    def load(self, state: Mapping[str, Any]) -> None:
        self.merge([state])
        self.is_done = state["is_done"]

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        for name in self._ADDED:
            setattr(self, name, torch.stack([state[name] for state in states]).sum(0))
        self.errors = {how: torch.stack([state["errors"][how] for state in states]).sum(0) for how in self.readings}
        for name in self._PARTS:
            getattr(self, name).merge([state[name] for state in states])

    def finish(self) -> Found:
        self.tokens.settle()
        self.documents.settle()
        arrays = {name: getattr(self, name).numpy() for name in self._ADDED if name != "squares"}
        errors = {how: one.numpy() for how, one in self.errors.items()}
        values, row = self.sample.sample() if len(self.sample) else (torch.zeros(0, 1), np.zeros(0, np.int64))
        return Found(
            **arrays, tokens=self.tokens, documents=self.documents, errors=errors, target=self.target.finish(),
            squares=float(self.squares), sample=values.numpy(), sample_row=row,
        )  # fmt: skip


def _subset(rows: Batch, x: Tensor, seen: Seen, rebuilt: Bools, on: Bools) -> tuple[Batch, Tensor, Seen, Bools]:
    """Rows that have a region; only fits without densities leave some without."""
    at = torch.from_numpy(on).to(x.device)
    return Batch(rows.x[torch.from_numpy(on).to(rows.x.device)], rows.row[on]), x[at], Seen(seen.region[at], seen.z[at]), rebuilt[on]


def binned(place: Tensor, group: Tensor, like: Tensor) -> Tensor:
    """[g, bins] counts, in the shape of `like`, of values in 0..1 [n] by group [n] and bin."""
    n_bins = like.shape[1]
    cell = group * n_bins + (place * n_bins).long().clamp_max(n_bins - 1)
    return torch.bincount(cell, minlength=like.numel()).view_as(like)
