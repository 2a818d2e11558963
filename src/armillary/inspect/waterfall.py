"""Waterfall: one row taken apart step by step, in several fits side by side.

Contributions are added one by one, those of the largest features first; after each, what is left is |x - sum|^2 / |x|^2. A step can raise
it: contributions are not orthogonal, and a later one may undo an earlier one's excess.

Letters: D width, M atoms, p steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import ROLES, Dictionary
from armillary.core.report import number
from armillary.errors import InputError, ShapeError
from armillary.inspect.drawing import GREY, LEGEND, PALETTE, Figure

#: Height of the lines, of a fit's bars, and of the gap for the bars' names, in pixels.
LINES, BARS, GAP = 230, 200, 105
#: Features that contribute less than this share of the row's squared length are added together.
LEAST = 1e-4
#: Marks of the logarithmic axis.
TICKS = [10.0**-power * part for power in range(7) for part in (1, 0.5, 0.2)]
#: A name, a short one, the atom's coefficient if it is one atom, and what is added [D].
Part = tuple[str, str, float | None, Tensor]


@dataclass(frozen=True)
class Step:
    """One contribution.

    Args:
        name: what is added.
        short: the same below a bar.
        share: its own squared length, as a share of the row's.
        left: what is left after it, as a share of the row's squared length.
        coefficient: of its atom; None for what is no single atom.
    """

    name: str
    short: str
    share: float
    left: float
    coefficient: float | None = None


def waterfall(fits: Mapping[str, Decomposition], x: Tensor, *, n_steps: int = 16) -> Figure:
    """One row's decomposition by each fit, as plotly JSON {"data", "layout"}: lines of what is left, and bars of what each step takes away.

    Args:
        fits: by name; each rebuilds what it reads.
        x: [D] the row.
        n_steps: contributions shown one by one; the others are added together.

    Raises:
        InputError: no fit, fewer than one step, a fit whose target is not its input, or a row that is 0.
        ShapeError: x is not of the fits' width.
    """
    if not fits:
        raise InputError("a waterfall needs at least one fit, got none")
    taken = {name: steps(fit, x, n_steps=n_steps) for name, fit in fits.items()}
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(taken))]
    traces: list[dict[str, Any]] = []
    for i, (colour, (name, some)) in enumerate(zip(colours, taken.items(), strict=True)):
        traces += [_line(name, some, colour), _bars(name, some, colour, i + 2)]
    return {"data": traces, "layout": _layout(taken)}


def steps(fit: Decomposition, x: Tensor, *, n_steps: int = 16) -> list[Step]:
    """The contributions of one row in the order they are added; arguments as of `waterfall`.

    First the base, where there is one; then features from the largest contribution to the smallest, each atom by atom, a region's centroid
    before its loadings; together what comes after `n_steps` of these or is less than 1e-4 of |x|^2; last the residual.
    """
    if fit.inputs != fit.targets:
        raise InputError(f"{fit!r} rebuilds something else than it reads, so a row does not fall apart into its contributions")
    if x.ndim != 1:
        raise ShapeError(f"one row [D] is taken apart, got {list(x.shape)}")
    if n_steps < 1:
        raise InputError(f"n_steps must be at least 1, got {n_steps}")
    with torch.no_grad():
        codes = fit.encode(x[None])
        row, base, rebuilt = x.double(), fit.base(codes)[0].double(), fit.decode(codes)[0].double()
        value = codes.dense()[0].to(fit.dictionary.atoms.dtype)  # [M]
    if not row.square().sum() > 0:
        raise InputError("the row is 0, so there is nothing to take apart")
    every = _order(fit.dictionary, value, LEAST * float(row.square().sum()))
    order, n_rest = every[:n_steps], int((value != 0).sum()) - len(every[:n_steps])
    parts: list[Part] = [("base", "base", None, base)] if len(fit.dictionary.base) else []
    for atom in order:
        part = (value[atom] * fit.dictionary.atoms[atom]).double()
        parts.append((*_names(fit.dictionary, atom), float(value[atom]), part))
    if n_rest:
        rest = rebuilt - sum((part for *_, part in parts), torch.zeros_like(row))
        parts.append((f"{n_rest} more contributions", f"{n_rest} more", None, rest))
    return _summed(row, [*parts, ("residual", "residual", None, row - rebuilt)])


def _summed(row: Tensor, parts: Sequence[Part]) -> list[Step]:
    found, left, whole = [], row, float(row.square().sum())
    for name, short, value, part in parts:
        left = left - part
        found.append(Step(name, short, float(part.square().sum()) / whole, float(left.square().sum()) / whole, value))
    return found


def _order(dictionary: Dictionary, value: Tensor, least: float) -> list[int]:
    """Atoms with a coefficient [M]: by their feature's contribution, then centroid first, then by their own.

    Features whose contribution's squared length is below `least` are left out.
    """
    used = value.nonzero().flatten()
    part = value[used, None].double() * dictionary.atoms[used].double()  # [m, D]
    feature, place = torch.unique(dictionary.group[used], return_inverse=True)
    whole = part.new_zeros(len(feature), part.shape[1]).index_add(0, place, part).square().sum(1)[place]
    own = part.square().sum(1)
    is_loading = dictionary.role[used] == ROLES.index("loading")
    keys = zip((-whole).tolist(), dictionary.group[used].tolist(), is_loading.tolist(), (-own).tolist(), used.tolist(), strict=True)
    return [atom for size, *_, atom in sorted(keys) if -size >= least]


def _names(dictionary: Dictionary, atom: int) -> tuple[str, str]:
    """An atom's name, and its short one."""
    feature, role = int(dictionary.group[atom]), ROLES[int(dictionary.role[atom])]
    of = (dictionary.group == feature).nonzero().flatten()
    if role == "centroid":
        return f"region {feature}: centroid", f"region {feature}"
    if role == "direction" and len(of) == 1:
        return f"feature {feature}", f"feature {feature}"
    inside = int((of[dictionary.role[of] == dictionary.role[atom]] == atom).nonzero())
    return f"{'region' if role == 'loading' else 'feature'} {feature}: {role} {inside}", f"{feature}: {role} {inside}"


