"""Intervals, tests and nulls, on sums per unit.

A unit is what was drawn independently: a document, a feature, a seed. Tokens of one document are not independent, so every interval
resamples whole units.

Letters: U units, S bootstrap samples or permutations, F features, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from armillary.errors import InputError, ShapeError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Ends of a 95 % interval; None where fewer than two units leave nothing to resample.
Interval = tuple[float, float] | tuple[None, None]
Side = Literal["greater", "less", "two-sided"]

LEVEL = 0.95
#: More units than this are added up in as many random groups before they are resampled, which leaves the variance of totals as it is.
MAX_UNITS = 2048
#: Paired units below which a bootstrap does not know its own spread: for normal differences an interval of 95 % holds the truth in 52 % of
#: cases with two units, 71 % with three, 87 % with four, and 92 to 95 % from five on.
FEWEST = 5
#: Entries of the largest temporary array.
CHUNK = 1 << 21


@dataclass(frozen=True)
class Units:
    """Sums per unit (document, feature or seed) whose ratio of totals is the estimate; bootstraps and comparisons pair on them.

    Args:
        kind: "document", "feature" or "seed".
        ids: [U] which units; each once.
        numerator, denominator: [U] float64 sums; the value is numerator.sum() / denominator.sum().
    """

    kind: str
    ids: Ints
    numerator: Floats
    denominator: Floats

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.numerator) == len(self.denominator):
            raise ShapeError(f"{len(self.ids)} unit ids for {len(self.numerator)} numerators and {len(self.denominator)} denominators")

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def of_values(kind: str, values: ArrayLike, ids: ArrayLike | None = None) -> Units:
        """Units with one value each, so that the ratio of totals is their mean."""
        numerator = np.asarray(values, dtype=np.float64)
        names = np.arange(len(numerator)) if ids is None else np.asarray(ids, dtype=np.int64)
        return Units(kind, names, numerator, np.ones_like(numerator))

    @property
    def value(self) -> float:
        """The ratio of totals; NaN where the denominators add up to 0."""
        below = float(self.denominator.sum())
        return float(self.numerator.sum()) / below if below else math.nan


# ---------------------------------------------------------------- intervals


def ratio_interval(units: Units, *, n_samples: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap interval of a ratio of totals; (None, None) with fewer than two units.

    Percentiles of the bootstrap distribution, widened for small U after Hesterberg (2015), "What teachers should know about the
    bootstrap", section 5.3.
    """
    if len(units) < 2:
        return None, None
    sums = _resample(np.stack([units.numerator, units.denominator], axis=1), n_samples, seed)
    return _percentiles(_ratio(sums[:, 0], sums[:, 1]), len(units))


