"""TopK sparse autoencoder.

    a = TopK(W_enc (x - b_dec) + b_enc)        x_hat = W_dec^T a + b_dec        L = |x - x_hat|^2 + alpha |e - e_hat|^2

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), eq. 3 to 5; the second loss is `auxk`.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.methods.sae.encoders import TopKEncoder
from armillary.methods.sae.fit import KSparseSAE
from armillary.methods.sae.kernels import topk_linear
from armillary.methods.sae.step import Active, Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights


@final
class TopKSAE(KSparseSAE):
    """A sparse autoencoder in which k latents at most fire for each row; features are directions of norm 1.

    Source: Gao et al. 2024, arXiv 2406.04093.

    Raises:
        InputError: k is above n_features.
    """

    def objective(self, recipe: Recipe) -> Objective:
        return TopK(self.k)


class TopK(Objective):
    """The k largest codes of each row.

    Args:
        k: how many.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def active(self, c: Tensor, weights: Weights) -> Active:
        value, index = topk_linear(c, weights.W_enc, weights.b_enc, min(self.k, len(weights.W_enc)), bf16=self.bf16)
        keep = self.work.among_largest(value, self.k)
        return Active.of_slots(value.relu_() if keep is None else value.relu_().mul_(keep), index)

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        return TopKEncoder(weights.W_enc, weights.b_enc, center, self.k)
