"""Archetypal sparse autoencoder: every atom is a convex combination of data points, so that none leaves what the data hold.

    W_dec = mix @ points + offset        mix >= 0, rows of mix sum to 1, |offset_j| <= relaxation

Fel et al. 2025, "Archetypal SAE: adaptive and stable dictionary learning" (arXiv 2502.12892), with TopK codes. Points are
rows of the first batch less the mean; see `decoder.Archetypes`.

Letters: N rows, D width, M latents, P points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from pydantic import Field
from torch import Tensor

from armillary.core import distributed
from armillary.methods.sae.decoder import Archetypes, Decoder
from armillary.methods.sae.fit import KSparseSAE
from armillary.methods.sae.step import Objective
from armillary.methods.sae.topk import TopK
from armillary.methods.sae.trainer import Recipe


@final
class ArchetypalSAE(KSparseSAE):
    """A TopK sparse autoencoder whose atoms lie in the convex hull of data points, each less the mean; their norms differ.

    Source: Fel et al. 2025, arXiv 2502.12892.

    Raises:
        InputError: k is above n_features.
    """

    can_go_on: ClassVar[bool] = False
    keeps_codes: ClassVar[bool] = True

    n_points: int = Field(default=1024, ge=1)
    """Data points that atoms are made of, taken from the first batch; at most its rows."""
    relaxation: float = Field(default=0.0, ge=0)
    """Largest distance of an atom from the convex hull, in units of the rows' root-mean-square distance from their mean."""
    shard: Literal[False] = False
    """Not for this kind: every rank would need all points anyway."""
    decoder_norm: Literal["hull"] = "hull"  # type: ignore[assignment]
    """An atom is as long as the data make it."""

    def objective(self, recipe: Recipe) -> Objective:
        return TopK(self.k)

    def decoder(self, y: Tensor, *, seed: int) -> Decoder:
        points = distributed.gather_rows(y[: -(-self.n_points // distributed.world())])[: self.n_points]
        return Archetypes(points, slack=self.relaxation * points.shape[1] ** 0.5, seed=seed)

    def decoder_of(self, state: Mapping[str, Any]) -> Decoder:
        points = state["points"]
        return Archetypes(points, slack=self.relaxation * points.shape[1] ** 0.5, seed=0)
