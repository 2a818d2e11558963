"""Probes of whole vectors: what a linear read-out of all dimensions tells. The ceiling of what single features can tell.

Letters: n rows, D width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools

#: Steps of the solver; what is not at its end then scores a little less than it might.
STEPS = 1000


@dataclass(frozen=True)
class Probe:
    """A logistic probe x @ weight + bias, in the columns' own units.

    Args:
        weight: [D].
        bias: added to each score.
    """

    weight: Floats
    bias: float

    @staticmethod
    def of(x: Floats, positive: Bools, *, balanced: bool = False, each_column: bool = True) -> Probe:
        """scikit-learn's logistic regression, C = 1, of labels [n] on rows [n, D].

        Args:
            x, positive: rows and labels.
            balanced: both classes weigh the same.
            each_column: bring each column to variance 1 first; else all of them by one number, which keeps the probe's direction from
                turning towards columns that hardly vary.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        mean, deviation = x.mean(0), x.std(0)
        whole = float(np.sqrt(np.square(deviation).mean())) or 1.0
        scale = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0) if each_column else np.full(x.shape[1], whole)
        model: Any = LogisticRegression(max_iter=STEPS, class_weight="balanced" if balanced else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((x - mean) / scale, positive)
        weight = model.coef_[0] / scale
        return Probe(weight, float(model.intercept_[0] - weight @ mean))

    def __call__(self, x: Floats) -> Floats:
        found: Floats = x @ self.weight + self.bias
        return found


def diffmeans_scores(train: Floats, positive: Bools, test: Floats) -> Floats:
    """Scores of rows `test` along the direction from one class mean of the rows `train` [n, D] to the other."""
    found: Floats = test @ (train[positive].mean(0) - train[~positive].mean(0))
    return found
