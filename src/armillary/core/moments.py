"""One-pass float64 moments. Every fraction of variance unexplained comes from here.

Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", eq. 2.1: two sets of moments merge exactly, so
batches, shards and ranks can be added in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.errors import InputError


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred second moments of rows.

    Args:
        n: number of rows.
        mean: [D] float64.
        scatter: sum of squared deviations, [D] per dimension or [D, D] with covariances, float64.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def empty(d: int, *, covariance: bool = False) -> Moments:
        shape = (d, d) if covariance else (d,)
        return Moments(0, torch.zeros(d, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    @staticmethod
    def of(x: Tensor, *, covariance: bool = False) -> Moments:
        """Moments of the rows of x [N, D]."""
        if len(x) == 0:
            return Moments.empty(x.shape[1], covariance=covariance)
        wide = x.double()
        mean = wide.mean(0)
        centred = wide - mean
        return Moments(len(x), mean.cpu(), (centred.T @ centred if covariance else centred.square().sum(0)).cpu())

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        weight = self.n * other.n / n
        between = torch.outer(gap, gap) if self.scatter.ndim == 2 else gap.square()
        return Moments(n, self.mean + gap * (other.n / n), self.scatter + other.scatter + weight * between)

    @property
    def total(self) -> float:
        """Sum of squared deviations over all rows and dimensions: the denominator of the FVU."""
        return float(self.scatter.trace() if self.scatter.ndim == 2 else self.scatter.sum())

    @property
    def variance(self) -> Tensor:
        """[D] population variance per dimension."""
        diagonal = self.scatter.diagonal() if self.scatter.ndim == 2 else self.scatter
        return diagonal / max(self.n, 1)

    @property
    def covariance(self) -> Tensor:
        """[D, D] sample covariance (n - 1).

        Raises:
            InputError: the moments were taken per dimension only.
        """
        if self.scatter.ndim != 2:
            raise InputError("these moments hold no covariances; take them with covariance=True")
        return self.scatter / max(self.n - 1, 1)

    def state(self) -> dict[str, Tensor | int]:
        """What a checkpoint keeps."""
        return {"n": self.n, "mean": self.mean, "scatter": self.scatter}
