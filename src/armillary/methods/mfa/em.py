"""EM: sums of a pass over rows, and the parameters that follow from them.

With responsibilities r of the parameters as they are, z = E[z | x, k] and rows x, a region needs

    sum r,   sum r x,   sum r z,   sum r z x^T,   sum r E[z z^T]        and all together (or each)   sum r x^2

which is D (R + 1) numbers and a few more, never D x D. The mean of the region is then exact, its loadings are the regression of x on z
about that mean, and noise is what is left: one step of a generalised EM that converges sooner than the joint regression on (z, 1) of
Ghahramani and Hinton (1996), as centroids do not have to crawl along the loadings (after Tipping and Bishop 1999, section 3.2):

    mu = sum r x / n      C_zx = sum r z x^T / n - z_mean mu^T      C_zz = sum r E[z z^T] / n - z_mean z_mean^T
    W = C_zz^-1 C_zx      psi = sum r x^2 / n - mu^2 - diag(C_zx^T C_zz^-1 C_zx)

Sums of several batches may be averaged as well as added (stepwise EM; Cappe and Moulines 2009).

Letters: n rows, D width, K regions, R rank, P noises.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from armillary.methods.mfa.gate import Gate, consider
from armillary.methods.mfa.mixture import Mixture, alike
from armillary.methods.mfa.sharing import ALL, Work

Noise = Literal["diagonal", "isotropic", "diagonal_per_region", "isotropic_per_region"]


@dataclass(frozen=True)
class Shape:
    """What a mixture shall be.

    Args:
        n_regions: K.
        rank: R.
        noise: one variance per column or one for all columns, of all regions together or of each.
        floor: the least variance.
    """

    n_regions: int
    rank: int
    noise: Noise
    floor: float

    @property
    def is_per_region(self) -> bool:
        return self.noise.endswith("per_region")

    def n_parameters(self, d: int) -> int:
        """Numbers that rows of width d are fitted with."""
        return self.n_regions * ((self.rank + 1) * d + 1) + (self.n_regions if self.is_per_region else 1) * d

    def spread(self, psi: Tensor, n: int | None = None) -> Tensor:
        """Noise of this form [P, D], of n regions or of all, from variances [1, D] or [n, D]."""
        psi = psi.clamp_min(self.floor)
        if self.noise.startswith("isotropic"):
            psi = psi.mean(1, keepdim=True).expand_as(psi)
        return (psi.expand(self.n_regions if n is None else n, -1) if self.is_per_region else psi).clone()


#: Responsibilities below this are left out: a row's log-likelihood does not change by as much as float64 can tell.
RARE = 1e-14
#: Least weight of a region, so that one without a row keeps a finite log-weight.
LEAST_WEIGHT = 1e-12


@dataclass
class Sums:
    """What is known of some rows; all tensors float64.

    Args:
        n: [K] sum r.
        x: [K, D] sum r x.
        z: [K, R] sum r z.
        zx: [K, R, D] sum r z x^T.
        zz: [K, R, R] sum r E[z z^T].
        xx: [P, D] sum r x^2.
        total: [2] sum of log-likelihoods, number of rows.
    """

    n: Tensor
    x: Tensor
    z: Tensor
    zx: Tensor
    zz: Tensor
    xx: Tensor
    total: Tensor

    @staticmethod
    def empty(like: Mixture) -> Sums:
        k, r, d, p = like.n_regions, like.rank, like.d, len(like.noise)
        shapes = ((k,), (k, d), (k, r), (k, r, d), (k, r, r), (p, d), (2,))
        return Sums(*(torch.zeros(shape, dtype=torch.float64, device=like.centroids.device) for shape in shapes))

    @property
    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def log_likelihood(self) -> float:
        """Mean over rows, nats, of the parameters that the sums were made with."""
        return float(self.total[0] / self.total[1])

    def part(self, own: slice) -> Sums:
        """Those of some regions; what all have in common stays."""
        return Sums(self.n[own], self.x[own], self.z[own], self.zx[own], self.zz[own], self.xx, self.total)

    def to(self, device: torch.device) -> Sums:
        return Sums(*(one.to(device) for one in self.tensors))

    def add(self, other: Sums) -> None:
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.add_(theirs)

    def step(self, other: Sums, share: float) -> None:
        """Move toward the sums of a batch: what was known counts as (1 - share) / share batches, and so as 1 - share of all."""
        past = (1 - share) / share * other.total[1] / self.total[1].clamp_min(1)
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.mul_(past).add_(theirs)


def expect(mixture: Mixture, x: Tensor, gate: Gate | None = None, work: Work = ALL) -> Sums:
    """The sums of rows x [n, D]: the E-step. With a gate only its candidates count, and the log-likelihood is a lower bound."""
    sums = Sums.empty(mixture)
    collect(sums, mixture, x, gate, work)
    return sums


def collect(sums: Sums, mixture: Mixture, x: Tensor, gate: Gate | None = None, work: Work = ALL) -> None:
    """Add the sums of rows x [n, D] to others."""
    found = consider(mixture, x, gate, work)
    total = work.logsumexp(found.joint)  # [n]
    share = (found.joint - total[:, None]).exp_()  # [n, C]
    row, slot = (share > RARE).nonzero().T
    sums.total += torch.stack([total.sum(dtype=torch.float64), total.new_tensor(len(x), dtype=torch.float64)])
    gather(sums, mixture, x, Pairs(row, found.region(row, slot), share[row, slot], found.white[row, slot]))


@dataclass(frozen=True)
class Pairs:
    """Rows and regions that may hold them.

    Args:
        row, region: [pairs] their numbers.
        share: [pairs] responsibilities.
        white: [pairs, R] coordinates B (x - mu).
    """

    row: Tensor
    region: Tensor
    share: Tensor
    white: Tensor


def gather(sums: Sums, mixture: Mixture, x: Tensor, found: Pairs) -> None:
    """Add pairs, of rows x [n, D], to sums, which are formed about the region's centroid, so that float32 loses nothing, and moved."""
    z = mixture.coordinates(found.white, found.region)
    for regions, pairs, is_there in alike(found.region, mixture.d):  # [k], [k, m], [k, m]
        r, here = found.share[pairs] * is_there, z[pairs]  # [k, m], [k, m, R]
        d = x[found.row[pairs]] - mixture.centroids[regions, None]  # [k, m, D]
        weighted = r[:, :, None] * here
        n, zs = r.sum(1, dtype=torch.float64)[:, None], weighted.sum(1, dtype=torch.float64)
        ds, mu = (r[:, None] @ d)[:, 0].double(), mixture.centroids[regions].double()
        sums.n.index_add_(0, regions, n[:, 0])
        sums.x.index_add_(0, regions, ds + n * mu)
        sums.z.index_add_(0, regions, zs)
        sums.zx.index_add_(0, regions, (weighted.mT @ d).double().addcmul_(zs[:, :, None], mu[:, None]))
        sums.zz.index_add_(0, regions, (weighted.mT @ here).double() + n[:, :, None] * torch.cholesky_inverse(mixture.cholesky[regions]))
        squares = (r[:, None] @ d.square_())[:, 0].double() + 2 * mu * ds + n * mu.square()  # [k, D]
        if len(sums.xx) == 1:
            sums.xx += squares.sum(0)
        else:
            sums.xx.index_add_(0, regions, squares)


