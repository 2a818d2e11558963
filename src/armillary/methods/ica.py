"""ICA: directions along which the rows are as far from Gaussian as can be, so that the coefficients are independent.

FastICA with symmetric decorrelation: Hyvärinen and Oja (2000), "Independent component analysis: algorithms and applications",
sections 5 (centring, whitening) and 6.2 (the fixed point for several units, here scikit-learn's).

    x = mean + A s        s = W (x - mean),  W = B K,  K whitens,  B rotates

Letters: n sampled rows, D width, M components.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.method import Consumer, Method, one_to_one, refuse_start, require_rows
from armillary.core.moments import Moments
from armillary.core.rows import Layout, Rows, width
from armillary.core.summary import OnePass, Reservoir
from armillary.errors import InputError
from armillary.methods.pca import principal_axes, turned

#: A direction counts as spanned when its variance is above this share of the largest one's.
RANK_TOLERANCE = 1e-10


@final
class ICA(Method):
    """Independent component analysis by FastICA (Hyvärinen and Oja 2000), of a seeded sample of the rows.

    The fit has one direction per component, the columns of the mixing matrix A, over the mean as base. Codes have unit variance, so an
    atom's squared norm is what its component adds to the variance; components are in that order, largest first.

    Warns:
        sklearn.exceptions.ConvergenceWarning: the fixed point was not reached in `max_iter` steps; recorded as `is_converged`.
    """

    streams: ClassVar[bool] = False
    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift", "rotation"})

    n_components: PositiveInt | None = None
    """How many components, those of largest variance; all that the rows span if left out."""
    nonlinearity: Literal["logcosh", "exp", "cube"] = "logcosh"
    """The contrast whose expectation measures distance from a Gaussian."""
    max_rows: PositiveInt = 32_768
    """Rows of the sample that is fitted, held in memory in float64."""
    max_iter: PositiveInt = 400
    """Steps of the fixed-point iteration at most."""
    tol: PositiveFloat = 1e-4
    """Stop when no direction turns by more than this, as 1 - |cosine|."""

    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        refuse_start(self, start)
        d = width(data.layout)
        if self.n_components is not None and self.n_components > d:
            raise InputError(f"n_components must be at most the width D={d}, got {self.n_components}; try n_components={d}")
        return OnePass(Reservoir(self.max_rows, seed), lambda rows: self._decompose(rows, data.layout, seed))

    def min_rows(self, d: int) -> int:
        return max(2, (self.n_components or 0) + 1)

    def _decompose(self, rows: Reservoir, layout: Layout, seed: int) -> Decomposition:
        require_rows(self, rows.n_rows, width(layout))
        x = rows.sample()[0].double()  # [n, D]
        mean = x.mean(0)
        variance, axes = self._spanned(x)  # [M], [M, D]
        z = (x - mean) @ (axes.T / variance.sqrt())  # [n, M] whitened
        rotation, is_converged = self._rotate(z, seed)  # B [M, M] orthogonal
        atoms = turned(rotation @ (axes * variance.sqrt()[:, None]))  # A^T = B K^-T  [M, D]
        atoms = atoms[atoms.norm(dim=1).argsort(descending=True, stable=True)]
        weight = (atoms @ axes.T / variance) @ axes  # W = B K = A^T C^-1 on the span  [M, D]
        encoder = LinearEncoder(weight.float(), mean.float())
        record = {"n_rows_fitted": len(x), "is_converged": is_converged}
        return Decomposition(Dictionary.of_directions(atoms.float(), bias=mean.float()), encoder, **one_to_one(layout), provenance=record)

    def _spanned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Variances [M] and axes [M, D] of the principal components that are kept."""
        variance, axes = principal_axes(Moments.of(x, covariance=True).covariance)
        rank = int((variance > RANK_TOLERANCE * variance[0]).sum())
        wanted = rank if self.n_components is None else self.n_components
        if rank == 0:
            raise InputError(f"ICA needs rows that vary, got {len(x)} equal rows")
        if wanted > rank:
            raise InputError(f"the rows span {rank} of {x.shape[1]} dimensions, got n_components={wanted}; try n_components={rank}")
        return variance[:wanted], axes[:wanted]

    def _rotate(self, z: Tensor, seed: int) -> tuple[Tensor, bool]:
        """The orthogonal B [M, M] that makes z B^T [n, M] independent, and whether the iteration came to its end."""
        from sklearn.decomposition import FastICA

        settings: dict[str, Any] = {"fun": self.nonlinearity, "max_iter": self.max_iter, "tol": self.tol}
        fitted = FastICA(whiten=False, random_state=seed, **settings).fit(z.numpy())
        return torch.from_numpy(fitted.components_), bool(fitted.n_iter_ < self.max_iter)
