"""Pages in a real browser: figures are drawn, tables sort, nothing is logged as an error and no host is asked for anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from armillary.core import html
from armillary.core.render import report_parts
from armillary.core.report import Estimate, Report

CHROME = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "</script><img src='https://example.org/x.png' onerror='console.error(1)'>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROME is None, reason="no chromium found; install one or name it in CHROME"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps", "--no-default-browser-check",
    # Nothing can leave: names do not resolve and the only proxy is a closed port.
    "--proxy-server=http://127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--v=1", "--virtual-time-budget=8000", "--window-size=1280,1600",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: its elements after scripts ran, what it logged, and the addresses it asked for."""

    dom: str
    console: list[str]
    requests: list[str]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.console if not line.startswith("INFO")]

    @property
    def foreign(self) -> list[str]:
        return [url for url in self.requests if urlsplit(url).scheme not in ("file", "data", "blob", "about", "chrome")]


def visit(page: str, folder: Path, *flags: str) -> Visit:
    """Open a page from a file in a fresh browser."""
    file, log = folder / "page.html", folder / "net.json"
    file.write_text(page, encoding="utf-8")
    command = [str(CHROME), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = re.findall(r"\[[^\]]*?(INFO|WARNING|ERROR)?:CONSOLE[:(]\d+\)?\] (.*)", done.stderr)
    return Visit(done.stdout, [" ".join(line) for line in console], asked(log))


def asked(log: Path) -> list[str]:
    """Every address in the browser's network log that a page or the browser itself asked for."""
    record = json.loads(log.read_text())
    request = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    return [event["params"]["url"] for event in record["events"] if event["type"] == request and "url" in event.get("params", {})]


def sample_page(script: str = "") -> str:
    figures = {
        "curve": {"data": [{"type": "scatter", "x": [1, 2, 3], "y": [3, 1, 2]}], "layout": {"title": {"text": HOSTILE}}},
        "map": {"data": [{"type": "heatmap", "z": [[0, 1], [1, -1]]}], "layout": {}},
        "cloud": {"data": [{"type": "scattergl", "mode": "markers", "x": [1, 2], "y": [1, 2]}], "layout": {}},
    }
    report = Report(
        "Browser",
        estimates={"fvu": Estimate(0.2, 0.1, 0.3, n=9, null=1.0, ceiling=0.0, better="lower")},
        tables={"per_feature": {"feature": [0, 1, 2, 3], "density": [0.5, None, 0.25, 1e-9], "label": ["b", "c", "a", HOSTILE]}},
        figures=figures,
        notes=[HOSTILE],
    )
    sections = [*report_parts(report), html.section("Card", html.card("Feature 7", html.context([" a", " b"], [0.0, 1.0])))]
    return html.page("Browser", sections).replace("</body>", f"<script>{script}</script></body>")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return visit(sample_page(), tmp_path_factory.mktemp("page"))


def test_every_figure_is_drawn(seen: Visit) -> None:
    drawn = re.findall(r'<div class="canvas js-plotly-plot".*?</figure>', seen.dom, re.DOTALL)
    assert len(drawn) == 3
    assert all("main-svg" in canvas for canvas in drawn)
    assert "cannot be drawn" not in seen.dom


def test_nothing_is_logged_as_an_error(seen: Visit) -> None:
    assert seen.errors == []


def test_no_host_is_asked_for_anything(seen: Visit) -> None:
    assert any(url.startswith("file:") for url in seen.requests)
    assert seen.foreign == []


def test_hostile_text_makes_no_element(seen: Visit) -> None:
    assert "<img" not in seen.dom


PROBES: dict[str, Callable[[], str]] = {
    "console": lambda: "console.error('probe ' + 42)",
    "request": lambda: "",
}


def test_the_watch_itself_sees_errors_and_requests(tmp_path: Path) -> None:
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", sample_page("console.error('probe'); fetch('http://example.org/probe')"), count=1)
    found = visit(without_policy, tmp_path)
    assert any("probe" in line for line in found.errors)
    assert any("example.org" in url for url in found.foreign)


def test_the_policy_keeps_even_a_script_from_asking(tmp_path: Path) -> None:
    found = visit(sample_page("fetch('http://example.org/probe').catch(() => 0)"), tmp_path)
    assert found.foreign == []
    assert any("Content Security Policy" in line for line in found.console)


def sorted_column(column: int, clicks: int, folder: Path) -> list[str]:
    """The table's cells of a column after some clicks on its head."""
    click = f"for (let i = 0; i < {clicks}; i++) document.querySelectorAll('table.data th button')[{column}].click();"
    dom = visit(sample_page(click), folder).dom
    body = re.search(r'<table class="data">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL)
    assert body is not None
    return [re.findall(r"<td[^>]*>(.*?)</td>", row)[column] for row in body[1].split("</tr>")[:-1]]


@pytest.mark.parametrize(
    ("column", "clicks", "expected"),
    [
        (1, 1, ["0.5", "0.25", "1e-09", "–"]),
        (1, 2, ["1e-09", "0.25", "0.5", "–"]),
        (2, 1, [html.markup(HOSTILE).replace("&#x27;", "'"), "a", "b", "c"]),
    ],
)
def test_tables_sort_with_what_is_missing_last(column: int, clicks: int, expected: list[str], tmp_path: Path) -> None:
    assert sorted_column(column, clicks, tmp_path) == expected


def colours(dom: str) -> set[str]:
    return set(re.findall(r"fill: ?(rgb\([^)]*\))", dom))


def test_figures_follow_the_readers_colours(seen: Visit, tmp_path: Path) -> None:
    dark = visit(sample_page(), tmp_path, "--blink-settings=preferredColorScheme=0")
    assert "rgb(28, 32, 36)" in colours(seen.dom)
    assert "rgb(228, 230, 232)" in colours(dark.dom)
    assert "rgb(28, 32, 36)" not in colours(dark.dom)


def test_nothing_is_wider_than_a_narrow_screen(tmp_path: Path) -> None:
    report = "const d = document.documentElement; document.title = d.scrollWidth + ' of ' + d.clientWidth;"
    inner = tmp_path / "inner.html"
    inner.write_text(sample_page(f"setTimeout(() => {{ {report} parent.postMessage(document.title, '*') }}, 3000)"), encoding="utf-8")
    frame = f'<iframe src="{inner.as_uri()}" style="width:390px;height:900px;border:0"></iframe><p></p>'
    listen = "<script>addEventListener('message', (e) => document.querySelector('p').textContent = e.data)</script>"
    dom = visit(f"<!doctype html>{frame}{listen}", tmp_path).dom
    widths = re.search(r"<p>(\d+) of (\d+)</p>", dom)
    assert widths is not None
    assert int(widths[1]) <= int(widths[2]) <= 390
