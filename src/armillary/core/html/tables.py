"""Tables: estimates with their scale from null to ceiling, columns of data that sort, and groups of rows under the same columns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from armillary.core.html.parts import Html, join, markup, tag
from armillary.core.report import Estimate, number

#: Rows of a data table that a page shows; the JSON holds all of them.
MAX_ROWS = 1000
ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}


# ---------------------------------------------------------------- estimates


def estimates_table(estimates: Mapping[str, Estimate], *, caption: str = "") -> Html:
    """Estimates with interval, null, ceiling and a drawing of where the value lies between the two."""
    columns = [column for column in _COLUMNS if any(_cell(column, estimate) for estimate in estimates.values())]
    head = tag("tr", *(_head(name) for name in ("estimate", *columns)), role="row")
    rows = [_estimate_row(name, estimate, columns) for name, estimate in estimates.items()]
    below = tag("caption", caption) if caption else Html("")
    return tag("table", below, tag("thead", head, role="rowgroup"), tag("tbody", *rows, role="rowgroup"), class_="estimates", role="table")


_COLUMNS = ("value", "95 % interval", "null", "ceiling", "null to ceiling", "n", "p", "q")


def _head(name: str) -> Html:
    return tag("th", name, scope="col", role="columnheader", class_=_class(name))


def _estimate_row(name: str, estimate: Estimate, columns: Sequence[str]) -> Html:
    arrow, meaning = ARROWS.get(estimate.better, ("", ""))
    hint = join(Html(" "), tag("span", arrow, class_="dim", title=meaning, aria_label=meaning, role="img")) if arrow else Html("")
    first = tag("th", name, hint, scope="row", role="rowheader")
    if estimate.value is None:
        reason = tag("td", f"not available: {estimate.reason}", colspan=len(columns), class_="dim", role="cell")
        return tag("tr", first, reason, role="row")
    cells = [tag("td", _cell(column, estimate), data_label=column, class_=_class(column), role="cell") for column in columns]
    return tag("tr", first, *cells, role="row")


def _class(column: str) -> str | None:
    return {"estimate": None, "value": "number strong", "null to ceiling": "scale"}.get(column, "number")


def _cell(column: str, estimate: Estimate) -> Html:
    """The cell's markup, empty where the estimate has none."""
    if column == "value":
        unit = tag("span", f" {estimate.unit}", class_="dim") if estimate.unit else Html("")
        return tag("span", number(estimate.value), unit)
    if column == "95 % interval":
        return Html("") if estimate.low is None else markup(f"{number(estimate.low)} – {number(estimate.high)}")
    if column == "null to ceiling":
        return scale(estimate)
    found = {"null": estimate.null, "ceiling": estimate.ceiling, "n": estimate.n or None, "p": estimate.p, "q": estimate.q}[column]
    return Html("") if found is None else markup(number(found))


def scale(estimate: Estimate) -> Html:
    """A line from null (left) to ceiling (right) with the interval and the value on it; empty where there is nothing to compare with."""
    place = places(estimate)
    if len(place) < 2:
        return Html("")
    x = {name: f"{6 + 128 * share:.1f}" for name, share in place.items()}
    parts = [tag("line", class_="axis", x1=6, x2=134, y1=9, y2=9)]
    parts += [tag("line", class_=end, x1=x[end], x2=x[end], y1=3, y2=15) for end in ("null", "ceiling") if end in x]
    if "low" in x:
        parts.append(tag("line", class_="interval", x1=x["low"], x2=x["high"], y1=9, y2=9))
    parts.append(tag("circle", class_="value", cx=x["value"], cy=9, r=4))
    words = ", ".join(f"{name} {number(mark)}" for name, mark in _marks(estimate).items())
    picture = tag("svg", *parts, viewBox="0 0 140 18", width=140, height=18, role="img", aria_label=words)
    share = way(estimate)
    return picture if share is None else join(picture, tag("span", f"{share:.0%}", class_="dim", title="of the way from null to ceiling"))


