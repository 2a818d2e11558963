"""Region map: every region of a mixture as a point on the first two principal axes of the centroids.

A point's size is its region's weight, its colour its breadth; thin lines join regions that overlap.

Letters: D width, F regions, p pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.report import number
from armillary.core.rows import Rows, as_rows
from armillary.core.statistics import Floats
from armillary.errors import InputError, ShapeError
from armillary.inspect.drawing import GREY, LEGEND, Figure, apart, token_text
from armillary.inspect.members import members, mixture_of
from armillary.inspect.overlaps import Overlaps, overlaps, spreads_of

#: Powers of ten from which on an overlap is drawn, with the width and opacity of its line; regions of many dimensions hardly overlap.
LINES = ((-3, 3.0, 0.9), (-6, 1.8, 0.75), (-9, 1.0, 0.6))
#: Diameter of the heaviest point in pixels, at least and at most; it shrinks with the number of regions, and light ones are a fifth of it.
LARGEST = (20, 34)
#: Quantiles of the breadths where the colours end, so that a few extreme regions do not make all others alike.
ENDS = (0.05, 0.95)
#: Regions and tokens that the hover names.
N_NAMED = 5


def region_map(
    fit: Decomposition,
    *,
    rows: Rows | Tensor | None = None,
    breadth: Sequence[float] | Floats | None = None,
    breadth_name: str = "breadth",
    n_links: int = 2,
    n_drawn: int = 32,
    n_labels: int = 24,
    seed: int = 0,
) -> Figure:
    """All regions in a plane, as plotly JSON {"data", "layout"}.

    Args:
        fit: a mixture.
        rows: with text, from which each region's frequent tokens are drawn, in one pass.
        breadth: [F] what colours the regions, such as the entropy of their tokens; if None the standard deviation inside the region's
            subspace (the root of the trace of its loadings' covariance, in the units of the rows), on a logarithmic scale.
        breadth_name: what that is, for the reader.
        n_links: a line joins regions of which one is among the so many that overlap most with the other, from a Bhattacharyya coefficient
            of 1e-9 on.
        n_drawn: members drawn per region.
        n_labels: regions that are named on the map, those of most weight first.
        seed: of the draw.

    Raises:
        InputError: another kind of fit, or fewer than two regions.
        ShapeError: not one breadth per region, or rows that do not hold what the fit reads.
    """
    weight = mixture_of(fit).weights.double().cpu().numpy()  # [F]
    if fit.n_features < 2:
        raise InputError("a map needs at least two regions, got a fit of 1")
    place, share = plane(fit.dictionary.directions(), torch.as_tensor(weight))
    if breadth is not None and len(breadth) != len(place):
        raise ShapeError(f"{len(breadth)} breadths for {len(place)} regions; one per region is needed")
    known, words = overlaps(fit), None if rows is None else frequent_tokens(fit, rows, n_drawn, seed)
    spread = spreads_of(fit.dictionary).cpu().numpy()
    colour, name = (np.asarray(breadth, dtype=np.float64), breadth_name) if breadth is not None else (spread, "standard deviation")
    hover = _hover(weight, colour, name, known, words)
    points = _points(place, weight, hover, _scale(colour, name, is_log=breadth is None))
    labels = _labels(place, weight, words, n_labels, points["marker"]["size"])
    axes = [f"principal axis {i + 1} of the centroids ({one:.0%} of their variance)" for i, one in enumerate(share)]
    layout = {"xaxis": _axis(axes[0]), "yaxis": _axis(axes[1]), "height": 620, "hovermode": "closest", "legend": LEGEND}
    return {"data": [*_links(place, known, n_links), points, labels], "layout": layout}


def plane(centroids: Tensor, weight: Tensor) -> tuple[Floats, list[float]]:
    """[F, 2] coordinates of the centroids [F, D] on their two principal axes, weighted by [F], and the share of variance of each axis."""
    points, share = centroids.double().cpu(), weight.double() / weight.sum()
    away = points - share @ points  # [F, D]
    scaled = share.sqrt()[:, None] * away
    if len(scaled) < scaled.shape[1]:  # the smaller of the two Gram matrices has the same values
        value, left = torch.linalg.eigh(scaled @ scaled.T)
        axes = torch.nn.functional.normalize(left[:, -2:].T.flip(0) @ scaled, dim=1)  # [2, D]
    else:
        value, right = torch.linalg.eigh(scaled.T @ scaled)
        axes = right[:, -2:].T.flip(0)
    place = away @ axes.T
    # The region farthest out on an axis lies on its positive side.
    place = place * place.gather(0, place.abs().argmax(0, keepdim=True)).sign()
    return place.numpy(), (value[-2:].flip(0) / value.clamp_min(0).sum()).tolist()


def frequent_tokens(fit: Decomposition, rows: Rows | Tensor, n_drawn: int, seed: int) -> list[list[tuple[str, int]]]:
    """Tokens of the members drawn from each region with their counts, most frequent first.

    Raises:
        InputError: the rows have no text.
    """
    read = as_rows(rows)
    tokens = read.tokens
    if tokens is None:
        raise InputError("the rows have no text to name regions by; leave them out, or take rows of a store")
    drawn = members(fit, read, n_drawn, seed=seed)
    texts = [[token_text(tokens.text(int(tokens.rows[row]))) for row in drawn.of(region)] for region in range(fit.n_features)]
    return [sorted(Counter(some).items(), key=lambda pair: (-pair[1], pair[0])) for some in texts]


# ---------------------------------------------------------------- traces


def _points(place: Floats, weight: Floats, hover: list[str], scale: dict[str, Any]) -> dict[str, Any]:
    largest = float(np.clip(280 / np.sqrt(len(weight)), *LARGEST))
    marker = {"size": (largest * np.sqrt(weight / weight.max())).clip(largest / 5).tolist(), "opacity": 0.9, **scale}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "regions",
        "x": place[:, 0].tolist(),
        "y": place[:, 1].tolist(),
        "marker": {**marker, "line": {"color": GREY, "width": 1}},
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }


def _scale(colour: Floats, name: str, *, is_log: bool) -> dict[str, Any]:
    """Colours of the markers and the bar that explains them."""
    value = np.log(np.maximum(colour, np.finfo(np.float64).tiny)) if is_log else colour
    low, high = np.quantile(value, ENDS)
    ticks = np.linspace(low, high, 5)
    shown = [number(float(f"{np.exp(tick) if is_log else tick:.2g}")) for tick in ticks]
    shown = [f"≤ {shown[0]}", *shown[1:-1], f"≥ {shown[-1]}"]
    bar = {"title": {"text": name, "side": "right"}, "tickvals": ticks.tolist(), "ticktext": shown, "thickness": 12, "outlinewidth": 0}
    return {"color": value.tolist(), "cmin": float(low), "cmax": float(high), "colorscale": "Viridis", "colorbar": bar}


def _hover(weight: Floats, colour: Floats, name: str, known: Overlaps, words: list[list[tuple[str, int]]] | None) -> list[str]:
    lines = []
    for region, (share, value) in enumerate(zip(weight, colour, strict=True)):
        near = ", ".join(f"{other} ({found:.1g})" for other, found in known.of(region)[:N_NAMED])
        about = [f"<b>region {region}</b>", f"weight {share:.2%}", f"{name} {number(float(value))}", f"overlaps with {near}"]
        if words is not None:
            about.append("tokens " + (", ".join(f"{word} ({n})" for word, n in words[region][:N_NAMED]) or "none"))
        lines.append("<br>".join(about))
    return lines


def _links(place: Floats, known: Overlaps, n_links: int) -> list[dict[str, Any]]:
    """A trace of lines for each strength."""
    seen: Counter[int] = Counter()
    chosen: list[tuple[int, int, float]] = []
    for i, j, found in zip(known.one.tolist(), known.other.tolist(), known.coefficient.tolist(), strict=True):
        if min(seen[i], seen[j]) < n_links:  # pairs come from the largest down
            chosen.append((i, j, found))
        seen.update((i, j))
    traces, above = [], 1
    for power, width, opacity in LINES:
        ends = [(i, j) for i, j, found in chosen if 10.0**power <= found < 10.0**above]
        name = f"overlap 10<sup>{power}</sup>" + (" or more" if above > 0 else f" to 10<sup>{above}</sup>")
        x, y = ([part for i, j in ends for part in (float(place[i, axis]), float(place[j, axis]), None)] for axis in (0, 1))
        look = {"line": {"width": width, "color": GREY}, "opacity": opacity, "hoverinfo": "skip"}
        if ends:
            traces.append({"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, **look})
        above = power
    return traces


def _labels(place: Floats, weight: Floats, words: list[list[tuple[str, int]]] | None, n: int, size: Sequence[float]) -> dict[str, Any]:
    """Names of the heaviest regions that have room for one: their number, and their most frequent token where that is known."""
    order = np.argsort(-weight, kind="stable")
    kept, sides = apart(place[order], n=n)
    shown = order[kept]
    token = [f" {words[region][0][0]}" if words is not None and words[region] else "" for region in shown]
    return {
        "type": "scatter",
        "mode": "markers+text",  # markers that are not seen keep the text off those that are
        "marker": {"size": [size[region] for region in shown], "opacity": 0},
        "x": place[shown, 0].tolist(),
        "y": place[shown, 1].tolist(),
        "text": [f"{region}{name}" for region, name in zip(shown, token, strict=True)],
        "textposition": sides,
        "textfont": {"size": 12, "shadow": "auto"},
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "zeroline": False}
