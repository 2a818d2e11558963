"""Figures as plain plotly JSON, {"data": [...], "layout": {...}}, small enough to lie in a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from armillary.core.report import Estimate
from armillary.core.statistics import Floats


def histogram(values: Floats, *, title: str, x: str, y: str, n_bins: int = 40) -> dict[str, Any]:
    """Counts of `values` in equal bins, drawn as bars that can be laid over another subject's."""
    # Nearly equal values still get bins of a width that floats can tell apart.
    least = 1e-6 * max(1.0, float(np.abs(values).max()))
    count, edges = np.histogram(values, bins=n_bins, range=(values.min() - least, values.max() + least))
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1:] - edges[:-1]
    trace = {"type": "bar", "x": middle.tolist(), "y": count.tolist(), "width": width.tolist(), "opacity": 0.7}
    return {"data": [trace], "layout": {**_axes(title, x, y), "barmode": "overlay", "bargap": 0}}


def bars(estimates: Mapping[str, Estimate], *, title: str, y: str) -> dict[str, Any]:
    """A bar with its interval per estimate that has a value."""
    shown = {name: one for name, one in estimates.items() if one.value is not None}
    up = [0.0 if one.high is None else one.high - (one.value or 0.0) for one in shown.values()]
    down = [0.0 if one.low is None else (one.value or 0.0) - one.low for one in shown.values()]
    error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    trace = {"type": "bar", "x": list(shown), "y": [one.value for one in shown.values()], "error_y": error}
    return {"data": [trace], "layout": {**_axes(title, "", y), "barmode": "group"}}


def _axes(title: str, x: str, y: str) -> dict[str, Any]:
    return {"title": {"text": title}, "xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
