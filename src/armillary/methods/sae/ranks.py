"""How several ranks share a training step: the rows of a batch, or the latents of the dictionary.

By rows every rank holds all weights and its share of the rows; gradients are summed. By latents every rank sees all rows and holds its
share of the latents with their moments, so that a dictionary as large as all devices together can be trained; what the ranks decode is
summed, and so is the gradient of what they have in common. Both give what one rank alone gives.

Letters: n rows of this rank, N rows it works on, M latents of all ranks, K slots per row, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.methods.sae.weights import Weights

#: Weights that do not belong to a latent.
COMMON = ("b_dec", "W_skip")


class Work(ABC):
    """One rank's share of every step."""

    #: Number of this rank's first latent.
    first: int = 0

    @property
    @abstractmethod
    def counts_rows(self) -> bool:
        """Whether sums over rows and ranks are to hold this rank's rows; every row is counted by exactly one rank."""

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """[N, D] the rows this rank works on, from its own share [n, D] of a batch."""

    @abstractmethod
    def n_rows(self, n: int) -> int:
        """Rows of the batch over all ranks, where this rank works on n."""

    @abstractmethod
    def add_up(self, decoded: Tensor) -> None:
        """Make what this rank decodes the sum over all latents, in place."""

    @abstractmethod
    def among_largest(self, score: Tensor, k: int) -> Tensor | None:
        """[N, K] bool: which of this rank's scores are among the k largest of their row over all ranks; None where all are."""

    @abstractmethod
    def sum_gradient(self, gradient: Weights) -> None:
        """Sum over ranks what every one holds a part of, in place."""

    @abstractmethod
    def total(self, value: Tensor) -> Tensor:
        """A sum over this rank's latents as one over all latents."""

    @abstractmethod
    def share(self, weights: Weights) -> Weights:
        """This rank's part of the weights of all latents."""

    @abstractmethod
    def whole(self, weights: Weights) -> Weights:
        """The weights of all latents, from this rank's part; every rank gets them."""


@final
class ByRows(Work):
    """Ranks share the rows."""

    @property
    def counts_rows(self) -> bool:
        return True

    def rows(self, x: Tensor) -> Tensor:
        return x

    def n_rows(self, n: int) -> int:
        return sum(distributed.gather(n))

    def add_up(self, decoded: Tensor) -> None:
        pass

    def among_largest(self, score: Tensor, k: int) -> Tensor | None:
        return None

    def sum_gradient(self, gradient: Weights) -> None:
        distributed.sum_(*gradient.tensors())

    def total(self, value: Tensor) -> Tensor:
        return value

    def share(self, weights: Weights) -> Weights:
        return weights

    def whole(self, weights: Weights) -> Weights:
        return weights


@final
class ByLatents(Work):
    """Ranks share the latents.

    Args:
        m: M.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self.first, self.last = distributed.share(m)

    @property
    def counts_rows(self) -> bool:
        return distributed.rank() == 0

    def rows(self, x: Tensor) -> Tensor:
        return distributed.gather_rows(x)

    def n_rows(self, n: int) -> int:
        return n

    def add_up(self, decoded: Tensor) -> None:
        distributed.sum_(decoded)

    def among_largest(self, score: Tensor, k: int) -> Tensor | None:
        everyone = torch.cat([part.to(score.device) for part in distributed.gather(score)], dim=1)
        if everyone.shape[1] <= k:
            return None
        return score >= everyone.topk(k, dim=1).values[:, -1:]

    def sum_gradient(self, gradient: Weights) -> None:
        distributed.sum_(*(tensor for name, tensor in gradient.named().items() if name in COMMON))

    def total(self, value: Tensor) -> Tensor:
        return distributed.summed(value)

    def share(self, weights: Weights) -> Weights:
        own = {name: tensor[self.first : self.last].clone() for name, tensor in weights.named().items() if name not in COMMON}
        return weights.given(own)

    def whole(self, weights: Weights) -> Weights:
        shared = {name: tensor for name, tensor in weights.named().items() if name not in COMMON}
        return weights.given({name: distributed.gather_shares(tensor, self.m) for name, tensor in shared.items()}).to("cpu")
