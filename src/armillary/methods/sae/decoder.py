"""Decoder: how the rows of the decoder are kept while they are trained.

`UnitRows` holds them at norm 1. `FreeRows` trains their norms and counts a code by what it adds, norm included. `Archetypes` makes them of
data points. The step itself sees rows as they are used, whatever the parameters behind them.

Letters: M latents, D width of what is rebuilt, P data points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from armillary.methods.sae.weights import OF_CODES, Weights, normalise, unit_rows

#: Rows of a gradient that are projected at once, few enough to stay in cache.
PROJECTED_ROWS = 1024

#: What is trained, by name.
Parameters = dict[str, Tensor]


class Decoder(ABC):
    """Parameters of an autoencoder, and the weights they stand for."""

    def begin(self, weights: Weights) -> Parameters:
        """Parameters that stand for these weights."""
        return weights.named()

    @abstractmethod
    def weights(self, parameters: Parameters) -> Weights:
        """The weights that a step works with."""

    @abstractmethod
    def gradient(self, parameters: Parameters, weights: Weights, gradient: Weights) -> Parameters:
        """The gradient of the parameters, from that of the weights."""

    @abstractmethod
    def settle(self, parameters: Parameters) -> None:
        """Bring the parameters back to where they may be, after a step; in place."""

    def plant(self, parameters: Parameters, latent: Tensor, rows: Tensor) -> None:
        """Give latents [m] the decoder rows [m, D], of norm 1; in place."""
        parameters["W_dec"][latent] = rows

    def state(self) -> dict[str, Tensor]:
        """What it needs besides the parameters."""
        return {}

    def to(self, device: torch.device) -> Decoder:
        """The same on another device."""
        return self


@final
class UnitRows(Decoder):
    """Rows of norm 1: gradients are projected off them, and the norm is restored after every step."""

    def weights(self, parameters: Parameters) -> Weights:
        return Weights(**parameters)

    def gradient(self, parameters: Parameters, weights: Weights, gradient: Weights) -> Parameters:
        project_off(gradient.W_dec, weights.W_dec)
        return gradient.named()

    def settle(self, parameters: Parameters) -> None:
        normalise(parameters["W_dec"])


@final
class FreeRows(Decoder):
    """Rows of any norm n. A code counts as n times itself, over a row of norm 1, so that no penalty is evaded by growing rows.

    With u = W_dec / n the step's weights are n W_enc, u, and n times whatever is measured in the units of codes.
    """

    def weights(self, parameters: Parameters) -> Weights:
        return unit_rows(Weights(**parameters))

    def gradient(self, parameters: Parameters, weights: Weights, gradient: Weights) -> Parameters:
        norm, found = _norms(parameters["W_dec"]), gradient.named()  # [M, 1]
        of_codes = [name for name in OF_CODES if name in found]
        # A threshold has no say in the norm: as it grows with the codes, which of them fire stays the same.
        to_norm = torch.linalg.vecdot(gradient.W_enc, parameters["W_enc"])  # [M]
        for name in of_codes:
            if name != "threshold":
                to_norm += found[name] * parameters[name]
        project_off(gradient.W_dec, weights.W_dec)
        d_W_dec = torch.addcmul(gradient.W_dec / norm, weights.W_dec, to_norm[:, None])
        return {**found, **{name: found[name] * norm[:, 0] for name in of_codes}, "W_enc": gradient.W_enc * norm, "W_dec": d_W_dec}

    def settle(self, parameters: Parameters) -> None:
        pass


@final
@dataclass(frozen=True)
class Archetypes(Decoder):
    """Rows that are convex combinations of data points, give or take a little.

        W_dec = mix @ points + offset        mix >= 0, each row of mix sums to 1, |offset| <= slack

    Fel et al. 2025, "Archetypal SAE" (arXiv 2502.12892).

    Args:
        points: [P, D].
        slack: largest distance from the convex hull.
        seed: of the points that rows begin at.
    """

    points: Tensor
    slack: float
    seed: int

    def begin(self, weights: Weights) -> Parameters:
        m, n_points = len(weights.W_dec), len(self.points)
        at = torch.randperm(m, generator=torch.Generator().manual_seed(self.seed)).to(self.points.device) % n_points
        mix = self.points.new_zeros(m, n_points).index_put_((torch.arange(m, device=at.device), at), self.points.new_ones(()))
        rest = {name: tensor for name, tensor in weights.named().items() if name != "W_dec"}
        return {**rest, "mix": mix, **({"offset": torch.zeros_like(weights.W_dec)} if self.slack else {})}

    def weights(self, parameters: Parameters) -> Weights:
        rest = dict(parameters)
        W_dec = rest.pop("mix") @ self.points  # [M, D]
        offset = rest.pop("offset", None)
        return Weights(**rest, W_dec=W_dec if offset is None else W_dec.add_(offset))

    def gradient(self, parameters: Parameters, weights: Weights, gradient: Weights) -> Parameters:
        rest = gradient.named()
        d_W_dec = rest.pop("W_dec")
        # Along (1, ..., 1) the mix cannot move, as its rows sum to 1.
        d_mix = d_W_dec @ self.points.T
        d_mix -= d_mix.mean(1, keepdim=True)
        found = {**rest, "mix": d_mix, "offset": d_W_dec}
        return {name: found[name] for name in parameters}

    def settle(self, parameters: Parameters) -> None:
        mix = parameters["mix"].clamp_min_(0)
        mix.div_(mix.sum(1, keepdim=True).clamp_min_(torch.finfo(mix.dtype).tiny))
        if "offset" in parameters:
            parameters["offset"].mul_((self.slack / _norms(parameters["offset"])).clamp_max_(1.0))

    def plant(self, parameters: Parameters, latent: Tensor, rows: Tensor) -> None:
        nearest = (rows @ self.points.T).argmax(1)
        parameters["mix"][latent] = torch.nn.functional.one_hot(nearest, len(self.points)).to(parameters["mix"])
        if "offset" in parameters:
            parameters["offset"][latent] = 0

    def state(self) -> dict[str, Tensor]:
        return {"points": self.points}

    def to(self, device: torch.device) -> Archetypes:
        return replace(self, points=self.points.to(device))


def _norms(rows: Tensor) -> Tensor:
    """[M, 1] norms, none of them 0."""
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return norms.clamp_min(torch.finfo(rows.dtype).tiny)


def project_off(gradient: Tensor, rows: Tensor) -> None:
    """Remove from each row of `gradient` [M, D] its part along the same row of `rows` [M, D], which have norm 1, in place."""
    for part, axis in zip(torch.split(gradient, PROJECTED_ROWS), torch.split(rows, PROJECTED_ROWS), strict=True):
        part.addcmul_(torch.linalg.vecdot(part, axis)[:, None], axis, value=-1)
