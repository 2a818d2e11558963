"""Mixture: the parameters of a mixture of factor analyzers, and the densities that follow from them.

    k ~ Cat(pi)    z ~ N(0, I)    x = mu_k + z W_k + noise,  of variance psi_k per column          C_k = W_k^T W_k + diag(psi_k)

With M_k = I + W_k diag(1 / psi_k) W_k^T = L_k L_k^T and B_k = L_k^-1 W_k diag(1 / psi_k), Woodbury's identity gives, for d = x - mu_k,

    log p(x | k) = -1/2 [D log 2 pi + sum log psi_k + 2 log |L_k| + sum d^2 / psi_k - |B_k d|^2]
    E[z | x, k] = L_k^-T B_k d            Cov[z | x, k] = M_k^-1

so that nothing is ever D x D (Ghahramani and Hinton 1996; McLachlan and Peel 2000, chapter 8).

Letters: n rows, D width, K regions, R rank, P noises (1 shared, or one per region).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from armillary.core.onednn import linear as product

LOG_2_PI = math.log(2 * math.pi)


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

    def to(self, dtype: torch.dtype) -> Mixture:
        return Mixture(*(one.to(dtype) for one in (self.log_weight, self.centroids, self.loadings, self.noise)))

    def detach(self) -> Mixture:
        """The same numbers without gradients."""
        return Mixture(*(one.detach().clone() for one in (self.log_weight, self.centroids, self.loadings, self.noise)))

    # ------------------------------------------------------------ factors

    @cached_property
    def precision(self) -> Tensor:
        """1 / psi [P, D]."""
        return 1 / self.noise

    @cached_property
    def cholesky(self) -> Tensor:
        """L [K, R, R] of M = I + W diag(1 / psi) W^T, worked out in float64."""
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
    def whitener(self) -> Tensor:
        """B [K, R, D], whose product with d = x - mu is the part of d inside the region, in units in which it is white noise."""
        scaled = self.loadings.double() * self.precision.double()[:, None]
        found: Tensor = torch.linalg.solve_triangular(self.cholesky, scaled, upper=False)
        return found.to(self.loadings.dtype)

    @cached_property
    def constant(self) -> Tensor:
        """[K] log pi - 1/2 [D log 2 pi + sum log psi + 2 log |L|], float64."""
        log_det = self.noise.double().log().sum(1) + 2 * self.cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        return self.log_weight.double() - (self.d * LOG_2_PI + log_det) / 2

    # ------------------------------------------------------------ all regions at once

    @cached_property
    def shift(self) -> Tensor:
        """[D] what is taken off rows and centroids before products are formed, so that these are small."""
        return (self.log_weight.double().exp() @ self.centroids.double()).to(self.centroids.dtype)

    @cached_property
    def _projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """[K (R + 1), D] the rows (mu - shift) / psi and B of every region; [K, R] B (mu - shift); [K] sum (mu - shift)^2 / psi."""
        centred = self.centroids - self.shift  # [K, D]
        scaled = centred * self.precision
        rows = torch.cat([scaled[:, None], self.whitener], dim=1).reshape(-1, self.d)
        return rows, torch.einsum("krd,kd->kr", self.whitener, centred), (scaled * centred).sum(1)

    def log_joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows x [n, D], by one matrix product.

        Returns:
            [n, K] log pi_k + log p(x | k), and [n, K, R] the white coordinates B_k (x - mu_k).
        """
        rows, inside, squared = self._projections
        centred = x - self.shift
        out = product(centred, rows).view(len(x), self.n_regions, 1 + self.rank)
        white = out[:, :, 1:] - inside
        size = product(centred.square(), self.precision)  # [n, P]
        distance = size - 2 * out[:, :, 0] + squared - white.square().sum(2)
        return self.constant.to(x.dtype) - distance / 2, white

    # ------------------------------------------------------------ some regions per row

    def log_joint_of(self, x: Tensor, regions: Tensor, *, is_exact: bool = False) -> tuple[Tensor, Tensor]:
        """Of rows x [n, D] and some regions [n, C] each, region by region.

        Where it has to be exact nothing is lost to cancellation: with z = E[z | x, k] the Mahalanobis distance is also

            d^T C^-1 d = sum (d - z W)^2 / psi + |z|^2

        a sum of squares, and least there, so that an error of z hardly matters.

        Returns:
            [n, C] log pi_k + log p(x | k), and [n, C, R] the white coordinates.
        """
        n, c = regions.shape
        value, white = x.new_empty(n * c), x.new_empty(n * c, self.rank)
        for k, pairs in grouped(regions.flatten()):
            d = x[pairs // c] - self.centroids[k]
            inside = d @ self.whitener[k].T
            less = -inside.square().sum(1)
            if is_exact:
                z = inside @ self.inverse[k].to(x.dtype)
                d, less = d - z @ self.loadings[k], z.square().sum(1)
            distance = d.square_() @ self.precision[k % len(self.precision)] + less
            value[pairs], white[pairs] = self.constant[k].to(x.dtype) - distance / 2, inside
        return value.view(n, c), white.view(n, c, self.rank)

    def log_joint_at(self, x: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows x [n, D] and a region [n] each, exactly: [n] log pi_k + log p(x | k), and [n, R] the white coordinates."""
        value, white = self.log_joint_of(x, region[:, None], is_exact=True)
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
