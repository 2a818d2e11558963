"""AUROC of many columns for many labels, ties counting half, from ranks that are made once.

    auroc = (sum of the positives' ranks - m (m + 1) / 2) / (m k)          Mann and Whitney (1947); m positives, k negatives

Ranks do not depend on labels, so a table of sparse columns (whose zeros share one rank) is ranked once, and every concept and every
permutation of it is a product of matrices. A column that is the same everywhere counts 0.5.

Letters: n rows, F columns, C labels, m positives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import optimize, sparse, stats

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.region_labels import ranks_within

#: A table of columns [n, F]: scipy's compressed columns (which have no types), or an array.
Table: TypeAlias = Any


@dataclass(frozen=True)
class Ranked:
    """The ranks, 1 to n, of the entries of each column.

    Args:
        above: [n, F] rank minus `zero`, sparse where the table is.
        zero: [F] rank of the zeros of each column, or the mean rank where the table is dense.
    """

    above: Table
    zero: Floats

    @staticmethod
    def of(table: Table) -> Ranked:
        if isinstance(table, np.ndarray):
            middle = (len(table) + 1) / 2
            return Ranked(stats.rankdata(table, axis=0) - middle, np.full(table.shape[1], middle))
        return _ranked_sparse(table)

    def auroc(self, positive: Bools) -> Floats:
        """[C, F] for labels [C, n]; NaN for a label of one class."""
        on = positive.astype(np.float64)
        m = on.sum(1)[:, None]
        k = positive.shape[1] - m
        total = np.asarray((self.above.T @ on.T).T) + m * self.zero
        out = np.full(total.shape, np.nan)
        found: Floats = np.divide(total - m * (m + 1) / 2, m * k, out=out, where=m * k > 0)
        return found

    def columns(self, index: Ints) -> Ranked:
        """Some columns, dense."""
        picked = self.above[:, index]
        return Ranked(picked if isinstance(picked, np.ndarray) else picked.toarray(), self.zero[index])

    def each(self, positive: Bools) -> Floats:
        """[C] of the i-th column for the i-th label, [C, n]."""
        assert isinstance(self.above, np.ndarray)
        m = positive.sum(1)
        k = positive.shape[1] - m
        total = np.einsum("nc,cn->c", self.above, positive.astype(np.float64)) + m * self.zero
        found: Floats = (total - m * (m + 1) / 2) / (m * k)
        return found


def _ranked_sparse(table: sparse.csc_matrix) -> Ranked:
    held = table.copy()
    held.eliminate_zeros()
    n, n_columns = held.shape
    count = np.diff(held.indptr).astype(np.int64)
    column = np.repeat(np.arange(n_columns), count)
    place = ranks_within(held.data, column) - held.indptr[column]  # among the column's non-zeros, from 0
    n_below = np.bincount(column[held.data < 0], minlength=n_columns)
    n_zero = n - count
    zero = n_below + (n_zero + 1) / 2
    rank = place + 1 + np.where(held.data > 0, n_zero[column], 0)
    return Ranked(sparse.csc_matrix((rank - zero[column], held.indices, held.indptr), held.shape), zero)


def auroc(score: Floats, positive: Bools) -> float:
    """The same of one score [n]; NaN where there is one class only."""
    return float(Ranked.of(score[:, None]).auroc(positive[None])[0, 0])


def interval(score: Floats, positive: Bools, z: float = 1.959964) -> tuple[float, float]:
    """Ends of the 95 % interval of one AUROC over rows: Newcombe (2006), *Statistics in Medicine* 25, method 5.

    The values a with (auroc - a)^2 <= z^2 variance(a), Hanley and McNeil's (1982) variance with both classes' mean size. Unlike an interval
    about the estimate it has a width where every positive is above every negative.
    """
    value = auroc(score, positive)
    m, k = int(positive.sum()), int((~positive).sum())

    def excess(a: float) -> float:
        spread = 1 + ((m + k) / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return (value - a) ** 2 - z * z * a * (1 - a) * spread / (m * k)

    inside = min(max(value, 1e-9), 1 - 1e-9)
    low = 0.0 if value <= 0 else float(optimize.brentq(excess, 0.0, inside))
    high = 1.0 if value >= 1 else float(optimize.brentq(excess, inside, 1.0))
    return low, high
