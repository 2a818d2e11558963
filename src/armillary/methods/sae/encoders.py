"""Encoders of sparse autoencoders.

Letters: N rows, D width, M latents, k kept per row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from armillary.core.codes import Codes, sparse_codes
from armillary.core.encoders import Encoder
from armillary.methods.sae.kernels import topk_linear


@dataclass(frozen=True)
class TopKEncoder(Encoder):
    """Keeps the k largest of (x - center) @ W_enc.T + b_enc per row, and of these the positive ones (Gao et al. 2024, eq. 3).

    Args:
        W_enc: [M, D], one row per latent.
        b_enc: [M].
        center: [D] what is subtracted first: the decoder's bias, or zeros.
        k: codes kept per row.
    """

    W_enc: Tensor
    b_enc: Tensor
    center: Tensor
    k: int
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        value, index = topk_linear(x.to(self.W_enc.dtype) - self.center, self.W_enc, self.b_enc, self.k)
        return sparse_codes(value.relu(), index, len(self.W_enc))
