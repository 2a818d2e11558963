"""A comparison as one HTML page: a table of all studies, a column per method, so narrow that ten of them fit a window of 1,280 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from armillary.core import html
from armillary.core.comparison import Cell, Comparison, Row
from armillary.core.comparison_text import (
    MARKS,
    by_study,
    empty,
    has_value,
    is_grey,
    mark,
    null_text,
    numbers,
    reasons,
    row_name,
    whole_text,
)
from armillary.core.render import flatten


def page(comparison: Comparison, sections: Sequence[html.Section] = ()) -> str:
    """One self-contained HTML file; further sections stand behind the tables."""
    return html.page(comparison.title, [*parts(comparison), *sections], lead="; ".join(comparison.notes[:1]), is_wide=True)


def parts(comparison: Comparison) -> list[html.Section]:
    """The comparison's sections: warnings and budget, the table, further tables, how it was made."""
    head = [html.warning(text) for text in comparison.warnings]
    head += [html.data_table(budget_columns(comparison), caption="budget")] if comparison.budget else []
    facts = flatten(comparison.provenance)
    made = [html.listing(comparison.notes)] if comparison.notes else []
    made += [html.details("Provenance", html.facts(facts))] if facts else []
    further = {name.capitalize(): [html.data_table(columns, caption="")] for name, columns in comparison.tables.items()}
    named = {"What was compared": head, "Results": _results(comparison), **further, "How it was made": made}
    return [html.section(title, *bodies) for title, bodies in named.items() if bodies]


def budget_columns(comparison: Comparison) -> dict[str, list[Any]]:
    """A row per method."""
    names = dict.fromkeys(name for of in comparison.budget.values() for name in of)
    of = [comparison.budget.get(method, {}) for method in comparison.methods]
    return {"method": list(comparison.methods), **{name: [one.get(name) for one in of] for name in names}}


def _results(comparison: Comparison) -> list[html.Html]:
    """The table with its key; what is missing, and what the studies remark, behind it."""
    studies, remarks = by_study(comparison.rows), comparison.remarks
    groups = {study: _lines(rows, comparison.methods) for study, rows in studies.items()}
    table = html.grouped_table([*comparison.methods, "null"], groups, label="what every method reached in every study")
    missing = [f"{study}: {names}: {why}" for study, rows in studies.items() for why, names in reasons(rows).items()]
    folded = {"Why some are missing": missing, f"{len(remarks)} remarks of the studies": remarks}
    shown = [_key(), table] if studies else [html.paragraph("No study gave a number of any of these methods.")]
    return [*shown, *(html.details(title, html.listing(items)) for title, items in folded.items() if items)]


def _lines(rows: Sequence[Row], methods: Sequence[str]) -> list[html.Line]:
    """The rows of a study; of those without any value only why that is."""
    wide = len(methods) + 1
    empties = [html.tag("td", html.tag("span", f"{names}: {why}"), colspan=wide, class_="why") for why, names in empty(rows).items()]
    return [*(_line(row, methods) for row in rows if has_value(row)), *((html.markup("–"), [one]) for one in empties)]


def _line(row: Row, methods: Sequence[str]) -> html.Line:
    cells = [_cell(row.cells[name]) for name in methods]
    return html.markup(row_name(row)), [*cells, html.tag("td", null_text(row), class_="null")]


def _cell(cell: Cell) -> html.Html:
    """The value with its mark, and the interval below."""
    value, interval = numbers(cell.estimate)
    kind = "best" if cell.is_best else "grey" if is_grey(cell) else None
    below = [html.tag("small", interval)] if interval else []
    return html.tag("td", _told(value, mark(cell)), *below, class_=kind, title=whole_text(cell))


def _told(value: str, kind: str) -> html.Html:
    sign = MARKS.get(kind, ("", ""))[0]
    return html.tag("span", value, html.tag("i", sign) if value else sign, class_="told")


def _key() -> html.Html:
    """What a cell says, by examples."""
    plain = html.join(_told("0.53", ""), html.tag("small", " [0.48, 0.58]"))
    lines = [("", plain, "a value and its 95 % interval; the arrow of a row says which way is better")]
    lines += [(kind, _told("" if kind == "missing" else "0.53", kind), meaning) for kind, (_, meaning) in MARKS.items()]
    grey = ("missing", "null", "tied")
    terms = [
        html.join(html.tag("dt", sample, class_="grey" if kind in grey else kind or None), html.tag("dd", meaning))
        for kind, sample, meaning in lines
    ]
    return html.tag("dl", *terms, class_="key")
