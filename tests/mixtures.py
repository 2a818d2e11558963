"""Rows drawn from known mixtures of factor analyzers, after the research note's generator, of any size.

Letters: n rows, D width, K regions, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.methods.mfa.mixture import Mixture


@dataclass(frozen=True)
class Drawn:
    """Rows and the truth about them.

    Args:
        x: [n, D] to fit, float64.
        region: [n] of each.
        held_out: [m, D] further rows, and their regions [m].
        held_out_region: [m].
        mixture: the parameters, float64.
    """

    x: Tensor
    region: Tensor
    held_out: Tensor
    held_out_region: Tensor
    mixture: Mixture

    @property
    def oracle(self) -> float:
        """Mean log-likelihood of the held-out rows under the truth."""
        return log_likelihood(self.mixture, self.held_out)


def draw(
    n: int = 4000, k: int = 8, d: int = 32, r: int = 3, *, held_out: int = 2000, apart: float = 3.0, noise: float = 0.5, seed: int = 0
) -> Drawn:
    """Regions of unequal weight at random places, with loadings of falling length and unequal noise."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    centroids = normal(k, d) * apart / 2**0.5
    loadings = normal(k, r, d) * torch.linspace(2.0, 0.8, r, dtype=torch.float64)[:, None]
    psi = (torch.rand(1, d, generator=g, dtype=torch.float64) + 0.5) * noise
    log_weight = torch.log_softmax(0.5 * normal(k), 0)
    mixture = Mixture(log_weight, centroids, loadings, psi)
    region = torch.multinomial(log_weight.exp(), n + held_out, replacement=True, generator=g)
    inside = torch.einsum("nr,nrd->nd", normal(n + held_out, r), loadings[region])
    x = centroids[region] + inside + psi.sqrt() * normal(n + held_out, d)
    return Drawn(x[:n], region[:n], x[n:], region[n:], mixture)


def log_likelihood(mixture: Mixture, x: Tensor) -> float:
    """Mean over rows."""
    return float(torch.logsumexp(mixture.log_joint(x)[0], dim=1).double().mean())


def dense(mixture: Mixture, k: int) -> torch.distributions.MultivariateNormal:
    """One region as a Gaussian with its whole covariance."""
    w, psi = mixture.loadings[k], mixture.noise[k % len(mixture.noise)]
    return torch.distributions.MultivariateNormal(mixture.centroids[k], w.T @ w + torch.diag(psi))


def dense_at_length(mixture: Mixture, k: int, x: Tensor) -> tuple[NDArray[np.longdouble], NDArray[np.longdouble]]:
    """[n] log p(x | k) and [n, R] E[z | x, k] of one region from its whole covariance, in long double."""

    def long(values: Tensor) -> NDArray[np.longdouble]:
        return values.numpy().astype(np.longdouble)

    w, d = long(mixture.loadings[k]), long(x) - long(mixture.centroids[k])
    factor = _cholesky(w.T @ w + np.diag(long(mixture.noise[k % len(mixture.noise)])))
    white, inside = _solved(factor, d.T), _solved(factor, w.T)
    log_two_pi = np.log(8 * np.arctan(np.longdouble(1)))
    return -(len(factor) * log_two_pi + 2 * np.log(np.diag(factor)).sum() + (white**2).sum(0)) / 2, white.T @ inside


def _cholesky(matrix: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    """The lower factor, column by column; LAPACK knows no long double."""
    factor = np.zeros_like(matrix)
    for j in range(len(matrix)):
        below = matrix[j:, j] - factor[j:, :j] @ factor[j, :j]
        factor[j:, j] = below / np.sqrt(below[0])
    return factor


def _solved(factor: NDArray[np.longdouble], right: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    """L^-1 right, row by row."""
    out = np.zeros_like(right)
    for i, row in enumerate(factor):
        out[i] = (right[i] - row[:i] @ out[:i]) / row[i]
    return out
