"""Comparison: several methods and several questions in one table, and which of its numbers can be told apart.

A cell can be told from its null if the estimate's own test says so, or else its interval; from its neighbours, the next better and the next
worse method of the row, by their paired difference over shared units. Both are tested for the whole table together, at a false-discovery
rate of 5 % (Benjamini and Hochberg 1995). A method that was fitted from several seeds is their mean, and what differs between the seeds is
part of every interval.

Letters: S seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from armillary.core.report import Estimate, plain
from armillary.core.statistics import LEVEL, benjamini_hochberg, paired_difference

#: Half a 95 % interval in standard errors, and the false-discovery rate.
HALF, RATE = float(stats.norm.ppf((1 + LEVEL) / 2)), 0.05

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
    """

    estimate: Estimate
    standing: Standing
    rank: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.estimate.to_json(), "standing": self.standing, "rank": self.rank}


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
    chance = {(key, name): p_null(cell) for key, cells in pooled.items() for name, cell in cells.items()}
    pairs = [(key, one, other) for key, order in orders.items() for one, other in itertools.pairwise(order)]
    apart = {(key, one, other): _p_apart(measured[key][one], measured[key][other]) for key, one, other in pairs}
    q_chance, q_apart = _q(chance), _q(apart)
    rows = []
    for key, cells in pooled.items():
        near = {name: [q for (k, *both), q in q_apart.items() if k == key and name in both] for name in methods}
        order = orders[key]
        made = {
            name: Cell(cell, _standing(cell, q_chance[key, name], near[name]), order.index(name) + 1 if name in order else None)
            for name, cell in cells.items()
        }
        rows.append(Row(*key, made))
    return tuple(rows)


def over_seeds(found: Sequence[Estimate]) -> Estimate:
    """The mean over seeds; its interval adds what differs between them to what one seed leaves open."""
    known = [one for one in found if one.value is not None]
    if not known:
        return found[0] if found else Estimate.missing("this study was not run on it")
    if len(known) == 1:
        return known[0]
    values = np.array([one.value for one in known], dtype=np.float64)
    between = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    inside = [HALF * se for one in known if (se := _error(one)) is not None]
    half = math.hypot(between, float(np.mean(inside)) if inside else 0.0)
    value, like = float(values.mean()), known[0]
    null, ceiling = (_mean([getattr(one, name) for one in known]) for name in ("null", "ceiling"))
    n = sum(one.n for one in known)
    return Estimate(value, value - half, value + half, n, null=null, ceiling=ceiling, better=like.better, unit=like.unit)


def difference(ours: Sequence[Estimate], theirs: Sequence[Estimate]) -> tuple[float, float] | None:
    """Mean difference over seeds and its standard error, paired on units where there are some; None where nothing tells an error.

    Seeds are paired in their order; where one side has fewer, all of one side are set against all of the other.
    """
    pairs = list(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else list(itertools.product(ours, theirs))
    found = [one for pair in pairs if (one := _difference(*pair)) is not None]
    if not found or len(found) < len(pairs):
        return None
    values, errors = np.array(found, dtype=np.float64).T
    inside = float(np.mean(errors**2))
    if len(ours) == len(theirs):
        return float(values.mean()), math.sqrt(inside + (values.var(ddof=1) / len(values) if len(values) > 1 else 0.0))
    between = sum(_between([one.value for one in side if one.value is not None]) for side in (ours, theirs))
    return float(values.mean()), math.sqrt(inside + between)


def _between(values: Sequence[float]) -> float:
    """Variance of a mean over seeds; 0 of one seed, which says nothing of others."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def _difference(ours: Estimate, theirs: Estimate) -> tuple[float, float] | None:
    if ours.value is None or theirs.value is None:
        return None
    if ours.units is not None and theirs.units is not None and ours.units.kind == theirs.units.kind:
        value, low, high = paired_difference(ours.units, theirs.units)
        if low is not None and high is not None:
            return value, (high - low) / (2 * HALF)
    errors = (_error(ours), _error(theirs))
    return None if None in errors else (ours.value - theirs.value, math.hypot(*(one for one in errors if one is not None)))


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


def p_null(cell: Estimate) -> float:
    """Of being no better than the null (or no different, where no way is better); NaN where there is no test."""
    error = _error(cell)
    if cell.value is None or cell.null is None:
        return math.nan
    if cell.p is not None:
        return cell.p
    if error is None:
        return math.nan
    gap = cell.value - cell.null
    return _tail(-gap if cell.better == "lower" else gap, error) if cell.better != "neither" else 2 * _tail(abs(gap), error)


def _tail(gap: float, error: float) -> float:
    """Chance of a gap as large as this one where there is none; NaN for a gap whose error is 0, as of too few units that agree."""
    return float(stats.norm.sf(gap / error)) if error > 0 else (math.nan if gap else 1.0)


def _p_apart(ours: Sequence[Estimate], theirs: Sequence[Estimate]) -> float:
    found = difference(ours, theirs)
    return math.nan if found is None else 2 * _tail(abs(found[0]), found[1]) if found[0] else 1.0


def _q(p: Mapping[Any, float]) -> dict[Any, float]:
    return dict(zip(p, benjamini_hochberg(list(p.values())).tolist(), strict=True)) if p else {}


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
