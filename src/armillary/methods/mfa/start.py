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
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES, Dictionary
from armillary.core.encoders import nearest_centroid
from armillary.core.summary import group_sums
from armillary.methods.kmeans import means, plus_plus, refine
from armillary.methods.mfa.em import Shape
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.gate import part_size
from armillary.methods.mfa.mixture import Mixture, grouped
from armillary.methods.mfa.sharing import ALL, Work

#: Columns of the sketch at most.
SKETCH = 64
#: Centres that are merged, per region.
OVER = 2
#: Rows that seeds are drawn from, at most: so many, and so many per centre.
SEEDED, ROWS_PER_CENTRE = 16_384, 16
#: Steps of Lloyd's iteration before merging and after.
SEED_STEPS, STEPS = 10, 10
#: Further axes, and rounds, of randomised subspace iteration; it is not used where more than one in so many axes is wanted.
EXTRA, ROUNDS, FEWER = 10, 3, 4
#: Rows from which axes of all rows together are found.
POOLED = 1 << 16
#: Loadings of axes that hold no more variance than the noise, as a share of the noise's deviation.
FAINT = 1e-2


def first_mixture(x: Tensor, shape: Shape, *, seed: int, init: str = "kmeans_pca", work: Work = ALL) -> Mixture:
    """A mixture for a sample of rows.

    Args:
        x: [n, D], centred.
        shape: what it shall be.
        seed: of all draws.
        init: "kmeans_pca", or "random": centroids are rows, and loadings small and random.
        work: this rank's share; its regions alone are made.
    """
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        return work.own(_random(x, shape, generator))
    return around(x, cluster(sketch(x, generator), shape.n_regions, generator), shape, generator, work=work)


def _random(x: Tensor, shape: Shape, generator: torch.Generator) -> Mixture:
    """Centroids at rows, small random loadings and equal weights."""
    centroids = x[torch.randperm(len(x), generator=generator)[: shape.n_regions]]
    variance = x.square().mean(0).clamp_min(shape.floor)  # [D]
    loadings = 0.1 * variance.sqrt() * torch.randn(shape.n_regions, shape.rank, x.shape[1], generator=generator).to(x.device)
    log_weight = x.new_full((shape.n_regions,), -math.log(shape.n_regions))
    return Mixture(log_weight, centroids, loadings, shape.spread(variance[None]))


def given_mixture(x: Tensor, start: Decomposition, shape: Shape, *, mean: Tensor, scale: float, seed: int, work: Work = ALL) -> Mixture:
    """The mixture of another fit; or one of its centroids and loadings, where it is no mixture; or one around its regions, of another rank.

    Args:
        x: [n, D] rows, less `mean` and times `scale`.
        start: a fit with K regions.
        shape: what it shall be.
        mean: [D].
        scale: of the rows.
        seed: of what is drawn.
        work: this rank's share; its regions alone are made.
    """
    centroids = ((start.dictionary.directions().to(x.device).double() - mean) * scale).float()
    encoder = start.encoder
    if isinstance(encoder, MFAEncoder) and encoder.mixture.rank == shape.rank and bool(encoder.mixture.loadings.any(2).all()):
        found = encoder.mixture.to(x.device)
        psi = found.noise * scale**2  # one for all, where there was one for each: their mean
        psi = shape.spread(psi if shape.is_per_region else psi.mean(0, keepdim=True))
        return work.own(Mixture(found.log_weight, centroids, found.loadings * scale, psi))
    region = _home(x, start, centroids, scale)
    loadings = _given_loadings(start.dictionary, shape)
    if loadings is not None:
        return work.own(_with(x, region, centroids, loadings.to(x.device) * scale, shape))
    return around(x, region, shape, torch.Generator().manual_seed(seed), centroids=centroids, work=work)


def _given_loadings(dictionary: Dictionary, shape: Shape) -> Tensor | None:
    """[K, R, D] loadings that come with regions which are no mixture, where all have as many as are wanted."""
    at = torch.nonzero(dictionary.role == ROLES.index("loading"))[:, 0]
    counts = torch.bincount(dictionary.group[at], minlength=shape.n_regions)
    if bool((counts != shape.rank).any()):
        return None
    return dictionary.atoms[at[dictionary.group[at].argsort(stable=True)]].float().view(shape.n_regions, shape.rank, -1)


