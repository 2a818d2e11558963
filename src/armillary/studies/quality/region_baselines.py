"""Baselines of a likelihood in closed form, cross-fitted: every row is scored by what the other half of the documents tells.

    one Gaussian           mean and whole covariance, a ridge on its diagonal
    spheres                Gaussians of one variance about given centroids, weighted by the rows nearest to each: k-means as a mixture

The ridge is that of `RIDGES`, in units of the mean variance, under which the held-out rows are most likely: to the baseline's favour.
Memory: two [D, D] matrices in float64. Two passes: moments, then densities.

Letters: n rows, D width, K centroids, U units, G groups of units; fold 0 or 1 is that of a row's unit, odd or even.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armillary.core.encoders import nearest_centroid
from armillary.core.jackknife import GROUPS
from armillary.core.method import Consumer, Pass
from armillary.core.moments import Moments
from armillary.core.rows import Batch
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.studies.quality.region_sums import BINS, FAR, Reads, binned

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)
LOG_2_PI = math.log(2 * math.pi)
#: Rows that are looked at together hold at most so many distances to centroids.
CHUNK = 1 << 22


@dataclass(frozen=True)
class Gaussian:
    """One Gaussian.

    Args:
        mean: [D] float64.
        whitener: [D, D] takes a row less the mean to independent coordinates of variance 1.
        log_det: of the covariance.
    """

    mean: Tensor
    whitener: Tensor
    log_det: float

    @staticmethod
    def of(seen: Moments, held_out: Moments) -> Gaussian | None:
        """From moments with covariances; the other half's choose the ridge. None where all rows are equal."""
        size, axes = torch.linalg.eigh(seen.scatter / seen.n)  # [D], [D, D]
        mean_size = float(size.mean())
        if mean_size <= 0:
            return None
        gap = axes.T @ (held_out.mean - seen.mean)
        found = torch.einsum("di,de,ei->i", axes, held_out.scatter / held_out.n, axes) + gap.square()  # [D] along each axis
        ridged = [size.clamp_min(0) + ridge * mean_size for ridge in RIDGES]
        variance = min(ridged, key=lambda one: float((one.log() + found / one).sum()))
        return Gaussian(seen.mean, axes / variance.sqrt(), float(variance.log().sum()))

    def squared(self, x: Tensor) -> Tensor:
        """[n] squared Mahalanobis distances of float64 rows [n, D]."""
        return ((x - self.mean.to(x.device)) @ self.whitener.to(x.device)).square().sum(1)

    def log_density(self, squared: Tensor) -> Tensor:
        """[n] nats, from squared distances."""
        return -(len(self.mean) * LOG_2_PI + self.log_det + squared) / 2


