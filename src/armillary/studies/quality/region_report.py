"""The regions study's report: estimates from its sums, tables of regions, labels and axes, figures and warnings.

Letters: U units, G groups of units, K regions, D width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.encoders import MixtureEncoder
from armillary.core.jackknife import GROUPS, jackknife_interval
from armillary.core.provenance import of_rows, versions
from armillary.core.report import Estimate, Report
from armillary.core.tokens import Ints
from armillary.studies.quality import region_labels
from armillary.studies.quality.region_counts import Members, distance_from_uniform, mean_entropy, narrow_share
from armillary.studies.quality.region_figures import breadth, places
from armillary.studies.quality.region_labels import Label, labels_of
from armillary.studies.quality.region_measured import Measured
from armillary.studies.quality.region_sums import BINS, FAR
from armillary.studies.quality.region_tables import WithLabel, label_tables, likelihood_table, region_table
from armillary.studies.ratios import Ratios
from armillary.studies.units import MAX_UNITS

if TYPE_CHECKING:
    from armillary.studies.quality.regions import Config

NO_DENSITY = "the fit has no densities, only regions"
#: Rows per parameter of a region, 1 + R, below which a fit is hardly told from chance.
ROWS_PER_AXIS = 10
#: Distance of two distribution functions from which on a mixture is called badly calibrated.
FAR_OFF = 0.1
#: Mean of the Kolmogorov-Smirnov distance of n independent draws from their own distribution, times the root of n.
KOLMOGOROV = math.sqrt(math.pi / 2) * math.log(2)
#: Readings that a fit can have.
READINGS = ("centroid", "hard", "soft", "additive")


def report(one: Measured, config: Config, seconds: float) -> Report:
    """The report of one subject."""
    make = Ratios(one.reads.units.kind, one.found.n, config.n_bootstrap, config.seed)
    sample, row = one.found.sample, one.found.sample_row
    labels = labels_of(one.rows.tokens, row, config.label)
    with_labels = _labels(labels, one, config)
    estimates = {
        "log_likelihood": _likelihood(one, make),
        **_occupancy(one),
        **_responsibilities(one, make),
        **_calibration(one, make),
        **_breadth(one, config),
        **_readings(one, config),
        **_label_estimates(with_labels, one),
    }
    tables = {"likelihood": likelihood_table(one, make), "regions": region_table(one, config)}
    tables |= label_tables(with_labels) if labels else {}
    return Report(
        one.subject.label,
        estimates=estimates,
        tables=tables,
        figures=_figures(one, tables["regions"]),
        notes=_notes(one, with_labels, len(sample)),
        warnings=_warnings(one, estimates),
        provenance=_provenance(one, config),
        seconds=seconds,
    )


# ---------------------------------------------------------------- likelihood and responsibilities


def _likelihood(one: Measured, make: Ratios) -> Estimate:
    """Of the mixture; of a clustering, that of spheres about its centroids."""
    sums = one.found.terms[0] if one.is_mixture else one.spheres
    if isinstance(sums, str):
        return Estimate.missing(f"{NO_DENSITY}, and spheres about its centroids are not there: {sums}", better="higher", unit="nats")
    null = None if isinstance(one.gaussian, str) else float(one.gaussian.sum() / one.found.n.sum())
    return make(sums, null=null, better="higher", unit="nats")


def _responsibilities(one: Measured, make: Ratios) -> dict[str, Estimate]:
    encoder = one.subject.fit().encoder
    if not isinstance(encoder, MixtureEncoder):
        reason = "the fit has no responsibilities: a row is of one region"
        return {"entropy": Estimate.missing(reason, unit="nats"), "largest_share": Estimate.missing(reason)}
    weights = encoder.weights.double().cpu().numpy()
    prior = float(-(weights * np.log(np.maximum(weights, np.finfo(np.float64).tiny))).sum())
    return {
        "entropy": make(one.found.terms[1], null=prior, ceiling=0.0, unit="nats"),
        "largest_share": make(one.found.terms[2], null=float(weights.max()), ceiling=1.0),
    }


# ---------------------------------------------------------------- occupancy


def _occupancy(one: Measured) -> dict[str, Estimate]:
    by_group = one.found.occupancy[one.found.occupancy.sum(1) > 0]  # [G, K]
    whole, n, k = by_group.sum(0), int(by_group.sum()), by_group.shape[1]
    value, dead = _effective(whole), float((whole == 0).mean())
    low, high = jackknife_interval(value, [_effective(whole - part) for part in by_group if n > part.sum()], lowest=1.0, highest=k)
    # More rows can only wake regions, so the interval reaches down from the value.
    least, _ = jackknife_interval(dead, [float((whole == part).mean()) for part in by_group if n > part.sum()], lowest=0.0)
    return {
        "effective_regions": Estimate(value, low, high, n, null=1.0, ceiling=float(k), unit="regions"),
        "dead": Estimate(dead, least, None if least is None else dead, n, null=1.0, ceiling=0.0, better="lower"),
    }


def _effective(rows: Ints) -> float:
    """exp of the entropy of the regions' shares, from their rows [K]."""
    share = rows[rows > 0] / rows.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


