"""Frame: the coordinates an autoencoder is trained in, z = (x - mean) * scale, and the way back.

Every site is scaled to a mean square of 1 per dimension, so that learning rates and penalties mean the same everywhere and the sites of
a crosscoder weigh as much as they have dimensions. Both are folded into the weights at the end: the fit reads activations as they come.

Letters: N rows, D_in and D widths, M latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.core.moments import Moments
from armillary.methods.sae.weights import OF_CODES, Weights


@dataclass(frozen=True)
class Side:
    """The coordinates of what is read, or of what is rebuilt.

    Args:
        mean: [D].
        scale: [D], one number per site.
    """

    mean: Tensor
    scale: Tensor

    @staticmethod
    def of(x: Tensor, widths: Sequence[int]) -> Side:
        """From the first batch of all ranks [n, D], whose columns are sites of the given widths; constant sites are not scaled."""
        sites = [reduce(add, distributed.gather(Moments.of(part))) for part in torch.split(x, list(widths), dim=1)]
        mean = torch.cat([moments.mean.float() for moments in sites])
        scale = torch.cat([torch.full((d,), _scale(moments, d)) for moments, d in zip(sites, widths, strict=True)])
        return Side(mean.to(x.device), scale.to(x.device))

    def into(self, x: Tensor) -> Tensor:
        """[n, D] float32 rows in these coordinates."""
        return (x.float() - self.mean).mul_(self.scale)

    def to(self, device: torch.device) -> Side:
        return Side(self.mean.to(device), self.scale.to(device))

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "scale": self.scale}


def _scale(moments: Moments, d: int) -> float:
    mean_square = moments.total / (max(1, moments.n) * d)
    return 1 / math.sqrt(mean_square) if mean_square > 0 else 1.0


@dataclass(frozen=True)
class Frame:
    """The coordinates of training.

    Args:
        read: of what the encoder reads.
        built: of what is rebuilt; the same object where rows are rebuilt from themselves.
        keeps_codes: whether a code is the same number in both coordinates, so that atoms are stretched instead.
    """

    read: Side
    built: Side
    keeps_codes: bool = False

    @property
    def is_own(self) -> bool:
        return self.read is self.built

    @property
    def size(self) -> float:
        """What rows to be rebuilt were multiplied by; of several sites the geometric mean."""
        first = self.built.scale[0]
        return float(first if (self.built.scale == first).all() else self.built.scale.double().log().mean().exp())

    @property
    def unit(self) -> float:
        """What a code was multiplied by, so that atoms of a single site keep their norm."""
        return 1.0 if self.keeps_codes else self.size

    def weights_out(self, inner: Weights) -> tuple[Weights, Tensor]:
        """The same function of rows outside, and what its encoder subtracts from them [D_in]."""
        g = self.unit
        center = self.read.mean + inner.b_dec / self.read.scale if self.is_own else self.read.mean
        weights = inner.given(
            {name: tensor / g for name, tensor in inner.named().items() if name in OF_CODES}
            | {"W_enc": inner.W_enc * (self.read.scale / g), "W_dec": inner.W_dec / (self.built.scale / g)}
            | {"b_dec": self.built.mean + inner.b_dec / self.built.scale}
        )
        return (weights if weights.W_skip is None else self._skip_out(weights, weights.W_skip)), center

    def weights_in(self, raw: Weights, center: Tensor) -> Weights:
        """The inverse of `weights_out`. A center of an autoencoder that is not its decoder's bias moves into the encoder's bias."""
        g = self.unit
        b_dec = (raw.b_dec - self.built.mean) * self.built.scale
        start = raw.b_dec if self.is_own else self.read.mean  # what will be subtracted
        shift = (start - center) @ raw.W_enc.T
        own = {"threshold": raw.threshold, "b_mag": raw.b_mag}
        if raw.b_mag is not None and raw.r_mag is not None:
            own["b_mag"] = raw.b_mag + raw.r_mag.exp() * shift
        weights = raw.given(
            {name: tensor * g for name, tensor in own.items() if tensor is not None}
            | {"W_enc": raw.W_enc / (self.read.scale / g), "W_dec": raw.W_dec * (self.built.scale / g)}
            | {"b_enc": (raw.b_enc + shift) * g, "b_dec": b_dec}
        )
        return weights if weights.W_skip is None else self._skip_in(weights, weights.W_skip)

    def _skip_out(self, weights: Weights, inner: Tensor) -> Weights:
        W_skip = inner * self.read.scale[:, None] / self.built.scale  # [D_in, D]
        return weights.given({"W_skip": W_skip, "b_dec": weights.b_dec - self.read.mean @ W_skip})

    def _skip_in(self, weights: Weights, raw: Tensor) -> Weights:
        W_skip = raw * self.built.scale / self.read.scale[:, None]
        return weights.given({"W_skip": W_skip, "b_dec": weights.b_dec + (self.read.mean @ raw) * self.built.scale})

    def to(self, device: torch.device) -> Frame:
        read = self.read.to(device)
        return Frame(read, read if self.is_own else self.built.to(device), self.keeps_codes)

    def state(self) -> dict[str, Any]:
        """What is needed to go on."""
        return {"read": self.read.state(), "built": None if self.is_own else self.built.state(), "keeps_codes": self.keeps_codes}

    @staticmethod
    def of_state(state: dict[str, Any]) -> Frame:
        """The inverse of `state`."""
        read = Side(**state["read"])
        return Frame(read, read if state["built"] is None else Side(**state["built"]), state["keeps_codes"])