def maximise(sums: Sums, old: Mixture, shape: Shape, work: Work = ALL) -> Mixture:
    """The parameters that follow from sums: the M-step. A region with hardly a row keeps its centroid and loadings.

    Args:
        sums: of at least one row.
        old: the parameters before.
        shape: what noise may be.
        work: this rank's share.
    """
    centroids, loadings, inside = torch.empty_like(old.centroids), torch.empty_like(old.loadings), torch.empty_like(sums.x)
    for own in old.parts():
        centroids[own], loadings[own], inside[own] = _regress(sums.part(own), old.part(own))
    n = work.total(sums.n.sum())
    log_weight = (sums.n / n).clamp_min(LEAST_WEIGHT).log().to(centroids.dtype)
    if shape.is_per_region:
        held = (sums.n < old.rank + 2)[:, None]
        psi = torch.where(held, old.noise.double(), (sums.xx - inside) / sums.n.clamp_min(1.0)[:, None])
    else:
        psi = work.total(sums.xx - inside.sum(0, keepdim=True)) / n
    return Mixture(log_weight, centroids, loadings, shape.spread(psi, old.n_regions).to(centroids.dtype))


def _regress(sums: Sums, old: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """Centroids [K, D] and loadings [K, R, D] of some regions, and [K, D] how much of sum r x^2 they explain, float64."""
    held = sums.n < old.rank + 2
    n = sums.n.clamp_min(1.0)[:, None]  # [K, 1]
    mu, z_mean = sums.x / n, sums.z / n
    zx = sums.zx / n[:, None] - z_mean[:, :, None] * mu[:, None]  # C_zx [K, R, D]
    zz = sums.zz / n[:, None] - z_mean[:, :, None] * z_mean[:, None]  # C_zz [K, R, R]
    zz[held] = torch.eye(old.rank, dtype=zz.dtype, device=zz.device)
    mu = torch.where(held[:, None], old.centroids.double(), mu)
    w = torch.where(held[:, None, None], old.loadings.double(), torch.cholesky_solve(zx, torch.linalg.cholesky(zz)))
    away = sums.zx - sums.z[:, :, None] * mu[:, None]  # sum r z (x - mu)^T
    inside = mu * (2 * sums.x - sums.n[:, None] * mu) + (w * (2 * away - sums.zz @ w)).sum(1)
    return mu, w, inside
