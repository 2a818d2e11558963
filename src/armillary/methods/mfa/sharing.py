"""How several ranks share a mixture: the rows that are read, or the regions.

By rows every rank holds all regions, and sums over rows are added up. By regions every rank sees all rows and holds its share of the
regions with their sums, so that a mixture as large as all devices together can be fitted; what the ranks tell each other is one number per
row, and one per column for a noise that regions share. Both give what one rank alone gives.

Letters: n rows of this rank, N rows it works on, K regions of all ranks, C regions that are considered for a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.methods.mfa.mixture import Mixture


class Work(ABC):
    """One rank's share."""

    #: Number of this rank's first region.
    first: int = 0

    @abstractmethod
    def n_regions(self, mixture: Mixture) -> int:
        """K, where this rank holds `mixture`."""

    @abstractmethod
    def shares(self, mixture: Mixture) -> tuple[int, int]:
        """The fewest and the most regions that a rank holds."""

    @abstractmethod
    def own(self, mixture: Mixture) -> Mixture:
        """This rank's part of a mixture of all regions."""

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """[N, D] the rows this rank works on, from its own share [n, D] of a batch."""

    @abstractmethod
    def add_up(self, *sums: Tensor) -> None:
        """Make sums over the rows this rank works on sums over all rows, in place."""

    @abstractmethod
    def total(self, value: Tensor) -> Tensor:
        """A sum over this rank's regions as one over all regions."""

    @abstractmethod
    def logsumexp(self, value: Tensor) -> Tensor:
        """[N] log of the sum of exp over all regions, from values [N, C] of this rank's."""

    @abstractmethod
    def least(self, value: Tensor) -> Tensor:
        """The smallest of all ranks' values, entry by entry."""

    @abstractmethod
    def best(self, value: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 2] the two largest values of each row and their regions, from those of every rank; [N, 1] where there is one region."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """What each rank has to tell of its regions."""

    @abstractmethod
    def whole(self, mixture: Mixture) -> Mixture:
        """The mixture of all regions, on the CPU, from this rank's part; every rank gets it."""


@final
class ByRows(Work):
    """Every rank holds all regions."""

    def n_regions(self, mixture: Mixture) -> int:
        return mixture.n_regions

    def shares(self, mixture: Mixture) -> tuple[int, int]:
        return mixture.n_regions, mixture.n_regions

    def own(self, mixture: Mixture) -> Mixture:
        return mixture

    def rows(self, x: Tensor) -> Tensor:
        return x

    def add_up(self, *sums: Tensor) -> None:
        distributed.sum_(*sums)

    def total(self, value: Tensor) -> Tensor:
        return value

    def logsumexp(self, value: Tensor) -> Tensor:
        return value.logsumexp(1)

    def least(self, value: Tensor) -> Tensor:
        return value

    def best(self, value: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        return value, region

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def whole(self, mixture: Mixture) -> Mixture:
        return mixture.to("cpu")


@final
class ByRegions(Work):
    """Every rank holds some regions.

    Args:
        k: K.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.first, self.last = distributed.share(k)

    def n_regions(self, mixture: Mixture) -> int:
        return self.k

    def shares(self, mixture: Mixture) -> tuple[int, int]:
        return self.k // distributed.world(), -(-self.k // distributed.world())

    def own(self, mixture: Mixture) -> Mixture:
        return mixture.part(slice(self.first, self.last)).detach()

    def rows(self, x: Tensor) -> Tensor:
        return distributed.gather_rows(x)

    def add_up(self, *sums: Tensor) -> None:
        pass

    def total(self, value: Tensor) -> Tensor:
        return distributed.summed(value)

    def logsumexp(self, value: Tensor) -> Tensor:
        mine = value.logsumexp(1)
        most = -self.least(-mine)
        return most + self.total((mine - most).exp()).log()

    def least(self, value: Tensor) -> Tensor:
        found = value.clone()
        distributed.min_(found)
        return found

    def best(self, value: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        values, regions = (torch.cat(distributed.gather(part.cpu()), dim=1).to(part.device) for part in (value, region))
        found = values.topk(min(2, values.shape[1]), dim=1)
        return found.values, regions.gather(1, found.indices)

    def gather(self, value: Any) -> list[Any]:
        return distributed.gather(value)

    def whole(self, mixture: Mixture) -> Mixture:
        together = partial(distributed.gather_shares, n=self.k)
        noise = mixture.noise.cpu() if len(mixture.noise) == 1 and self.k > 1 else together(mixture.noise)
        return Mixture(together(mixture.log_weight), together(mixture.centroids), together(mixture.loadings), noise)


#: Every rank holds all regions.
ALL = ByRows()
