"""Start: where EM begins. Missed regions dominate what it ends at, so this decides more than any later step.

    sketch     rows on the sample's first principal axes
    seeds      twice as many as regions, by k-means++ and a few steps of Lloyd's iteration
    merged     to the number of regions, always the two whose union costs least (Ward 1963)
    loadings   principal axes of each cluster's rows; a cluster with hardly any takes those of all clusters together
    noise      what is left

Letters: n rows of the sample, D width, K regions, R rank, C centres.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.encoders import nearest_centroid
from armillary.core.summary import group_sums
from armillary.methods.kmeans import means, plus_plus, refine
from armillary.methods.mfa.em import Shape
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture, grouped

#: Columns of the sketch at most.
SKETCH = 64
#: Centres that are merged, per region.
OVER = 2
#: Rows that seeds are drawn from, at most: so many, and so many per centre.
SEEDED, ROWS_PER_CENTRE = 16_384, 16
#: Steps of Lloyd's iteration after merging.
STEPS = 10
#: Further axes, and rounds, of randomised subspace iteration; widths up to which it is exact.
EXTRA, ROUNDS, EXACT = 10, 3, 256
#: Loadings of axes that hold no more variance than the noise, as a share of the noise's deviation.
FAINT = 1e-2


def first_mixture(x: Tensor, shape: Shape, *, seed: int, init: str = "kmeans_pca") -> Mixture:
    """A mixture for a sample of rows.

    Args:
        x: [n, D], centred.
        shape: what it shall be.
        seed: of all draws.
        init: "kmeans_pca", or "random": centroids are rows, and loadings small and random.
    """
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        centroids = x[torch.randperm(len(x), generator=generator)[: shape.n_regions]]
        variance = x.square().mean(0).clamp_min(shape.floor)  # [D]
        loadings = 0.1 * variance.sqrt() * torch.randn(shape.n_regions, shape.rank, x.shape[1], generator=generator)
        log_weight = torch.full((shape.n_regions,), -math.log(shape.n_regions))
        return Mixture(log_weight, centroids, loadings, shape.spread(variance[None]))
    return around(x, cluster(sketch(x, generator), shape.n_regions, generator), shape, generator)


def given_mixture(x: Tensor, start: Decomposition, shape: Shape, *, mean: Tensor, scale: float, seed: int) -> Mixture:
    """The mixture of another fit, or one around its regions where it is no mixture of the same rank and noise.

    Args:
        x: [n, D] rows, less `mean` and times `scale`.
        start: a fit with K regions.
        shape: what it shall be.
        mean: [D].
        scale: of the rows.
        seed: of what is drawn.
    """
    centroids = ((start.dictionary.directions().double() - mean) * scale).float()
    encoder = start.encoder
    if isinstance(encoder, MFAEncoder) and encoder.mixture.rank == shape.rank:
        psi = encoder.mixture.noise * scale**2  # one for all, where there was one for each: their mean
        psi = psi if shape.noise.endswith("per_region") else psi.mean(0, keepdim=True)
        return Mixture(encoder.mixture.log_weight, centroids, encoder.mixture.loadings * scale, shape.spread(psi))
    region = nearest_centroid(x, centroids)
    return around(x, region, shape, torch.Generator().manual_seed(seed), centroids=centroids)


def sketch(x: Tensor, generator: torch.Generator) -> Tensor:
    """[n, at most SKETCH] rows on their first principal axes."""
    if x.shape[1] <= SKETCH:
        return x
    return x @ principal(x, SKETCH, generator)[1].T


def principal(x: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Variances [r] and axes [r, D] of the first r <= R principal axes of rows x [n, D] about 0; by subspace iteration where D is large."""
    n, d = x.shape
    if min(n, d) <= EXACT:
        _, size, axes = torch.linalg.svd(x, full_matrices=False)
        return (size.square() / n)[:rank], axes[:rank]
    basis = torch.randn(d, min(rank + EXTRA, d), generator=generator)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(x.T @ (x @ basis))[0]
    _, size, axes = torch.linalg.svd(x @ basis, full_matrices=False)
    return (size.square() / n)[:rank], (axes @ basis.T)[:rank]


