"""Overlaps: which regions of a mixture lie at the same place, without comparing all with all.

Letters: D width, F regions, c candidates per region, p pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES, Dictionary
from armillary.inspect.members import mixture_of

#: Regions whose overlap with a region is worked out: those of nearest centroid.
CANDIDATES = 16
#: Distances that are held at once.
CHUNK = 1 << 22


@dataclass(frozen=True)
class Overlaps:
    """Pairs of regions, those that overlap most first.

    Args:
        one, other: [p] int64 regions, one < other.
        coefficient: [p] float64 Bhattacharyya coefficient, 0 to 1.
    """

    one: Tensor
    other: Tensor
    coefficient: Tensor

    def of(self, region: int) -> list[tuple[int, float]]:
        """The regions compared with a region and their coefficients, largest first."""
        here = (self.one == region) | (self.other == region)
        partner = torch.where(self.one[here] == region, self.other[here], self.one[here])
        return list(zip(partner.tolist(), self.coefficient[here].tolist(), strict=True))


def spreads_of(dictionary: Dictionary) -> Tensor:
    """[F] standard deviation of each region inside its subspace: the root of the trace of its loadings' covariance; float64."""
    is_loading = dictionary.role == ROLES.index("loading")
    square = dictionary.atoms[is_loading].double().square().sum(1)
    return square.new_zeros(dictionary.n_features).index_add(0, dictionary.group[is_loading], square).sqrt()


def overlaps(fit: Decomposition, *, n_candidates: int = CANDIDATES, regions: list[int] | None = None) -> Overlaps:
    """Bhattacharyya coefficients of regions with the regions of nearest centroid.

    Args:
        fit: a mixture.
        n_candidates: c, regions that each is compared with.
        regions: whose; all if None.

    Raises:
        InputError: another kind of fit.
    """
    encoder, centroids = mixture_of(fit), fit.dictionary.directions()
    chosen = torch.arange(len(centroids), device=centroids.device) if regions is None else torch.tensor(regions, device=centroids.device)
    near = _nearest(centroids, chosen, min(n_candidates, len(centroids) - 1))  # [f, c]
    pairs = torch.stack([chosen[:, None].expand_as(near).flatten(), near.flatten()], dim=1).sort(dim=1).values
    one, other = torch.unique(pairs, dim=0).T
    with torch.no_grad():
        found = encoder.overlap(one, other)
    order = found.argsort(descending=True, stable=True)
    return Overlaps(one[order].cpu(), other[order].cpu(), found[order].cpu())


def _nearest(centroids: Tensor, chosen: Tensor, n: int) -> Tensor:
    """[f, n] regions of nearest centroid to each chosen one, itself left out."""
    points = centroids.double()
    found = []
    for some in torch.split(chosen, max(1, CHUNK // len(points))):
        distance = torch.cdist(points[some], points)  # [s, F]
        distance[torch.arange(len(some), device=some.device), some] = torch.inf
        found.append(distance.topk(n, dim=1, largest=False).indices)
    return torch.cat(found)
