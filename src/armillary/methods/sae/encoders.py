"""Encoders of sparse autoencoders.

Letters: N rows, D width, M latents, k kept per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from armillary.core.codes import Codes, sparse_codes
from armillary.core.encoders import Encoder
from armillary.methods.sae.kernels import entries_above, topk_linear


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


@dataclass(frozen=True)
class AbsTopKEncoder(Encoder):
    """Keeps the k entries of (x - center) @ W_enc.T + b_enc per row that are largest in magnitude (Zhu et al. 2025).

    Args: as of `TopKEncoder`.
    """

    W_enc: Tensor
    b_enc: Tensor
    center: Tensor
    k: int
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        value, index = topk_linear(x.to(self.W_enc.dtype) - self.center, self.W_enc, self.b_enc, self.k, by_magnitude=True)
        return sparse_codes(value, index, len(self.W_enc))


@dataclass(frozen=True)
class ThresholdEncoder(Encoder):
    """Keeps what exceeds a latent's threshold in (x - center) @ W_enc.T + b_enc (Rajamanoharan et al. 2024, eq. 3).

    Args:
        W_enc: [M, D], one row per latent.
        b_enc: [M].
        center: [D] what is subtracted first: the decoder's bias, or zeros.
        threshold: [M], none negative.
    """

    W_enc: Tensor
    b_enc: Tensor
    center: Tensor
    threshold: Tensor
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        inner = x.to(self.W_enc.dtype) - self.center
        if len(inner) == 0:
            return sparse_codes(inner.new_zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64, device=x.device), len(self.W_enc))
        excess, row, latent = entries_above(inner, self.W_enc, self.b_enc - self.threshold, 0.0)  # [E]
        return _in_slots(excess + self.threshold[latent], row, latent, n=len(x), m=len(self.W_enc))


def _in_slots(value: Tensor, row: Tensor, latent: Tensor, *, n: int, m: int) -> Codes:
    """Codes [E], sorted by row, side by side in as many slots as the fullest row needs."""
    count = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    k = max(1, int(count.max()))
    values, index = value.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=row.device)
    values[row, place], index[row, place] = value, latent
    return sparse_codes(values, index, m)
