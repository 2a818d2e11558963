"""Convex NMF: features are combinations of rows with weights that are not negative, so that each looks like what it was made from.

    X^T = (W P)^T Y + residual        W >= 0,  Y >= 0,  P some of the rows

Ding, Li and Jordan 2010, "Convex and semi-nonnegative matrix factorizations", section 3, with a sample of the rows for P, so that no
matrix is n by n. Codes by exact updates, weights by accelerated projected gradient; neither raises the error.

Letters: n rows, D width, F features, m points. Codes are stored feature by feature, Y [F, n].
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.method import Consumer, Method, one_to_one, refuse_start, require_rows
from armillary.core.nnls import NNLSEncoder
from armillary.core.rows import Layout, Rows, width
from armillary.core.summary import OnePass, Reservoir
from armillary.core.sweeps import sweep_codes
from armillary.errors import InputError
from armillary.methods.kmeans import plus_plus
from armillary.methods.snmf.updates import accelerate, gram_of_codes, squared_error

#: Sweeps over the codes, and steps over the weights, of an iteration.
SWEEPS, STEPS = 4, 20
#: Iterations over which the error has to fall by `tol` of itself.
WINDOW = 5


@final
class ConvexNMF(Method):
    """Convex non-negative matrix factorisation (Ding, Li and Jordan 2010, section 3), of a seeded sample of the rows.

    The fit has one direction of norm 1 per feature, without a base, those that explain most first. Rows may have any sign.
    """

    streams: ClassVar[bool] = False
    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "rotation"})

    n_features: int = Field(ge=1)
    """F, how many features."""
    n_points: int = Field(default=512, ge=1)
    """Rows that features are made of, at most."""
    n_iter: int = Field(default=200, ge=1)
    """Iterations at most."""
    tol: float = Field(default=1e-4, ge=0)
    """Stop when five iterations lower the error by less than this share of it."""
    max_rows: int = Field(default=8192, ge=1)
    """Rows of the sample that is fitted."""

    def consumer(self, data: Rows, *, seed: int, start: Decomposition | None) -> Consumer:
        refuse_start(self, start)
        if self.n_points < self.n_features:
            raise InputError(f"n_points must be at least n_features, {self.n_features}, got {self.n_points}")
        return OnePass(Reservoir(self.max_rows, seed), lambda rows: self._decompose(rows, data.layout, seed))

    def min_rows(self, d: int) -> int:
        return self.n_features

    def _decompose(self, rows: Reservoir, layout: Layout, seed: int) -> Decomposition:
        require_rows(self, rows.n_rows, width(layout))
        x = rows.sample()[0].double()
        scale = x.abs().amax()
        if float(scale) == 0:
            raise InputError(f"ConvexNMF needs rows that are not all 0, got {len(x)} rows of nothing else")
        atoms, used, errors = self._solve((x / scale).float(), seed)
        order = used.argsort(descending=True, stable=True)
        dictionary = Dictionary.of_directions(torch.nn.functional.normalize(atoms[order], dim=1))
        curve = [{"step": i, "relative_error": error} for i, error in enumerate(errors, 1)]
        record = {"n_rows_fitted": len(x), "n_iter": len(errors), "relative_error": errors[-1], "curve": curve}
        return Decomposition(dictionary, NNLSEncoder(dictionary), **one_to_one(layout), provenance=record)

    def _solve(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor, list[float]]:
        """Atoms [F, D], how much each is used [F], and the relative error after each iteration, for rows x [n, D]."""
        points = x[(x != 0).any(1)][: self.n_points]  # the sample is in no order
        require_rows(self, len(points), x.shape[1])
        kernel, across = points @ points.T, points @ x.T  # P P^T [m, m], P X^T [m, n]
        largest, squared = torch.linalg.eigvalsh(kernel)[-1], float(x.square().sum(dtype=torch.float64))
        weights = _first_weights(points, self.n_features, seed)  # W [F, m]
        codes, errors = x.new_zeros(self.n_features, len(x)), list[float]()
        for _ in range(self.n_iter):
            inner, gram = weights @ across, weights @ kernel @ weights.T  # Z X^T [F, n], Z Z^T [F, F]
            sweep_codes(codes, inner, gram, SWEEPS)
            used = gram_of_codes(codes)
            errors.append(squared_error(squared, inner, gram, codes, used) / squared)
            if len(errors) > WINDOW and errors[-1 - WINDOW] - errors[-1] <= self.tol * errors[-1]:
                break
            gram_y = used.to(codes)
            lipschitz = largest * torch.linalg.eigvalsh(gram_y)[-1]
            weights = accelerate(weights, codes @ across.T, lambda w, gram_y=gram_y: gram_y @ w @ kernel, lipschitz, STEPS)  # type: ignore[misc]
        return weights @ points, used.diagonal() * gram.diagonal(), errors


def _first_weights(points: Tensor, n: int, seed: int) -> Tensor:
    """W [F, m]: 1 on points that are far apart."""
    chosen = plus_plus(points, n, torch.Generator().manual_seed(seed))  # [F, D]
    nearest = torch.cdist(chosen, points).argmin(1)
    return torch.nn.functional.one_hot(nearest, len(points)).to(points)
