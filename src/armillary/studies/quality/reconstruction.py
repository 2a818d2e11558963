"""Sums per unit from which the fidelity of a reconstruction is computed: two consumers of the one loop.

    TargetSums     the rows that are reconstructed: count, mean and scatter per unit, and a uniform sample. One serves all fits.
    FitSums        what a fit makes of them: error, norms, firings. One per fit.

Everything is summed in float64. The scatter of each unit is taken about the unit's own mean and merged by Chan, Golub and LeVeque (1983),
so that the variance about the evaluation set's mean is exact in one pass and does not cancel, however far the mean lies from zero.

Letters: N rows, D width, U units, u units of a batch, F features, P rows of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.columns import Columns
from armillary.core.decomposition import Decomposition, feature_activations
from armillary.core.method import Pass
from armillary.core.rows import PRIORITIES, Batch, Permutation
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.studies.one_pass import OnePass, counted
from armillary.studies.units import RowUnits

# ---------------------------------------------------------------- the rows themselves


@dataclass(frozen=True)
class Target:
    """The rows that are reconstructed.

    Args:
        n: [U] rows per unit.
        mean: [D] over all rows.
        variance: [U] sum of squared distances from `mean`: the FVU's denominator, unit by unit.
        mean_cosine: mean cosine of a row with `mean`, what a constant prediction scores.
        sample: [P, D] float32 rows drawn uniformly, with
        sample_row: [P] their indices.
    """

    n: NDArray[np.int64]
    mean: Tensor
    variance: Floats
    mean_cosine: float
    sample: Tensor
    sample_row: Ints


class TargetSums(OnePass):
    """Moments per unit of the target columns, and a seeded sample of the rows.

    Args:
        columns: of the target.
        d: how many.
        units: the units of the rows.
        order: the pass.
        n_sample: P.
        seed: of the sample.
    """

    def __init__(self, columns: Columns, d: int, units: RowUnits, order: Pass, *, n_sample: int, seed: int) -> None:
        self.columns, self.units, self.order = columns, units, order
        self.n_sample, self.priority = n_sample, Permutation(PRIORITIES, seed)
        self.n = torch.zeros(units.size, dtype=torch.float64)
        self.mean = torch.zeros(units.size, d, dtype=torch.float64)
        self.scatter = torch.zeros(units.size, dtype=torch.float64)
        self.directions = torch.zeros(d, dtype=torch.float64)
        self.sample, self.sample_row = torch.zeros(0, d), torch.zeros(0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        x, row = counted(self.units, batch)
        y = x[:, self.columns]  # [N, D]
        if len(row) == 0:
            return
        self._add_moments(y.double(), torch.from_numpy(self.units.unit(row)))
        self._add_sample(y, torch.from_numpy(row))

    def _add_moments(self, y: Tensor, unit: Tensor) -> None:
        found, place = torch.unique(unit.to(y.device), return_inverse=True)  # [u], [N]
        n = torch.bincount(place).double()
        mean = y.new_zeros(len(found), y.shape[1]).index_add(0, place, y) / n[:, None]  # [u, D]
        scatter = y.new_zeros(len(found)).index_add(0, place, (y - mean[place]).square().sum(1))
        self.directions += torch.nn.functional.normalize(y, dim=1).sum(0).cpu()
        self._merge(found.cpu(), n.cpu(), mean.cpu(), scatter.cpu())

    def _merge(self, unit: Tensor, n: Tensor, mean: Tensor, scatter: Tensor) -> None:
        """Chan, Golub and LeVeque's eq. 2.1 for the given units."""
        before = self.n[unit]
        gap = mean - self.mean[unit]  # [u, D]
        share = (n / (before + n).clamp_min(1))[:, None]
        self.scatter[unit] += scatter + before * share[:, 0] * gap.square().sum(1)
        self.mean[unit] += gap * share
        self.n[unit] = before + n

    def _add_sample(self, y: Tensor, row: Tensor) -> None:
        self.sample = torch.cat([self.sample, y.float().cpu()])
        self.sample_row = torch.cat([self.sample_row, row])
        best = np.argsort(self.priority(self.sample_row.numpy()))[: self.n_sample]
        self.sample, self.sample_row = self.sample[best], self.sample_row[best]

    def state(self) -> Mapping[str, Any]:
        names = ("n", "mean", "scatter", "directions", "sample", "sample_row", "is_done")
        return {name: getattr(self, name) for name in names}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        first, *others = states
        self.load({name: value.clone() if isinstance(value, Tensor) else value for name, value in first.items()})
        for other in others:
            self._merge(torch.arange(len(self.n)), other["n"], other["mean"], other["scatter"])
            self.directions += other["directions"]
            self._add_sample(other["sample"], other["sample_row"])

    def finish(self) -> Target:
        total = self.n.sum().clamp_min(1)
        mean = (self.n @ self.mean) / total
        variance = self.scatter + self.n * (self.mean - mean).square().sum(1)
        cosine = float(self.directions @ torch.nn.functional.normalize(mean, dim=0) / total)
        return Target(self.n.long().numpy(), mean, variance.numpy(), cosine, self.sample, self.sample_row.numpy())


