"""Comparison: several methods and several questions in one table, and which of its numbers can be told apart.

A cell can be told from its null if the estimate's own test says so, or else its interval; from its neighbours, the next better and the next
worse method of the row, by their paired difference over shared units. Both are tested for the whole table together, at a false-discovery
rate of 5 % (Benjamini and Hochberg 1995).

A method that was fitted from S seeds is their mean. Two things vary, and both are in every interval: the units it was measured on, of which
all seeds share the documents but not the features, and the seeds, of which S are a sample:

    half an interval = sqrt((1.96 se_units)^2 + (t_{S-1} sd_seeds / sqrt(S))^2)

With two seeds t is 12.7, with three 4.3; and far out, where the control over a whole table looks, its tails are heavier still: p-values are
of a t with the degrees of freedom of the units, or of the seeds where those are fewer.

Letters: S seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from armillary.core.report import Estimate, plain
from armillary.core.statistics import FEWEST, LEVEL, Units, benjamini_hochberg, n_compared, paired_difference, ratio_interval

#: Half a 95 % interval in standard errors, and the false-discovery rate.
HALF, RATE = float(stats.norm.ppf((1 + LEVEL) / 2)), 0.05
#: What sets apart the ids of the features of one seed's fit from those of the next: more than a fit has features.
APART = 1 << 24

#: missing: there is no value. null: no better than chance or than doing nothing. tied: not told from the next better or the next worse
#: method. apart: told from both. unknown: there is nothing to test it with.
Standing = Literal["missing", "null", "tied", "apart", "unknown"]


@dataclass(frozen=True)
class Cell:
    """What one method reached in one question.

    Args:
        estimate: its value, over seeds.
        standing: what it can be told from.
        rank: 1 for the best of the row; None where no way is better, or without a value.
        is_best: whether it is that and can be told from the next one, where there is one.
        n_seeds: fits whose mean it is.
        lost: why other fits of the method have no value; "" where all have one, or none has.
    """

    estimate: Estimate
    standing: Standing
    rank: int | None = None
    is_best: bool = False
    n_seeds: int = 1
    lost: str = ""

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("standing", "rank", "is_best", "n_seeds", "lost")}
        return {**self.estimate.to_json(), **told}


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        study: which study asked it.
        name: of the estimate.
        cells: by method.
    """

    study: str
    name: str
    cells: Mapping[str, Cell]

    def to_json(self) -> dict[str, Any]:
        return {"study": self.study, "name": self.name, "cells": {name: cell.to_json() for name, cell in self.cells.items()}}


@dataclass(frozen=True)
class Comparison:
    """Methods by questions.

    Args:
        title: of the whole.
        methods: in the order of their columns.
        rows: the questions.
        budget: by method, what it was allowed: numbers that should agree for a comparison to be fair.
        tables: further tables, columns by name.
        notes, warnings: as of a report.
        remarks: what the studies warned of.
        provenance: as of a report.
    """

    title: str
    methods: tuple[str, ...]
    rows: tuple[Row, ...]
    budget: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __rich__(self) -> Any:
        from armillary.core.comparison_view import terminal

        return terminal(self)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        rows = [row.to_json() for row in self.rows]
        told = {"title": self.title, "methods": list(self.methods), "budget": self.budget, "rows": rows, "tables": self.tables}
        said = {name: list(getattr(self, name)) for name in ("notes", "warnings", "remarks")}
        return {**plain(told), **said, "provenance": plain(self.provenance)}


#: By study and estimate, by method, an estimate for every seed.
Measured = Mapping[tuple[str, str], Mapping[str, Sequence[Estimate]]]


def rows_of(measured: Measured, methods: Sequence[str]) -> tuple[Row, ...]:
    """The rows of a comparison, with what can be told of each cell."""
    pooled = {key: {name: over_seeds(found.get(name, ())) for name in methods} for key, found in measured.items()}
    orders = {key: _order(cells) for key, cells in pooled.items()}
    p: dict[tuple[Any, ...], float] = {(key, name): p_null(measured[key].get(name, ())) for key, cells in pooled.items() for name in cells}
    pairs = [(key, better, worse) for key, order in orders.items() for better, worse in itertools.pairwise(order)]
    p |= {(key, better, worse): _p_better(measured[key][better], measured[key][worse]) for key, better, worse in pairs}
    q = dict(zip(p, benjamini_hochberg(list(p.values())).tolist(), strict=True))
    rows = []
    for key, cells in pooled.items():
        order, made = orders[key], dict[str, Cell]()
        for name, estimate in cells.items():
            near = [q[key, *both] for both in itertools.pairwise(order) if name in both]
            standing, rank = _standing(estimate, q[key, name], near), order.index(name) + 1 if name in order else None
            is_best = rank == 1 and bool(near) and standing == "apart"
            made[name] = Cell(estimate, standing, rank, is_best, *_seeds(measured[key].get(name, ())))
        rows.append(Row(*key, made))
    return tuple(rows)


