"""Figures of the regions study as plain plotly JSON: where distances lie, and how broad regions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from armillary.core.tokens import Ints

#: Bars of the histogram.
BARS = 50


def places(rows: Ints) -> dict[str, Any]:
    """Histogram of where squared distances lie in their chi-squared distribution, from counts [bins]; a calibrated fit is flat."""
    by_bar = rows.reshape(BARS, -1).sum(1)
    middle = (np.arange(BARS) + 0.5) / BARS
    trace = {"type": "bar", "x": middle.tolist(), "y": (by_bar / max(rows.sum(), 1) * BARS).tolist(), "width": 1 / BARS, "opacity": 0.7}
    flat = {"type": "line", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"dash": "dash", "width": 1}}
    layout = _layout("Distances to regions (flat if calibrated)", "share of rows that should be nearer", "density of rows")
    return {"data": [trace], "layout": {**layout, "barmode": "overlay", "bargap": 0, "shapes": [flat]}}


def breadth(regions: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Every region by how many tokens and documents its rows are, as effective numbers, from the table of regions."""
    there = [i for i, n in enumerate(regions["rows"]) if n]
    tokens, documents = (np.exp([regions[name][i] for i in there]) for name in ("token_entropy", "document_entropy"))
    size = [6 + 40 * regions["share"][i] ** 0.5 for i in there]
    text = [f"region {regions['region'][i]}: {regions['rows'][i]:,} rows, {regions['commonest'][i]}" for i in there]
    trace = {
        "type": "scatter", "mode": "markers", "x": tokens.tolist(), "y": documents.tolist(), "text": text, "hoverinfo": "text",
        "marker": {"size": size, "opacity": 0.6},
    }  # fmt: skip
    layout = _layout("Narrow and broad regions", "effective tokens, exp of their entropy", "effective documents")
    layout["xaxis"]["type"] = layout["yaxis"]["type"] = "log"
    return {"data": [trace], "layout": layout}


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    return {"title": {"text": title}, "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
