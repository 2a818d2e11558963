"""Intervals, tests and nulls, on sums per unit.

Letters: U units (documents, features or seeds), S bootstrap samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """Sums per unit (document, feature or seed) whose ratio of totals is the estimate; bootstraps and comparisons pair on them.

    Args:
        kind: "document", "feature" or "seed".
        ids: [U] which units.
        numerator, denominator: [U] float64 sums; the value is numerator.sum() / denominator.sum().
    """

    kind: str
    ids: NDArray[np.int64]
    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]

    @property
    def value(self) -> float:
        """The ratio of totals."""
        return float(self.numerator.sum() / self.denominator.sum())


def paired_difference(ours: Units, theirs: Units, *, n_samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Difference of two ratios of totals with its 95 % interval, resampling the units they share."""
    raise NotImplementedError