def _seeds(found: Sequence[Estimate]) -> tuple[int, str]:
    """How many have a value, and why the others have none."""
    n = len(_known(found))
    return n, "; ".join(dict.fromkeys(_missing(one).reason for one in found if not _is_known(one))) if n else ""


# ---------------------------------------------------------------- over seeds


def over_seeds(found: Sequence[Estimate]) -> Estimate:
    """The mean over seeds, with an interval over units and seeds; none where there are too few units to tell their part of it."""
    pooled = _pooled(found)
    error = _error(pooled)
    if pooled.value is None or len(_known(found)) < 2 or (error is None and pooled.units is not None):
        return pooled
    half = HALF * _with_seeds(error or 0.0, found)
    return replace(pooled, low=pooled.value - half, high=pooled.value + half)


class Gap(NamedTuple):
    """How far apart two numbers are.

    Args:
        value: one minus the other.
        error: so large that `HALF` of it is half a 95 % interval.
        freedom: degrees of freedom behind the error: with few, large gaps are much less rare than a normal tail says.
    """

    value: float
    error: float
    freedom: float = math.inf

    @property
    def p(self) -> float:
        """Chance of a gap as large as this one where there is none; NaN for a gap whose error is 0, as of too few units that agree."""
        if not self.error > 0:
            return math.nan if self.value else 1.0
        wide = float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) / HALF
        return float(stats.t.sf(self.value / self.error * wide, self.freedom))


def difference(ours: Sequence[Estimate], theirs: Sequence[Estimate]) -> Gap | None:
    """Difference of the means over seeds, paired on units where there are some; None where nothing tells an error.

    Seeds of two methods have nothing in common, so what differs between them is added for either side.
    """
    found = _difference(_pooled(ours), _pooled(theirs))
    return None if found is None else _gap(found, ours, theirs)


def _gap(units: Gap, *sides: Sequence[Estimate]) -> Gap:
    """A gap over units alone with what differs between seeds, and the fewer degrees of freedom of the two.

    Weighing them by the variances (Satterthwaite 1946) would trust two seeds that happen to agree.
    """
    _, freedom = _between(*sides)
    return Gap(units.value, _with_seeds(units.error, *sides), min(units.freedom, freedom))


def _difference(ours: Estimate, theirs: Estimate) -> Gap | None:
    """Of two estimates, over units alone; None of fewer than `FEWEST`."""
    if ours.value is None or theirs.value is None:
        return None
    if ours.units is not None and theirs.units is not None and ours.units.kind == theirs.units.kind:
        value, low, high = paired_difference(ours.units, theirs.units)
        if n_compared(ours.units, theirs.units) < FEWEST:
            return None
        if low is not None and high is not None and high > low:  # units that all differ alike tell no error of the difference
            return Gap(value, (high - low) / (2 * HALF), n_compared(ours.units, theirs.units) - 1)
    errors = [error for one in (ours, theirs) if (error := _error(one)) is not None]
    freedom = min(_unit_freedom(ours), _unit_freedom(theirs))
    return Gap(ours.value - theirs.value, math.hypot(*errors), freedom) if len(errors) == 2 else None


def _unit_freedom(estimate: Estimate) -> float:
    return math.inf if estimate.units is None else max(1, len(estimate.units) - 1)


def _pooled(found: Sequence[Estimate]) -> Estimate:
    """The mean of those seeds that have a value, with an interval over units alone."""
    known = _known(found)
    if len(known) < 2:
        return known[0] if known else _missing(*found[:1])
    value, like = float(np.mean([one.value for one in known])), known[0]
    null, ceiling = (_mean([getattr(one, name) for one in known]) for name in ("null", "ceiling"))
    units = _together([one.units for one in known])
    low, high = (None, None) if units is None else ratio_interval(units)
    if low == high and (error := _mean([_error(one) for one in known])) is not None:  # none, or of units that all agree
        low, high = value - HALF * error, value + HALF * error
    n = sum(one.n for one in known)
    return Estimate(value, low, high, n, null=null, ceiling=ceiling, better=like.better, unit=like.unit, units=units)