# ---------------------------------------------------------------- traces


def _line(name: str, some: Sequence[Step], colour: str) -> dict[str, Any]:
    """What is left along the steps, the residual left out: after it nothing is."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(range(len(some))),
        "y": [1.0, *(step.left for step in some[:-1])],
        "text": ["nothing yet", *(_hover(step) for step in some[:-1])],
        "hovertemplate": "%{text}<extra>" + name + "</extra>",
        "line": {"color": colour, "width": 2},
        "marker": {"size": 7},
    }


def _bars(name: str, some: Sequence[Step], colour: str, panel: int) -> dict[str, Any]:
    """A bar per step from what was left before it to what is left after it; hatched where that is more."""
    before = [1.0, *(step.left for step in some[:-1])]
    after = [step.left for step in some]
    marker = {
        "color": [GREY if step.name == "residual" else colour for step in some],
        "pattern": {"shape": ["/" if b > a else "" for a, b in zip(before, after, strict=True)]},
    }
    return {
        "type": "bar",
        "name": name,
        "x": list(range(1, len(some) + 1)),
        "base": after,
        "y": [a - b for a, b in zip(before, after, strict=True)],
        "hovertext": [_hover(step) for step in some],
        "hovertemplate": "%{hovertext}<extra>" + name + "</extra>",
        "marker": marker,
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
        "showlegend": False,
    }


def _hover(step: Step) -> str:
    times = "" if step.coefficient is None else f"<br>coefficient {number(step.coefficient)}"
    return f"<b>{step.name}</b>{times}<br>squared length {step.share:.2%} of the row's<br>left after it {step.left:.2%}"


def _layout(taken: Mapping[str, Sequence[Step]]) -> dict[str, Any]:
    """The lines above, and below them a panel of bars per fit, all on one scale of steps."""
    height = LINES + len(taken) * (BARS + GAP) + GAP
    longest = max(map(len, taken.values()))
    inner = height - 24 - 40  # what plotly's margins leave
    top = 1.0
    layout: dict[str, Any] = {"height": height, "barmode": "overlay", "bargap": 0.25, "legend": LEGEND, "hovermode": "closest"}
    for panel, (name, some) in enumerate([("", ()), *taken.items()], start=1):
        size = (BARS if panel > 1 else LINES) / inner
        mark = "" if panel == 1 else str(panel)
        layout[f"xaxis{mark}"] = {"anchor": f"y{mark}", "range": [-0.6, longest + 0.6], "zeroline": False, **_ticks(some)}
        layout[f"yaxis{mark}"] = {"anchor": f"x{mark}", "domain": [max(0.0, top - size), top], "title": {"text": name}, "tickformat": ".0%"}
        top -= size + (GAP if panel > 1 else 70) / inner
    layout["xaxis"] |= {"title": {"text": "contributions added"}}
    layout["yaxis"] |= {"type": "log", "title": {"text": "left of |x|²"}, "tickvals": TICKS, "tickformat": "~%"}
    return layout


def _ticks(some: Sequence[Step]) -> dict[str, Any]:
    if not some:
        return {}
    return {"tickvals": list(range(1, len(some) + 1)), "ticktext": [step.short for step in some], "tickangle": -45, "showgrid": False}