def mean_interval(values: ArrayLike, *, n_samples: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean of one value per unit, [U]; see `ratio_interval`."""
    return ratio_interval(Units.of_values("value", values), n_samples=n_samples, seed=seed)


def n_compared(ours: Units, theirs: Units) -> int:
    """How many units `paired_difference` rests on: those that both have, or the fewer of two sides that share none."""
    shared = len(np.intersect1d(ours.ids, theirs.ids))
    if ours.kind == "feature" and not shared == len(ours) == len(theirs):
        return min(len(ours), len(theirs))
    return shared


def paired_difference(
    ours: Units, theirs: Units, *, n_samples: int = 2000, seed: int = 0
) -> tuple[float, float, float] | tuple[float, None, None]:
    """Difference of two ratios of totals with its 95 % interval, both measured on, and resampled over, the units they share.

    Feature 3 of one dictionary is not feature 3 of another: where the features' ids differ, each side keeps all its units and is
    resampled on its own.

    Returns:
        ours minus theirs and the interval's ends; the ends are None where fewer than two units are shared.

    Raises:
        InputError: units of different kinds.
    """
    if ours.kind != theirs.kind:
        raise InputError(f"units of kind {ours.kind!r} cannot be paired with units of kind {theirs.kind!r}")
    shared, here, there = np.intersect1d(ours.ids, theirs.ids, return_indices=True)
    if ours.kind == "feature" and not len(shared) == len(ours) == len(theirs):
        return _separate_difference(ours, theirs, n_samples, seed)
    if len(shared) < 2:
        return ours.value - theirs.value, None, None
    columns = [ours.numerator[here], ours.denominator[here], theirs.numerator[there], theirs.denominator[there]]
    table = np.stack(columns, axis=1)
    low, high = _percentiles(_difference(_resample(table, n_samples, seed)), len(shared))
    return float(_difference(table.sum(0, keepdims=True))[0]), low, high


def _separate_difference(ours: Units, theirs: Units, n_samples: int, seed: int) -> tuple[float, float, float] | tuple[float, None, None]:
    value, fewest = ours.value - theirs.value, min(len(ours), len(theirs))
    if fewest < 2:
        return value, None, None
    tables = [np.stack([side.numerator, side.denominator], axis=1) for side in (ours, theirs)]
    sums = [_resample(table, n_samples, seed + i) for i, table in enumerate(tables)]
    return value, *_percentiles(_difference(np.concatenate(sums, axis=1)), fewest)


def wilson_interval(successes: int, n: int) -> Interval:
    """Interval of a proportion of independent trials: Wilson (1927). It stays inside [0, 1] and holds for small n."""
    if n == 0:
        return None, None
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def crossed_units(kind: str, value: float, deviation: Floats, first: Ints, second: Ints) -> Units:
    """Units of an estimate from things that belong to two units each, both drawn: an interchange to its base and to its source.

    A unit for every `first`. Its deviation is that of all its things, in either place; deviations of what is `second` alone are added to
    these units in turn, as independent ones may be. All are scaled so that the variance of the units' mean is the two-way cluster-robust
    one, where two things that share any unit count together (Cameron, Gelbach & Miller 2011, "Robust inference with multiway clustering";
    where both are of one population, Aronow, Samii & Assenova 2015, "Cluster-robust variance estimation for dyadic data"), or that over
    `first` alone where this is larger. So what resamples or pairs these units knows of both drawings.

    Args:
        kind: of the units.
        value: the estimate.
        deviation: [P] what each thing adds to the estimate's distance from the truth: its weight times (value - estimate), 0 in all.
        first, second: [P] its units; the same number is the same unit in either place.

    Returns:
        one value per `first`; their mean is the estimate.
    """
    ids, unit = np.unique(first, return_inverse=True)
    is_apart, is_alone = first != second, ~np.isin(second, ids)
    in_turn = np.unique(second, return_inverse=True)[1] % max(1, len(ids))
    host = np.where(is_alone, in_turn, np.searchsorted(ids, second))
    of_first = _sums(unit, deviation, len(ids))
    of_unit = of_first + _sums(host[is_apart], deviation[is_apart], len(ids))
    of_unit -= of_unit.sum() / max(1, len(ids))  # not 0 where some things have one unit twice
    variance, drawn = max(_two_way(deviation, first, second), _squares(of_first)), _squares(of_unit)
    scale = math.sqrt(variance / drawn) if drawn else 0.0
    return Units.of_values(kind, value + len(ids) * scale * of_unit, ids)


def _two_way(deviation: Floats, first: Ints, second: Ints) -> float:
    """Sum of products of the deviations of all ordered pairs of things that share a unit."""
    ids, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    one, other = index.reshape(2, -1)
    is_apart = one != other
    part, two = deviation[is_apart], np.stack([one, other])[:, is_apart]
    of_unit = _sums(one, deviation, len(ids)) + _sums(two[1], part, len(ids))
    of_both = _sums(np.unique(two.min(0) * len(ids) + two.max(0), return_inverse=True)[1], part, 0)
    return _squares(of_unit) - _squares(of_both)


def _sums(index: Ints, values: Floats, n: int) -> Floats:
    """[n or more] sums of the values with each index."""
    return np.bincount(index, values, n).astype(np.float64)


def _squares(values: Floats) -> float:
    return float(values @ values)


def _resample(table: Floats, n_samples: int, seed: int) -> Floats:
    """[S, c] column totals of U rows drawn with replacement from table [U, c], S times."""
    rng = np.random.default_rng(seed)
    table = _grouped(table, rng)
    n = len(table)
    parts = []
    for start in range(0, n_samples, max(1, CHUNK // n)):
        size = min(max(1, CHUNK // n), n_samples - start)
        drawn = rng.integers(n, size=(size, n))
        parts.append(np.stack([column[drawn].sum(1) for column in table.T], axis=1))
    return np.concatenate(parts)


def _grouped(table: Floats, rng: np.random.Generator) -> Floats:
    """At most `MAX_UNITS` rows: totals of random groups of equal size, give or take one."""
    if len(table) <= MAX_UNITS:
        return table
    order = rng.permutation(len(table))
    starts = np.linspace(0, len(table), MAX_UNITS, endpoint=False).astype(np.int64)
    return np.add.reduceat(table[order], starts, axis=0)


def _percentiles(samples: Floats, n_units: int) -> tuple[float, float]:
    """Ends of the interval: the percentiles a t interval of n_units would need of a normal distribution."""
    n = min(n_units, MAX_UNITS)
    z = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    low, high = np.nanquantile(samples, stats.norm.cdf([-z, z])) if not np.isnan(samples).all() else (np.nan, np.nan)
    return float(low), float(high)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise ratio, NaN over 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)


def _difference(sums: Floats) -> Floats:
    """[S] difference of two ratios from columns (numerator, denominator) twice."""
    return _ratio(sums[:, 0], sums[:, 1]) - _ratio(sums[:, 2], sums[:, 3])


# ---------------------------------------------------------------- tests


def permutation_p(statistic: ArrayLike, null_samples: ArrayLike, *, side: Side = "greater") -> Floats:
    """Share of null samples at least as extreme as the statistic, itself counted among them, so that p is never 0.

    Phipson & Smyth (2010), "Permutation p-values should never be zero".

    Args:
        statistic: a number, or [F] one per feature.
        null_samples: [S] or [S, F].
        side: which values count as extreme; "two-sided" compares magnitudes.

    Returns:
        p-values, NaN where the statistic or one of its null samples is.
    """
    seen, null = np.asarray(statistic, np.float64), np.asarray(null_samples, np.float64)
    if side == "two-sided":
        seen, null = np.abs(seen), np.abs(null)
    sign = -1.0 if side == "less" else 1.0
    # A tie that rounding split counts as a tie.
    slack = 1e-12 * np.maximum(np.abs(seen), np.abs(null).max(axis=0, initial=0.0))
    extreme = (sign * null >= sign * seen - slack).sum(axis=0)
    is_known = ~(np.isnan(seen) | np.isnan(null).any(axis=0))
    return np.where(is_known, (1 + extreme) / (1 + len(null)), np.nan)


def permutation_test(x: ArrayLike, y: ArrayLike, *, n_samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Difference of the means of two independent groups of units, and its two-sided p-value under exchange of labels."""
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, pooled = len(first), np.concatenate([first, second])
    rng = np.random.default_rng(seed)
    shuffled = (rng.permutation(pooled)[:n].sum() for _ in range(n_samples))
    top = np.fromiter(shuffled, np.float64, n_samples)
    null = top / n - (pooled.sum() - top) / len(second)
    difference = float(first.mean() - second.mean())
    return difference, float(permutation_p(difference, null, side="two-sided"))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """q-values [F]: the smallest false-discovery rate at which each test is called (Benjamini & Hochberg 1995). NaN stays NaN."""
    values = np.asarray(p, np.float64)
    made = ~np.isnan(values)
    order = np.argsort(values[made], kind="stable")[::-1]
    n = len(order)
    scaled = values[made][order] * n / np.arange(n, 0, -1)
    q = np.full_like(values, np.nan)
    q[np.flatnonzero(made)[order]] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return q


# ---------------------------------------------------------------- nulls


def matched_directions(directions: Tensor, *, seed: int = 0, covariance: Tensor | None = None) -> Tensor:
    """[F, D] random directions, each as long as its namesake: what any direction of that length would give.

    Args:
        directions: [F, D].
        seed: of the draw.
        covariance: [D, D] draw from N(0, covariance) instead of all directions alike, so that large dimensions stay large.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(directions.shape, generator=generator, dtype=torch.float64)
    if covariance is not None:
        value, vector = torch.linalg.eigh(covariance.double().cpu())
        drawn = drawn * value.clamp_min(0).sqrt() @ vector.T
    length = directions.double().norm(dim=1, keepdim=True).cpu()
    matched: Tensor = drawn * length / drawn.norm(dim=1, keepdim=True)
    return matched.to(directions)


def matched_draws(key: ArrayLike, pool: ArrayLike | None = None, *, n_samples: int = 1, n_nearest: int = 20, seed: int = 0) -> Ints:
    """[S, F] for every feature, random members of the pool that are like it in `key` (its density, its norm, a word's frequency).

    Args:
        key: [F] what to match, such as log density.
        pool: [P] the same of the candidates; None for the features themselves, and then none is drawn for itself.
        n_samples: S.
        n_nearest: how many of the nearest candidates are drawn from, each alike.
        seed: of the draw.

    Raises:
        InputError: fewer candidates than `n_nearest` (and one more, for a feature's self).
    """
    keys = np.asarray(key, np.float64)
    candidates = keys if pool is None else np.asarray(pool, np.float64)
    skip = int(pool is None)
    if len(candidates) < n_nearest + skip:
        raise InputError(
            f"cannot draw from the {n_nearest} nearest of {len(candidates)} candidates; ask for n_nearest={len(candidates) - skip}"
        )
    order = np.argsort(candidates, kind="stable")
    width = n_nearest + skip
    starts = _nearest_window(candidates[order], keys, width)
    own = np.argsort(order) - starts if skip else np.full(len(keys), width)  # the feature's own place in its window
    drawn = np.random.default_rng(seed).integers(n_nearest, size=(n_samples, len(keys)))
    return np.asarray(order[starts + drawn + (drawn >= own)], np.int64)


def _nearest_window(ordered: Floats, keys: Floats, width: int) -> Ints:
    """[F] where the `width` sorted values nearest to each key begin, found by bisection as the window is slid right."""
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(ordered) - width)
    while (low < high).any():
        middle = (low + high) // 2
        right_is_nearer = keys - ordered[middle] > ordered[np.minimum(middle + width, len(ordered) - 1)] - keys
        low, high = np.where(right_is_nearer, np.minimum(middle + 1, high), low), np.where(right_is_nearer, high, middle)
    return low
