"""Tables of the regions study: models of the same rows, regions, labels and axes.

Letters: K regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.encoders import MixtureEncoder
from armillary.core.report import Estimate
from armillary.core.tokens import Ints, Tokens
from armillary.studies.quality.region_counts import distance_from_uniform, is_narrow
from armillary.studies.quality.region_labels import Axes, Label
from armillary.studies.quality.region_measured import Measured
from armillary.studies.ratios import Ratios

if TYPE_CHECKING:
    from armillary.studies.quality.regions import Config

#: Tokens looked through at once for one with a certain id.
STRETCH = 1 << 20


def likelihood_table(one: Measured, make: Ratios) -> dict[str, list[Any]]:
    """A row per model of the same rows; what it is above one Gaussian is paired unit by unit."""
    d = one.subject.fit().dictionary.d
    models = {"this fit": one.found.terms[0] if one.is_mixture else "no densities", "spheres about its centroids": one.spheres}
    table: dict[str, list[Any]] = {
        name: [] for name in ("model", "nats per row", "low", "high", "nats per dimension", "above one Gaussian", "least", "most")
    }
    for name, sums in {**models, "one Gaussian": one.gaussian}.items():
        if isinstance(sums, str):
            continue
        mean = make(sums)
        above = None if isinstance(one.gaussian, str) else make(sums - one.gaussian)
        per_dimension = None if mean.value is None else mean.value / d
        told = (None, None, None) if above is None else (above.value, above.low, above.high)
        cells = (name, mean.value, mean.low, mean.high, per_dimension, *told)
        for column, cell in zip(table.values(), cells, strict=True):
            column.append(cell)
    return table


def region_table(one: Measured, config: Config) -> dict[str, list[Any]]:
    """A row per region, the fullest first."""
    fit, found = one.subject.fit(), one.found
    rows = found.occupancy.sum(0)
    order = np.argsort(-rows, kind="stable")
    columns: dict[str, Any] = {"region": np.arange(len(rows)), "rows": rows, "share": rows / max(rows.sum(), 1)}
    if isinstance(fit.encoder, MixtureEncoder):
        columns["weight"] = fit.encoder.weights.double().cpu().numpy()
    if one.rows.tokens is not None:
        columns |= _content(one, one.rows.tokens, config)
    if one.is_mixture:
        n = found.region_place.sum(1)
        columns["calibration"] = [distance_from_uniform(bins) if bins.any() else None for bins in found.region_place]
        columns["beyond_95"] = np.where(n > 0, found.region_far / np.maximum(n, 1), np.nan)
    return {name: [_cell(column[i]) for i in order] for name, column in columns.items()}


def _cell(value: Any) -> Any:
    """A plain value; None for NaN."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _content(one: Measured, tokens: Tokens, config: Config) -> dict[str, Any]:
    """Columns on the tokens and documents of regions."""
    members, documents = one.tokens.whole(), one.documents.whole()
    ids, share = members.commonest()
    texts = texts_of(tokens, ids)
    narrow = is_narrow(members, share=config.narrow_share, fewest=config.narrow_rows)
    enough = members.sizes() >= config.narrow_rows
    return {
        "kind": ["narrow" if thin else "broad" if known else "few rows" for thin, known in zip(narrow, enough, strict=True)],
        "commonest": [texts.get(int(i), "") for i in ids],
        "its share": share,
        "token_entropy": members.entropies(),
        "document_entropy": documents.entropies(),
    }


def texts_of(tokens: Tokens, ids: Ints) -> dict[int, str]:
    """The text of tokens with these ids, from the first row of each; without text, their numbers."""
    left, found = set(ids[ids >= 0].tolist()), dict[int, str]()
    for start in range(0, tokens.n_rows, STRETCH):
        here = tokens.rows[start : start + STRETCH]
        there, first = np.unique(tokens.ids[here], return_index=True)
        new = {int(i): tokens.text(int(here[at])) for i, at in zip(there, first, strict=True) if int(i) in left}
        found |= {i: repr(text) if text else f"#{i}" for i, text in new.items()}
        left -= new.keys()
        if not left:
            break
    return found


# ---------------------------------------------------------------- labels


@dataclass(frozen=True)
class WithLabel:
    """What a label has to do with the regions and with their axes."""

    label: Label
    regions: Estimate
    axes: Axes | str


def label_tables(found: Sequence[WithLabel]) -> dict[str, dict[str, list[Any]]]:
    table: dict[str, list[Any]] = {}
    for one in found:
        axes = None if isinstance(one.axes, str) else one.axes.estimate
        cells = {"label": one.label.name, "kind": one.label.kind, "values": len(np.unique(one.label.value)), "rows": one.regions.n}
        cells |= {"agreement": one.regions.value, "low": one.regions.low, "high": one.regions.high}
        cells |= {"by chance": one.regions.null, "p": one.regions.p}
        cells |= {
            name: None if axes is None else getattr(axes, key)
            for name, key in (("axes", "value"), ("axes by chance", "null"), ("axes p", "p"))
        }
        for name, cell in cells.items():
            table.setdefault(name, []).append(cell)
    axes_found = [(one.label, one.axes) for one in found if isinstance(one.axes, Axes)]
    return {"labels": table, **({"axes": _axis_table(axes_found)} if axes_found else {})}


def _axis_table(found: Sequence[tuple[Label, Axes]]) -> dict[str, list[Any]]:
    """A row per region and label, what is furthest from chance first."""
    rows = [
        (int(axes.region[i]), int(axes.axis[i]), label.name, "eta2" if label.kind == "classes" else "spearman", *numbers)
        for label, axes in found
        for i, numbers in enumerate(zip(*(one.tolist() for one in (axes.value, axes.null, axes.p, axes.q)), strict=True))
    ]
    rows.sort(key=lambda cells: abs(cells[5]) - abs(cells[4]))
    names = ("region", "axis", "label", "measure", "value", "by chance", "p", "q")
    return {name: [cells[i] for cells in rows] for i, name in enumerate(names)}
