"""Gate: which regions a row might belong to, found without looking at all of them.

    within = sum pi_k C_k        y = (x - shift) A,  A^T within A = I, along the axes in which centroids differ most
    score_k = log pi_k + log N(y; y_k, diag(A^T C_k A))        half the candidates of a row are regions of largest score

that is, every region as a Gaussian without correlations in the first columns of a linear discriminant analysis. The other half are those
whose centroids are nearest as they are, as the discriminant does not see what regions have in common, such as lying still there. Rows that
none of their candidates explains are compared with more regions, and few of them with all. Regions that are left out count as impossible,
which can only lower a row's log-likelihood: what is computed is a lower bound, and `gap` says by how much.

Letters: n rows, D width, K regions, d and e columns of the sketches, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from armillary.core.onednn import linear as product
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.sharing import ALL, Work

#: Columns of the sketch and principal axes at most, and candidates by default.
SKETCH, AXES, CANDIDATES = 128, 64, 16
#: One in so many candidates is a nearest centroid.
NEAR = 2
#: A row is not explained where the squared distance to its nearest candidate is above its mean by so many standard deviations. For such
#: rows, at most this share of a batch, so many times as many candidates are considered, and for those that are farthest then all regions.
DOUBTFUL, FAR, WIDER, FARTHEST = 5.0, 0.2, 4, 0.02
#: Nats per row that the bound may be below the log-likelihood before there are more candidates, and rows that this is looked at on.
TOLERATED, PROBED = 0.01, 512
#: Regions from which on a gate is used by default.
MANY = 512
#: Regions that are worked on together.
PART = 1024
#: Entries of the largest temporary array, 32 MB in float32; rows that are worked on together where there is a gate.
CHUNK, GATED = 1 << 23, 1 << 15
#: Scores that are worked on together: few, so that they stay near the processor.
SCORES = 1 << 20
#: Ridge of the mean covariance, as a share of its mean eigenvalue.
RIDGE = 1e-6


@dataclass(frozen=True)
class Gate:
    """A sketch of the rows and of the regions.

    Args:
        centre: [D] what is taken off rows.
        sketch: A [D, d].
        weights: [K, 2 d] of (y, y^2) in the score: y_k / v_k and -1 / (2 v_k), for variances v_k.
        offset: [K] log pi_k - sum (log v_k + y_k^2 / v_k) / 2.
        axes: [D, e] principal axes of the centroids.
        places: [K, e] the centroids on them.
        n_candidates: C.
    """

    centre: Tensor
    sketch: Tensor
    weights: Tensor
    offset: Tensor
    axes: Tensor
    places: Tensor
    n_candidates: int

    @staticmethod
    def of(mixture: Mixture, n_candidates: int) -> Gate:
        """The gate of a mixture."""
        kind, away = mixture.centroids.dtype, mixture.centroids - mixture.shift  # [K, D]
        sketch, axes = discriminant(mixture), principal_axes(mixture)
        points, variance = away @ sketch, mixture.noise @ sketch.square()  # [K, d], [P, d]
        variance = variance + torch.cat([(part @ sketch).square().sum(1) for part in torch.split(mixture.loadings, PART)])  # [K, d]
        offset = mixture.log_weight - (variance.log() + points.square() / variance).sum(1) / 2
        weights = torch.cat([points / variance, -0.5 / variance], dim=1)
        n = min(n_candidates, mixture.n_regions)
        return Gate(mixture.shift, sketch, weights.to(kind), offset.to(kind), axes, away @ axes, n)

    def to(self, device: torch.device) -> Gate:
        """The same on a device."""
        centre, sketch, weights, offset = (one.to(device) for one in (self.centre, self.sketch, self.weights, self.offset))
        return Gate(centre, sketch, weights, offset, self.axes.to(device), self.places.to(device), self.n_candidates)

    def candidates(self, x: Tensor) -> Tensor:
        """[n, C] regions of rows x [n, D]."""
        size = max(1, SCORES // len(self.weights))
        found = torch.zeros(len(x), self.n_candidates, dtype=torch.int64, device=x.device)  # made before the large buffers
        for start in range(0, len(x), size):
            found[start : start + size] = self._candidates(x[start : start + size])
        return found

    def _candidates(self, x: Tensor) -> Tensor:
        centred = x - self.centre
        y, place = centred @ self.sketch, centred @ self.axes
        n_near = self.n_candidates // NEAR
        likely = product(torch.cat([y, y.square()], dim=1), self.weights, self.offset).topk(self.n_candidates - n_near, dim=1).indices
        if n_near == 0:
            return likely
        near = product(place, self.places, -self.places.square().sum(1) / 2).scatter_(1, likely, -torch.inf)
        return torch.cat([likely, near.topk(n_near, dim=1).indices], dim=1)


def discriminant(mixture: Mixture) -> Tensor:
    """A [D, d]: axes in which centroids differ most, in units of the mean covariance of the regions."""
    away = mixture.centroids.double() - mixture.shift.double()
    size, axes = torch.linalg.eigh(within(mixture))
    whitener = axes / (size + RIDGE * size.mean()).clamp_min(torch.finfo(size.dtype).tiny).sqrt()  # [D, D]
    white = away @ whitener
    spread = torch.linalg.eigh((white * mixture.log_weight.double().exp()[:, None]).T @ white)[1]  # rising
    found: Tensor = whitener @ spread.flip(1)[:, : min(SKETCH, mixture.d)]
    return found.to(mixture.centroids.dtype)


def principal_axes(mixture: Mixture) -> Tensor:
    """[D, e] axes in which centroids differ most, as they are."""
    away = mixture.centroids.double() - mixture.shift.double()
    found: Tensor = torch.linalg.eigh((away * mixture.log_weight.double().exp()[:, None]).T @ away)[1]
    return found.flip(1)[:, : min(AXES, mixture.d)].to(mixture.centroids.dtype)


def within(mixture: Mixture) -> Tensor:
    """The mean covariance of the regions [D, D], float64."""
    weight = mixture.log_weight.double().exp()
    total = torch.diag((weight[:, None] * mixture.noise.double().expand(mixture.n_regions, -1)).sum(0))
    for part in torch.split(torch.arange(mixture.n_regions), PART):
        rows = (weight[part].sqrt()[:, None, None] * mixture.loadings[part].double()).flatten(0, 1)  # [part R, D]
        total += rows.T @ rows
    return total


@dataclass(frozen=True)
class Considered:
    """Rows and the regions that are considered for them.

    Args:
        regions: [n, C], or None for all K, in their order.
        joint: [n, C] log pi_k + log p(x | k).
        white: [n, C, R] coordinates B_k (x - mu_k).
    """

    regions: Tensor | None
    joint: Tensor
    white: Tensor

    def region(self, row: Tensor, slot: Tensor) -> Tensor:
        """The region in a slot of a row."""
        return slot if self.regions is None else self.regions[row, slot]

    def distance(self, mixture: Mixture) -> Tensor:
        """[n] squared Mahalanobis distance of each row to the likeliest of the regions that are considered for it."""
        best, slot = self.joint.max(dim=1)
        region = self.region(torch.arange(len(best), device=best.device), slot)
        return 2 * (mixture.constant.to(best.dtype)[region] - best)

    def replace(self, rows: Tensor, other: Considered) -> None:
        """Take for some rows the likeliest of the regions that another one considered for these rows."""
        assert self.regions is not None and other.regions is not None
        self.joint[rows], slot = other.joint.topk(self.joint.shape[1], dim=1)
        self.regions[rows] = other.regions.gather(1, slot)
        self.white[rows] = other.white.gather(1, slot[:, :, None].expand(-1, -1, self.white.shape[2]))


def part_size(mixture: Mixture, gate: Gate | None, work: Work = ALL) -> int:
    """Rows that are worked on together: as many as fit, or enough for each of many regions to have some; the same on every rank."""
    return max(1, CHUNK // max(work.shares(mixture)[1] * (2 + mixture.rank), mixture.d)) if gate is None else GATED


def consider(mixture: Mixture, x: Tensor, gate: Gate | None = None, work: Work = ALL) -> Considered:
    """What a mixture makes of rows x [n, D]: of all regions, or of a gate's candidates. Of a share of the regions, these alone."""
    if gate is None:
        return Considered(None, *mixture.log_joint(x))
    regions = gate.candidates(x)
    found = Considered(regions, *mixture.log_joint_of(x, regions))
    for share, wider in ((FAR, min(WIDER * gate.n_candidates, mixture.n_regions)), (FARTHEST, None)):
        distance = work.least(found.distance(mixture))
        far = distance.topk(int(share * len(x))).indices
        far = far[distance[far] > mixture.d + DOUBTFUL * (2 * mixture.d) ** 0.5]
        size = max(1, CHUNK // ((wider or mixture.n_regions) * (2 + mixture.rank)))
        for some in torch.split(far, size) if len(far) else ():
            found.replace(some, _wider(mixture, x[some], None if wider is None else replace(gate, n_candidates=wider)))
    return found


def _wider(mixture: Mixture, x: Tensor, gate: Gate | None) -> Considered:
    """Of more regions than before, or of all."""
    if gate is None:
        joint, white = mixture.log_joint(x)
        return Considered(torch.arange(mixture.n_regions, device=x.device).expand(len(x), -1), joint, white)
    regions = gate.candidates(x)
    return Considered(regions, *mixture.log_joint_of(x, regions))


def gate_for(mixture: Mixture, n_candidates: int | None, probe: Tensor, work: Work = ALL) -> Gate | None:
    """A gate whose bound is near the log-likelihood of rows [n, D]: candidates are doubled until it is. None once they are all regions."""
    gate = None if n_candidates is None else Gate.of(mixture, n_candidates)
    while gate is not None and gate.n_candidates < work.shares(mixture)[0]:
        if float(gap(mixture, gate, probe, work).mean()) <= TOLERATED:
            return gate
        gate = replace(gate, n_candidates=2 * gate.n_candidates)
    return None


def gap(mixture: Mixture, gate: Gate, x: Tensor, work: Work = ALL) -> Tensor:
    """[n] by how many nats the bound of each row is below its log-likelihood, from all regions."""
    parts = torch.split(x, part_size(mixture, None, work))
    whole = torch.cat([work.logsumexp(consider(mixture, part, None, work).joint) for part in parts])
    return (whole - work.logsumexp(consider(mixture, x, gate, work).joint)).clamp_min(0)
