"""Rotation: loadings are known up to an orthogonal map, so single ones mean nothing before a convention is chosen.

    canonical   W diag(1 / psi) W^T is diagonal and falling: axes of most variance first, largest entry positive
    varimax     few large entries per loading (Kaiser 1958), of loadings in units of the noise

Letters: D width, K regions, R rank.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from armillary.methods.mfa.mixture import Mixture

#: Rounds of varimax at most, and the gain of its criterion below which it ends.
ROUNDS, GAIN = 100, 1e-8
#: Variance along an axis, in units of the noise, that is rounding.
NOTHING = 1e-12


def canonical(mixture: Mixture) -> Mixture:
    """The same mixture with loadings along the principal axes of each region, measured in units of the noise."""
    loadings = torch.empty_like(mixture.loadings)
    for own in mixture.parts():
        m = mixture.part(own)
        w = m.loadings.double()
        size, axes = torch.linalg.eigh((w * m.precision.double()[:, None]) @ w.mT)  # rising
        turned = axes.flip(2).mT @ w
        turned *= (size.flip(1) > NOTHING)[:, :, None]  # a region of lower rank keeps loadings that are exactly 0
        largest = turned.gather(2, turned.abs().argmax(dim=2, keepdim=True))
        loadings[own] = torch.where(largest < 0, -turned, turned).to(loadings.dtype)
    return replace(mixture, loadings=loadings)


def varimax(mixture: Mixture) -> Mixture:
    """The same mixture with loadings turned so that each has few large entries, all regions at once."""
    w = mixture.loadings.double() * mixture.precision.double().sqrt()[:, None]  # [K, R, D]
    turn = torch.eye(mixture.rank, dtype=w.dtype, device=w.device).expand(mixture.n_regions, -1, -1)
    before = w.new_zeros(mixture.n_regions)
    for _ in range(ROUNDS):
        now = turn @ w
        target = now**3 - now * now.square().mean(dim=2, keepdim=True)
        left, size, right = torch.linalg.svd(target @ w.mT)
        turn, criterion = left @ right, size.sum(1)
        if bool((criterion - before <= GAIN * criterion).all()):
            break
        before = criterion
    return replace(mixture, loadings=(turn @ mixture.loadings.double()).to(mixture.loadings.dtype))


def effective_ranks(mixture: Mixture, threshold: float = 1.0) -> Tensor:
    """[K] axes of each region whose variance is at least `threshold` times the noise's."""
    return (strengths(mixture) >= threshold).sum(1)


def strengths(mixture: Mixture) -> Tensor:
    """[K, R] eigenvalues of W diag(1 / psi) W^T, the variance along each axis in units of the noise, falling, float64."""
    parts = []
    for own in mixture.parts():
        m = mixture.part(own)
        w = m.loadings.double()
        parts.append(torch.linalg.eigvalsh((w * m.precision.double()[:, None]) @ w.mT).flip(1))
    return torch.cat(parts).clamp_min(0)
