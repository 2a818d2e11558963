"""Encoders of sparse autoencoders.

Letters: N rows, D width, M latents, k kept per row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from armillary.core.codes import Codes, sparse_codes
from armillary.core.encoders import Encoder
from armillary.methods.sae.kernels import entries_above, topk_linear

#: Added to the standard deviation of a row before it is divided by it, as OpenAI's and SAELens' autoencoders do.
EPSILON = 1e-5


@dataclass(frozen=True)
class SAEEncoder(Encoder):
    """Reads codes off the pre-activations (x - center) @ W_enc.T + b_enc. Abstract.

    Args:
        W_enc: [M, D], one row per latent.
        b_enc: [M].
        center: [D] what is subtracted first: the decoder's bias, or zeros.
    """

    W_enc: Tensor
    b_enc: Tensor
    center: Tensor

    def centred(self, x: Tensor) -> Tensor:
        """[N, D] x - center, in the dtype of the weights."""
        return x.to(self.W_enc.dtype) - self.center

    def own(self) -> dict[str, Tensor]:
        """The parameters of this kind of encoder that not every kind has, by their names in `Weights`."""
        return {}


@final
@dataclass(frozen=True)
class TopKEncoder(SAEEncoder):
    """Keeps the k largest pre-activations per row, and of these the positive ones (Gao et al. 2024, eq. 3).

    Args:
        k: codes kept per row.
    """

    k: int
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        value, index = topk_linear(self.centred(x), self.W_enc, self.b_enc, self.k)
        return sparse_codes(value.relu(), index, len(self.W_enc))


@final
@dataclass(frozen=True)
class AbsTopKEncoder(SAEEncoder):
    """Keeps the k pre-activations per row that are largest in magnitude (Zhu et al. 2025).

    Args:
        k: codes kept per row.
    """

    k: int
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        value, index = topk_linear(self.centred(x), self.W_enc, self.b_enc, self.k, by_magnitude=True)
        return sparse_codes(value, index, len(self.W_enc))


@final
@dataclass(frozen=True)
class ThresholdEncoder(SAEEncoder):
    """Keeps the pre-activations that exceed their latent's threshold (Rajamanoharan et al. 2024, eq. 3).

    Args:
        threshold: [M], none negative.
    """

    threshold: Tensor
    fires: float | None = 0.0

    def own(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold}

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        excess, row, latent = entries_above(self.centred(x), self.W_enc, self.b_enc - self.threshold, 0.0)  # [E]
        return _in_slots(excess + self.threshold[latent], row, latent, n=len(x), m=len(self.W_enc))


@final
@dataclass(frozen=True)
class GatedEncoder(SAEEncoder):
    """A gate says which latents fire, another bias and scale how much (Rajamanoharan et al. 2024, arXiv 2404.16014).

        code = [h + b_enc > 0] ReLU(exp(r_mag) h + b_mag)        h = (x - center) @ W_enc.T

    Args:
        r_mag, b_mag: [M].
    """

    r_mag: Tensor
    b_mag: Tensor
    fires: float | None = 0.0

    def own(self) -> dict[str, Tensor]:
        return {"r_mag": self.r_mag, "b_mag": self.b_mag}

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        gate, row, latent = entries_above(self.centred(x), self.W_enc, self.b_enc, 0.0)  # [E]
        value = (self.r_mag.exp()[latent] * (gate - self.b_enc[latent]) + self.b_mag[latent]).relu()
        return _in_slots(value, row, latent, n=len(x), m=len(self.W_enc))


@final
@dataclass(frozen=True)
class NormalisedEncoder(Encoder):
    """Encodes each row brought to a standard size, and gives codes in the row's own size.

    Args:
        inner: the encoder of rows of standard size.
        rule: "layer_norm": less the row's mean and divided by its standard deviation; "norm": scaled to norm sqrt(D).
    """

    inner: Encoder
    rule: Literal["layer_norm", "norm"]

    @property
    def fires(self) -> float | None:  # type: ignore[override]
        return self.inner.fires

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        if self.rule == "layer_norm":
            size = x.std(dim=1, keepdim=True) if len(x) else x.new_zeros(0, 1)
            codes = self.inner.encode((x - x.mean(dim=1, keepdim=True)) / (size + EPSILON))
        else:
            size = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
            codes = self.inner.encode(x / size.clamp_min(torch.finfo(x.dtype).tiny))
        return replace(codes, value=codes.value * size)


def _in_slots(value: Tensor, row: Tensor, latent: Tensor, *, n: int, m: int) -> Codes:
    """Codes [E], sorted by row, side by side in as many slots as the fullest row needs."""
    count = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    k = max(1, int(count.max())) if n else 1
    values, index = value.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=row.device)
    values[row, place], index[row, place] = value, latent
    return sparse_codes(values, index, m)
