"""Leap: further along where EM is going, as its tail is slow.

From three parameters in a row, r = p1 - p0 and v = (p2 - p1) - r, the squared extrapolation p0 + 2 a r + a^2 v with a = |r| / |v| is near
the limit of a sequence that shrinks evenly (SQUAREM; Varadhan and Roland 2008, scheme S3). Regions hardly know of each other once
responsibilities are settled, so each has an a of its own, for its centroid and loadings in units of the noise; weights and noise are those
of p2. A leap that makes the rows less likely is undone.

Letters: D width, K regions, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from armillary.methods.mfa.mixture import Mixture

#: The longest leap: a of 1 is p2 itself.
LONGEST = 8.0


def leap(first: Mixture, second: Mixture, third: Mixture) -> Mixture:
    """Parameters beyond three that followed each other."""
    centroids, loadings = torch.empty_like(third.centroids), torch.empty_like(third.loadings)
    for own in third.parts():
        centroids[own], loadings[own] = _further(*(one.part(own) for one in (first, second, third)))
    return Mixture(third.log_weight, centroids, loadings, third.noise)


def _further(first: Mixture, second: Mixture, third: Mixture) -> tuple[Tensor, Tensor]:
    """Centroids and loadings of some regions."""
    rows = [torch.cat([one.centroids[:, None], one.loadings], dim=1) for one in (first, second, third)]  # [K, 1 + R, D]
    r = rows[1] - rows[0]
    v = rows[2] - rows[1] - r
    scale = third.precision.sqrt()[:, None]
    a = (_size(r * scale) / _size(v * scale).clamp_min(torch.finfo(r.dtype).tiny)).clamp(1.0, LONGEST)[:, None, None]
    found = rows[0] + 2 * a * r + a.square() * v
    return found[:, 0], found[:, 1:]


def _size(change: Tensor) -> Tensor:
    """[K] norms of what changes in each region."""
    return change.square().sum((1, 2)).sqrt()