# ---------------------------------------------------------------- a fit's reconstruction of them

#: Sums per unit of `FitSums`, in its order: rows; |y|^2 > 0; |y - y_hat|^2; the same for the base alone; |y_hat|^2; y . y_hat;
#: |y_hat| / |y|; cosine; |y - y_hat|^2 / |y|^2; features that fire.
SUMS = ("rows", "nonzero", "error", "base_error", "norm", "dot", "norm_ratio", "cosine", "relative_error", "l0")


@dataclass(frozen=True)
class Fitted:
    """A fit's sums.

    Args:
        sums: name of `SUMS` -> [U] float64.
        fires: [F] rows in which each feature fires (every row where firing does not apply).
        total: [F] sum of the magnitudes of its activation over those rows.
        largest: [F] the largest of them.
        fired: [U, F] bool, whether it fires in each unit.
    """

    sums: Mapping[str, Floats]
    fires: Tensor
    total: Tensor
    largest: Tensor
    fired: Tensor

    def __getitem__(self, name: str) -> Floats:
        return self.sums[name]


class FitSums(OnePass):
    """Errors, norms and firings of one fit.

    Args:
        fit: the decomposition.
        columns: of its input and of its target.
        units: the units of the rows.
        order: the pass.
    """

    def __init__(self, fit: Decomposition, columns: tuple[Columns, Columns], units: RowUnits, order: Pass) -> None:
        self.fit, self.columns, self.units, self.order = fit, columns, units, order
        self.threshold = -1.0 if fit.encoder.fires is None else fit.encoder.fires
        self.sums = torch.zeros(len(SUMS), units.size, dtype=torch.float64)
        self.fires = torch.zeros(fit.n_features, dtype=torch.int64)
        self.total = torch.zeros(fit.n_features, dtype=torch.float64)
        self.largest = torch.zeros(fit.n_features, dtype=torch.float64)
        self.fired = torch.zeros(units.size, fit.n_features, dtype=torch.bool)

    def update(self, batch: Batch) -> None:
        rows, kept = counted(self.units, batch)
        if len(rows) == 0:
            return
        rows, unit = rows.to(self.fit.dictionary.atoms.device), torch.from_numpy(self.units.unit(kept))
        x, y = rows[:, self.columns[0]], rows[:, self.columns[1]]
        codes = self.fit.encode(x, target=None if self.fit.inputs == self.fit.targets else y.to(self.fit.dictionary.atoms.dtype))
        features = feature_activations(self.fit.dictionary, codes)
        errors = row_sums(y.double(), self.fit.decode(codes).double(), self.fit.base(codes).double())
        terms = torch.cat([errors, features.l0(self.threshold)[None].double()]).cpu()  # [10, N]
        self.sums.index_add_(1, unit, terms)
        row, slot = features.fires(self.threshold).nonzero(as_tuple=True)
        feature = slot if features.index is None else features.index[row, slot]
        self._add_firings(feature.cpu(), features.value[row, slot].abs().double().cpu(), unit[row.cpu()])

    def _add_firings(self, feature: Tensor, value: Tensor, unit: Tensor) -> None:
        """Count firings: [n] features, magnitudes and units."""
        self.fires += torch.bincount(feature, minlength=len(self.fires))
        self.total.index_add_(0, feature, value)
        self.largest.scatter_reduce_(0, feature, value, "amax")
        self.fired[unit, feature] = True

    def state(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in ("sums", "fires", "total", "largest", "fired", "is_done")}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        for name in ("sums", "fires", "total"):
            setattr(self, name, torch.stack([state[name] for state in states]).sum(0))
        self.largest = torch.stack([state["largest"] for state in states]).amax(0)
        self.fired = torch.stack([state["fired"] for state in states]).any(0)

    def finish(self) -> Fitted:
        sums = {name: row.numpy() for name, row in zip(SUMS, self.sums, strict=True)}
        return Fitted(sums, self.fires, self.total, self.largest, self.fired)


def row_sums(y: Tensor, y_hat: Tensor, base: Tensor) -> Tensor:
    """[9, N] the terms of `SUMS` but the last, for targets, reconstructions and bases [N, D] in float64."""
    error, base_error = (y - y_hat).square().sum(1), (y - base).square().sum(1)
    norm, length, dot = y_hat.square().sum(1), y.norm(dim=1), (y * y_hat).sum(1)
    is_nonzero = length > 0
    safe = length.where(is_nonzero, torch.ones_like(length))
    ratio = norm.sqrt() / safe * is_nonzero
    # A reconstruction of length 0 has cosine 0 with everything.
    cosine = dot / (safe * norm.sqrt().clamp_min(torch.finfo(torch.float64).tiny)) * is_nonzero
    relative = error / safe.square() * is_nonzero
    return torch.stack([torch.ones_like(length), is_nonzero.double(), error, base_error, norm, dot, ratio, cosine, relative])
