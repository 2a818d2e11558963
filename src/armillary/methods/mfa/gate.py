"""Gate: which regions a row might belong to, found without looking at all of them.

    within = sum pi_k C_k        y = (x - shift) A,  A^T within A = I, along the axes in which centroids differ most
    score_k = log pi_k + log N(y; y_k, diag(A^T C_k A))        the candidates of a row are the C regions of largest score

that is, every region as a Gaussian without correlations in the first columns of a linear discriminant analysis. The few rows that none of
their candidates explains are compared with all regions. Regions that are left out count as impossible, which can only lower a row's
log-likelihood: what is computed is a lower bound, and `gap` says by how much.

Letters: n rows, D width, K regions, d columns of the sketch, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from armillary.core.onednn import linear as product
from armillary.methods.mfa.mixture import Mixture

#: Columns of the sketch at most, and candidates by default.
SKETCH, CANDIDATES = 128, 16
#: A row is not explained where the squared distance to its nearest candidate is above its mean by so many standard deviations; rows of a
#: batch that are compared with all regions for that, at most.
DOUBTFUL, SHARE = 5.0, 0.02
#: Nats per row that the bound may be below the log-likelihood before there are more candidates, and rows that this is looked at on.
TOLERATED, PROBED = 0.01, 512
#: Regions from which on a gate is used by default.
MANY = 512
#: Regions that are worked on together.
PART = 1024
#: Entries of the largest temporary array, 128 MB in float32; rows that are worked on together where there is a gate.
CHUNK, GATED = 1 << 25, 1 << 15
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
        n_candidates: C.
    """

    centre: Tensor
    sketch: Tensor
    weights: Tensor
    offset: Tensor
    n_candidates: int

    @staticmethod
    def of(mixture: Mixture, n_candidates: int) -> Gate:
        """The gate of a mixture."""
        kind, away = mixture.centroids.dtype, mixture.centroids - mixture.shift  # [K, D]
        sketch = discriminant(mixture)
        points, variance = away @ sketch, mixture.noise @ sketch.square()  # [K, d], [P, d]
        variance = variance + torch.cat([(part @ sketch).square().sum(1) for part in torch.split(mixture.loadings, PART)])  # [K, d]
        offset = mixture.log_weight - (variance.log() + points.square() / variance).sum(1) / 2
        weights = torch.cat([points / variance, -0.5 / variance], dim=1)
        return Gate(mixture.shift, sketch, weights.to(kind), offset.to(kind), min(n_candidates, mixture.n_regions))

    def candidates(self, x: Tensor) -> Tensor:
        """[n, C] regions of rows x [n, D], the likeliest first."""
        y = (x - self.centre) @ self.sketch
        return torch.topk(product(torch.cat([y, y.square()], dim=1), self.weights, self.offset), self.n_candidates, dim=1).indices


def discriminant(mixture: Mixture) -> Tensor:
    """A [D, d]: axes in which centroids differ most, in units of the mean covariance of the regions."""
    away = mixture.centroids.double() - mixture.shift.double()
    size, axes = torch.linalg.eigh(within(mixture))
    whitener = axes / (size + RIDGE * size.mean()).clamp_min(torch.finfo(size.dtype).tiny).sqrt()  # [D, D]
    white = away @ whitener
    spread = torch.linalg.eigh((white * mixture.log_weight.double().exp()[:, None]).T @ white)[1]  # rising
    found: Tensor = whitener @ spread.flip(1)[:, : min(SKETCH, mixture.d)]
    return found.to(mixture.centroids.dtype)


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


def part_size(mixture: Mixture, gate: Gate | None) -> int:
    """Rows that are worked on together: as many as fit, or enough for each of many regions to have some."""
    return max(1, CHUNK // max(mixture.n_regions * (2 + mixture.rank), mixture.d)) if gate is None else GATED


def consider(mixture: Mixture, x: Tensor, gate: Gate | None = None) -> Considered:
    """What a mixture makes of rows x [n, D]: of all regions, or of a gate's candidates."""
    if gate is None:
        return Considered(None, *mixture.log_joint(x))
    regions = gate.candidates(x)
    joint, white = mixture.log_joint_of(x, regions)
    best, slot = joint.max(dim=1)
    distance = 2 * (mixture.constant.to(x.dtype)[regions.gather(1, slot[:, None])[:, 0]] - best)  # [n]
    far = distance.topk(int(SHARE * len(x))).indices
    far = far[distance[far] > mixture.d + DOUBTFUL * (2 * mixture.d) ** 0.5]
    if len(far):
        whole, inside = mixture.log_joint(x[far])
        joint[far], regions[far] = whole.topk(gate.n_candidates, dim=1)
        white[far] = inside.gather(1, regions[far][:, :, None].expand(-1, -1, mixture.rank))
    return Considered(regions, joint, white)


def gate_for(mixture: Mixture, n_candidates: int | None, probe: Tensor) -> Gate | None:
    """A gate whose bound is near the log-likelihood of rows [n, D]: candidates are doubled until it is. None once they are all regions."""
    gate = None if n_candidates is None else Gate.of(mixture, n_candidates)
    while gate is not None and gate.n_candidates < mixture.n_regions:
        if float(gap(mixture, gate, probe).mean()) <= TOLERATED:
            return gate
        gate = replace(gate, n_candidates=2 * gate.n_candidates)
    return None


def gap(mixture: Mixture, gate: Gate, x: Tensor) -> Tensor:
    """[n] by how many nats the bound of each row is below its log-likelihood, from all regions."""
    whole, bound = (consider(mixture, x, one).joint.logsumexp(1) for one in (None, gate))
    return (whole - bound).clamp_min(0)