def cluster(x: Tensor, n_regions: int, generator: torch.Generator) -> Tensor:
    """[n] the region of each row: over-seeded, merged and refined."""
    n_centres = min(OVER * n_regions, len(x))
    seeded = x[torch.randperm(len(x), generator=generator)[: max(SEEDED, ROWS_PER_CENTRE * n_centres)]]
    centres = refine(seeded, plus_plus(seeded, n_centres, generator))[1]
    if n_centres > n_regions:
        count = torch.bincount(nearest_centroid(x, centres), minlength=n_centres)
        group = torch.from_numpy(ward(centres.double().numpy(), count.double().numpy(), n_regions))
        sums, counts = group_sums(x, group[nearest_centroid(x, centres)], n_regions)
        centres = means(sums, counts, sums).float()
    for _ in range(STEPS):
        sums, counts = group_sums(x, nearest_centroid(x, centres), n_regions)
        centres = means(sums, counts, centres.double()).float()
    return nearest_centroid(x, centres)


def ward(centres: NDArray[np.float64], count: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """[C] a group 0..n-1 for every centre [C, D]: those are merged one by one whose union raises the sum of squares least.

    Args:
        centres: [C, D].
        count: [C] rows of each.
        n: groups that are left.
    """
    where, size = centres.copy(), count.copy()
    squared = (where**2).sum(1)
    cost = _union(np.maximum(squared[:, None] + squared - 2 * where @ where.T, 0), size[:, None], size)
    np.fill_diagonal(cost, np.inf)
    nearest = cost.argmin(1)
    least = cost[np.arange(len(cost)), nearest]
    group = np.arange(len(centres))
    for _ in range(len(centres) - n):
        one = int(least.argmin())
        other = int(nearest[one])
        total = max(size[one] + size[other], 1e-300)
        where[one] = (size[one] * where[one] + size[other] * where[other]) / total
        size[one] += size[other]
        group[group == other] = one
        gone = np.isinf(least)
        cost[one] = cost[:, one] = _union(((where - where[one]) ** 2).sum(1), size[one], size)
        cost[other] = cost[:, other] = np.inf
        cost[one, gone] = cost[gone, one] = cost[one, one] = np.inf
        least[other] = np.inf
        # Whoever was nearest to either looks again; the others may have come nearer to their union.
        again = np.flatnonzero(((nearest == one) | (nearest == other) | (np.arange(len(cost)) == one)) & np.isfinite(least))
        nearest[again] = cost[again].argmin(1)
        least[again] = cost[again, nearest[again]]
        closer = cost[:, one] < least
        nearest[closer], least[closer] = one, cost[closer, one]
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _union(distance: NDArray[np.float64], one: NDArray[np.float64] | float, other: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a union raises the sum of squares, given squared distances and sizes."""
    found: NDArray[np.float64] = one * other / np.maximum(one + other, 1e-300) * distance
    return found


def around(x: Tensor, region: Tensor, shape: Shape, generator: torch.Generator, *, centroids: Tensor | None = None) -> Mixture:
    """A mixture whose regions hold these rows: their means, their principal axes, and what is left as noise.

    Args:
        x: [n, D], centred.
        region: [n] of 0..K-1.
        shape: what it shall be.
        generator: of the subspace iteration.
        centroids: [K, D] of regions without a row; 0 by default.
    """
    sums, counts = group_sums(x, region, shape.n_regions)
    centroids = means(sums, counts, sums if centroids is None else centroids.double()).float()  # [K, D]
    away = x - centroids[region]
    variance, axes = principal(away, shape.rank, generator)
    leftover = away.square().sum(0, dtype=torch.float64)  # [D], less what loadings explain
    loadings = x.new_zeros(shape.n_regions, shape.rank, x.shape[1])
    members = dict(grouped(region))
    for k in range(shape.n_regions):
        rows = away[members[k]] if k in members else away[:0]
        own, along = principal(rows, shape.rank, generator) if len(rows) >= shape.rank + 2 else (variance, axes)
        inside = rows @ along.T  # [n_k, r]
        left = (rows.square().sum() - inside.square().sum()).clamp_min(0) / max(rows.numel() - inside.numel(), 1)  # mean variance outside
        loadings[k, : len(own)] = (own - left).clamp_min(FAINT**2 * float(left) + shape.floor).sqrt()[:, None] * along
        leftover -= (inside @ along).square().sum(0, dtype=torch.float64)
    psi = (leftover / len(x)).clamp_min(shape.floor).float()
    log_weight = ((counts + 1) / (len(x) + shape.n_regions)).log().float()
    return Mixture(log_weight, centroids, loadings, shape.spread(psi[None]))
