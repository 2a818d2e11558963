"""Ratios: estimates from sums per unit. The value is a ratio of totals; its interval resamples the units.

Letters: U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from armillary.core.report import Better, Estimate
from armillary.core.statistics import Floats, Units, ratio_interval


@dataclass(frozen=True)
class Ratios:
    """Makes the estimates of one measurement.

    Args:
        kind: what a unit is: "document" or "block".
        count: [U] observations per unit; units without any are left out.
        n_samples: bootstrap samples.
        seed: of the bootstrap.
    """

    kind: str
    count: NDArray[np.int64]
    n_samples: int = 2000
    seed: int = 0

    def __call__(
        self,
        numerator: Floats,
        denominator: Floats | None = None,
        *,
        null: float | None = None,
        ceiling: float | None = None,
        better: Better = "neither",
        unit: str = "",
        undefined: str = "its denominator is zero",
    ) -> Estimate:
        """The estimate numerator.sum() / denominator.sum().

        Args:
            numerator: [U] sums per unit.
            denominator: [U] sums per unit; the counts if None, which makes a mean.
            null, ceiling, better, unit: see `Estimate`.
            undefined: the reason given where the denominator is not positive.
        """
        below = self.count.astype(np.float64) if denominator is None else denominator
        ids = np.flatnonzero(self.count)
        if below.sum() <= 0:
            return Estimate.missing(undefined, better=better, unit=unit)
        sums = Units(self.kind, ids, numerator[ids], below[ids])
        low, high = ratio_interval(sums, n_samples=self.n_samples, seed=self.seed)
        return Estimate(sums.value, low, high, int(self.count.sum()), null, ceiling, better=better, unit=unit, units=sums)
