"""Probe: linear read-outs of labels, and the patterns of activation they respond to.

A probe is a backward model, s = W (x - mean) + b. Its weights say how to read a label out, and point away from noise as much as towards
the label; the forward model that belongs to it is x = mean + A^T (s - mean(s)) with the *patterns*

    A = Cov(s)^-1 W Cov(x)          Haufe et al. (2014), NeuroImage 87, "On the interpretation of weight vectors of linear models in
                                    multivariate neuroimaging", eq. 6

These are the atoms. So decoding is the least-squares estimate of x from the probe's scores; as W A^T = 1, adding one atom raises its own
score by 1 and no other, and taking a code to 0 puts a row on that decision boundary while changing x as the data do. The weights are in
`fit.encoder.weight`. (The pattern of an unregularised two-class ridge probe is the difference of the class means, up to its length.)

Letters: N rows, n sampled rows, D width, K scores (1 for two classes or for values, else one per class).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.method import Consumer, Labelled, Method, Needs, one_to_one, refuse_start
from armillary.core.rows import Layout, width
from armillary.core.summary import MomentSums, OnePass, Reservoir
from armillary.errors import InputError

#: Scores whose covariance has eigenvalues below this share of the largest are dependent, as those of a softmax are.
RANK_TOLERANCE = 1e-10


@final
class Probe(Method):
    """Logistic or ridge regression of labels on rows; the atoms are its patterns (Haufe et al. 2014, eq. 6), its scores are the codes.

    Columns are standardised before the penalty applies and the scales are folded back, so neither the scale nor the mean of a dimension
    matters. Two classes give one score, above 0 for the second class; K > 2 classes one score each (softmax, or ridge on +1 / -1); values
    give one score in their own units (ridge only).

    Warns:
        sklearn.exceptions.ConvergenceWarning: the logistic fit did not come to its end.
    """

    needs: ClassVar[Needs] = "labelled"
    streams: ClassVar[bool] = False
    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset({"scale", "shift"})

    kind: Literal["logistic", "ridge"] = "logistic"
    """Logistic: for classes, fitted to a seeded sample; ridge: for classes or values, exact in one pass over all rows."""
    C: PositiveFloat = 1.0
    """Inverse strength of the logistic penalty, as in scikit-learn."""
    alpha: PositiveFloat = 1.0
    """Strength of the ridge penalty, on the sum of squared errors."""
    max_rows: PositiveInt = 32_768
    """Rows of the sample a logistic probe is fitted to, held in memory in float64."""
    max_iter: PositiveInt = 1000
    """Steps of the logistic solver at most."""

    def consumer(self, data: Labelled, *, seed: int, start: Decomposition | None) -> Consumer:
        refuse_start(self, start)
        layout = data.rows.layout
        if self.kind == "logistic":
            number, names = data.classes()
            return OnePass(Reservoir(self.max_rows, seed), lambda rows: self._logistic(rows, number, names, layout))
        y, names = _targets(data)
        wanted = torch.from_numpy(y)
        sums = MomentSums(
            width(layout) + y.shape[1],
            covariance=True,
            columns=lambda batch: torch.cat([batch.x.double().cpu(), wanted[torch.from_numpy(batch.row)]], dim=1),
        )
        return OnePass(sums, lambda filled: self._ridge(filled, names, layout))

    def min_rows(self, d: int) -> int:
        return 2

    def _logistic(self, rows: Reservoir, number: NDArray[np.int64], names: tuple[str, ...], layout: Layout) -> Decomposition:
        from sklearn.linear_model import LogisticRegression

        x, row = rows.sample()
        y = number[row]  # [n]
        _refuse_missing(y, names, self.max_rows)
        mean = x.double().mean(0)  # [D]
        scale = _scale(x.double().var(0, correction=0), mean)  # [D]
        z = (x.double() - mean) / scale  # [n, D]
        fitted = LogisticRegression(C=self.C, max_iter=self.max_iter).fit(z.numpy(), y)
        weight = torch.from_numpy(fitted.coef_) / scale  # [K, D]
        at_mean = torch.from_numpy(fitted.intercept_)  # [K] scores of the mean row
        cross = (z @ (weight * scale).T).T @ z * scale / len(z)  # W Cov(x)  [K, D]
        record = {"classes": list(names), "n_rows_fitted": len(z), "is_converged": bool(fitted.n_iter_.max() < self.max_iter)}
        return _with_patterns(weight, at_mean, mean, cross, layout=layout, record=record)

    def _ridge(self, sums: MomentSums, names: tuple[str, ...], layout: Layout) -> Decomposition:
        d = width(layout)
        mean, scatter = sums.moments.mean, sums.moments.scatter  # [D + K], [D + K, D + K]
        scale = _scale(sums.moments.variance[:d], mean[:d])  # [D]
        gram = scatter[:d, :d] / torch.outer(scale, scale) + self.alpha * torch.eye(d, dtype=torch.float64)
        weight = torch.linalg.solve(gram, scatter[:d, d:] / scale[:, None]).T / scale  # [K, D]
        cross = weight @ scatter[:d, :d] / sums.n_rows  # W Cov(x)  [K, D]
        return _with_patterns(weight, mean[d:], mean[:d], cross, layout=layout, record={"classes": list(names)})


def _with_patterns(
    weight: Tensor, at_mean: Tensor, mean: Tensor, cross: Tensor, *, layout: Layout, record: dict[str, Any]
) -> Decomposition:
    """The decomposition of a probe, from its weights [K, D], the scores [K] of the mean row [D], and W Cov(x) [K, D]."""
    patterns = torch.linalg.pinv(cross @ weight.T, hermitian=True, rtol=RANK_TOLERANCE) @ cross  # eq. 6  [K, D]
    base = mean - at_mean @ patterns  # so that s = at_mean decodes to the mean
    encoder = LinearEncoder(weight.float(), mean.float(), at_mean.float())
    dictionary = Dictionary.of_directions(patterns.float(), bias=base.float())
    return Decomposition(dictionary, encoder, **one_to_one(layout), provenance=record)


def _targets(data: Labelled) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """[N, K] what a ridge regression predicts: values, or +1 for the class and -1 for the others; and the classes' names."""
    if data.labels.dtype.kind == "f":
        if not np.isfinite(data.labels).all():
            raise InputError(f"labels hold NaN or infinity, first at row {int((~np.isfinite(data.labels)).argmax())}; leave those rows out")
        return data.labels.astype(np.float64)[:, None], ()
    number, names = data.classes()
    signs = np.where(number[:, None] == np.arange(len(names)), 1.0, -1.0)
    return (signs[:, 1:] if len(names) == 2 else signs), names


def _scale(variance: Tensor, mean: Tensor) -> Tensor:
    """[D] standard deviations; 1 for a dimension that does not vary by more than float32 rounds a value of this mean."""
    return torch.where(variance > 1e-12 * mean.square(), variance.sqrt(), 1.0)


def _refuse_missing(y: NDArray[np.int64], names: tuple[str, ...], max_rows: int) -> None:
    missing = sorted(set(range(len(names))) - set(y.tolist()))
    if missing:
        raise InputError(f"class {names[missing[0]]!r} has no row among the {len(y)} sampled; raise max_rows={max_rows}")
