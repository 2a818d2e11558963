"""How a comparison draws itself: in a terminal, as one HTML page and as Markdown.

Numbers that cannot be told from their null or from a neighbour are grey; the best of a row is bold if it is told from the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from armillary.core import html
from armillary.core.comparison import Cell, Comparison, Row
from armillary.core.html.tables import ARROWS, is_numeric
from armillary.core.html.tables import cell_text as table_text
from armillary.core.render import flatten, markdown_columns, pipe_table
from armillary.core.report import Estimate, number

#: What stands behind a number, and what it means.
MARKS = {
    "null": ("°", "not told from its null"),
    "tied": ("≈", "not told from the next better or the next worse method"),
    "unknown": ("?", "not tested"),
}
#: Characters of a column of the terminal.
COLUMN = 21


def legend() -> str:
    """What the marks mean, in a line."""
    return "; ".join(f"{mark} {meaning}" for mark, meaning in MARKS.values())


def cell_text(cell: Cell) -> str:
    """The value, its interval and its mark."""
    if cell.estimate.value is None:
        return "–"
    interval = "" if cell.estimate.low is None else f" [{number(cell.estimate.low)}, {number(cell.estimate.high)}]"
    return f"{number(cell.estimate.value)}{interval}{f' {MARKS[cell.standing][0]}' if cell.standing in MARKS else ''}"


def is_grey(cell: Cell) -> bool:
    return cell.standing in ("missing", "null", "tied")


def is_best(cell: Cell) -> bool:
    return cell.rank == 1 and cell.standing == "apart"


def row_name(row: Row) -> str:
    """The estimate with an arrow to where it is better, and its unit."""
    like = _like(row)
    arrow, unit = ARROWS.get(like.better, ("", ""))[0], f" ({like.unit})" if like.unit else ""
    return f"{row.name}{unit} {arrow}".strip()


def null_text(row: Row) -> str:
    """The nulls of a row's methods: one number, or the least and the largest."""
    found = [cell.estimate.null for cell in row.cells.values() if cell.estimate.null is not None]
    if not found:
        return ""
    least, most = number(min(found)), number(max(found))
    return least if least == most else f"{least} – {most}"


def _like(row: Row) -> Estimate:
    known = [cell.estimate for cell in row.cells.values() if cell.estimate.value is not None]
    return known[0] if known else next(iter(row.cells.values())).estimate


def _by_study(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.study, []).append(row)
    return found


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why there is no value, each reason once."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, cell in row.cells.items():
            if cell.estimate.value is None:
                found.setdefault(cell.estimate.reason, []).append(f"{name} {row.name}")
    return [f"– {', '.join(what[:3])}{f' and {len(what) - 3} more' if len(what) > 3 else ''}: {why}" for why, what in found.items()]


# ---------------------------------------------------------------- terminal


def terminal(comparison: Comparison) -> RenderableType:
    """Something rich prints."""
    return _Terminal(comparison)


@dataclass(frozen=True)
class _Terminal:
    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        it = self.comparison
        yield Text(it.title, style="bold")
        yield from (Padding(Text(f"! {text}", style="yellow"), (0, 0, 0, 2)) for text in it.warnings)
        if it.budget:
            yield _budget(it)
        for study, rows in _by_study(it.rows).items():
            yield Text(f"\n{study}", style="bold")
            yield _table(rows, it.methods, options.max_width)
            yield from (Text(f"  {line}", style="dim") for line in _reasons(rows))
        for name, columns in it.tables.items():
            yield Text(f"\n{name}", style="bold")
            yield _listed(columns)
        yield Text(f"\n{legend()}", style="dim")
        yield from (Text(note, style="dim") for note in it.notes)
        if it.remarks:
            yield Text(f"{len(it.remarks)} remarks of the studies are in the page", style="dim")


