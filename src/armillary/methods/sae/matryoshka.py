"""Matryoshka sparse autoencoder: the first latents have to do without the later ones.

    a = BatchTopK(W_enc (x - b_dec) + b_enc)        x_hat_g = sum over the first m_g latents of a_j W_dec_j + b_dec
    L = mean over g of |x - x_hat_g|^2

Bussmann, Nabeshima, Karvonen & Nanda 2025, "Learning multi-level features with Matryoshka sparse autoencoders" (arXiv 2503.17547).
General features come first, so that they are not absorbed by special ones; `fit.subset(range(m_g))` is an autoencoder too.

Letters: N rows, D width, M latents, G groups, E codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import final

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from armillary.core.encoders import Encoder
from armillary.methods.sae.batch_topk import BatchTopK
from armillary.methods.sae.fit import KSparseSAE
from armillary.methods.sae.step import Active, Back, Objective, decode, starts
from armillary.methods.sae.trainer import Recipe
from armillary.methods.sae.weights import Weights

#: Latents of each prefix by default, as shares of all.
SHARES = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)


@final
class MatryoshkaSAE(KSparseSAE):
    """A BatchTopK sparse autoencoder whose first latents, at several widths, rebuild rows alone; features are directions of norm 1.

    Source: Bussmann et al. 2025, arXiv 2503.17547.

    Raises:
        InputError: k is above n_features, or the widths do not rise to n_features.
    """

    widths: tuple[int, ...] = Field(default=(), validate_default=True)
    """Latents of each prefix, rising to n_features; by default 1/32, 3/32, 7/32, 15/32 and all of them."""

    @field_validator("widths")
    @classmethod
    def _rise(cls, widths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        n = info.data.get("n_features", 1)
        found = widths or tuple(sorted({max(1, round(share * n)) for share in SHARES}))
        if found[0] < 1 or found[-1] != n or any(a >= b for a, b in pairwise(found)):
            raise ValueError(f"must rise from 1 or more to n_features, {n}")
        return found

    def objective(self, recipe: Recipe) -> Objective:
        return Matryoshka(self.k, self.widths)


class Matryoshka(Objective):
    """The batch's largest codes, which rebuild a row once per prefix.

    Args:
        k: codes per row on average.
        widths: [G] latents of each prefix.
    """

    def __init__(self, k: int, widths: Sequence[int]) -> None:
        self.widths, self._largest = tuple(widths), BatchTopK(k)

    def active(self, c: Tensor, weights: Weights) -> Active:
        self._largest.work, self._largest.bf16 = self.work, self.bf16
        found = self._largest.active(c, weights)
        last = torch.tensor([width - 1 for width in self.widths], device=found.latent.device)
        bag = torch.bucketize(found.latent + self.work.first, last) * len(c) + found.row  # one bag per group and row
        order = bag.sort(stable=True).indices
        value, latent, row, bag = (part[order] for part in (found.value, found.latent, found.row, bag))
        return replace(found, value=value, latent=latent, row=row, bag=bag, start=starts(bag, len(self.widths) * len(c)))

    def back(self, active: Active, base: Tensor, weights: Weights, size: int) -> Back:
        n_groups = len(self.widths)
        decoded, products = decode(active, weights.W_dec, active.value)
        self.work.add_up(decoded)
        groups = decoded.view(n_groups, *base.shape)  # [G, N, D]
        groups[0].add_(base)
        for g in range(1, n_groups):
            groups[g].add_(groups[g - 1])  # the residual of prefix g
        residual = groups[-1].clone()
        for g in reversed(range(n_groups - 1)):
            groups[g].add_(groups[g + 1])  # a code of group g is part of every later prefix
        table = decoded.div_(n_groups)
        along = products(table)
        to_pre = (along * (2 / size)).masked_fill_(active.value == 0, 0)
        return Back(residual, table, groups[0], along, to_pre)

    def encoder(self, weights: Weights, center: Tensor, threshold: float) -> Encoder:
        return self._largest.encoder(weights, center, threshold)
