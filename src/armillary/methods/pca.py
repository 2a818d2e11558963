"""PCA: the orthogonal directions of largest variance.

Pearson (1901); as in Bishop (2006), "Pattern Recognition and Machine Learning", section 12.1. Exact, in one pass: float64 moments, then
one eigendecomposition.

Letters: N rows, D width, M components.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.method import Consumer, Method, one_to_one, refuse_start, require_rows
from armillary.core.moments import Moments
from armillary.core.rows import Layout, Rows, width
from armillary.core.summary import MomentSums, OnePass
from armillary.errors import InputError


@final
class PCA(Method):
    """Principal component analysis (Pearson 1901; Bishop 2006, section 12.1).

    The fit has one unit direction per component, by decreasing variance, over the mean as base; codes are the coordinates
    u_m . (x - mean). Each direction is turned so that its entry of largest magnitude is positive.
    """

    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift", "rotation"})

    n_components: Annotated[int, Field(strict=True, ge=1)] | Annotated[float, Field(gt=0, le=1)] | None = None
    """How many components: a count, the share of the variance they must explain (0 to 1), or all."""
    whiten: bool = False
    """Codes of unit variance, over atoms whose squared norms are the components' variances."""

    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        refuse_start(self, start)
        d = width(data.layout)
        if isinstance(self.n_components, int) and self.n_components > d:
            raise InputError(f"n_components must be at most the width D={d}, got {self.n_components}; try n_components={d}")
        return OnePass(MomentSums(d, covariance=True), lambda sums: self._decompose(sums.moments, data.layout))

    def min_rows(self, d: int) -> int:
        return max(2, self.n_components) if isinstance(self.n_components, int) else 2

    def _decompose(self, moments: Moments, layout: Layout) -> Decomposition:
        require_rows(self, moments.n, width(layout))
        variance, axes = principal_axes(moments.covariance)  # [D], [D, D]
        chosen = self._n_components(variance, moments.n)
        variance, axes = variance[:chosen], axes[:chosen]  # [M], [M, D]
        scale = variance.sqrt() if self.whiten else torch.ones_like(variance)
        weight = axes * torch.where(scale > 0, 1 / scale, 0)[:, None]  # [M, D]
        mean = moments.mean.float()
        dictionary = Dictionary.of_directions((axes * scale[:, None]).float(), bias=mean)
        explained = float(variance.sum() / moments.covariance.trace().clamp_min(torch.finfo(torch.float64).tiny))
        return Decomposition(
            dictionary, LinearEncoder(weight.float(), mean), **one_to_one(layout), provenance={"explained_variance": explained}
        )

    def _n_components(self, variance: Tensor, n: int) -> int:
        """M, given the variances of all axes [D] and the number of rows."""
        if isinstance(self.n_components, int):
            return self.n_components
        at_most = min(n, len(variance))
        if self.n_components is None:
            return at_most
        wanted = self.n_components * variance.sum()
        return min(at_most, int((variance.cumsum(0) < wanted).sum()) + 1)


def principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [D], largest first, and unit axes [D, D] in rows, of a covariance matrix [D, D]; signs are those of `turned`."""
    variance, axes = torch.linalg.eigh(covariance)  # C = U diag(l) U^T, l ascending (Bishop eq. 12.5)
    return variance.flip(0).clamp_min(0), turned(axes.T.flip(0))


def turned(vectors: Tensor) -> Tensor:
    """Vectors [M, D], each with the sign that makes its entry of largest magnitude positive."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))  # [M, 1]
    return torch.where(largest < 0, -vectors, vectors)
