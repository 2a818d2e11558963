"""BatchTopK sparse autoencoder: k codes per row on average, spent where they help most.

    a = the n k largest of ReLU(W_enc (x - b_dec) + b_enc) over a batch of n rows        x_hat = W_dec^T a + b_dec

Bussmann, Leask & Nanda 2024, "BatchTopK sparse autoencoders" (arXiv 2412.06410), eq. 5 to 7. After training a single threshold, the mean
of the smallest code kept in the last batches, takes the place of the batch, so that a row's codes depend on that row alone.

Letters: n rows of this rank, M latents, E codes.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.core.encoders import Encoder
from armillary.methods.sae.encoders import ThresholdEncoder
from armillary.methods.sae.fit import KSparseSAE
from armillary.methods.sae.kernels import entries_above
from armillary.methods.sae.step import Active, Objective
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights

#: Entries are looked for above this share of the last batch's cut; what is found is cut exactly.
MARGIN = 0.95
#: Rows from which the first batch's cut is guessed.
GUESSED_FROM = 256


@final
class BatchTopKSAE(KSparseSAE):
    """A sparse autoencoder in which k latents fire for each row on average; features are directions of norm 1.

    Source: Bussmann et al. 2024, arXiv 2412.06410.

    Raises:
        InputError: k is above n_features.
    """

    def objective(self, recipe: Recipe) -> Objective:
        return BatchTopK(self.k)


class BatchTopK(Objective):
    """The k largest codes per row on average, over the rows of all ranks.

    Args:
        k: codes per row.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._bound: float | None = None  # for speed only: where the next batch is searched, which does not change what is found

    def active(self, c: Tensor, weights: Weights) -> Active:
        wanted = self.k * self.work.n_rows(len(c))
        value, row, latent = self._candidates(c, weights, wanted)
        keep, cut = _cut(value, wanted)
        self._bound = MARGIN * cut
        return Active.of_entries(value[keep], latent[keep], row[keep], len(c), cut=cut)

    def _candidates(self, c: Tensor, weights: Weights, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes among which are the `wanted` largest positive ones of all ranks: value, row and latent [E]."""
        bound = self._guess(c, weights) if self._bound is None else self._bound
        bound = bound if math.isfinite(bound) else 0.0  # codes without bound are the business of who watches the loss
        while True:
            found = entries_above(c, weights.W_enc, weights.b_enc, bound, bf16=self.bf16)
            if bound <= 0 or sum(distributed.gather(len(found[0]))) >= wanted:
                return found
            bound = bound / 2 if bound > 1e-6 else 0.0

    def _guess(self, c: Tensor, weights: Weights) -> float:
        """A bound that the first batch's cut probably exceeds, the same on every rank."""
        some = c[:GUESSED_FROM]
        value, _, _ = entries_above(some, weights.W_enc, weights.b_enc, 0.0)
        # Of this rank's own codes; a cut over all ranks' latents is not below the smallest of these.
        mine = float(value[_largest(value, self.k * len(some))].min()) if len(value) else 0.0
        smallest: float = min(distributed.gather(mine))
        return MARGIN * smallest

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        return ThresholdEncoder(weights.W_enc, weights.b_enc, center, torch.full_like(weights.b_enc, threshold))


def _largest(value: Tensor, k: int) -> Tensor:
    """Indices of the k largest values [E], or of all where there are fewer, in ascending order."""
    if len(value) <= k:
        return torch.arange(len(value), device=value.device)
    return value.topk(k, sorted=False).indices.sort().values


def _cut(value: Tensor, wanted: int) -> tuple[Tensor, float]:
    """Which of this rank's values are among the `wanted` largest of all ranks, and the smallest of these; 0 where there are none."""
    parts = [part.to(value.device) for part in distributed.gather(value)]
    everyone, before = torch.cat(parts), sum(map(len, parts[: distributed.rank()]))
    best = _largest(everyone, wanted)
    cut = float(everyone[best].min()) if len(best) else 0.0
    mine = (best >= before) & (best < before + len(value))  # by place, as equal values must not all be kept
    return best[mine] - before, cut
