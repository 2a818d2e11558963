"""How a comparison draws itself: in a terminal, as Markdown and, in `comparison_page`, as one HTML page.

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

from armillary.core.comparison import Cell, Comparison, Row
from armillary.core.comparison_page import budget_columns, page
from armillary.core.comparison_text import by_study, cell_text, empty, has_value, is_grey, legend, null_text, reasons, row_name
from armillary.core.html.tables import cell_text as table_text
from armillary.core.html.tables import is_numeric
from armillary.core.render import markdown_columns, pipe_table
from armillary.core.report import number

__all__ = ["cell_text", "markdown", "page", "terminal", "writers"]

#: Characters of a cell in the terminal with the gap behind it, of the names of estimates and of those of methods.
CELL, ESTIMATE, METHOD = 22, 28, 14


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
        for study, rows in by_study(it.rows).items():
            yield Text(f"\n{study}", style="bold")
            yield from _spaced(_tables(list(filter(has_value, rows)), it.methods, options.max_width))
            yield from (Text(f"  – {names}: {why}", style="dim") for why, names in (empty(rows) | reasons(rows)).items())
        for name, columns in it.tables.items():
            yield Text(f"\n{name}", style="bold")
            yield _listed(columns)
        yield Text(f"\n{legend()}", style="dim")
        yield from (Text(note, style="dim") for note in it.notes)
        if it.remarks:
            yield Text(f"{len(it.remarks)} remarks of the studies are in the page", style="dim")


def _spaced(tables: Sequence[Table]) -> Iterator[RenderableType]:
    """Tables with an empty line between."""
    for i, table in enumerate(tables):
        yield Padding(table, (min(i, 1), 0, 0, 0))


def _budget(it: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("budget")
    names = list(dict.fromkeys(name for of in it.budget.values() for name in of))
    for name in names:
        table.add_column(Text(name), justify="right")
    for method in it.methods:
        table.add_row(Text(method), *(number(it.budget.get(method, {}).get(name)) for name in names))
    return table


def _tables(rows: Sequence[Row], methods: Sequence[str], width: int) -> list[Table]:
    """As many cells beside each other as fit: a column per method, else columns of some estimates each, else one cell to a line."""
    if not rows:
        return []
    if ESTIMATE + CELL * len(methods) <= width:
        return [_wide(rows, methods)]
    n = (width - METHOD) // CELL
    if n < 2:
        return [_tall(rows, methods)]
    n = -(-len(rows) // -(-len(rows) // n))  # as many tables, alike in width
    return [_turned(rows[low : low + n], methods) for low in range(0, len(rows), n)]


def _wide(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """A row per estimate, a column per method."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", max_width=ESTIMATE)
    for name in (*methods, "null"):
        table.add_column(Text(name), justify="right")
    for row in rows:
        table.add_row(Text(row_name(row)), *(_text(row.cells[name]) for name in methods), Text(null_text(row), style="dim"))
    return table


def _turned(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """A row per method, a column per estimate."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", min_width=max(map(len, methods)))
    for row in rows:
        table.add_column(Text(row_name(row)), justify="right", min_width=CELL - 2)
    for name in methods:
        table.add_row(Text(name), *(_text(row.cells[name]) for row in rows))
    table.add_row(Text("null", style="dim"), *(Text(null_text(row), style="dim") for row in rows))
    return table


def _tall(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    """For narrow terminals: a row per estimate and method."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for row in rows:
        for i, name in enumerate(methods):
            table.add_row(Text(row_name(row) if i == 0 else ""), Text(name), _text(row.cells[name]))
        table.add_row("", Text("null", style="dim"), Text(null_text(row), style="dim"))
    return table


def _listed(columns: Mapping[str, Sequence[Any]]) -> Table:
    """All rows of a further table, long text folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, column in columns.items():
        table.add_column(Text(name), justify="right" if is_numeric(column) else "left", overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(table_text(cell)) for cell in row))
    return table


def _text(cell: Cell) -> Text:
    return Text(cell_text(cell), style="bold" if cell.is_best else "dim" if is_grey(cell) else "")


# ---------------------------------------------------------------- Markdown


def markdown(comparison: Comparison) -> str:
    """Pipe tables, one per study."""
    blocks = [f"# {comparison.title}", *(f"> **Note:** {text}" for text in comparison.warnings)]
    if comparison.budget:
        columns = budget_columns(comparison)
        blocks.append(pipe_table(list(columns), [list(map(table_text, row)) for row in zip(*columns.values(), strict=True)]))
    for study, rows in by_study(comparison.rows).items():
        blocks += [f"## {study}", *_pipes(rows, comparison.methods)]
    blocks += [block for name, columns in comparison.tables.items() for block in (f"## {name}", markdown_columns(columns))]
    blocks += [legend() + ".", "\n".join(f"- {note}" for note in (*comparison.notes, *comparison.remarks))]
    return "\n\n".join(blocks) + "\n"


def _pipes(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """The table of a study, and one of what is missing."""
    lines = [[row_name(row), *(_marked(row.cells[name]) for name in methods), null_text(row)] for row in rows if has_value(row)]
    missing = [[names, why] for why, names in (empty(rows) | reasons(rows)).items()]
    tables = ((["", *methods, "null"], lines), (["missing", "why"], missing))
    return [pipe_table(head, some) for head, some in tables if some]


def _marked(cell: Cell) -> str:
    text = cell_text(cell)
    return f"**{text}**" if cell.is_best else text


def writers() -> Mapping[str, Any]:
    """The endings a comparison can be written under, and what writes it."""
    return {".html": page, ".md": markdown, ".json": lambda it: json.dumps(it.to_json(), indent=1, allow_nan=False)}
