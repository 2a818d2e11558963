"""What a comparison says in words and numbers, however it is drawn.

A number has about as many digits as its interval leaves sure; the JSON has all of them. Behind it stands a mark that tells what it
can be told from, so that nothing is said by colour or weight alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from armillary.core.comparison import Cell, Row
from armillary.core.html.tables import ARROWS
from armillary.core.report import Estimate, number

#: What stands behind a number, and what it means.
MARKS = {
    "best": ("★", "the best of its row, told from the next"),
    "null": ("°", "not told from its null: chance, or doing nothing"),
    "tied": ("≈", "not told from the next better or the next worse method"),
    "unknown": ("?", "not tested: there are too few units, or no interval"),
    "missing": ("–", "missing; the reasons stand below"),
}
#: Units of the last decimal that half an interval has at least, significant digits at most, and decimals beyond which there is an exponent.
SURE, DIGITS, MOST_DECIMALS = 4, 3, 6


def legend() -> str:
    """What the marks mean, in a line."""
    return "; ".join(f"{mark} {meaning}" for mark, meaning in MARKS.values())


def mark(cell: Cell) -> str:
    """Name of the mark of a cell, "" for one that is told from its null and its neighbours and is not the best."""
    return "best" if cell.is_best else cell.standing if cell.standing in MARKS else ""


def is_grey(cell: Cell) -> bool:
    return cell.standing in ("missing", "null", "tied")


def cell_text(cell: Cell) -> str:
    """The value, its interval and its mark."""
    sign = MARKS.get(mark(cell), ("", ""))[0]
    return " ".join(part for part in (*numbers(cell.estimate), sign) if part)


def numbers(estimate: Estimate) -> tuple[str, str]:
    """The value and the interval, "" where there is none."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None or low is None or high is None:
        return ("" if value is None else _short(value)), ""
    places = _places((high - low) / 2, max(abs(low), abs(high)))
    told = [_short(one) if places is None else f"{round(one, places) + 0.0:,.{places}f}" for one in (value, low, high)]
    return told[0], f"[{told[1]}, {told[2]}]"


def _short(value: float) -> str:
    """With few significant digits, all of those before the point among them."""
    return number(float(f"{value:.{DIGITS}g}") if abs(value) < 10**DIGITS else value)


def _places(half: float, largest: float) -> int | None:
    """Decimals of which half an interval has `SURE` units at least, and its larger end `DIGITS` digits at most; None for too many."""
    if not 0 < half < math.inf:
        return None
    places = max(0, min(math.ceil(math.log10(SURE / half)), DIGITS - 1 - math.floor(math.log10(largest))))
    return places if places <= MOST_DECIMALS else None


def whole_text(cell: Cell) -> str:
    """All of a cell in a line: every digit, how many observations and seeds, and what it can be told from."""
    if cell.estimate.value is None:
        return cell.estimate.reason
    seeds = f"mean of {cell.n_seeds} seeds" if cell.n_seeds > 1 else ""
    parts = (str(cell.estimate), f"n = {cell.estimate.n:,}" if cell.estimate.n else "", seeds, MARKS.get(mark(cell), ("", ""))[1])
    return "; ".join(part for part in parts if part)


def row_name(row: Row) -> str:
    """The estimate with its unit and an arrow to where it is better."""
    like = like_of(row)
    arrow, unit = ARROWS.get(like.better, ("", ""))[0], f" ({like.unit})" if like.unit else ""
    return f"{row.name}{unit} {arrow}".strip()


def null_text(row: Row) -> str:
    """The nulls of a row's methods: one number, or the least and the largest."""
    found = [cell.estimate.null for cell in row.cells.values() if cell.estimate.null is not None]
    if not found:
        return ""
    least, most = (_short(one) for one in (min(found), max(found)))
    return least if least == most else f"{least} to {most}"


def like_of(row: Row) -> Estimate:
    """One of a row's estimates, which says its unit and which way is better."""
    known = [cell.estimate for cell in row.cells.values() if cell.estimate.value is not None]
    return known[0] if known else next(iter(row.cells.values())).estimate


def by_study(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each study, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.study, []).append(row)
    return found


def has_value(row: Row) -> bool:
    """Whether any method has one."""
    return any(cell.estimate.value is not None for cell in row.cells.values())


def empty(rows: Sequence[Row]) -> dict[str, str]:
    """Rows in which no method has a value: their names, by why that is."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not has_value(row):
            why = "; ".join(dict.fromkeys(cell.estimate.reason for cell in row.cells.values()))
            found.setdefault(why, []).append(row.name)
    return {why: ", ".join(names) for why, names in found.items()}


def reasons(rows: Sequence[Row]) -> dict[str, str]:
    """Cells without a value, or without that of some seeds, where other methods have one: which, by why that is."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in filter(has_value, rows):
        for name, cell in row.cells.items():
            if why := _why(cell):
                found.setdefault(why, {}).setdefault(name, []).append(row.name)
    return {why: "; ".join(f"{method} ({_some(names)})" for method, names in of.items()) for why, of in found.items()}


def _some(names: Sequence[str], n: int = 3) -> str:
    return ", ".join(names) if len(names) <= n + 1 else f"{', '.join(names[:n])} and {len(names) - n} more"


def _why(cell: Cell) -> str:
    if cell.estimate.value is None:
        return cell.estimate.reason
    return f"the mean of {cell.n_seeds} seed{'s' * (cell.n_seeds > 1)} alone, as of others {cell.lost}" if cell.lost else ""
