"""Drawing: what the figures of regions share - colours, labels that keep their distance, tokens as text, and files."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from armillary.core import html as core
from armillary.core.artifact import new_file, write_atomic
from armillary.core.html import Content
from armillary.core.report import plain
from armillary.core.statistics import Floats
from armillary.core.tokens import Tokens

Figure = dict[str, Any]
#: Told apart on light and on dark ground, and by most people who do not see all colours.
PALETTE = ("#2f80c9", "#d9772a", "#1f9e7e", "#b565a0", "#b08a16", "#8a6a4a")
GREY = "#8b9199"
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"}


def apart(points: Floats, *, n: int, width: float = 0.11, height: float = 0.05) -> tuple[list[int], list[str]]:
    """Which of the points [m, 2], at most n, can be labelled without labels on each other, and each label's side: the one that covers fewer
    points.

    Args:
        points: the most important first.
        n: labels at most.
        width, height: of a label, as shares of the drawing.
    """
    size = np.ptp(points, axis=0) if len(points) else np.ones(2)
    place, box = points / np.where(size > 0, size, 1), np.array([width, height])
    kept: list[int] = []
    sides: list[str] = []
    centres = np.zeros((0, 2))
    for i, point in enumerate(place):
        if len(kept) == n:
            break
        free = [(side, point + np.array([0, by * height])) for side, by in (("top center", 0.8), ("bottom center", -0.8))]
        free = [(side, centre) for side, centre in free if not (np.abs(centres - centre) < box).all(axis=1).any()]
        if free:
            side, centre = min(free, key=lambda one: (np.abs(place - one[1]) < box / 2).all(axis=1).sum())
            kept, sides, centres = [*kept, i], [*sides, side], np.vstack([centres, centre])
    return kept, sides


def token_text(text: str) -> str:
    """A token as it can stand alone: spaces and line ends are visible, nothing is markup."""
    shown = text.replace("\r", "").replace("\n", "↵").replace("\t", "⇥")
    return html.escape(shown.strip() or shown.replace(" ", "␣") or "∅", quote=False)


def word_so_far(tokens: Tokens, row: int, n: int = 8) -> str:
    """A row's token in bold after what there is of its word before it, as a label."""
    *before, token = tokens.window_tokens(row, 2 * n, 0)
    start = tokens.text(token)
    left = "".join(tokens.text(i) for i in before) if start[:1].isalnum() else ""
    left = re.split(r"[\W_]", left)[-1]
    left = left if len(left) <= n else f"…{left[-n:]}"
    return f"{html.escape(left, quote=False)}<b>{token_text(start)}</b>"


def in_context(tokens: Tokens, row: int, left: int, right: int) -> str:
    """A row's token in bold, with the text around it, as plotly's hover shows it."""
    around = tokens.window_tokens(row, left, right)
    token = int(tokens.rows[row])
    pieces = [html.escape(tokens.text(i).replace("\n", "↵").replace("\t", "⇥"), quote=False) for i in around]
    return "".join(f"<b>{piece}</b>" if i == token else piece for i, piece in zip(around, pieces, strict=True))


# ---------------------------------------------------------------- files


#: The endings a figure can be written under.
ENDINGS = (".html", ".json")


def save(
    figure: Figure, path: str | os.PathLike[str], *, title: str, lead: Content = "", facts: Mapping[str, Any] = MappingProxyType({})
) -> Path:
    """Write a figure as .html, one self-contained page, or as .json, which `plotly.io.from_json` reads.

    Args:
        figure: plotly JSON.
        path: a new file.
        title: of the page.
        lead: a line or two on what is seen.
        facts: what it was made from.

    Raises:
        InputError: another ending.
        OutputExistsError: the file exists.
    """
    target = new_file(path, "a figure", ENDINGS)
    sections = [core.section("Figure", core.figure(figure, alt=title))]
    sections += [core.section("How it was made", core.facts(facts))] if facts else []
    text = core.page(title, sections, lead=lead) if target.suffix == ".html" else json.dumps(plain(figure), allow_nan=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, text.encode())
    return target
