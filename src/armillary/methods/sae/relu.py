"""ReLU sparse autoencoder with an L1 penalty, or with p-annealing.

    a = ReLU(W_enc (x - b_dec) + b_enc)        L = |x - x_hat|^2 + lambda sum_j a_j^p        p = 1

Bricken et al. 2023, "Towards monosemanticity"; Cunningham et al. 2023 (arXiv 2309.08600). Atoms have norm 1, so that no code is made
small by a long atom. With p-annealing (Karvonen et al. 2024, arXiv 2408.00113, section 3.2) p falls from 1 while lambda is rescaled, so
that the penalty nears a count of the codes.

Letters: N rows, D_in width of what is read, M latents, E codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from armillary.core import distributed
from armillary.core.encoders import Encoder
from armillary.methods.sae.encoders import ThresholdEncoder
from armillary.methods.sae.kernels import entries_above
from armillary.methods.sae.penalty import PenalisedSAE, Penalty, PricedObjective, SizePrice, first_level
from armillary.methods.sae.step import Active, Back, Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights

#: Share of the training after which p begins to fall, and the one at which it has fallen.
ANNEALED = (0.3, 0.8)
#: Added to a code before its power is taken, as the derivative has no bound at 0.
FLOOR = 0.05


@final
class ReLUSAE(PenalisedSAE):
    """A sparse autoencoder with rectified codes and an L1 penalty; features are directions of norm 1.

    Source: Bricken et al. 2023, "Towards monosemanticity"; p-annealing: Karvonen et al. 2024, arXiv 2408.00113.

    Raises:
        InputError: l0 and sparsity are both given, or neither.
    """

    # Half of the latents may fire at first: as that number falls, each comes to stand for a part of its own.
    rule: ClassVar[type[Penalty]] = SizePrice
    first_times: ClassVar[float] = 8.0
    first_share: ClassVar[float] = 1 / 2
    settled: ClassVar[float] = 0.4

    p_end: float = Field(default=1.0, gt=0, le=1)
    """Power of the codes in the penalty at the end of training; below 1, such as 0.2, it falls to that (p-annealing)."""

    def objective(self, recipe: Recipe) -> Objective:
        return ReLU(self.penalty(recipe), self.p_end)


class ReLU(PricedObjective):
    """All positive codes, and a price on their size.

    Args:
        penalty: the price.
        p_end: the power at the end.
    """

    def __init__(self, penalty: Penalty, p_end: float) -> None:
        self.penalty, self.p_end = penalty, p_end
        self._progress = 0.0

    @property
    def p(self) -> float:
        """The power as it is now."""
        first, last = ANNEALED
        share = min(1.0, max(0.0, (self._progress - first) / (last - first)))
        return 1 - share * (1 - self.p_end)

    def begin(self, weights: Weights, c: Tensor, *, is_fresh: bool) -> Weights:
        weights = super().begin(weights, c, is_fresh=is_fresh)
        if not is_fresh:
            return weights
        return weights.given({"b_enc": weights.b_enc - first_level(weights, c, self.penalty.first_target, self.work)})

    def active(self, c: Tensor, weights: Weights) -> Active:
        value, row, latent = entries_above(c, weights.W_enc, weights.b_enc, 0.0, bf16=self.bf16)
        return Active.of_entries(value, latent, row, len(c))

    def back(self, active: Active, base: Tensor, weights: Weights, size: int) -> Back:
        found = super().back(active, base, weights, size)
        price = (self.penalty.weight / size).to(found.to_pre)
        return replace(found, to_pre=found.to_pre + price * self._slope(active.value))

    def _slope(self, value: Tensor) -> Tensor:
        """[E] derivative of sum a^p, rescaled so that the sum is what it would be with p = 1."""
        p = self.p
        if p == 1:
            return torch.ones_like(value)
        size, power = (value + FLOOR).sum(), (value + FLOOR).pow(p).sum()
        distributed.sum_(size, power)  # by rows or by latents, the codes of all ranks
        return p * (value + FLOOR).pow(p - 1) * (size / power.clamp_min(1e-12))

    def steer(self, l0: Tensor, progress: float) -> None:
        self._progress = progress
        super().steer(l0, progress)

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        return ThresholdEncoder(weights.W_enc, weights.b_enc, center, torch.zeros_like(weights.b_enc))

    def state(self) -> dict[str, Any]:
        return {"progress": self._progress, **super().state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._progress = state["progress"]
        super().load(state)
