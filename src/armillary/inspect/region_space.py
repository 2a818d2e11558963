"""Region space: the tokens of one region at their places inside its subspace, in two or three of its axes.

A place is the posterior mean of the region's coordinates, in standard deviations: members lie around 0, most of them within 2. Members of
the regions that overlap most are put into the same axes.

Letters: N rows, D width, R rank, n members drawn, A axes shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.rows import IndexedRows, Rows, as_rows
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints
from armillary.errors import InputError
from armillary.inspect.drawing import GREY, LEGEND, PALETTE, Figure, apart, in_context, word_so_far
from armillary.inspect.members import check_region, members, mixture_of
from armillary.inspect.overlaps import overlaps

#: Tokens shown around a token: before and after.
WINDOW = (10, 4)
#: Standard deviations of the rings.
RINGS = (1, 2)
#: Diameter of a member's point, and of a neighbour's, in pixels; in three dimensions half of it.
OWN, OTHER = 8, 6
#: Farther out than this, in standard deviations, neighbours are not shown where members are nearer.
MARGIN = 1.15


def region_space(
    fit: Decomposition,
    rows: Rows | Tensor,
    region: int,
    *,
    axes: Sequence[int] = (0, 1),
    n: int = 400,
    n_neighbors: int = 3,
    n_labels: int = 30,
    seed: int = 0,
) -> Figure:
    """Members of a region inside its subspace, as plotly JSON {"data", "layout"}: drawn uniformly, in one pass.

    Args:
        fit: a mixture.
        rows: a store or a tensor; with their text where tokens are to be seen.
        region: which.
        axes: two or three of its loadings, 0 to R - 1.
        n: members drawn, and as many of all neighbours together.
        n_neighbors: regions shown beside it, those that overlap most with it.
        n_labels: tokens written beside their points where there is room, those farthest out first.
        seed: of the draw.

    Raises:
        InputError: another kind of fit, a region or an axis that is not there, a region without a member, or rows that come once only.
        ShapeError: the rows do not hold what the fit reads.
    """
    mixture_of(fit)
    check_region(fit, region)
    _check_axes(fit, region, axes)
    read = as_rows(rows)
    if not isinstance(read, IndexedRows):
        raise InputError(f"drawn rows are fetched again, which {type(read).__name__} cannot do; harvest them to a store")
    near = [other for other, _ in overlaps(fit, regions=[region]).of(region)][:n_neighbors] if n_neighbors else []
    drawn = members(fit, read, n, regions=[region, *near], seed=seed)
    if drawn.number(region) == 0:
        raise InputError(f"region {region} has no member among these rows; choose another, or give more rows")
    each = -(-n // max(1, len(near)))
    clouds = [_places(fit, read, drawn.of(one, n if one == region else each), region, list(axes)) for one in (region, *near)]
    reach = MARGIN * max(RINGS[-1], float(np.abs(clouds[0].z).max()))
    colours = [PALETTE[i] if i < len(PALETTE) else GREY for i in range(len(clouds))]
    traces = [_trace(read, one, cloud, region, colour) for one, cloud, colour in zip((region, *near), clouds, colours, strict=True)]
    if len(axes) == 3:
        return {"data": [*traces, *_sphere()], "layout": _layout3(axes, reach)}
    return {"data": [*traces, *_texts(read, clouds[0], n_labels)], "layout": _layout2(axes, reach)}


@dataclass(frozen=True)
class Cloud:
    """Rows in some axes of a region.

    Args:
        row: [n] which.
        z: [n, A] their coordinates.
        away: [n] their Mahalanobis distance to the region over the root of D: about 1 for its members.
    """

    row: Ints
    z: Floats
    away: Floats


def _check_axes(fit: Decomposition, region: int, axes: Sequence[int]) -> None:
    rank = len(fit.dictionary.feature(region).basis)
    if len(axes) not in (2, 3) or len(set(axes)) < len(axes):
        raise InputError(f"two or three different axes are shown, got {list(axes)}; try {list(range(min(rank, 2)))}")
    outside = [axis for axis in axes if not 0 <= axis < rank]
    if outside:
        raise InputError(f"axis {outside[0]} is out of range: region {region} has {rank} loadings (0 to {rank - 1})")


def _places(fit: Decomposition, rows: IndexedRows, row: Ints, region: int, axes: list[int]) -> Cloud:
    """Rows [n] in a region's axes, whether or not they belong to it."""
    x = rows.read(row)[:, columns_for(fit, rows.layout)[0]].to(fit.dictionary.atoms)
    at, encoder = torch.full((len(x),), region, device=x.device), mixture_of(fit)
    with torch.no_grad():
        z, squared = encoder.posterior(x, at)[:, axes], encoder.distance(x, at)
    return Cloud(row, z.double().cpu().numpy(), (squared.double().clamp_min(0) / x.shape[1]).sqrt().cpu().numpy())