# ---------------------------------------------------------------- calibration


def _calibration(one: Measured, make: Ratios) -> dict[str, Estimate]:
    if not one.is_mixture:
        return {name: Estimate.missing(NO_DENSITY) for name in ("calibration", "beyond_95")}
    by_group = one.found.place[one.found.place.sum(1) > 0]  # [G, BINS]
    whole, n = by_group.sum(0), int(by_group.sum())
    value = distance_from_uniform(whole)
    without = [distance_from_uniform(whole - part) for part in by_group if n > part.sum()]
    low, high = jackknife_interval(value, without, lowest=0.0, highest=1.0)
    null, far = None, None
    if one.scored is not None and not isinstance(one.gaussian, str):
        null, far = distance_from_uniform(one.scored[0].place.sum(0)), float(one.scored[0].far.sum() / n)
    return {
        "calibration": Estimate(value, low, high, n, null=null, ceiling=KOLMOGOROV / math.sqrt(n), better="lower"),
        "beyond_95": make(one.found.far, null=far, ceiling=1 - FAR),
    }


# ---------------------------------------------------------------- what regions hold


def _breadth(one: Measured, config: Config) -> dict[str, Estimate]:
    names = ("token_entropy", "document_entropy", "narrow")
    if one.rows.tokens is None:
        return {name: Estimate.missing("the rows have no tokens", unit="" if name == "narrow" else "nats") for name in names}
    narrow = _narrow(config)
    return {
        "token_entropy": _of_members(one.tokens, mean_entropy, config.seed, unit="nats"),
        "document_entropy": _of_members(one.documents, mean_entropy, config.seed, unit="nats"),
        "narrow": _of_members(one.tokens, narrow, config.seed, highest=1.0, ceiling=1.0),
    }


def _narrow(config: Config) -> Callable[[Members], float]:
    return lambda members: narrow_share(members, share=config.narrow_share, fewest=config.narrow_rows)


def _of_members(members: Members, measure: Callable[[Members], float], seed: int, *, highest: float = math.inf, **fields: Any) -> Estimate:
    """A measure of what regions hold, with regions of as many rows drawn at random as its null."""
    groups, value = np.unique(members.group), measure(members)
    without = [measure(members.without(int(group))) for group in groups] if len(groups) > 1 else []
    low, high = jackknife_interval(value, without, lowest=0.0, highest=highest)
    return Estimate(value, low, high, int(members.count.sum()), null=measure(members.shuffled(seed)), **fields)


def _readings(one: Measured, config: Config) -> dict[str, Estimate]:
    make = Ratios(one.reads.units.kind, one.found.target.n, config.n_bootstrap, config.seed)
    constant = "no rows were rebuilt, or all are equal"
    return {
        f"fvu_{how}": make(one.found.errors[how], one.found.target.variance, null=1.0, ceiling=0.0, better="lower", undefined=constant)
        if how in one.found.errors
        else Estimate.missing("the fit has no such reading", better="lower")
        for how in dict.fromkeys((*READINGS, *one.found.errors))
    }


# ---------------------------------------------------------------- labels


def _labels(labels: Sequence[Label], one: Measured, config: Config) -> list[WithLabel]:
    """Labels with their agreement, the one that agrees most above chance first."""
    region, z = one.found.sample[:, 0].astype(np.int64), one.found.sample[:, 1:]
    unit = one.reads.units.unit(one.found.sample_row)
    told: Mapping[str, int] = {"n_draws": config.n_draws, "seed": config.seed}
    found = [
        WithLabel(label, region_labels.agreement(label, region, unit, **told), region_labels.axes(label, region, z, unit, **told))
        for label in labels
    ]
    return sorted(found, key=lambda each: (each.regions.null or 0.0) - (each.regions.value or 0.0))


