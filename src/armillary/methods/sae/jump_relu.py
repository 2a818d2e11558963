"""JumpReLU sparse autoencoder: a threshold per latent, learnt with a straight-through gradient.

    p = W_enc (x - b_dec) + b_enc        a = p [p > theta]        L = |x - x_hat|^2 + lambda sum_j [p_j > theta_j]

Rajamanoharan et al. 2024, "Jumping ahead" (arXiv 2407.14435), eq. 3, 9, 11 and 12. The number of active codes is steered by lambda; see
`penalty`.

Letters: N rows, D_in width of what is read, M latents, E codes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.methods.sae.decoder import Parameters
from armillary.methods.sae.encoders import ThresholdEncoder
from armillary.methods.sae.kernels import entries_above
from armillary.methods.sae.penalty import NumberPrice, PenalisedSAE, Penalty, PricedObjective, first_level
from armillary.methods.sae.step import Active, Back, Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights


@final
class JumpReLUSAE(PenalisedSAE):
    """A sparse autoencoder whose latents fire above a threshold of their own; features are directions of norm 1.

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435.

    Raises:
        InputError: l0 and sparsity are both given, or neither.
    """

    # Latents begin small, many of them firing, and grow with their use while thresholds rise: so each finds a part of its own. From rows
    # of norm 1, or from few codes, most settle on sums of parts.
    rule: ClassVar[type[Penalty]] = NumberPrice
    first_times: ClassVar[float] = 6.0
    first_share: ClassVar[float] = 1 / 8
    settled: ClassVar[float] = 0.6
    free_norms: ClassVar[tuple[float, float]] = (0.4, 0.4)

    decoder_norm: Literal["unit", "free"] = "free"
    """Train the norms of the atoms too, which recovers more, or hold them at norm 1."""
    bandwidth: float = Field(default=0.3, gt=0, le=2)
    """Width of the stretch around a threshold whose codes move it, as a share of the threshold."""

    def objective(self, recipe: Recipe) -> Objective:
        return JumpReLU(self.penalty(recipe), self.bandwidth)


#: Thresholds are at least this, in units of the rows' root-mean-square entry.
LEAST = 1e-4
#: The kernel is as wide as for a threshold of this size at least: no code would be near one of 0, which would stay what it is for ever.
NARROWEST = 0.25
#: Thresholds are trained in these units, so that Adam, whose steps have one size, moves them faster than the weights that lag behind.
UNIT = 6.0


class JumpReLU(PricedObjective):
    """Codes above their latent's threshold, and a price for each.

    Args:
        penalty: the price.
        bandwidth: of the kernel of the straight-through gradient, epsilon / theta.
    """

    own: ClassVar[tuple[str, ...]] = ("threshold",)

    def __init__(self, penalty: Penalty, bandwidth: float) -> None:
        self.penalty, self.bandwidth = penalty, bandwidth

    def begin(self, weights: Weights, c: Tensor, *, is_fresh: bool) -> Weights:
        weights = super().begin(weights, c, is_fresh=is_fresh)
        level = weights.threshold
        if level is None:
            level = torch.full_like(weights.b_enc, first_level(weights, c, self.penalty.first_target, self.work))
        return weights.given({"threshold": level.clamp_min(LEAST) / UNIT})

    def outer(self, weights: Weights) -> Weights:
        return weights.given({"threshold": _theta(weights)})

    def settle(self, parameters: Parameters) -> None:
        parameters["threshold"].clamp_min_(LEAST / UNIT)

    def active(self, c: Tensor, weights: Weights) -> Active:
        theta = _theta(weights)
        below = self._width(theta) / 2  # codes so far below their threshold still move it
        near, row, latent = entries_above(c, weights.W_enc, weights.b_enc - theta + below, 0.0, bf16=self.bf16)
        above = near - below[latent]  # [E] p - theta
        value = (above + theta[latent]).masked_fill_(above <= 0, 0)
        return Active.of_entries(value, latent, row, len(c), inner=above)

    def _width(self, theta: Tensor) -> Tensor:
        """Epsilon, for each threshold."""
        return self.bandwidth * theta.clamp_min(NARROWEST)

    def back(self, active: Active, base: Tensor, weights: Weights, size: int) -> Back:
        assert active.inner is not None
        found = super().back(active, base, weights, size)
        to_code = found.along * (2 / size)  # [E] dL/da, also of codes that are 0
        # da/dtheta = -(theta / eps) K((p - theta) / eps) and d[p > theta]/dtheta = -(1 / eps) K(...), K = 1 on [-1/2, 1/2] (eq. 11, 12)
        price = (self.penalty.weight / size).to(to_code)
        theta = _theta(weights)[active.latent]
        eps = self._width(theta)
        push = -(theta * to_code + price) / eps * UNIT
        return replace(found, own={"threshold": push.masked_fill_(active.inner.abs() > eps / 2, 0)})

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        assert weights.threshold is not None
        return ThresholdEncoder(weights.W_enc, weights.b_enc, center, weights.threshold)


def _theta(weights: Weights) -> Tensor:
    """[M] thresholds in the units of codes."""
    assert weights.threshold is not None
    return weights.threshold * UNIT
