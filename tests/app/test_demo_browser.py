"""The demo's page in a real browser: drawn, quiet, alone, and wide enough on a narrow screen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from core.test_render_browser import CHROME, Visit, visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROME is None, reason="no chromium found; install one or name it in CHROME"),
]
#: Writes into the title how far the page is wider than the window.
OVERFLOW = "<script>document.title = `overflow ${document.documentElement.scrollWidth - innerWidth}`</script></body>"


@pytest.fixture(scope="module")
def page(run: Any, gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("demo") / "run"
    answer = run("demo", "--model", gpt2, "--text", text, "--out", out)
    assert answer.code == 0, answer.err
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(page: str, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return visit(page, tmp_path_factory.mktemp("page"))


def test_figures_are_drawn_and_the_console_stays_empty(seen: Visit) -> None:
    drawn = re.findall(r'<div class="canvas js-plotly-plot".*?</figure>', seen.dom, re.DOTALL)
    assert len(drawn) == 4  # loss and density at two sites
    assert all("main-svg" in canvas for canvas in drawn)
    assert seen.console == []


def test_no_host_is_asked_for_anything(seen: Visit) -> None:
    assert seen.requests == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_window(width: int, page: str, tmp_path: Path) -> None:
    found = visit(page.replace("</body>", OVERFLOW), tmp_path, f"--window-size={width},900")
    match = re.search(r"<title>overflow (-?\d+)</title>", found.dom)
    assert match is not None
    assert int(match[1]) <= 0