def places(estimate: Estimate) -> dict[str, float]:
    """Where value, low, high, null and ceiling lie on a line, 0 to 1, null left of ceiling; {} without a null or a ceiling."""
    marks = _marks(estimate)
    if "value" not in marks or not {"null", "ceiling"} & set(marks):
        return {}
    lowest, highest = min(marks.values()), max(marks.values())
    span = (highest - lowest) or 1.0
    is_turned = estimate.null is not None and estimate.ceiling is not None and estimate.ceiling < estimate.null
    return {name: (highest - mark) / span if is_turned else (mark - lowest) / span for name, mark in marks.items()}


def _marks(estimate: Estimate) -> dict[str, float]:
    interval = {} if estimate.low is None or estimate.high is None else {"low": estimate.low, "high": estimate.high}
    named = {"value": estimate.value, **interval, "null": estimate.null, "ceiling": estimate.ceiling}
    return {name: mark for name, mark in named.items() if mark is not None and math.isfinite(mark)}


def way(estimate: Estimate) -> float | None:
    """How much of the way from null to ceiling the value has gone; None where either is missing or they are equal."""
    if estimate.value is None or estimate.null is None or estimate.ceiling is None or estimate.null == estimate.ceiling:
        return None
    if not all(map(math.isfinite, (estimate.value, estimate.null, estimate.ceiling))):
        return None
    return (estimate.value - estimate.null) / (estimate.ceiling - estimate.null)


# ---------------------------------------------------------------- data


def data_table(columns: Mapping[str, Sequence[Any]], *, caption: str = "", max_rows: int = MAX_ROWS) -> Html:
    """Columns of equal length in a scrolling box; a click on a column's name sorts by it.

    Args:
        columns: by name; cells are numbers, text, None, or `Html` (links).
        caption: what the table shows.
        max_rows: rows that are drawn; the caption says when there are more.
    """
    n = len(next(iter(columns.values()), ()))
    kinds = {name: "number" if is_numeric(column) else None for name, column in columns.items()}
    head = tag(
        "tr", *(tag("th", tag("button", name, type="button"), scope="col", class_=kinds[name], aria_sort="none") for name in columns)
    )
    rows = (tag("tr", *(_data_cell(columns[name][i], kinds[name]) for name in columns)) for i in range(min(n, max_rows)))
    more = f"{caption}{': ' if caption else ''}the first {max_rows:,} of {n:,} rows" if n > max_rows else caption
    below = tag("caption", more) if more else Html("")
    table = tag("table", below, tag("thead", head), tag("tbody", *rows), class_="data")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption or "table")


def is_numeric(column: Sequence[Any]) -> bool:
    """Whether every cell is a number or missing, and at least one is a number."""
    cells = [_item(cell) for cell in column if cell is not None]
    return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def cell_text(value: Any) -> str:
    """A table cell as text: numbers as `report.number` writes them, yes and no, a dash for what is missing."""
    value = _item(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if value is None or isinstance(value, int | float) else str(value)


def _data_cell(value: Any, kind: str | None) -> Html:
    shown = value if isinstance(value, Html) else cell_text(value)
    key = None if kind is None or value is None else repr(float(value))
    return tag("td", shown, class_=kind, data_value=key)


def _item(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


# ---------------------------------------------------------------- groups of rows


def _breakable(name: str) -> Html:
    """A name that may go on in the next line behind a hyphen, a dot or the like, and nowhere else."""
    return Html(re.sub(r"([-_./:])", r"\1<wbr>", markup(name)))


#: The head of a row and its cells, which are `td` elements.
Line = tuple[Html, Sequence[Html]]


def grouped_table(columns: Sequence[str], groups: Mapping[str, Sequence[Line]], *, label: str) -> Html:
    """Rows under the same columns, in groups that each repeat the columns' names; the first column stays in sight where the rest scrolls.

    Args:
        columns: names of all but the first column.
        groups: by name, rows.
        label: what the table shows, for a reader who does not see it.
    """
    heads = [tag("th", _breakable(name), scope="col") for name in columns]
    bodies = []
    for name, lines in groups.items():
        rows = [tag("tr", tag("th", head, scope="row"), *cells) for head, cells in lines]
        bodies.append(tag("tbody", tag("tr", tag("th", name, scope="rowgroup"), *heads, class_="head"), *rows))
    return tag("div", tag("table", *bodies, class_="grouped"), class_="sideways", tabindex=0, role="region", aria_label=label)
