"""Pages in a real browser: figures are drawn, tables sort, nothing is logged as an error and no host is asked for anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps", "--no-default-browser-check",
    # Nothing can leave: names do not resolve and the only proxy is a closed port.
    "--proxy-server=http://127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--v=1", "--virtual-time-budget=4000", "--window-size=1280,1600",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: its elements after scripts ran, every console message, and the addresses the page asked for."""

    dom: str
    console: list[str]
    requests: list[str]


def visit(page: str, folder: Path, *flags: str) -> Visit:
    """Open a page from a file in a fresh browser."""
    file, log = folder / "page.html", folder / "net.json"
    file.write_text(page, encoding="utf-8")
    command = [str(CHROME), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # Software WebGL reports on itself in lines that start with its own mark.
    console = [line for line in re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", done.stderr) if not line.startswith('"[.WebGL')]
    return Visit(done.stdout, console, asked(log))


def asked(log: Path) -> list[str]:
    """Every address in the browser's network log that has a page as its initiator; the browser's own updates have "not an origin"."""
    record = json.loads(log.read_text())
    kind = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event["params"] for event in record["events"] if event["type"] == kind and "params" in event]
    return [request["url"] for request in requests if request.get("initiator", "not an origin") != "not an origin"]


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
    assert not any("cannot be drawn" in canvas for canvas in drawn)


def test_the_console_stays_empty(seen: Visit) -> None:
    assert seen.console == []


def test_no_host_is_asked_for_anything(seen: Visit) -> None:
    assert seen.requests == []


def test_hostile_text_makes_no_element(seen: Visit) -> None:
    assert "<img" not in seen.dom


def test_the_watch_itself_sees_messages_and_requests(tmp_path: Path) -> None:
    script = "console.error('probe'); fetch('http://example.org/probe'); new Image().src = 'https://example.net/x.png'"
    found = visit(f"<!doctype html><script>{script}</script>", tmp_path)
    assert any("probe" in line for line in found.console)
    assert found.requests == ["http://example.org/probe", "https://example.net/x.png"]


def test_the_policy_keeps_even_a_script_from_asking(tmp_path: Path) -> None:
    script = "fetch('http://example.org/probe').catch(() => 0); new Image().src = 'https://example.net/x.png'"
    found = visit(html.page("x", [html.section("y", html.tag("script", html.Html(script)))]), tmp_path)
    assert found.requests == []
    assert sum("Content Security Policy" in line for line in found.console) >= 2


def test_tables_sort_with_what_is_missing_last(tmp_path: Path) -> None:
    table = html.data_table({"density": [0.5, None, 0.25, 1e-9], "label": ["b", "c", "a10", "a9"]})
    script = """
      const orders = [0, 0, 1].map((column) => {
        document.querySelectorAll("table.data th button")[column].click();
        const heads = [...document.querySelectorAll("th")].map((head) => head.getAttribute("aria-sort"));
        return [heads, [...document.querySelectorAll("tbody tr")].map((row) => row.cells[column].textContent)];
      });
      document.title = JSON.stringify(orders);"""
    page = html.page("x", [html.section("y", table)]).replace("</body>", f"<script>{script}</script></body>")
    title = re.search(r"<title>(.*?)</title>", visit(page, tmp_path).dom)
    assert title is not None
    assert json.loads(title[1]) == [
        [["descending", "none"], ["0.5", "0.25", "1e-09", "–"]],
        [["ascending", "none"], ["1e-09", "0.25", "0.5", "–"]],
        [["none", "ascending"], ["a9", "a10", "b", "c"]],
    ]


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
