"""The search behind `regions`: one streaming pass over the rows, exact.

What is ranked follows from a row's few most responsible regions alone, so that a row costs the same however many regions there are:

    likelihood        log p(x | k)
    responsibility    log odds log r_k - log sum of the others' r
    border            min(r_1, r_2) of the first and the second region
    axes              z_j = E[z_j | x, k] of the members

Letters: N rows, T regions looked at per row, F regions, f regions asked for, R axes of a region, p pairs of row and region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.rows import PRIORITIES, Rows, as_rows
from armillary.core.run import drive
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.errors import InputError
from armillary.inspect.best import Best, Pairs
from armillary.inspect.members import mixture_of
from armillary.inspect.regions import Ranked, RegionContexts, chosen_regions
from armillary.inspect.search import Search

#: T: with four regions 2e-5 of the responsibility is left out on a small model's activations (research note, section 8).
FEW = 4
#: Members drawn of each region at least, so that their tokens can be counted.
DRAWN = 50


def region_contexts(
    fit: Decomposition,
    rows: Rows,
    *,
    n: int = 10,
    n_axis: int = 5,
    regions: Sequence[int] | None = None,
    window: tuple[int, int] = (16, 8),
    batch_size: int = 1 << 14,
    seed: int = 0,
) -> RegionContexts:
    """Find the contexts of a mixture's regions in one pass over the rows.

    Per region: rows by likelihood and by responsibility, at its border, drawn from its members, and at both ends of each of its axes; see
    `RegionContexts`. Likelihood and responsibility rank the rows for which the region is one of the four most responsible ones, by exact
    densities; of the others a row's odds leave out what regions beyond these four hold.

    Args:
        fit: a mixture.
        rows: where to look; special tokens are left out.
        n: rows of each kind, per region.
        n_axis: rows at each end of each axis.
        regions: only these; all if None.
        window: tokens to show before and after.
        batch_size: rows per batch; many regions are looked at faster in large ones.
        seed: of the draw.

    Raises:
        InputError: another kind of fit, a region that does not exist, or nothing to keep.
        ShapeError: the rows do not hold what the fit reads.
    """
    read = as_rows(rows)
    search = RegionSearch(fit, read, n=n, n_axis=n_axis, regions=regions, window=window, batch_size=batch_size, seed=seed)
    with torch.no_grad():
        drive([search], read, title="regions")
    return search.finish()


@dataclass(frozen=True)
class Seen:
    """Rows and their few most responsible regions.

    Args:
        row: [N] int64.
        region: [N, T] int64, most responsible first.
        density: [N, T] log p(x | k), float64.
        odds: [N, T] log odds of the region against the others of the row, float64.
        log_share: [N, T] log r_k, float64.
    """

    row: Ints
    region: Ints
    density: Floats
    odds: Floats
    log_share: Floats

    @staticmethod
    def of(row: Ints, region: Tensor, density: Tensor, log_weight: Tensor) -> Seen:
        """From densities [N, T] and the log weights [F] of all regions."""
        joint = density + log_weight[region]  # [N, T]
        itself = torch.eye(joint.shape[1], dtype=torch.bool, device=joint.device)
        others = joint[:, None, :].masked_fill(itself, -torch.inf).logsumexp(2)  # [N, T]
        arrays = (region, density, joint - others, joint - joint.logsumexp(1, keepdim=True))
        return Seen(row, *(array.cpu().numpy() for array in arrays))


class RegionSearch(Search):
    """The search as a consumer, so that it can share a pass with fits and studies; arguments as of `region_contexts`."""

    def __init__(
        self,
        fit: Decomposition,
        rows: Rows,
        *,
        n: int,
        n_axis: int,
        regions: Sequence[int] | None,
        window: tuple[int, int],
        batch_size: int,
        seed: int,
    ) -> None:
        if min(n, n_axis) < 0 or n + n_axis == 0:
            raise InputError(f"region_contexts needs something to keep: got n={n}, n_axis={n_axis}")
        super().__init__(fit, rows, chosen_regions(fit, regions), batch_size=batch_size, seed=seed)
        self.encoder, self.n, self.window = mixture_of(fit), n, window
        self.n_axes = len(fit.dictionary.feature(0).basis)
        f, ends = len(self.features), len(self.features) * self.n_axes
        self.best = {name: Best(f, n) for name in ("likelihood", "responsibility", "border")}
        self.best |= {"drawn": Best(f, max(n, DRAWN)), "low": Best(ends, n_axis), "high": Best(ends, n_axis)}

    def look(self, x: Tensor, row: Ints) -> None:
        _, region = self.encoder.top(x, min(FEW, self.fit.n_features))  # [N, T]
        counts = (self.place[region.cpu().numpy()] >= 0).any(1)
        if counts.any():
            which = torch.from_numpy(counts).to(x.device)
            self._take(x[which], row[counts], region[which])

    def _take(self, x: Tensor, row: Ints, region: Tensor) -> None:
        """Rank rows of which at least one region is asked for."""
        density = torch.stack([self.encoder.log_density(x, slot) for slot in region.unbind(1)], dim=1).double()  # [N, T]
        seen = Seen.of(row, region, density, self.encoder.weights.double().log())
        self.offer(seen)
        home = self.place[seen.region[:, 0]]
        members = np.flatnonzero(home >= 0)
        self.add(home[members])
        at = torch.from_numpy(members).to(x.device)
        z = self.encoder.posterior(x[at], region[at, 0]).double().cpu().numpy()  # [m, R]
        self.offer_axes(row[members], home[members], z)

    def offer(self, seen: Seen) -> None:
        """Rank rows by all that does not depend on axes."""
        place = self.place[seen.region]  # [N, T]
        self._offer("likelihood", seen.row, place, seen.density)
        if place.shape[1] > 1:  # one region alone is responsible for all
            self._offer("responsibility", seen.row, place, seen.odds)
            smaller = seen.log_share[:, :2].min(1, keepdims=True).repeat(2, axis=1)
            self._offer("border", seen.row, place[:, :2], smaller, value=np.exp(smaller), other=seen.region[:, 1::-1])
        number = seen.row * self.fit.n_features + seen.region[:, 0]
        priority = self.priority(number % PRIORITIES).astype(np.float64)
        self._offer("drawn", seen.row, place[:, :1], -priority[:, None], value=np.exp(seen.log_share[:, :1]))

    def offer_axes(self, row: Ints, place: Ints, z: Floats) -> None:
        """Rank members [m] of the regions at places [m] by their coordinates [m, R]."""
        ends = place[:, None] * self.n_axes + np.arange(self.n_axes)
        self._offer("low", row, ends, -z, value=z)
        self._offer("high", row, ends, z)

    def _offer(self, name: str, row: Ints, place: Ints, score: Floats, *, value: Floats | None = None, other: Ints | None = None) -> None:
        """Offer those of [N, T] places at least 0 whose score may still enter: few, so that only these become pairs.

        `other` is remembered where a pair of `Best` has its group.
        """
        best = self.best[name]
        near = np.flatnonzero((place >= 0) & (score >= best.worst[place]))
        group = np.full(len(near), -1, dtype=np.int64) if other is None else other.ravel()[near]
        shown = score if value is None else value
        best.offer(Pairs(place.ravel()[near], row[near // place.shape[1]], score.ravel()[near], shown.ravel()[near], group))

    def finish(self) -> RegionContexts:
        self.settle()
        return RegionContexts(
            self.features,
            self._ranked("likelihood"),
            self._ranked("responsibility"),
            self._ranked("border"),
            self.best["border"].group,
            self._ranked("drawn"),
            self._ranked("low", self.n_axes),
            self._ranked("high", self.n_axes),
            n_members=self.count.numpy(),
            n_rows=self.n_rows,
            n_drawn=self.n,
            window=self.window,
            fit=self.fit,
            rows=self.rows,
        )

    def _ranked(self, name: str, *axes: int) -> Ranked:
        """What was kept, [f, n] or [f, R, n]."""
        best = self.best[name]
        shape = (len(self.features), *axes, best.n)
        return Ranked(best.row.reshape(shape), best.value.reshape(shape))