def _together(found: Sequence[Units | None]) -> Units | None:
    """Units whose ratio is the mean of the ratios of some; None where they are not all of one kind."""
    some = [one for one in found if one is not None and one.denominator.sum()]
    if len(some) < len(found) or len({one.kind for one in some}) != 1:
        return None
    step = APART if some[0].kind == "feature" else 0  # documents are the same for every seed, features are not
    ids, index = np.unique(np.concatenate([one.ids + step * i for i, one in enumerate(some)]), return_inverse=True)
    above, below = np.zeros((2, len(ids)))
    share = np.concatenate([np.full(len(one), 1 / (one.denominator.sum() * len(some))) for one in some])
    np.add.at(above, index, share * np.concatenate([one.numerator for one in some]))
    np.add.at(below, index, share * np.concatenate([one.denominator for one in some]))
    return Units(some[0].kind, ids, above, below)


def _with_seeds(error: float, *sides: Sequence[Estimate]) -> float:
    """A standard error over units with what differs between seeds, so large that 1.96 of it are half an interval.

    One seed says nothing of others and adds nothing; degrees of freedom of two sides after Welch (1947).
    """
    between, freedom = _between(*sides)
    return math.hypot(error, float(stats.t.ppf((1 + LEVEL) / 2, freedom)) / HALF * math.sqrt(between)) if between else error


def _between(*sides: Sequence[Estimate]) -> tuple[float, float]:
    """Variance of means over seeds, of all sides together, and its degrees of freedom; 0 of one seed each."""
    seeds = [[one.value for one in _known(found)] for found in sides]
    parts = [(float(np.var(np.array(values, np.float64), ddof=1)) / len(values), len(values) - 1) for values in seeds if len(values) > 1]
    between = sum(part for part, _ in parts)
    return between, 1 / sum((part / between) ** 2 / n for part, n in parts) if between else math.inf


def _known(found: Sequence[Estimate]) -> list[Estimate]:
    return [one for one in found if _is_known(one)]


def _is_known(estimate: Estimate) -> bool:
    return estimate.value is not None and math.isfinite(estimate.value)


def _missing(estimate: Estimate | None = None) -> Estimate:
    """An estimate without a value, and why."""
    if estimate is None:
        return Estimate.missing("this study was not run on it")
    return estimate if estimate.value is None else Estimate.missing(f"the value is {estimate.value}", better=estimate.better)


def _error(estimate: Estimate) -> float | None:
    """Standard error, from the interval."""
    return None if estimate.low is None or estimate.high is None else (estimate.high - estimate.low) / (2 * HALF)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _order(cells: Mapping[str, Estimate]) -> list[str]:
    """Methods that have a value, best first; none where no way is better."""
    known = {name: cell for name, cell in cells.items() if cell.value is not None and cell.better != "neither"}
    return sorted(known, key=lambda name: _worth(known[name]), reverse=True)


def _worth(cell: Estimate) -> float:
    assert cell.value is not None
    return -cell.value if cell.better == "lower" else cell.value


# ---------------------------------------------------------------- tests


def above_null(found: Sequence[Estimate]) -> Gap | None:
    """By how much the mean over seeds is better than its null (or larger, where no way is better); None without either, or of fewer than
    `FEWEST` units."""
    cell = over_seeds(found)
    pooled = _pooled(found)
    if cell.value is None or cell.null is None or _error(cell) is None or (pooled.units is not None and len(pooled.units) < FEWEST):
        return None
    value = cell.null - cell.value if cell.better == "lower" else cell.value - cell.null
    return _gap(Gap(value, _error(pooled) or 0.0, _unit_freedom(pooled)), found)


def p_null(found: Sequence[Estimate]) -> float:
    """Of being no better than the null (or no different, where no way is better); NaN where there is no test."""
    cell = over_seeds(found)
    if cell.value is None or cell.null is None:
        return math.nan
    if cell.p is not None:
        return cell.p
    gap = above_null(found)
    if gap is None:
        return math.nan
    return gap.p if cell.better != "neither" else 2 * gap._replace(value=abs(gap.value)).p


def _p_better(better: Sequence[Estimate], worse: Sequence[Estimate]) -> float:
    """Of two methods being as good. Where the units they share say the opposite of the values, they cannot be told apart."""
    found = difference(better, worse)
    if found is None:
        return math.nan
    value = -found.value if any(one.better == "lower" for one in better) else found.value
    return 2 * found._replace(value=value).p if value > 0 else 1.0


def _standing(cell: Estimate, q_null: float, q_apart: Sequence[float]) -> Standing:
    if cell.value is None:
        return "missing"
    if q_null >= RATE:
        return "null"
    known = [q for q in q_apart if not math.isnan(q)]
    if any(q >= RATE for q in known):
        return "tied"
    if len(known) < len(q_apart) or (not known and math.isnan(q_null)):
        return "unknown"
    return "apart"