def _with(x: Tensor, region: Tensor, centroids: Tensor, loadings: Tensor, shape: Shape) -> Mixture:
    """A mixture of given centroids [K, D] and loadings [K, R, D]; noise is what rows [n, D] of each region [n] have beside these."""
    left = x.new_zeros(x.shape[1], dtype=torch.float64)
    for k, rows in grouped(region):
        away, basis = x[rows] - centroids[k], torch.linalg.qr(loadings[k].T)[0]  # [n_k, D], [D, R]
        left += (away - away @ basis @ basis.T).square().sum(0, dtype=torch.float64)
    counts = torch.bincount(region, minlength=shape.n_regions)
    log_weight = ((counts + 1) / (len(x) + shape.n_regions)).log().float()
    return Mixture(log_weight, centroids, loadings, shape.spread((left / len(x)).float()[None]))


def _home(x: Tensor, start: Decomposition, centroids: Tensor, scale: float) -> Tensor:
    """[n] the region of each row: of a mixture the most responsible one, else that of nearest centroid."""
    if not isinstance(start.encoder, MFAEncoder):
        return nearest_centroid(x, centroids)
    m = start.encoder.mixture.to(x.device)
    scaled = Mixture(m.log_weight, centroids, m.loadings * scale, m.noise * scale**2)
    return torch.cat([scaled.log_joint(part)[0].argmax(1) for part in torch.split(x, part_size(scaled, None))])


def sketch(x: Tensor, generator: torch.Generator, width: int = SKETCH) -> Tensor:
    """[n, at most `width`] rows on their first principal axes."""
    if x.shape[1] <= width:
        return x
    some = x[torch.randperm(len(x), generator=generator)[:POOLED]]
    basis = torch.randn(x.shape[1], min(width + EXTRA, x.shape[1]), generator=generator).to(x.device)
    return x @ principal(some, width, basis)[1].T