def _budget(it: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("budget")
    names = list(dict.fromkeys(name for of in it.budget.values() for name in of))
    for name in names:
        table.add_column(name, justify="right")
    for method in it.methods:
        table.add_row(method, *(number(it.budget.get(method, {}).get(name)) for name in names))
    return table


def _wide(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """A row per estimate, a column per method."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", max_width=28)
    for name in (*methods, "null"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row_name(row), *(_text(row.cells[name]) for name in methods), Text(null_text(row), style="dim"))
    return table


def _table(rows: Sequence[Row], methods: Sequence[str], width: int) -> Table:
    """As many cells beside each other as fit."""
    if 30 + COLUMN * len(methods) <= width:
        return _wide(rows, methods)
    return _turned(rows, methods) if 16 + COLUMN * len(rows) <= width else _tall(rows, methods)


def _turned(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """A row per method, a column per estimate."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for row in rows:
        table.add_column(row_name(row), justify="right")
    for name in methods:
        table.add_row(name, *(_text(row.cells[name]) for row in rows))
    table.add_row(Text("null", style="dim"), *(Text(null_text(row), style="dim") for row in rows))
    return table


def _tall(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """For narrow terminals: a row per estimate and method."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for row in rows:
        for i, name in enumerate(methods):
            table.add_row(row_name(row) if i == 0 else "", name, _text(row.cells[name]))
        table.add_row("", Text("null", style="dim"), Text(null_text(row), style="dim"))
    return table


def _listed(columns: Mapping[str, Sequence[Any]]) -> Table:
    """All rows of a further table, long text folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, column in columns.items():
        table.add_column(name, justify="right" if is_numeric(column) else "left", overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(table_text(cell)) for cell in row))
    return table


def _text(cell: Cell) -> Text:
    return Text(cell_text(cell), style="bold" if is_best(cell) else "bright_black" if is_grey(cell) else "")


# ---------------------------------------------------------------- pages


def page(comparison: Comparison, sections: Sequence[html.Section] = ()) -> str:
    """One self-contained HTML file; further sections stand behind the tables."""
    return html.page(comparison.title, [*parts(comparison), *sections], lead=f"{legend()}.")


def parts(comparison: Comparison) -> list[html.Section]:
    """The comparison's sections: warnings and budget, a table per study, how it was made."""
    head = [html.warning(text) for text in comparison.warnings]
    head += [html.data_table(budget_columns(comparison), caption="budget")] if comparison.budget else []
    head += (
        [html.details(f"{len(comparison.remarks)} remarks of the studies", html.listing(comparison.remarks))] if comparison.remarks else []
    )
    facts = flatten(comparison.provenance)
    made = [html.listing(comparison.notes)] if comparison.notes else []
    made += [html.details("Provenance", html.facts(facts))] if facts else []
    tables = {study: [_page_table(rows, comparison), *_page_reasons(rows)] for study, rows in _by_study(comparison.rows).items()}
    further = {name.capitalize(): [html.data_table(columns, caption="")] for name, columns in comparison.tables.items()}
    named = {"What was compared": head, **tables, **further, "How it was made": made}
    return [html.section(title, *bodies) for title, bodies in named.items() if bodies]


def budget_columns(comparison: Comparison) -> dict[str, list[Any]]:
    """A row per method."""
    names = dict.fromkeys(name for of in comparison.budget.values() for name in of)
    of = [comparison.budget.get(method, {}) for method in comparison.methods]
    return {"method": list(comparison.methods), **{name: [one.get(name) for one in of] for name in names}}


def _page_table(rows: Sequence[Row], comparison: Comparison) -> html.Html:
    columns: dict[str, list[Any]] = {"estimate": [row_name(row) for row in rows]}
    columns |= {name: [_page_cell(row.cells[name]) for row in rows] for name in comparison.methods}
    return html.data_table({**columns, "null": [null_text(row) for row in rows]}, caption="")


def _page_cell(cell: Cell) -> html.Html:
    kind = "dim" if is_grey(cell) else "strong" if is_best(cell) else None
    why = cell.estimate.reason if cell.estimate.value is None else MARKS.get(cell.standing, ("", ""))[1]
    return html.tag("span", cell_text(cell), class_=kind, title=why or None)


def _page_reasons(rows: Sequence[Row]) -> list[html.Html]:
    found = _reasons(rows)
    return [html.details("Why some are missing", html.listing(found))] if found else []


def markdown(comparison: Comparison) -> str:
    """Pipe tables, one per study."""
    blocks = [f"# {comparison.title}", *(f"> **Note:** {text}" for text in comparison.warnings)]
    if comparison.budget:
        columns = budget_columns(comparison)
        blocks.append(pipe_table(list(columns), [list(map(table_text, row)) for row in zip(*columns.values(), strict=True)]))
    for study, rows in _by_study(comparison.rows).items():
        lines = [[row_name(row), *(_marked(row.cells[name]) for name in comparison.methods), null_text(row)] for row in rows]
        blocks += [f"## {study}", pipe_table(["", *comparison.methods, "null"], lines)]
    blocks += [block for name, columns in comparison.tables.items() for block in (f"## {name}", markdown_columns(columns))]
    blocks += [legend() + ".", "\n".join(f"- {note}" for note in (*comparison.notes, *comparison.remarks))]
    return "\n\n".join(blocks) + "\n"


def _marked(cell: Cell) -> str:
    text = cell_text(cell)
    return f"**{text}**" if is_best(cell) else text


def writers() -> Mapping[str, Any]:
    """The endings a comparison can be written under, and what writes it."""
    return {".html": page, ".md": markdown, ".json": lambda it: json.dumps(it.to_json(), indent=1, allow_nan=False)}
