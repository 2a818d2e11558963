"""Gated sparse autoencoder: whether a latent fires and how much are told apart, so that the penalty shrinks no code.

    h = W_enc (x - b_dec)        pi = h + b_gate        a = [pi > 0] ReLU(exp(r_mag) h + b_mag)
    L = |x - x_hat(a)|^2 + lambda sum_j ReLU(pi_j) + |x - x_hat_frozen(ReLU(pi))|^2

Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders" (arXiv 2404.16014), section 3.2; the decoder of
the last term is held fixed. `Weights.b_enc` is b_gate.

Letters: N rows, D_in width of what is read, M latents, E codes.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.methods.sae.encoders import GatedEncoder
from armillary.methods.sae.kernels import entries_above
from armillary.methods.sae.penalty import PenalisedSAE, Penalty, PricedObjective, SizePrice, first_level
from armillary.methods.sae.step import Active, Back, Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights


@final
class GatedSAE(PenalisedSAE):
    """A sparse autoencoder whose encoder decides by a gate which latents fire; features are directions of norm 1.

    Source: Rajamanoharan et al. 2024, arXiv 2404.16014.

    Raises:
        InputError: l0 and sparsity are both given, or neither.
    """

    # Half of the latents fire at first, and all are small, as in `JumpReLUSAE`: so each finds a part of its own.
    rule: ClassVar[type[Penalty]] = SizePrice
    first_times: ClassVar[float] = 12.0
    first_share: ClassVar[float] = 1 / 2
    settled: ClassVar[float] = 0.4
    free_norms: ClassVar[tuple[float, float]] = (0.1, 0.1)

    decoder_norm: Literal["unit", "free"] = "free"
    """Train the norms of the atoms too, which recovers more, or hold them at norm 1."""

    def objective(self, recipe: Recipe) -> Objective:
        return Gated(self.penalty(recipe))


class Gated(PricedObjective):
    """Codes whose gate is open, and a price on how far it is.

    Args:
        penalty: the price.
    """

    own: ClassVar[tuple[str, ...]] = ("r_mag", "b_mag")

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    def begin(self, weights: Weights, c: Tensor, *, is_fresh: bool) -> Weights:
        weights = super().begin(weights, c, is_fresh=is_fresh)
        if weights.r_mag is not None:
            return weights
        # Of a fit that is gone on with, codes stay what they were: their bias becomes that of the magnitudes.
        level = first_level(weights, c, self.penalty.first_target, self.work) if is_fresh else 0.0
        own = {"r_mag": torch.zeros_like(weights.b_enc), "b_mag": weights.b_enc.clone()}
        return weights.given({"b_enc": weights.b_enc - level, **own})

    def active(self, c: Tensor, weights: Weights) -> Active:
        assert weights.r_mag is not None and weights.b_mag is not None
        gate, row, latent = entries_above(c, weights.W_enc, weights.b_enc, 0.0, bf16=self.bf16)  # [E] pi
        h = gate - weights.b_enc[latent]
        value = (weights.r_mag.exp()[latent] * h + weights.b_mag[latent]).relu_()
        return Active.of_entries(value, latent, row, len(c), inner=gate)

    def back(self, active: Active, base: Tensor, weights: Weights, size: int) -> Back:
        assert active.inner is not None and weights.r_mag is not None
        residual, along = self.reconstruct(active, base, weights.W_dec)
        _, along_gate = self.reconstruct(active, base, weights.W_dec, active.inner)
        to_size = (along * (2 / size)).masked_fill_(active.value == 0, 0)  # [E] dL/d(exp(r) h + b_mag)
        to_gate = along_gate * (2 / size) + (self.penalty.weight / size).to(along)  # [E] dL/dpi
        growth = weights.r_mag.exp()[active.latent]
        grown = growth * (active.inner - weights.b_enc[active.latent])  # [E] exp(r) h
        own = {"b_enc": to_gate, "b_mag": to_size, "r_mag": to_size * grown}
        return Back(residual, residual, residual, along, to_size * growth + to_gate, own)

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        assert weights.r_mag is not None and weights.b_mag is not None
        return GatedEncoder(weights.W_enc, weights.b_enc, center, weights.r_mag, weights.b_mag)