# ---------------------------------------------------------------- traces


def _trace(rows: Rows, of: int, cloud: Cloud, region: int, colour: str) -> dict[str, Any]:
    """Members of the region `of` in the axes of `region`."""
    is_solid, is_own = cloud.z.shape[1] == 3, of == region
    size = (OWN if is_own else OTHER) / (2 if is_solid else 1)
    marker = {"size": size, "color": colour, "opacity": 0.75 if is_own else 0.55}
    return {
        "type": "scatter3d" if is_solid else "scatter",
        "mode": "markers",
        "name": f"region {of}",
        **_coordinates(cloud.z),
        "marker": marker,
        "text": [_hover(rows, of, region, cloud, i) for i in range(len(cloud.row))],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _coordinates(z: Floats) -> dict[str, list[float]]:
    return {name: z[:, i].tolist() for i, name in enumerate("xyz"[: z.shape[1]])}


def _hover(rows: Rows, of: int, region: int, cloud: Cloud, i: int) -> str:
    row, place = int(cloud.row[i]), ", ".join(f"{one:.2f}" for one in cloud.z[i])
    text = "" if rows.tokens is None else f"{in_context(rows.tokens, row, *WINDOW)}<br>"
    return f"{text}region {of}, row {row}<br>at {place}<br>distance to region {region}: {cloud.away[i]:.2f} (1 if the mixture holds)"


def _texts(rows: Rows, cloud: Cloud, n: int) -> list[dict[str, Any]]:
    """Tokens beside their points."""
    if rows.tokens is None:
        return []
    far = np.argsort(-np.square(cloud.z).sum(1), kind="stable")
    kept, sides = apart(cloud.z[far], n=n, width=0.17)
    some = far[kept]
    words = [word_so_far(rows.tokens, int(one)) for one in cloud.row[some]]
    look = {"textposition": sides, "textfont": {"size": 12, "shadow": "auto"}, "cliponaxis": False}
    # Markers that are not seen keep the text off those that are.
    trace = {"type": "scatter", "mode": "markers+text", "marker": {"size": OWN, "opacity": 0}, **_coordinates(cloud.z[some]), "text": words}
    return [{**trace, **look, "hoverinfo": "skip", "showlegend": False}]


def _sphere() -> list[dict[str, Any]]:
    """Three great circles at each number of standard deviations."""
    turn = np.linspace(0, 2 * math.pi, 61)
    circle = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1)
    look = {
        "type": "scatter3d",
        "mode": "lines",
        "line": {"color": GREY, "width": 2},
        "opacity": 0.6,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [{**look, **_coordinates(radius * np.roll(circle, by, axis=1))} for radius in RINGS for by in range(3)]


def _layout2(shown: Sequence[int], reach: float) -> dict[str, Any]:
    rings = [
        {"type": "circle", "x0": -r, "x1": r, "y0": -r, "y1": r, "line": {"color": GREY, "width": 1.2, "dash": "dot"}, "layer": "between"}
        for r in RINGS
    ]
    axes = {"range": [-reach, reach], "zeroline": False}
    return {
        "xaxis": {**axes, "title": {"text": f"loading {shown[0]} (standard deviations)"}},
        "yaxis": {**axes, "title": {"text": f"loading {shown[1]} (standard deviations)"}, "scaleanchor": "x", "scaleratio": 1},
        "shapes": rings,
        "height": 660,
        "hovermode": "closest",
        "legend": {**LEGEND, "itemsizing": "constant"},
    }


def _layout3(shown: Sequence[int], reach: float) -> dict[str, Any]:
    axes = {
        f"{letter}axis": {"title": {"text": f"loading {axis}"}, "range": [-reach, reach], "nticks": 6}
        for letter, axis in zip("xyz", shown, strict=True)
    }
    camera = {"eye": {"x": 1.45, "y": 1.45, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.12}}
    return {"scene": {**axes, "aspectmode": "cube", "camera": camera}, "height": 660, "legend": {**LEGEND, "itemsizing": "constant"}}
