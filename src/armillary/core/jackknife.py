"""The delete-a-group jackknife: an interval for what is no ratio of totals, such as an entropy or an index of agreement.

    se^2 = (G - 1) / G  sum over groups g of (value without g - value)^2          interval: value +- t(G - 1) se

Kott (2001), "The delete-a-group jackknife", Journal of Official Statistics 17 (4). Groups are of whole units (documents), as these alone
are independent. A bootstrap would not do: its samples hold units twice, which makes rows look more alike than they are.

Letters: G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from armillary.core.statistics import LEVEL, Interval

#: G, groups that units are dealt to.
GROUPS = 16


def jackknife_interval(value: float, without: Sequence[float], *, lowest: float = -math.inf, highest: float = math.inf) -> Interval:
    """The interval of a value from the values that are left without each group.

    Args:
        value: of everything.
        without: [G] the same without each group; only groups that hold something.
        lowest, highest: what the quantity can be.

    Returns:
        (None, None) with fewer than two groups, or where a value is not finite.
    """
    n = len(without)
    if n < 2 or not np.isfinite([value, *without]).all():
        return None, None
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * math.sqrt((n - 1) / n * float(np.square(np.asarray(without) - value).sum()))
    return max(lowest, value - half), min(highest, value + half)


def leave_out(groups: NDArray[np.int64], measure: Callable[[NDArray[np.bool_]], float]) -> list[float]:
    """[G] what `measure` gives of the rows that are kept, [n] bool, without each group that occurs in `groups` [n]."""
    return [measure(groups != group) for group in np.unique(groups)]
