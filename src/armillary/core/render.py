"""How a report draws itself: in a terminal, as HTML and as Markdown."""

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
from armillary.core.html.tables import ARROWS, cell_text, is_numeric, places, way
from armillary.core.progress import duration
from armillary.core.report import Estimate, Report, number, plain

#: Rows of a data table in the terminal and in Markdown.
TERMINAL_ROWS, MARKDOWN_ROWS = 8, 50
BAR_CELLS = 21


# ---------------------------------------------------------------- HTML


def report_page(report: Report) -> str:
    """One self-contained HTML file: plotly.js is inside, no host is asked for anything."""
    return html.page(report.title, report_parts(report), lead=_lead(report))


def report_section(report: Report) -> html.Html:
    """The report as one block of markup under an h3, to be put into a page beside others."""
    return html.tag("article", html.tag("h3", report.title), *(part.body for part in report_parts(report)), class_="report")


def report_parts(report: Report) -> list[html.Section]:
    """The report's sections, those without content left out."""
    results = [html.warning(text) for text in report.warnings]
    results += [html.estimates_table(report.estimates)] if report.estimates else []
    parts = {
        "Results": results,
        "Figures": [html.figure(spec, title=_words(name), alt=_words(name)) for name, spec in report.figures.items()],
        "Tables": [html.data_table(columns, caption=_words(name)) for name, columns in report.tables.items()],
        "How it was made": [*([html.listing(report.notes)] if report.notes else []), *_provenance(report)],
    }
    return [html.section(title, *bodies) for title, bodies in parts.items() if bodies]


def _provenance(report: Report) -> list[html.Html]:
    flat = flatten(report.provenance)
    return [html.details("Provenance", html.facts(flat))] if flat else []


def _lead(report: Report) -> str:
    return f"Measured in {duration(report.seconds)}." if report.seconds >= 1 else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten(item, f"{prefix}{key}.") if isinstance(item, Mapping) and item else {f"{prefix}{key}": item}
    return found


# ---------------------------------------------------------------- Markdown


