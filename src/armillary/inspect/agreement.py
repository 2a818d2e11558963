"""Agreement: do two fits with regions, such as those of two seeds, cut the same rows in the same way?

    rand_index          Hubert and Arabie's (1985) adjusted Rand index of the two assignments; null: rows permuted
    centroid_distance   distance of a centroid to its partner's, in units of the root mean squared distance of a row to its own region's
                        centroid, mean over regions; null: matched with rows drawn at random in place of the other fit's centroids
    subspace_overlap    mean squared cosine of the principal angles between partners' subspaces; null: partners drawn at random

Partners are those of the one-to-one matching by which the squared distances add up to the least.

Letters: n rows, D width, K regions, R rank.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES
from armillary.core.encoders import MixtureEncoder
from armillary.core.jackknife import GROUPS, jackknife_interval, leave_out
from armillary.core.report import Estimate, Report
from armillary.core.rows import Batch, Rows, as_rows
from armillary.core.run import drive
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.summary import OnePass, Reservoir, Summary
from armillary.core.tokens import Ints
from armillary.errors import InputError, TooFewRowsError

#: Consecutive rows that make a unit where there is no text, or of fewer documents than `GROUPS`.
BLOCK = 256
#: Draws behind the null of the index.
DRAWS = 20


def has_regions(fit: Decomposition) -> bool:
    """Whether every feature is a region: has a centroid."""
    d = fit.dictionary
    return d.n_features > 0 and len(torch.unique(d.group[d.role == ROLES.index("centroid")])) == d.n_features


def require_regions(fit: Decomposition, name: str = "") -> None:
    """Refuse a fit without regions.

    Raises:
        InputError: a feature that is no region.
    """
    if not has_regions(fit):
        raise InputError(
            f"{name or repr(fit)} has no regions to ask about; fit a mixture (armillary fit mfa) or clusters (armillary fit kmeans)"
        )


def assigned(fit: Decomposition, x: Tensor) -> Tensor:
    """[n] int64 region of each row x [n, D]: the most responsible one, or the one of the largest code; -1 where none has a code."""
    if isinstance(fit.encoder, MixtureEncoder):
        return fit.encoder.regions(x)
    codes = fit.activations(x)
    value, slot = codes.value.max(dim=1)
    region = slot if codes.index is None else codes.index.gather(1, slot[:, None])[:, 0]
    return region.masked_fill(value <= 0, -1)


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Assigned:
    """What is kept of a fit with regions and of the rows.

    Args:
        fit: it.
        region: [n] int64 region of each row of a sample; the rows of fits that are compared are the same.
        group: [n] int64 group of units of each, for the jackknife.
        spread: root mean squared distance of a row to its region's centroid.
        drawn: [P, D] some rows.
    """

    fit: Decomposition
    region: Ints
    group: Ints
    spread: float
    drawn: Tensor


def region_agreement(one: Decomposition, other: Decomposition, rows: Rows | Tensor, *, n_rows: int = 50_000, seed: int = 0) -> Report:
    """How far the regions of two fits agree.

    Args:
        one, other: fits with regions.
        rows: what both read.
        n_rows: how many are drawn at random to compare assignments on.
        seed: of the draw and of the nulls.

    Raises:
        InputError: a fit without regions.
        ShapeError: the rows do not hold what a fit reads.
    """
    began = time.monotonic()
    for fit in (one, other):
        require_regions(fit)
    data = as_rows(rows)
    passes = [OnePass(_Sample(fit, data, n_rows, seed), lambda sample: sample.assigned()) for fit in (one, other)]
    with torch.no_grad():
        drive(passes, data, title="regions of rows")
        return compare(passes[0].finish(), passes[1].finish(), seed=seed, title=f"{one!r} and {other!r}", began=began)


class _Sample(Summary):
    """Regions of a sample of rows, and their spread."""

    def __init__(self, fit: Decomposition, rows: Rows, n_rows: int, seed: int) -> None:
        self.fit, self.tokens, self.columns = fit, rows.tokens, columns_for(fit, rows.layout)[0]
        self.kept, self.drawn = Reservoir(n_rows, seed), Reservoir(fit.n_features, seed, 1)
        self.squares = self.n = 0.0
        self.centroids = fit.dictionary.directions()

    @property
    def n_rows(self) -> int:
        return self.kept.n_rows

    def update(self, batch: Batch) -> None:
        if self.tokens is not None:
            plain = ~self.tokens.is_special[self.tokens.rows[batch.row]]
            batch = Batch(batch.x[torch.from_numpy(plain).to(batch.x.device)], batch.row[plain])
        x = batch.x[:, self.columns].to(self.centroids)
        region = assigned(self.fit, x)
        on = region >= 0
        self.squares += float((x[on] - self.centroids[region[on]]).double().square().sum())
        self.n += float(on.sum())
        self.kept.update(Batch(region[:, None], batch.row))
        self.drawn.update(Batch(x, batch.row))

    def state(self) -> dict[str, Any]:
        return {"kept": self.kept.state(), "drawn": self.drawn.state(), "squares": self.squares, "n": self.n}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.kept.merge([state["kept"] for state in states])
        self.drawn.merge([state["drawn"] for state in states])
        self.squares, self.n = sum(state["squares"] for state in states), sum(state["n"] for state in states)

    def assigned(self) -> Assigned:
        if not len(self.kept):
            raise TooFewRowsError("agreement: no row is left once special tokens are taken out")
        region, row = self.kept.sample()
        spread = (self.squares / max(self.n, 1)) ** 0.5
        return Assigned(self.fit, region[:, 0].numpy(), self._groups(row), spread, self.drawn.sample()[0])

    def _groups(self, row: Ints) -> Ints:
        if self.tokens is None or len(self.tokens.documents) < GROUPS:
            return row // BLOCK % GROUPS
        return self.tokens.document[self.tokens.rows[row]] % GROUPS


def compare(one: Assigned, other: Assigned, *, seed: int = 0, title: str = "regions", began: float | None = None) -> Report:
    """The report of `region_agreement` from what was kept of the rows, which must be the same of both."""
    began = time.monotonic() if began is None else began
    left, right, distance = match_centroids(one.fit, other.fit)
    ours, theirs = bases(one.fit, left), bases(other.fit, right)
    spread = (one.spread + other.spread) / 2
    estimates = {
        "rand_index": _index(one, other, seed),
        "centroid_distance": _distance(distance, one, spread),
        "subspace_overlap": _subspaces(ours, theirs, seed),
    }
    overlap = None if ours is None or theirs is None else shared(ours, theirs).tolist()
    table = {
        "region": left.tolist(),
        "partner": right.tolist(),
        "distance": (distance / spread if spread else distance * np.nan).tolist(),
        "subspace_overlap": overlap or [None] * len(left),
        "shared_rows": _shared_rows(one.region, other.region, left, right),
    }
    notes = [
        f"Assignments are compared on {len(one.region):,} rows drawn at random; intervals: jackknife over groups of documents, "
        "otherwise bootstrap over regions.",
        "shared_rows: rows of both partners as a share of the rows of either.",
    ]
    return Report(title, estimates, {"regions": table}, notes=notes, seconds=time.monotonic() - began)


def overview(pairs: Sequence[tuple[str, str, Report]]) -> dict[str, list[Any]]:
    """A table with a row per pair of named fits and its report; intervals come last."""
    table: dict[str, list[Any]] = {"one": [], "other": []}
    for one, other, report in pairs:
        cells: dict[str, Any] = {"one": one, "other": other}
        for ends in ((("", "value"), (" by chance", "null")), ((" low", "low"), (" high", "high"))):
            cells |= {f"{name}{end}": getattr(it, field) for name, it in report.estimates.items() for end, field in ends}
        for name, cell in cells.items():
            table.setdefault(name, []).append(cell)
    return table


# ---------------------------------------------------------------- the three measures


def _index(one: Assigned, other: Assigned, seed: int) -> Estimate:
    from sklearn.metrics import adjusted_rand_score

    a, b, group = one.region, other.region, one.group
    value = float(adjusted_rand_score(a, b))
    low, high = jackknife_interval(value, leave_out(group, lambda kept: float(adjusted_rand_score(a[kept], b[kept]))), highest=1.0)
    rng = np.random.default_rng(seed)
    null = float(np.mean([adjusted_rand_score(a, rng.permutation(b)) for _ in range(DRAWS)]))
    return Estimate(value, low, high, len(a), null=null, ceiling=1.0, better="higher")


def match_centroids(one: Decomposition, other: Decomposition) -> tuple[Ints, Ints, Floats]:
    """Regions of two fits that are partners, and the distance of their centroids."""
    return nearest_pairs(one.dictionary.directions(), other.dictionary.directions())


def nearest_pairs(ours: Tensor, theirs: Tensor) -> tuple[Ints, Ints, Floats]:
    """One-to-one pairs of points [K, D] and [L, D] whose squared distances add up to the least, and their distances."""
    gap = torch.cdist(ours.double().cpu(), theirs.double().cpu(), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    left, right = linear_sum_assignment(gap**2)
    return left, right, gap[left, right]


def _distance(distance: Floats, one: Assigned, spread: float) -> Estimate:
    if spread == 0:
        return Estimate.missing("every row lies on its centroid, so that there is no unit of distance", better="lower")
    units = Units.of_values("feature", distance / spread)
    low, high = ratio_interval(units)
    null = None
    if len(one.drawn) >= one.fit.n_features:  # as many rows as regions
        null = float(nearest_pairs(one.fit.dictionary.directions(), one.drawn)[2].mean() / spread)
    return Estimate(units.value, low, high, len(units), null=null, ceiling=0.0, better="lower", units=units)


def bases(fit: Decomposition, regions: Ints) -> Tensor | None:
    """[k, R, D] orthonormal bases of the subspaces of some regions [k], rows of 0 where a loading is; None where they have none, or not all
    have as many."""
    d = fit.dictionary
    place = torch.nonzero(d.role == ROLES.index("loading"))[:, 0]
    rank = torch.bincount(d.group[place], minlength=d.n_features)
    if int(rank.min()) != int(rank.max()) or int(rank.max()) == 0:
        return None
    loadings = d.atoms[place[d.group[place].argsort(stable=True)]].view(d.n_features, int(rank[0]), d.d)
    chosen = loadings[torch.from_numpy(regions).to(d.atoms.device)].double().cpu()
    found: Tensor = torch.linalg.qr(chosen.mT)[0].mT * chosen.any(2)[:, :, None]  # nothing where a loading is 0
    return found


def shared(ours: Tensor, theirs: Tensor) -> Tensor:
    """[K] mean squared cosine of the principal angles between subspaces [K, R, D] and [K, R', D]; 0 where one has no axis."""
    axes = torch.minimum(ours.any(2).sum(1), theirs.any(2).sum(1))
    return (ours @ theirs.mT).square().sum((1, 2)) / axes.clamp_min(1)


def _subspaces(ours: Tensor | None, theirs: Tensor | None, seed: int) -> Estimate:
    if ours is None or theirs is None:
        return Estimate.missing("regions without axes", better="higher")
    units = Units.of_values("feature", shared(ours, theirs).numpy())
    low, high = ratio_interval(units)
    turns = np.random.default_rng(seed).integers(1, max(len(ours), 2), size=DRAWS).tolist()  # nobody keeps its partner
    null = float(np.mean([float(shared(ours, theirs.roll(by, 0)).mean()) for by in turns])) if len(ours) > 1 else None
    return Estimate(units.value, low, high, len(units), null=null, ceiling=1.0, better="higher", units=units)


def _shared_rows(a: Ints, b: Ints, left: Ints, right: Ints) -> list[float | None]:
    """Of each pair of partners, the rows that both hold as a share of the rows that either holds; None where neither has one."""
    n_left, n_right = (np.bincount(one[one >= 0], minlength=int(most.max()) + 1) for one, most in ((a, left), (b, right)))
    both = (a >= 0) & (b >= 0)
    pairs, count = np.unique(np.stack([a[both], b[both]]), axis=1, return_counts=True)
    held = {(int(i), int(j)): int(n) for (i, j), n in zip(pairs.T, count, strict=True)}
    found: list[float | None] = []
    for i, j in zip(left.tolist(), right.tolist(), strict=True):
        either = int(n_left[i] + n_right[j]) - held.get((i, j), 0)
        found.append(held.get((i, j), 0) / either if either else None)
    return found