@dataclass(frozen=True)
class Spheres:
    """Gaussians of one variance.

    Args:
        centroids: [K, D].
        log_weight: [K] float64.
        variance: per column.
    """

    centroids: Tensor
    log_weight: Tensor
    variance: float

    @staticmethod
    def of(centroids: Tensor, rows: Tensor, squares: float) -> Spheres | None:
        """From the rows nearest to each centroid [K] and the sum of their squared distances; None where these are all 0."""
        n = float(rows.sum())
        if squares <= 0:
            return None
        weight = (rows.double() + 1) / (n + len(rows))  # so that a centroid without a row in this half may have one in the other
        return Spheres(centroids, weight.log(), squares / (n * centroids.shape[1]))

    def log_density(self, x: Tensor) -> Tensor:
        """[n] float64 of rows [n, D]."""
        shift = self.centroids.mean(0)  # so that products are of small numbers
        points, weight = self.centroids - shift, self.log_weight.to(x.device)
        constant = len(shift) * (LOG_2_PI + math.log(self.variance)) / 2
        out = []
        for part in torch.split(x.to(points.dtype) - shift, max(1, CHUNK // len(points))):
            squared = part.square().sum(1, keepdim=True) - 2 * part @ points.T + points.square().sum(1)  # [n, K]
            out.append(torch.logsumexp(weight - squared.double() / (2 * self.variance), dim=1) - constant)
        return torch.cat(out)


@dataclass(frozen=True)
class Scored:
    """What the baselines make of the rows.

    Args:
        gaussian: [U] sums of the one Gaussian's log-likelihood, or why there is none.
        place: [G, BINS] rows by where their distance to it lies, as of `region_sums.Found`, and
        far: [U] those beyond the quantile.
        spheres: [U] the same sums for each set of centroids, or why there are none.
    """

    gaussian: Floats | str
    place: Ints
    far: Floats
    spheres: tuple[Floats | str, ...]


class Baselines(Consumer):
    """The baselines of fits that read the same columns of the same rows.

    Args:
        reads: how rows are read.
        d: columns.
        centroids: of each fit [K, D].
    """

    def __init__(self, reads: Reads, d: int, centroids: Sequence[Tensor]) -> None:
        self.reads, self.centroids, self.stage = reads, tuple(centroids), 0
        u = reads.units.size
        self.moments = [Moments.empty(d, covariance=True) for _ in range(2)]
        self.nearest = [torch.zeros(2, len(one), dtype=torch.float64) for one in self.centroids]  # rows by fold
        self.squares = torch.zeros(len(self.centroids), 2, dtype=torch.float64)
        self.sums = torch.zeros(1 + len(self.centroids), u, dtype=torch.float64)
        self.place, self.far = torch.zeros(GROUPS, BINS, dtype=torch.int64), torch.zeros(u, dtype=torch.float64)
        self.gaussians: list[Gaussian | None] = [None, None]
        self.spheres: list[list[Spheres | None]] = []

    def next_pass(self) -> Pass | None:
        return self.reads.order if self.stage < 2 and (self.stage == 0 or self._is_fitted) else None

    def end_pass(self) -> None:
        self.stage += 1
        self._fit()

    @property
    def _is_fitted(self) -> bool:
        return all(moments.n for moments in self.moments)

    def _fit(self) -> None:
        """The models of each fold, scored on the other, once the moments are there."""
        if not self._is_fitted:
            return
        one, other = self.moments
        self.gaussians = [Gaussian.of(one, other), Gaussian.of(other, one)]
        self.spheres = [
            [Spheres.of(points, rows[fold], float(self.squares[i, fold])) for fold in range(2)]
            for i, (points, rows) in enumerate(zip(self.centroids, self.nearest, strict=True))
        ]

    def update(self, batch: Batch) -> None:
        rows = self.reads.kept(batch)
        unit = torch.from_numpy(self.reads.units.unit(rows.row))
        for fold in range(2):
            on = unit % 2 == fold
            if on.any():
                x = rows.x[on.to(rows.x.device)]
                self._learn(x, fold) if self.stage == 0 else self._score(x, unit[on], fold)

    def _learn(self, x: Tensor, fold: int) -> None:
        self.moments[fold] = self.moments[fold] + Moments.of(x, covariance=True)
        for i, points in enumerate(self.centroids):
            rows = x.to(points)
            nearest = nearest_centroid(rows, points)
            self.nearest[i][fold] += torch.bincount(nearest, minlength=len(points)).cpu()
            self.squares[i, fold] += (rows - points[nearest]).double().square().sum().cpu()

    def _score(self, x: Tensor, unit: Tensor, fold: int) -> None:
        """Rows of a fold, by the models of the other one."""
        gaussian = self.gaussians[1 - fold]
        if gaussian is not None:
            squared = gaussian.squared(x.double())
            place = torch.special.gammainc(torch.full_like(squared, x.shape[1] / 2), squared / 2).cpu()
            self.sums[0].index_add_(0, unit, gaussian.log_density(squared).cpu())
            self.far.index_add_(0, unit, (place > FAR).double())
            self.place += binned(place, unit % GROUPS, self.place)
        for i, models in enumerate(self.spheres):
            model = models[1 - fold]
            if model is not None:
                self.sums[1 + i].index_add_(0, unit, model.log_density(x.to(model.centroids.device)).cpu())

    # ------------------------------------------------------------ checkpoints, ranks

    def state(self) -> Mapping[str, Any]:
        moments = [one.state() for one in self.moments]
        scored = {"sums": self.sums, "place": self.place, "far": self.far}
        return {"stage": self.stage, "moments": moments, "nearest": self.nearest, "squares": self.squares, **scored}

    def load(self, state: Mapping[str, Any]) -> None:
        self.stage = state["stage"]
        self.moments = [Moments(**one) for one in state["moments"]]
        self.nearest, self.squares = list(state["nearest"]), state["squares"]
        self.sums, self.place, self.far = state["sums"], state["place"], state["far"]
        if self.stage > 0:
            self._fit()

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        if self.stage == 0:
            parts = [[Moments(**one) for one in state["moments"]] for state in states]
            d = len(self.moments[0].mean)
            self.moments = [sum((part[fold] for part in parts), Moments.empty(d, covariance=True)) for fold in range(2)]
            self.nearest = [torch.stack(list(each)).sum(0) for each in zip(*(state["nearest"] for state in states), strict=True)]
            self.squares = torch.stack([state["squares"] for state in states]).sum(0)
        else:
            for name in ("sums", "place", "far"):
                setattr(self, name, torch.stack([state[name] for state in states]).sum(0))

    def finish(self) -> Scored:
        alone = "" if self._is_fitted else "it is cross-fitted, which takes two units (documents) at least"
        gaussian = alone or ("" if None not in self.gaussians else "all rows of a half are equal")
        models = self.spheres or [[None, None]] * len(self.centroids)
        why = [alone or ("" if None not in pair else "all rows of a half lie on centroids") for pair in models]
        spheres = tuple(reason or self.sums[1 + i].numpy() for i, reason in enumerate(why))
        return Scored(gaussian or self.sums[0].numpy(), self.place.numpy(), self.far.numpy(), spheres)
