"""Mixture: the parameters of a mixture of factor analyzers, and the densities that follow from them.

    k ~ Cat(pi)    z ~ N(0, I)    x = mu_k + z W_k + noise,  of variance psi_k per column          C_k = W_k^T W_k + diag(psi_k)

With M_k = I + W_k diag(1 / psi_k) W_k^T = L_k L_k^T, d = x - mu_k and B_k = L_k^-1 W_k diag(1 / psi_k), so that B_k d is the part of d
inside the region in units in which it is white noise, Woodbury's identity gives

    log p(x | k) = -1/2 [D log 2 pi + sum log psi_k + 2 log |L_k| + sum d^2 / psi_k - |B_k d|^2]
    E[z | x, k] = L_k^-T B_k d            Cov[z | x, k] = M_k^-1

so that nothing is ever D x D (Ghahramani and Hinton 1996; McLachlan and Peel 2000, chapter 8).

Letters: n rows, D width, K regions, R rank, P noises (1 shared, or one per region).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from armillary.core.onednn import linear as product

LOG_2_PI = math.log(2 * math.pi)
#: Entries of centroids and loadings that are worked on together, 16 MB in float64, and up to which what is made of them is kept.
PART, KEPT = 1 << 21, 1 << 25
#: Entries of rows that are worked on together, 32 MB in float32.
TOGETHER = 1 << 23
#: Regions are worked on together whose numbers of rows are equal once rounded up to so many binary digits after the first.
STEPS = 2


@dataclass(frozen=True)
class Mixture:
    """The parameters.

    Args:
        log_weight: log pi [K].
        centroids: mu [K, D].
        loadings: W [K, R, D].
        noise: psi [P, D], variances above 0; P is 1 where all regions share them.
    """

    log_weight: Tensor
    centroids: Tensor
    loadings: Tensor
    noise: Tensor

    @property
    def n_regions(self) -> int:
        return len(self.centroids)

    @property
    def rank(self) -> int:
        return self.loadings.shape[1]

    @property
    def d(self) -> int:
        return self.centroids.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.log_weight, self.centroids, self.loadings, self.noise

    def to(self, where: torch.dtype | torch.device | str) -> Mixture:
        """In another precision, or on another device."""
        return Mixture(*(one.to(where) for one in self.tensors))

    def detach(self) -> Mixture:
        """The same numbers without gradients, in memory of their own."""
        return Mixture(*(one.detach().clone() for one in self.tensors))

    def part(self, own: slice) -> Mixture:
        """Some regions; their weights are what they were."""
        noise = self.noise[own] if len(self.noise) > 1 else self.noise
        return Mixture(self.log_weight[own], self.centroids[own], self.loadings[own], noise)

    def parts(self) -> list[slice]:
        """Regions that are worked on together, so that what is made of their loadings on the way stays small."""
        size = max(1, PART // max(1, (1 + self.rank) * self.d))
        return [slice(first, min(first + size, self.n_regions)) for first in range(0, self.n_regions, size)]

    # ------------------------------------------------------------ factors

    @cached_property
    def precision(self) -> Tensor:
        """1 / psi [P, D]."""
        return 1 / self.noise

    @cached_property
    def cholesky(self) -> Tensor:
        """L [K, R, R] of M = I + W diag(1 / psi) W^T, worked out in float64."""
        return torch.cat([self.part(own)._factor() for own in self.parts()])

    def _factor(self) -> Tensor:
        w = self.loadings.double()
        m = (w * self.precision.double()[:, None]) @ w.mT
        found: Tensor = torch.linalg.cholesky(m + torch.eye(self.rank, dtype=m.dtype, device=m.device))
        return found

    @cached_property
    def inverse(self) -> Tensor:
        """L^-1 [K, R, R], float64."""
        found: Tensor = torch.linalg.inv(self.cholesky)
        return found

    @cached_property
    def constant(self) -> Tensor:
        """[K] log pi - 1/2 [D log 2 pi + sum log psi + 2 log |L|], float64."""
        log_det = self.noise.double().log().sum(1) + 2 * self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        return self.log_weight.double() - (self.d * LOG_2_PI + log_det) / 2

    # ------------------------------------------------------------ all regions at once

    @cached_property
    def shift(self) -> Tensor:
        """[D] what is taken off rows and centroids before products are formed, so that these are small."""
        return torch.einsum("k,kd->d", self.log_weight.softmax(0).to(self.centroids.dtype), self.centroids)

    def _projections(self, own: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Of k regions: [k (1 + R), D] the rows (mu - shift) / psi and B; [k, R] B (mu - shift); [k] sum (mu - shift)^2 / psi."""
        m, factor = self.part(own), self.cholesky[own]
        whitener = torch.linalg.solve_triangular(factor, m.loadings.double() * m.precision.double()[:, None], upper=False)
        b, centred = whitener.to(m.loadings.dtype), m.centroids - self.shift  # [k, R, D], [k, D]
        scaled = centred * m.precision
        rows = torch.cat([scaled[:, None], b], dim=1).reshape(-1, self.d)
        return rows, torch.einsum("krd,kd->kr", b, centred), (scaled * centred).sum(1)

    @cached_property
    def _kept(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The projections of all regions, where these are few."""
        return [self._projections(own) for own in self.parts()]

    def log_joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows x [n, D], by one matrix product, or by several where there are many regions.

        Returns:
            [n, K] log pi_k + log p(x | k), and [n, K, R] the white coordinates B_k (x - mu_k).
        """
        few = self.loadings.numel() <= KEPT
        made = self._kept if few else (self._projections(own) for own in self.parts())
        centred = x - self.shift
        size = product(centred.square(), self.precision)  # [n, P]
        distance, white = [], []
        for rows, inside, squared in made:
            out = product(centred, rows).view(len(x), len(squared), 1 + self.rank)
            white.append(out[:, :, 1:] - inside)
            distance.append(squared - 2 * out[:, :, 0] - white[-1].square().sum(2))
        whole = torch.cat(distance, dim=1) if len(distance) > 1 else distance[0]
        return self.constant.to(x.dtype) - (size + whole) / 2, torch.cat(white, dim=1) if len(white) > 1 else white[0]

    # ------------------------------------------------------------ some regions per row

    def log_joint_of(self, x: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows x [n, D] and some regions [n, C] each, region by region; with the precision of `log_joint`.

        Returns:
            [n, C] log pi_k + log p(x | k), and [n, C, R] the white coordinates.
        """
        n, c = regions.shape
        centred = x - self.shift
        size = product(centred.square(), self.precision)  # [n, P]
        value, white = x.new_empty(n * c), x.new_empty(n * c, self.rank)
        for some, pairs, is_there in alike(regions.flatten(), self.d):  # [k], [k, m], [k, m]
            p, row = some % len(self.precision), pairs // c
            place = self.centroids[some] - self.shift  # [k, D]
            axes = torch.cat([place[:, None], self.loadings[some]], dim=1) * self.precision[p, None]  # [k, 1 + R, D]
            out = centred[row] @ axes.mT  # [k, m, 1 + R]
            at = axes @ place[:, :, None]  # [k, 1 + R, 1]
            inside = (out[:, :, 1:] - at[:, 1:].mT) @ self.inverse[some].to(x.dtype).mT
            distance = size[row, p[:, None]] - 2 * out[:, :, 0] + at[:, 0] - inside.square().sum(2)
            found, where = self.constant[some, None].to(x.dtype) - distance / 2, pairs[is_there]
            value[where], white[where] = found[is_there], inside[is_there]
        return value.view(n, c), white.view(n, c, self.rank)

    def log_joint_exactly(self, x: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and nothing is lost to cancellation: with z = E[z | x, k] the Mahalanobis distance is also

            d^T C^-1 d = sum (d - z W)^2 / psi + |z|^2

        a sum of squares, and least there, so that an error of z hardly matters.
        """
        n, c = regions.shape
        inverse = self.inverse.to(x.dtype)
        value, white = x.new_empty(n * c), x.new_empty(n * c, self.rank)
        for k, pairs in grouped(regions.flatten()):
            d, precision = x[pairs // c] - self.centroids[k], self.precision[k % len(self.precision)]
            inside = d @ (self.loadings[k] * precision).T @ inverse[k].T
            z = inside @ inverse[k]
            distance = (d - z @ self.loadings[k]).square_() @ precision + z.square().sum(1)
            value[pairs], white[pairs] = self.constant[k].to(x.dtype) - distance / 2, inside
        return value.view(n, c), white.view(n, c, self.rank)

    def log_joint_at(self, x: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows x [n, D] and a region [n] each, exactly: [n] log pi_k + log p(x | k), and [n, R] the white coordinates."""
        value, white = self.log_joint_exactly(x, region[:, None])
        return value[:, 0], white[:, 0]

    def coordinates(self, white: Tensor, region: Tensor) -> Tensor:
        """E[z | x, k] [n, R] from white coordinates [n, R] in a region [n] each: z = L^-T B d."""
        return torch.einsum("nrs,nr->ns", self.inverse.to(white.dtype)[region], white)

    def covariance(self, k: int) -> Tensor:
        """Cov[z | x, k] = M_k^-1 [R, R], which no row changes."""
        return torch.cholesky_inverse(self.cholesky[k]).to(self.loadings.dtype)


def grouped(region: Tensor) -> list[tuple[int, Tensor]]:
    """(k, the places [n_k] where region [n] is k), for every k there is."""
    order = region.argsort(stable=True)
    found, counts = torch.unique_consecutive(region[order], return_counts=True)
    return list(zip(found.tolist(), torch.split(order, counts.tolist()), strict=True)) if len(region) else []


def alike(region: Tensor, d: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs by region [pairs], regions of nearly as many pairs together: [k] regions, [k, m] their pairs, [k, m] which of these are there.

    Args:
        region: of each pair.
        d: numbers of a row, so that not too many are worked on together.
    """
    order = region.argsort(stable=True)
    found, counts = torch.unique_consecutive(region[order], return_counts=True)
    step = 2 ** (counts.double().log2().floor().long() - STEPS).clamp_min(0)
    first, wide = counts.cumsum(0) - counts, (counts + step - 1) // step * step
    for m in torch.unique(wide).tolist():
        place = torch.arange(m, device=region.device)
        for some in torch.split((wide == m).nonzero()[:, 0], max(1, TOGETHER // (m * d))):
            at = first[some, None] + torch.minimum(place, counts[some, None] - 1)
            yield found[some], order[at], place < counts[some, None]
