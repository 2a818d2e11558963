"""The page of a comparison: it fits a window with ten methods, scrolls inside the table on a phone, and its grey can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from armillary.core import html
from armillary.core.comparison_view import page
from armillary.core.html.page import style
from core.test_comparison import many
from core.test_render_browser import CHROME, visit

MEASURE = """
const wide = (e) => `${e.scrollWidth - e.clientWidth}`;
const table = document.querySelector(".sideways");
const first = table.querySelector("tr:nth-child(2) th");
table.scrollLeft = 200;
const left = (e) => e.getBoundingClientRect().left;
document.title = [wide(document.documentElement), wide(table), Math.round(left(first) - left(table))].join(" ");
"""


def measured(n_methods: int, width: int, folder: Path) -> list[int]:
    """Pixels by which the page, and the table, are wider than what is seen of them, and where the first column is once scrolled."""
    text = page(many(n_methods)).replace("</body>", f"<script>{MEASURE}</script></body>")
    found = re.search(r"<title>(.*?)</title>", visit(text, folder, f"--window-size={width},900").dom)
    assert found
    return [int(part) for part in found[1].split()]


@pytest.mark.browser
@pytest.mark.skipif(CHROME is None, reason="no chromium found; install one or name it in CHROME")
@pytest.mark.parametrize(("n_methods", "width"), [(10, 1280), (10, 500), (14, 1280)])
def test_the_page_never_scrolls_sideways_and_the_table_only_where_it_has_to(n_methods: int, width: int, tmp_path: Path) -> None:
    page_over, table_over, first = measured(n_methods, width, tmp_path)
    assert page_over == 0 and first == 0
    assert (table_over > 0) == (n_methods > 10 or width < 1280)


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r"--bg: #[^}]*", style())[:2]
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))


def brightness(colour: str) -> float:
    """Relative luminance, of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_grey_can_be_read(scheme: str) -> None:
    """A contrast of 4.5, what WCAG 2 asks of small type."""
    found = colours(scheme)
    low, high = sorted(brightness(found[name]) for name in ("bg", "dim"))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_every_mark_is_explained_beside_an_example() -> None:
    text = page(many(2))
    key = text[text.index('<dl class="key">') : text.index("</dl>")]
    assert all(mark in key for mark in "★°≈?–") and key.count("<dt") == key.count("<dd>") == 6


def test_names_break_at_their_joints_and_cannot_become_markup() -> None:
    hostile = "<img src=x>-sae"
    text = html.grouped_table([hostile], {hostile: [(html.markup(hostile), [html.tag("td", hostile)])]}, label=hostile)
    assert "<img" not in text and '<th scope="col">&lt;img src=x&gt;-<wbr>sae</th>' in text
