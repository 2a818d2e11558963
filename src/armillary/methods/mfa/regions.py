"""Regions: working with a fit. Plain functions, a fit in and a new fit or value out; see the package for their names.

    merge    the region with the mean and covariance of two, as far as R loadings hold it
    split    two regions in place of one, along its first loading or fitted to rows

Letters: n rows, D width, K regions, R rank.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import NearestEncoder
from armillary.errors import InputError, NonFiniteError, ShapeError
from armillary.methods.mfa import moves
from armillary.methods.mfa import rotation as turns
from armillary.methods.mfa.em import Shape
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.gate import Gate
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.overlap import coefficients

#: Deviation and mean of a standard normal's half: where a region is cut in two.
HALF = math.sqrt(2 / math.pi)


def mixture_of(fit: Decomposition) -> Mixture:
    """The parameters behind a fit.

    Raises:
        InputError: the fit is no mixture of factor analyzers.
    """
    if not isinstance(fit.encoder, MFAEncoder):
        raise InputError(f"this works on mixtures of factor analyzers, got {fit!r} with a {type(fit.encoder).__name__}; fit with arm.MFA")
    return fit.encoder.mixture


def _rebuilt(fit: Decomposition, mixture: Mixture, change: str) -> Decomposition:
    """The fit with other parameters; its provenance says what was changed."""
    assert isinstance(fit.encoder, MFAEncoder)
    old = fit.encoder.gate
    encoder = replace(fit.encoder, mixture=mixture, gate=None if old is None else Gate.of(mixture, old.n_candidates))
    dictionary = Dictionary.of_regions(mixture.centroids, mixture.loadings)
    changes = [*fit.provenance.get("changes", ()), change]
    return replace(fit, dictionary=dictionary, encoder=encoder, provenance={**fit.provenance, "changes": changes})


def check_regions(mixture: Mixture, *regions: int) -> None:
    for k in regions:
        if not 0 <= k < mixture.n_regions:
            raise InputError(f"region {k} is out of range: there are {mixture.n_regions} (0 to {mixture.n_regions - 1})")
    if len(set(regions)) < len(regions):
        raise InputError(f"the regions have to differ, got {list(regions)}")


# ---------------------------------------------------------------- neighbours


def overlap(fit: Decomposition, regions: Sequence[int] | None = None) -> Tensor:
    """[k, k] Bhattacharyya coefficients of these regions with each other, float64; all regions by default. Weights do not count.

    Raises:
        InputError: another kind of fit, or a region that is not there.
    """
    mixture = mixture_of(fit)
    chosen = list(range(mixture.n_regions)) if regions is None else list(regions)
    check_regions(mixture, *chosen)
    one, other = np.triu_indices(len(chosen), 1)
    at = torch.tensor(chosen, device=mixture.centroids.device)
    found = torch.eye(len(chosen), dtype=torch.float64)
    found[one, other] = found[other, one] = coefficients(mixture, at[one], at[other]).cpu()
    return found


def neighbors(fit: Decomposition, region: int, n: int = 8) -> list[tuple[int, float]]:
    """The n regions that overlap most with one, and by how much.

    Raises:
        InputError: another kind of fit, or a region that is not there.
    """
    mixture = mixture_of(fit)
    check_regions(mixture, region)
    others = torch.tensor([k for k in range(mixture.n_regions) if k != region], dtype=torch.int64, device=mixture.centroids.device)
    found = coefficients(mixture, torch.full_like(others, region), others)
    best = found.topk(min(n, len(others)))
    return list(zip(others[best.indices].tolist(), best.values.tolist(), strict=True))


# ---------------------------------------------------------------- other regions


def merge(fit: Decomposition, one: int, other: int) -> Decomposition:
    """One region in place of two, with their joint mean and, as far as its loadings hold it, their joint covariance.

    It takes the first one's number; later regions move up.
    """
    m = mixture_of(fit)
    check_regions(m, one, other)
    at = torch.tensor([one, other])
    share = m.log_weight[at].double().softmax(0)  # [2]
    centroid = share @ m.centroids[at].double()
    psi = m.noise[at % len(m.noise)].double().T @ share  # [D]
    # C = sum of share (W^T W + psi) + the spread of the centroids, in units of the noise
    away = (share.prod().sqrt() * (m.centroids[one] - m.centroids[other]).double())[None]
    rows = torch.cat([share.sqrt()[:, None, None] * m.loadings[at].double()]).flatten(0, 1)
    _, size, axes = torch.linalg.svd(torch.cat([rows, away]) / psi.sqrt(), full_matrices=False)
    loadings = size[: m.rank, None] * axes[: m.rank] * psi.sqrt()
    new = Mixture(m.log_weight[at].logsumexp(0)[None], centroid[None], loadings[None], psi[None]).to(m.centroids.dtype)
    return _rebuilt(fit, _without(moves.put(m, [one], new), [other]), f"merged {one} and {other}")


def split(fit: Decomposition, region: int, rows: Tensor | None = None, *, seed: int = 0) -> Decomposition:
    """Two regions in place of one; the new one comes last.

    Args:
        fit: the mixture.
        region: which.
        rows: [n, D] rows of that region to fit the two to; without any it is cut across its first loading.
        seed: of the fit to rows.

    Raises:
        InputError: another kind of fit, a region that is not there, or too few rows.
    """
    m = mixture_of(fit)
    check_regions(m, region)
    if rows is None:
        two = _cut(m, region)
    else:
        if not moves.splits(m, len(rows)):
            raise InputError(f"at least {4 * (m.rank + 2)} rows are needed to fit two regions of rank {m.rank}, got {len(rows)}")
        shape = Shape(2, m.rank, "diagonal_per_region" if len(m.noise) > 1 else "diagonal", float(m.noise.min()) * 1e-3)
        two = moves.split(m, region, rows.to(m.centroids.dtype), shape, seed=seed)[0]
    noise = m.noise if len(m.noise) == 1 else torch.cat([m.noise, two.noise[1:]])
    log_weight = torch.cat([m.log_weight, two.log_weight[1:]])
    longer = Mixture(log_weight, torch.cat([m.centroids, two.centroids[1:]]), torch.cat([m.loadings, two.loadings[1:]]), noise)
    return _rebuilt(fit, moves.put(longer, [region], _first(two)), f"split {region}")


def grow(fit: Decomposition, n_regions: int) -> Decomposition:
    """More regions: again and again the one of largest weight is cut across its first loading. A start for a larger fit.

    Raises:
        InputError: another kind of fit, or fewer regions than it has.
    """
    m = turns.canonical(mixture_of(fit))
    if n_regions < m.n_regions:
        raise InputError(f"{n_regions} regions are fewer than the fit's {m.n_regions}; use prune or merge")
    regions = [m.part(slice(k, k + 1)) for k in range(m.n_regions)]
    queue = [(-float(one.log_weight), k) for k, one in enumerate(regions)]
    heapq.heapify(queue)
    while len(regions) < n_regions:
        k = heapq.heappop(queue)[1]
        two = _cut(regions[k], 0)
        regions[k] = _first(two)
        regions.append(two.part(slice(1, 2)))
        for place in (k, len(regions) - 1):
            heapq.heappush(queue, (-float(regions[place].log_weight), place))
    log_weight, centroids, loadings, noise = (torch.cat(one) for one in zip(*(one.tensors for one in regions), strict=True))
    return _rebuilt(fit, Mixture(log_weight, centroids, loadings, noise if len(m.noise) > 1 else m.noise), f"grown to {n_regions}")


def regions_at(centroids: Tensor | NDArray[Any], loadings: Tensor | NDArray[Any] | None = None) -> Decomposition:
    """Regions at places of one's own, as a start: `MFA(n_regions=K).fit(rows, start=regions_at(centroids))`.

    Args:
        centroids: [K, D].
        loadings: [K, R, D]; without any each region's axes are found from the rows nearest to it.

    Raises:
        ShapeError: other shapes.
        NonFiniteError: NaN or infinite numbers.
    """
    places = torch.as_tensor(centroids).float()
    axes = None if loadings is None else torch.as_tensor(loadings).float()
    if places.ndim != 2 or (axes is not None and (axes.ndim != 3 or axes.shape[::2] != places.shape)):
        told = "" if axes is None else f" and {list(axes.shape)}"
        raise ShapeError(f"centroids must be [K, D] and loadings [K, R, D], got {list(places.shape)}{told}")
    if not all(bool(one.isfinite().all()) for one in (places, axes) if one is not None):
        raise NonFiniteError("centroids and loadings must be finite")
    layout = ((None, places.shape[1]),)
    return Decomposition(Dictionary.of_regions(places, axes), NearestEncoder(places), layout, layout)


def _first(two: Mixture) -> Mixture:
    return two.part(slice(0, 1))


def _cut(m: Mixture, region: int) -> Mixture:
    """The halves of a region on either side of its centroid along its first loading, or else its loudest column, each as a region."""
    loadings = turns.canonical(m).loadings[region]  # [R, D]
    psi = m.noise[region % len(m.noise)]
    across = loadings[0] if bool(loadings[0].any()) else psi.sqrt() * (torch.arange(m.d, device=psi.device) == psi.argmax())
    shift = HALF * across
    half = torch.cat([loadings[:1] * math.sqrt(1 - HALF**2), loadings[1:]])
    noise = m.noise[[region, region]] if len(m.noise) > 1 else m.noise
    return Mixture(
        (m.log_weight[region] - math.log(2)).repeat(2),
        torch.stack([m.centroids[region] + shift, m.centroids[region] - shift]),
        torch.stack([half, half]),
        noise,
    )


def prune(fit: Decomposition, *, regions: Sequence[int] = (), weight: float | None = None) -> Decomposition:
    """The fit without some regions; the weights of the others add up to 1 again.

    Args:
        fit: the mixture.
        regions: which to leave out.
        weight: leave out all with less weight than this as well.

    Raises:
        InputError: another kind of fit, a region that is not there, or none that would be left.
    """
    m = mixture_of(fit)
    check_regions(m, *regions)
    light = [] if weight is None else (m.log_weight.exp() < weight).nonzero().flatten().tolist()
    gone = sorted({*regions, *light})
    if len(gone) == m.n_regions:
        raise InputError(f"none of the {m.n_regions} regions would be left; the largest weight is {float(m.log_weight.max().exp()):.3g}")
    return _rebuilt(fit, _without(m, gone), f"pruned {gone}")


def _without(m: Mixture, gone: Sequence[int]) -> Mixture:
    keep = torch.tensor([k for k in range(m.n_regions) if k not in set(gone)])
    log_weight = m.log_weight[keep]
    noise = m.noise if len(m.noise) == 1 else m.noise[keep]
    return Mixture(log_weight - log_weight.logsumexp(0), m.centroids[keep], m.loadings[keep], noise)


def rotate(fit: Decomposition, how: Literal["pca", "varimax"] = "pca") -> Decomposition:
    """The same densities with other loadings: along principal axes in units of the noise, or with few large entries each."""
    turn = {"pca": turns.canonical, "varimax": turns.varimax}
    if how not in turn:
        raise InputError(f"rotations are 'pca' and 'varimax', got {how!r}")
    return _rebuilt(fit, turn[how](mixture_of(fit)), f"rotated ({how})")


def effective_ranks(fit: Decomposition, threshold: float = 1.0) -> Tensor:
    """[K] axes of each region whose variance is at least `threshold` times the noise's along them."""
    return turns.effective_ranks(mixture_of(fit), threshold)


def ranks(fit: Decomposition) -> Tensor:
    """[K] loadings of each region that are not 0: fewer than the fit's rank where it was made with `rank_selection`."""
    return mixture_of(fit).loadings.any(2).sum(1)


def sample(fit: Decomposition, n: int, *, region: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [n, D] drawn from the mixture, or from one region of it, and the region of each [n]."""
    m = mixture_of(fit)
    if region is not None:
        check_regions(m, region)
    generator = torch.Generator().manual_seed(seed)
    weight = m.log_weight.double().exp()
    drawn = torch.full((n,), region) if region is not None else torch.multinomial(weight, n, replacement=True, generator=generator)
    z = torch.randn(n, m.rank, generator=generator, dtype=m.centroids.dtype)
    noise = m.noise[drawn % len(m.noise)].sqrt() * torch.randn(n, m.d, generator=generator, dtype=m.centroids.dtype)
    return m.centroids[drawn] + torch.einsum("nr,nrd->nd", z, m.loadings[drawn]) + noise, drawn
