"""A report's three faces: what is in them, that hostile text stays text, and that they fit the space they are given."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from armillary.core import html
from armillary.core.html.tables import places, way
from armillary.core.render import report_markdown, report_page, report_parts, report_section, report_table
from armillary.core.report import Estimate, Report
from armillary.errors import ShapeError

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"

ESTIMATES = {
    "fvu": Estimate(0.18, 0.17, 0.2, n=246_900, null=1.0, ceiling=0.0, better="lower", p=0.0005, q=0.002),
    "l0": Estimate(32.0, n=10, unit="features"),
    "absorption": Estimate.missing("the model has no logits"),
}
FIGURE = {"data": [{"type": "scatter", "x": [1, 2], "y": [0.5, float("nan")]}], "layout": {"height": 300}}


def sample(**changed: Any) -> Report:
    given: dict[str, Any] = {
        "estimates": ESTIMATES,
        "tables": {"per_feature": {"feature": np.arange(30), "density": np.linspace(0, 1, 30), "label": ["euro", None, "x|y"] * 10}},
        "figures": {"density_plot": FIGURE},
        "notes": ["measured twice"],
        "warnings": ["few documents"],
        "provenance": {"model": "arm-small", "study": {"seed": 3, "sites": ["mlp_act.1"]}},
        "seconds": 83.0,
    }
    return Report("Fidelity", **(given | changed))


class Page(HTMLParser):
    """Elements with their attributes, visible text, and whether every element is closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if {"script", "style"} & set(self.open) else data

    def all(self, tag: str, /, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [found for kind, found in self.elements if kind == tag and wanted.items() <= found.items()]


def printed(report: Report, width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=file, width=width).print(report_table(report))
    file.flush()
    return raw.getvalue().decode(encoding)


# ---------------------------------------------------------------- where a value lies between null and ceiling


def test_null_is_left_and_ceiling_right_whichever_is_larger() -> None:
    for sign in (1, -1):
        place = places(Estimate(sign * 0.25, sign * 0.2, sign * 0.3, null=0.0, ceiling=sign * 1.0))
        assert place == pytest.approx({"value": 0.25, "low": 0.2, "high": 0.3, "null": 0.0, "ceiling": 1.0})


def test_a_value_beyond_its_ends_stays_on_the_line() -> None:
    worse = places(Estimate(-1.0, null=0.0, ceiling=1.0))
    assert worse == {"value": 0.0, "null": 0.5, "ceiling": 1.0}
    assert way(Estimate(-1.0, null=0.0, ceiling=1.0)) == -1.0


def test_no_scale_without_anything_to_compare_with() -> None:
    assert places(Estimate(1.0, 0.5, 2.0)) == {}
    assert way(Estimate(1.0, null=0.0)) is None
    assert way(Estimate(1.0, null=2.0, ceiling=2.0)) is None


# ---------------------------------------------------------------- HTML


def test_page_has_landmarks_and_a_policy_and_nothing_from_elsewhere() -> None:
    page = Page(report_page(sample()))
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert len(page.all(landmark)) >= 1, landmark
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in str(policy)
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert str(attributes.get("href", "#")).startswith(("#", "data:,"))
    assert page.all("meta", name="viewport")
    assert page.all("html", lang="en")


def test_page_says_everything_the_report_holds() -> None:
    text = Page(report_page(sample())).text
    for part in ("Fidelity", "1 min 23 s", "few documents", "0.18", "0.17 – 0.2", "246,900", "82%", "0.0005", "features"):
        assert part in text, part
    for part in ("not available: the model has no logits", "per feature", "density plot", "measured twice", "study.seed", "arm-small"):
        assert part in text, part


def test_navigation_leads_to_every_section() -> None:
    page = Page(report_page(sample()))
    targets = [str(link["href"])[1:] for link in page.all("a") if link.get("class") != "skip"]
    sections = page.all("section")
    assert targets == [section["id"] for section in sections] == ["results", "figures", "tables", "how-it-was-made"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(section["aria-labelledby"] in ids for section in sections)


def test_sections_with_the_same_title_have_different_anchors() -> None:
    page = Page(html.page("x", [html.section("A b"), html.section("A b"), html.section("…")]))
    assert [section["id"] for section in page.all("section")] == ["a-b", "a-b-2", "section"]


def test_empty_report_is_still_a_page() -> None:
    page = Page(report_page(Report("Nothing")))
    assert "Nothing" in page.text
    assert not page.all("section")


def test_plotly_is_in_the_page_exactly_where_there_are_figures() -> None:
    assert len(report_page(sample())) > 1_000_000
    assert len(report_page(sample(figures={}))) < 100_000


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from strings_in(item)


def test_hostile_text_stays_text_everywhere() -> None:
    figure = {"data": [{"type": "bar", "x": [HOSTILE], "y": [1]}], "layout": {"title": {"text": HOSTILE}}}
    report = Report(
        HOSTILE,
        estimates={HOSTILE: Estimate(1.0, null=0.0, ceiling=2.0, unit=HOSTILE), "b": Estimate.missing(HOSTILE)},
        tables={HOSTILE: {HOSTILE: [HOSTILE]}},
        figures={HOSTILE: figure},
        notes=[HOSTILE],
        warnings=[HOSTILE],
        provenance={HOSTILE: {HOSTILE: [HOSTILE]}, "b": HOSTILE},
    )
    text = report_page(report)
    page = Page(text)
    assert not page.all("img")
    assert page.text.count(HOSTILE) >= 12
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    spec = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert spec is not None
    assert HOSTILE in set(strings_in(json.loads(spec[1])))


def test_hostile_text_stays_text_in_every_part() -> None:
    parts = html.join(
        html.card(HOSTILE, HOSTILE, subtitle=HOSTILE, id_=HOSTILE),
        html.context([HOSTILE, HOSTILE], [0.0, 1.0]),
        html.token_list([(HOSTILE, 1.0)], [(HOSTILE, -1.0)]),
        html.facts({HOSTILE: [HOSTILE]}),
        html.details(HOSTILE, HOSTILE),
        html.listing([HOSTILE]),
        html.link(HOSTILE, HOSTILE),
        html.data_table({HOSTILE: [HOSTILE]}, caption=HOSTILE),
        html.tag("b", HOSTILE, title=HOSTILE),
        html.figure({"data": []}, title=HOSTILE, alt=HOSTILE),
    )
    page = Page(parts)
    assert not page.all("img")
    assert len(page.all("b", title=HOSTILE)) == 1


def test_only_html_is_markup() -> None:
    assert html.join("<i>", html.Html("<b></b>"), 1234567) == "&lt;i&gt;<b></b>1,234,567"
    assert html.markup(f"{html.Html('<b>')}") == "&lt;b&gt;"
    assert html.Html("<b>").__html__() == "<b>"


def test_figure_json_has_gaps_for_nan_and_takes_numpy() -> None:
    spec = {"data": [{"y": np.array([1.0, np.nan, np.inf])}], "layout": {"height": np.int64(200)}}
    text = html.figure(spec, title="t")
    assert "[1.0, null, null]" in text
    assert "min-height:200px" in text


def test_figures_are_named_for_those_who_do_not_see_them() -> None:
    canvas = Page(html.figure(FIGURE, title="Density", alt="most features are rare")).all("div", role="img")
    assert [found["aria-label"] for found in canvas] == ["most features are rare"]


def test_tables_have_headers_and_roles() -> None:
    page = Page(html.join(html.estimates_table(ESTIMATES), html.data_table({"a": [1, 2]}, caption="few")))
    assert all("scope" in head for head in page.all("th"))
    assert page.all("div", role="region")[0]["aria-label"] == "few"
    assert page.all("div", role="region")[0]["tabindex"] == "0"
    assert any("null 1" in str(picture["aria-label"]) for picture in page.all("svg"))


def test_data_table_sorts_by_full_precision_and_marks_what_is_missing() -> None:
    page = Page(html.data_table({"x": [0.123456789, None, np.float32(2)], "name": ["b", "a", None], "on": [True, False, None]}))
    values = [cell.get("data-value") for cell in page.all("td", class_="number")]
    assert values == ["0.123456789", None, "2.0"]
    assert [head.get("class") for head in page.all("th")] == ["number", None, None]
    assert page.text == "xnameon0.1235byes–ano2––"


def test_long_table_says_how_much_it_leaves_out() -> None:
    page = Page(html.data_table({"x": list(range(5000))}, caption="features", max_rows=10))
    assert "features: the first 10 of 5,000 rows" in page.text
    assert len(page.all("tr")) == 11


def test_table_cells_may_hold_links() -> None:
    page = Page(html.data_table({"feature": [html.link(7, "#feature-7")]}))
    assert page.all("a", href="#feature-7")


def test_context_tints_by_share_of_the_scale_and_tells_the_value() -> None:
    page = Page(html.context([" a", " b\n", " c", " d"], [0.0, 2.0, -1.0, 8.0], scale=4.0, focus=0))
    marks = page.all("mark")
    assert [mark["style"] for mark in marks] == ["--share:0", "--share:0.5", "--share:0.25", "--share:1"]
    assert [mark["class"] for mark in marks] == ["above focus", "above", "below", "above"]
    assert [mark["title"] for mark in marks] == ["0", "2", "-1", "8"]
    assert page.text == " a b↵\n c d"


def test_context_without_any_activation_is_plain_text() -> None:
    assert not Page(html.context([" a", " b"], [0.0, 0.0])).all("mark")
    with pytest.raises(ShapeError, match="1 tokens with 2 activations"):
        html.context(["a"], [1.0, 2.0])


def test_token_list_shows_spaces_and_leaves_out_an_empty_side() -> None:
    page = Page(html.token_list([(" euro", 3.0), ("\n", 1.5)], []))
    assert "␣euro" in page.text
    assert "↵" in page.text
    assert "Suppressed" not in page.text
    assert [bar["style"] for bar in page.all("span", class_="bar above")] == ["--share:1", "--share:0.5"]


def test_provenance_is_folded_away() -> None:
    page = Page(report_page(sample()))
    assert [found.get("open") for found in page.all("details")] == [None]
    assert '["mlp_act.1"]' in page.text


def test_section_and_notebook_hold_the_report_without_plotly() -> None:
    section = Page(report_section(sample()))
    assert "Fidelity" in section.text
    assert len(section.all("h3")) == 1
    notebook = sample()._repr_html_()
    assert "<style>" in notebook
    assert len(notebook) < 60_000
    assert "density plot (drawn by JavaScript)" in Page(notebook).text


def test_parts_without_content_are_left_out() -> None:
    assert [part.title for part in report_parts(Report("x", notes=["n"]))] == ["How it was made"]


# ---------------------------------------------------------------- Markdown


def test_markdown_holds_the_report_and_its_tables_are_square() -> None:
    text = report_markdown(sample())
    assert text.startswith("# Fidelity\n")
    assert "| fvu ↓ | **0.18** | 0.17 – 0.2 | 1 | 0 | 246,900 | 0.0005 | 0.002 |" in text
    assert "x\\|y" in text
    assert '"seed": 3' in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| fvu") or line.startswith("| l0")}
    assert widths == {9}


def test_markdown_cannot_be_broken_out_of() -> None:
    evil = "a|b\n# head <img> [x](http://y) `c` *d*"
    text = report_markdown(Report(evil, notes=[evil], tables={"t": {"c": [evil]}}))
    assert "<img" not in text
    assert text.count("\n# head") == 0
    assert "](http" not in text.replace("\\[x](http", "")


def test_markdown_shortens_long_tables() -> None:
    text = report_markdown(Report("x", tables={"t": {"c": list(range(80))}}))
    assert "30 more rows" in text


# ---------------------------------------------------------------- terminal


@pytest.mark.parametrize("width", [40, 70, 80, 100, 160])
def test_terminal_never_exceeds_its_width_and_always_shows_the_value(width: int) -> None:
    text = printed(sample(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for part in ("fvu", "0.18", "0.17 – 0.2", "few documents", "no logits", "measured twice"):
        assert part in re.sub(r"\s+", " ", text), part


def test_wide_terminal_draws_the_way_from_null_to_ceiling() -> None:
    line = next(line for line in printed(sample(), 140).splitlines() if line.startswith("fvu"))
    bar = re.search(r"│[─━●]+┊", line)
    assert bar is not None
    assert len(bar[0]) == 21
    assert bar[0].index("●") == round(20 * 0.82)
    assert "82%" in line


def test_terminal_without_unicode_draws_in_ascii() -> None:
    text = printed(sample(tables={}), 140, encoding="ascii")
    assert "o" in text
    assert re.search(r"\|[-=o]+:", text)


def test_terminal_hides_columns_and_rows_that_do_not_fit() -> None:
    wide = {f"column_{i}": ["some text"] * 30 for i in range(9)}
    text = printed(Report("x", tables={"t": wide}), 60)
    assert "22 more rows" in text
    assert "more columns" in text


@pytest.mark.parametrize("columns", [{}, {"feature": [], "reason": []}])
def test_terminal_says_that_a_table_is_empty(columns: dict[str, list[str]]) -> None:
    text = printed(Report("x", tables={"left out": columns}), 60)
    assert "left out  none" in text and "more columns" not in text and "reason" not in text


def test_terminal_takes_brackets_as_text() -> None:
    assert "[bold]x[/bold]" in printed(Report("[bold]x[/bold]", warnings=["[red]"], notes=["[/]"]), 80)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_can_be_shown(value: float) -> None:
    report = Report("broken", {"x": Estimate(value, null=0.0, ceiling=1.0, better="higher")})
    report.show()
    assert "broken" in report_page(report)
