"""Weights: the parameters of a sparse autoencoder, or a gradient for each of them.

    c = x - b_dec  (or x, where the rows to rebuild are not the rows that are read)
    p = W_enc c + b_enc        a = what the variant makes of p        y_hat = W_dec^T a + W_skip^T x + b_dec

Letters: M latents, D_in width of what is read, D width of what is rebuilt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

#: What is measured in the units of codes.
OF_CODES = ("b_enc", "threshold", "b_mag")
#: Norm of a row of the encoder at the start, for decoder rows of norm 1: the norm torch's linear layer starts with.
ENCODER_NORM = 1 / math.sqrt(3)


@dataclass(frozen=True)
class Weights:
    """The parameters of an autoencoder, or a gradient for each of them.

    Args:
        W_enc: [M, D_in], one row per latent.
        b_enc: [M].
        W_dec: [M, D], one row per latent.
        b_dec: [D].
        threshold: [M] of JumpReLU.
        r_mag, b_mag: [M] logarithmic scale and bias of a gated encoder's magnitudes.
        W_skip: [D_in, D] of a skip connection.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    r_mag: Tensor | None = None
    b_mag: Tensor | None = None
    W_skip: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Those there are, by name, in the order of the arguments."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def tensors(self) -> tuple[Tensor, ...]:
        """Those there are, in the order of the arguments."""
        return tuple(self.named().values())

    def given(self, tensors: Mapping[str, Tensor]) -> Weights:
        """The same with some replaced."""
        return replace(self, **tensors)

    def add_(self, other: Weights) -> Weights:
        """Add others of the same kinds, in place."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.add_(theirs)
        return self

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, *, copy: bool = False) -> Weights:
        """On a device, in a dtype."""
        return Weights(**{name: tensor.to(device, dtype, copy=copy) for name, tensor in self.named().items()})


def random_weights(m: int, d_in: int, d: int | None = None, *, seed: int, norms: tuple[float, float] = (ENCODER_NORM, 1.0)) -> Weights:
    """Decoder rows uniform on the sphere, no biases; the same on every rank.

    The encoder is the decoder's scaled copy where rows are rebuilt from themselves, else a draw of its own.

    Args:
        m: latents.
        d_in: width of what is read.
        d: width of what is rebuilt, where that is something else.
        seed: of the draw.
        norms: of the encoder's and the decoder's rows.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(m, d_in if d is None else d, generator=generator)  # [M, D]
    W_enc = W_dec.clone() if d is None else torch.randn(m, d_in, generator=generator)
    for rows, norm in zip((W_enc, W_dec), norms, strict=True):
        normalise(rows)
        rows.mul_(norm)
    return Weights(W_enc, torch.zeros(m), W_dec, torch.zeros(W_dec.shape[1]))


def unit_rows(weights: Weights) -> Weights:
    """The same function with decoder rows of norm 1: what multiplies them moves into the codes."""
    norm = weights.W_dec.norm(dim=1).clamp_min(torch.finfo(weights.W_dec.dtype).tiny)  # [M]
    scaled = {name: tensor * norm for name, tensor in weights.named().items() if name in OF_CODES}
    return weights.given({**scaled, "W_enc": weights.W_enc * norm[:, None], "W_dec": weights.W_dec / norm[:, None]})


def normalise(rows: Tensor) -> None:
    """Give every row [M, D] norm 1, in place."""
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))