def _label_estimates(found: Sequence[WithLabel], one: Measured) -> dict[str, Estimate]:
    if not found:
        reason = "the rows have no tokens" if one.rows.tokens is None else "the documents have no label that could differ between regions"
        return {name: Estimate.missing(reason, better="higher") for name in ("label_agreement", "axis_agreement")}
    axes = found[0].axes
    return {
        "label_agreement": found[0].regions,
        "axis_agreement": Estimate.missing(axes, better="higher") if isinstance(axes, str) else axes.estimate,
    }


# ---------------------------------------------------------------- the rest of the report


def _figures(one: Measured, regions: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    figures = {"calibration": places(one.found.place.sum(0))} if one.is_mixture else {}
    return figures | ({"breadth": breadth(regions)} if one.rows.tokens is not None else {})


def _notes(one: Measured, found: Sequence[WithLabel], n_sample: int) -> list[str]:
    n = int(one.found.n.sum())
    notes = [
        f"{n:,} rows; special tokens are left out. A row belongs to its most responsible region. Sums in float64.",
        f"Intervals: 95 %, bootstrap over {_of_units(one)}; of entropies, indices and calibration jackknife over {GROUPS} groups of them.",
    ]
    if one.scored is not None:
        notes.append("Baselines are cross-fitted: rows of each half of the documents are scored by a model of the other half.")
    if one.is_mixture:
        notes.append("Distances are measured to a region drawn by the row's responsibilities: chi-squared if the model holds.")
    if one.rows.tokens is not None:
        notes.append("Nulls of entropies and of narrow: regions of as many rows, drawn at random. Entropies have Miller's correction.")
    notes.append(f"fvu_*: on {int(one.found.target.n.sum()):,} rows drawn at random, about their mean.")
    if found:
        notes.append(
            f"label_agreement and axis_agreement are of the label {found[0].label.name!r}, on {n_sample:,} rows drawn at random. "
            "Null: documents with each other's labels."
        )
    return notes


def _of_units(one: Measured) -> str:
    """What was resampled, and how many there were."""
    n, units = int((one.found.n > 0).sum()), one.reads.units
    return f"{n:,} {'groups of documents' if units.size == MAX_UNITS and units.kind == 'document' else f'{units.kind}s'}"


def _warnings(one: Measured, estimates: Mapping[str, Estimate]) -> list[str]:
    fit, n, found = one.subject.fit(), int(one.found.n.sum()), []
    rows = one.found.occupancy.sum(0)
    if dead := int((rows == 0).sum()):
        found.append(f"{dead:,} of {fit.n_features:,} regions are the most responsible of no row.")
    if n < ROWS_PER_AXIS * fit.dictionary.n_atoms:
        least = ROWS_PER_AXIS * fit.dictionary.n_atoms
        found.append(
            f"Only {n:,} rows for {fit.dictionary.n_atoms:,} centroids and axes: what is said of single regions is rough below {least:,}."
        )
    off = estimates["calibration"].value
    if off is not None and off > FAR_OFF:
        found.append(f"Badly calibrated: {_misfit(one.found.place.sum(0))}.")
    value, null = estimates["log_likelihood"].value, estimates["log_likelihood"].null
    if value is not None and null is not None and value < null:
        found.append("These rows are less likely than under one Gaussian.")
    if one.is_own:
        found.append("Rows the fit was made from are among these, which flatters its likelihood. Hold some out.")
    if (u := int((one.found.n > 0).sum())) < 20:
        found.append(f"Only {u} {one.reads.units.kind}s: intervals are rough.")
    return found


def _misfit(rows: Ints) -> str:
    """In words how distances differ from chi-squared, from the rows in each bin."""
    ends = round(BINS * (1 - FAR))
    near, far = float(rows[:ends].sum() / rows.sum()), float(rows[-ends:].sum() / rows.sum())
    told = f"{near:.0%} of the rows lie where the model puts its nearest 5 %, and {far:.0%} where it puts its farthest 5 %"
    if min(near, far) > 1 - FAR:
        return f"tails are heavier than Gaussian; {told}"
    return f"rows lie further {'away from' if far > near else 'inside'} their regions than the model says; {told}"


def _provenance(one: Measured, config: Config) -> dict[str, Any]:
    return {
        "study": "regions",
        "subject": dict(one.subject.fit().provenance),
        "rows": of_rows(one.rows),
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
    }