def principal(x: Tensor, rank: int, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [r] and axes [r, D] of the first r <= R principal axes of rows x [n, D] about 0.

    Where these are few of all there are, by subspace iteration from a random basis [D, R + some].
    """
    n, d = x.shape
    if min(n, d) < FEWER * basis.shape[1]:
        _, size, axes = torch.linalg.svd(x, full_matrices=False)
        return (size.square() / n)[:rank], axes[:rank]
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(x.T @ (x @ basis))[0]
    _, size, axes = torch.linalg.svd(x @ basis, full_matrices=False)
    return (size.square() / n)[:rank], (axes @ basis.T)[:rank]


def cluster(x: Tensor, n_regions: int, generator: torch.Generator) -> Tensor:
    """[n] the region of each row: over-seeded, merged and refined on some of the rows."""
    n_centres = min(OVER * n_regions, len(x))
    some = x[torch.randperm(len(x), generator=generator)[: max(SEEDED, ROWS_PER_CENTRE * n_centres)]]
    centres = refine(some, plus_plus(some, n_centres, generator), SEED_STEPS)[1]
    if n_centres > n_regions:
        home = nearest_centroid(some, centres)
        count = torch.bincount(home, minlength=n_centres)
        group = torch.from_numpy(ward(centres.cpu().double().numpy(), count.cpu().double().numpy(), n_regions)).to(x.device)
        sums, counts = group_sums(some, group[home], n_regions)
        centres = means(sums, counts, sums).float()
    return nearest_centroid(x, refine(some, centres, STEPS)[1])


def ward(centres: NDArray[np.float64], count: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """[C] a group 0..n-1 for every centre [C, D]: those are merged one by one whose union raises the sum of squares least.

    All merges are found first, along chains of nearest neighbours (Murtagh 1983), which takes no table of distances; the C - n cheapest
    are then made.

    Args:
        centres: [C, D].
        count: [C] rows of each.
        n: groups that are left.
    """
    where, size, is_there = centres.copy(), count.copy(), np.ones(len(centres), bool)
    squared = (where**2).sum(1)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < len(centres) - 1:
        one = chain[-1] if chain else int(is_there.argmax())
        before = chain[-2] if len(chain) > 1 else one
        distance = np.maximum(squared + squared[one] - 2 * where @ where[one], 0)
        cost = np.where(is_there, _union(distance, size[one], size), np.inf)
        cost[one] = np.inf
        other = before if cost[before] <= cost.min() and before != one else int(cost.argmin())
        if other != before:
            chain = [*(chain or [one]), other]
            continue
        merges.append((float(cost[other]), one, other))
        where[one] = (size[one] * where[one] + size[other] * where[other]) / max(size[one] + size[other], 1e-300)
        size[one], squared[one], is_there[other] = size[one] + size[other], (where[one] ** 2).sum(), False
        chain = chain[:-2]
    cheapest = sorted(merges, key=lambda merge: merge[0])[: len(centres) - n]
    return _joined(len(centres), [(one, other) for _, one, other in cheapest])


def _joined(n: int, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """[n] the connected part that each of n things is in, numbered from 0."""
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    part: NDArray[np.int64] = connected_components(coo_matrix((np.ones(len(one)), (one, other)), shape=(n, n)), directed=False)[1]
    return part.astype(np.int64)


def _union(distance: NDArray[np.float64], one: NDArray[np.float64] | float, other: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a union raises the sum of squares, given squared distances and sizes."""
    found: NDArray[np.float64] = one * other / np.maximum(one + other, 1e-300) * distance
    return found


def around(
    x: Tensor, region: Tensor, shape: Shape, generator: torch.Generator, *, centroids: Tensor | None = None, work: Work = ALL
) -> Mixture:
    """A mixture whose regions hold these rows: their means, their principal axes, and what is left as noise.

    Args:
        x: [n, D], centred.
        region: [n] of 0..K-1.
        shape: what it shall be.
        generator: of the subspace iteration.
        centroids: [K, D] of regions without a row; 0 by default.
        work: this rank's share; its regions alone are made.
    """
    sums, counts = group_sums(x, region, shape.n_regions)
    centroids = means(sums, counts, sums if centroids is None else centroids.double()).float()  # [K, D]
    log_weight = ((counts + 1) / (len(x) + shape.n_regions)).log().float()
    bare = work.own(Mixture(log_weight, centroids, x.new_zeros(shape.n_regions, 0, x.shape[1]), x.new_ones(1, x.shape[1])))
    pooled = _pooled(x, region, centroids, shape, generator)
    loadings = x.new_zeros(bare.n_regions, shape.rank, x.shape[1])
    leftover = x.new_zeros(x.shape[1], dtype=torch.float64)
    for k, rows in grouped(region):
        here = k - work.first
        if 0 <= here < bare.n_regions:
            away = x[rows] - centroids[k]
            loadings[here], explained = _axes(away, pooled, shape)
            leftover += away.square().sum(0, dtype=torch.float64) - explained
    empty = ~loadings.any(2).any(1)
    loadings[empty] = _axes(x[:0], pooled, shape)[0]
    psi = (work.total(leftover) / len(x)).clamp_min(shape.floor).float()
    return Mixture(bare.log_weight, bare.centroids, loadings, shape.spread(psi[None], bare.n_regions))


def _pooled(x: Tensor, region: Tensor, centroids: Tensor, shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Variances [r] and axes [r, D] of the principal axes of all regions together, and [D, r + EXTRA] where subspace iteration begins."""
    some = torch.randperm(len(x), generator=generator)[:POOLED]
    basis = torch.randn(x.shape[1], min(shape.rank + EXTRA, x.shape[1]), generator=generator).to(x.device)
    return *principal(x[some] - centroids[region[some]], shape.rank, basis), basis


def _axes(away: Tensor, pooled: tuple[Tensor, Tensor, Tensor], shape: Shape) -> tuple[Tensor, Tensor]:
    """Loadings [R, D] of a region from its rows less their mean [n, D], and [D] the squares they explain; of few rows those of all."""
    variance, axes, basis = pooled
    own, along = principal(away, shape.rank, basis) if len(away) >= shape.rank + 2 else (variance, axes)
    inside = away @ along.T  # [n, r]
    left = (away.square().sum() - inside.square().sum()).clamp_min(0) / max(away.numel() - inside.numel(), 1)  # mean variance outside
    loadings = away.new_zeros(shape.rank, away.shape[1])
    loadings[: len(own)] = (own - left).clamp_min(FAINT**2 * float(left) + shape.floor).sqrt()[:, None] * along
    return loadings, (inside @ along).square().sum(0, dtype=torch.float64)