def report_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown: estimates and tables as pipe tables, figures by name only."""
    blocks = [f"# {_escape(report.title)}"]
    blocks += [f"> **Note:** {_escape(text)}" for text in report.warnings]
    if report.estimates:
        rows = [_markdown_estimate(name, estimate) for name, estimate in report.estimates.items()]
        blocks.append(pipe_table(["estimate", "value", "95 % interval", "null", "ceiling", "n", "p", "q"], rows))
    for name, columns in report.tables.items():
        blocks += [f"## {_escape(_words(name))}", markdown_columns(columns)]
    if report.figures:
        blocks.append(f"Figures (in the HTML report): {', '.join(_escape(_words(name)) for name in report.figures)}.")
    blocks += ["\n".join(f"- {_escape(note)}" for note in report.notes)] if report.notes else []
    if report.provenance:
        record = json.dumps(plain(report.provenance), indent=1, ensure_ascii=False)
        blocks.append("## Provenance\n\n" + "\n".join(f"    {line}" for line in record.splitlines()))
    return "\n\n".join(blocks) + "\n"


def _markdown_estimate(name: str, estimate: Estimate) -> list[str]:
    if estimate.value is None:
        return [name, f"not available: {estimate.reason}", *[""] * 6]
    arrow = ARROWS.get(estimate.better, ("", ""))[0]
    value = f"**{number(estimate.value)}**{f' {estimate.unit}' if estimate.unit else ''}"
    numbers = [estimate.null, estimate.ceiling, estimate.n or None, estimate.p, estimate.q]
    return [f"{name} {arrow}".strip(), value, _interval(estimate), *("" if item is None else number(item) for item in numbers)]


def markdown_columns(columns: Mapping[str, Sequence[Any]]) -> str:
    """The first rows of a data table."""
    n = _n_rows(columns)
    rows = [[cell_text(column[i]) for column in columns.values()] for i in range(min(n, MARKDOWN_ROWS))]
    more = f"\n\n{n - MARKDOWN_ROWS:,} more rows are in the JSON report." if n > MARKDOWN_ROWS else ""
    return pipe_table(list(columns), rows) + more


def pipe_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as GitHub writes it; cells cannot become markup."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escape(cell, bold=True) for cell in line) + " |" for line in lines)


def _escape(text: str, *, bold: bool = False) -> str:
    """Text that cannot become markup, or leave its table cell."""
    safe = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("[", "\\[").replace("`", "\\`")
    safe = safe if bold else safe.replace("*", "\\*")
    return " ".join(safe.split("\n"))


# ---------------------------------------------------------------- terminal


def report_table(report: Report) -> RenderableType:
    """Something rich prints: it chooses its columns by the width of the terminal."""
    return _Terminal(report)


@dataclass(frozen=True)
class _Terminal:
    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        report, marks = self.report, _ASCII if options.ascii_only else _UNICODE
        yield Text(report.title, style="bold")
        yield from (Padding(Text(f"{marks['warning']} {text}", style="yellow"), (0, 0, 0, 2)) for text in report.warnings)
        if report.estimates:
            yield from _estimates(report.estimates, options.max_width, marks)
        for name, columns in report.tables.items():
            yield from _columns(_words(name), columns, options.max_width, marks)
        yield Text("")
        yield from (Text(note, style="dim") for note in report.notes)
        if report.figures:
            drawn = ", ".join(_words(name) for name in report.figures)
            yield Text(f"Figures: {drawn} (report.save('report.html') draws them)", style="dim")


_UNICODE = {
    "warning": "⚠",
    "axis": "─",
    "interval": "━",
    "value": "●",
    "null": "│",
    "ceiling": "┊",
    "higher": "↑",
    "lower": "↓",
    "dash": "–",
}
_ASCII = {"warning": "!", "axis": "-", "interval": "=", "value": "o", "null": "|", "ceiling": ":", "higher": "+", "lower": "-", "dash": "-"}


def _estimates(estimates: Mapping[str, Estimate], width: int, marks: Mapping[str, str]) -> Iterator[RenderableType]:
    """All columns from 100 characters, value, interval and bar from 60, and value over interval below that."""
    known = {name: estimate for name, estimate in estimates.items() if estimate.value is not None}
    shown = [name for name in _columns_for(width) if any(_terminal_cell(name, estimate, marks).plain for estimate in known.values())]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=width >= 60)
    table.add_column("", overflow="fold", min_width=min(24, max((len(name) + 2 for name in known), default=0)))
    for name in shown:
        table.add_column(name, justify="left" if name == "null to ceiling" or width < 60 else "right", no_wrap=True)
    for name, estimate in known.items():
        label = Text.assemble(name, (f" {marks[estimate.better]}", "dim")) if estimate.better in marks else Text(name)
        table.add_row(label, *(_terminal_cell(column, estimate, marks) for column in shown))
    yield table
    missing = {name: estimate.reason for name, estimate in estimates.items() if estimate.value is None}
    yield from (Text(f"{name}: not available, {reason}", style="dim") for name, reason in missing.items())


def _columns_for(width: int) -> list[str]:
    if width < 60:
        return ["value over interval"]
    names = ["value", "95 % interval", "null", "null to ceiling", "ceiling", "n", "p", "q"]
    return names if width >= 100 else ["value", "95 % interval", "null to ceiling"]


def _terminal_cell(column: str, estimate: Estimate, marks: Mapping[str, str]) -> Text:
    value = Text.assemble((number(estimate.value), "bold"), (f" {estimate.unit}" if estimate.unit else "", "dim"))
    interval = Text(_interval(estimate).replace("–", marks["dash"]))
    found = {"null": estimate.null, "ceiling": estimate.ceiling, "n": estimate.n or None, "p": estimate.p, "q": estimate.q}
    if column == "value over interval":
        return Text("\n").join([value, interval]) if interval.plain else value
    if column in found:
        return Text("" if found[column] is None else number(found[column]), style="dim")
    return {"value": value, "95 % interval": interval, "null to ceiling": _bar(estimate, marks)}[column]


def _bar(estimate: Estimate, marks: Mapping[str, str]) -> Text:
    """The value and its interval on a line from null to ceiling; empty where either is missing."""
    share, place = way(estimate), places(estimate)
    if share is None:
        return Text("")
    cell = {name: round((BAR_CELLS - 1) * where) for name, where in place.items()}
    kinds = ["axis"] * BAR_CELLS
    low, high = sorted((cell.get("low", cell["value"]), cell.get("high", cell["value"])))
    kinds[low : high + 1] = ["interval"] * (high - low + 1)
    for name in ("null", "ceiling", "value"):
        kinds[cell[name]] = name
    line = Text.assemble(*((marks[kind], "blue" if kind in ("value", "interval") else "dim") for kind in kinds))
    return line.append(f" {share:>4.0%}", style="dim")


def _interval(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"{number(estimate.low)} – {number(estimate.high)}"


def _columns(title: str, columns: Mapping[str, Sequence[Any]], width: int, marks: Mapping[str, str]) -> Iterator[RenderableType]:
    """The first rows of a data table, and as many columns as fit."""
    n = _n_rows(columns)
    if n == 0:
        yield Text.assemble((f"\n{title}", "bold"), ("  none", "dim"))
        return
    rows = [[cell_text(column[i]).replace("–", marks["dash"]) for column in columns.values()] for i in range(min(n, TERMINAL_ROWS))]
    widths = [min(40, max(len(name), *(len(row[i]) for row in rows), 0)) + 2 for i, name in enumerate(columns)]
    n_fit = max(1, sum(sum(widths[: i + 1]) <= width for i in range(len(widths))))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, column in list(columns.items())[:n_fit]:
        table.add_column(name, justify="right" if is_numeric(column) else "left", max_width=40, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[:n_fit]))
    yield Text(f"\n{title}", style="bold")
    yield table
    hidden = [f"{count:,} more {what}" for count, what in ((n - len(rows), "rows"), (len(columns) - n_fit, "columns")) if count]
    if hidden:
        yield Text(f"{' and '.join(hidden)} (report.save('report.html') shows all)", style="dim")


def _n_rows(columns: Mapping[str, Sequence[Any]]) -> int:
    return len(next(iter(columns.values()), ()))
