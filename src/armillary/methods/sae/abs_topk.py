"""AbsTopK sparse autoencoder: one feature for both ends of an axis.

    a = the k entries of W_enc (x - b_dec) + b_enc largest in magnitude, with their signs        x_hat = W_dec^T a + b_dec

Zhu, Khalili & Zhu 2025, "AbsTopK: Rethinking sparse autoencoders for bidirectional features" (arXiv 2510.00404).
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.methods.sae.encoders import AbsTopKEncoder
from armillary.methods.sae.fit import KSparseSAE
from armillary.methods.sae.kernels import topk_linear
from armillary.methods.sae.step import Active, Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights


@final
class AbsTopKSAE(KSparseSAE):
    """A sparse autoencoder with k signed codes for each row: a feature and its opposite share a direction of norm 1.

    Source: Zhu et al. 2025, arXiv 2510.00404.

    Raises:
        InputError: k is above n_features.
    """

    def objective(self, recipe: Recipe) -> Objective:
        return AbsTopK(self.k)


class AbsTopK(Objective):
    """The k codes of each row that are largest in magnitude.

    Args:
        k: how many.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def active(self, c: Tensor, weights: Weights) -> Active:
        value, index = topk_linear(c, weights.W_enc, weights.b_enc, min(self.k, len(weights.W_enc)), by_magnitude=True, bf16=self.bf16)
        keep = self.work.among_largest(value.abs(), self.k)
        return Active.of_slots(value if keep is None else value * keep, index)

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        return AbsTopKEncoder(weights.W_enc, weights.b_enc, center, self.k)
