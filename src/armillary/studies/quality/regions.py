"""Regions: does a mixture (or a clustering) describe rows it has not seen, and what are its regions?

    log_likelihood      nats per row; null: one Gaussian with its whole covariance, cross-fitted
    effective_regions   exp of the entropy of the regions' shares of the rows;     dead: regions that are the most responsible of no row
    entropy             of a row's responsibilities;     largest_share: the largest of them
    calibration         Kolmogorov-Smirnov distance of the squared Mahalanobis distances from chi-squared of D degrees;
                        beyond_95: share of the rows beyond its 95 % quantile
    token_entropy       of the tokens (documents) of a region's rows, mean over rows; null: regions of as many rows drawn at random
    narrow              share of the rows in regions where one token holds half of the rows or more
    fvu_*               of the region's centroid, with the place inside it (hard), of several regions by responsibility (soft) or as a sum
    label_agreement     adjusted mutual information of regions with a label of the documents;     axis_agreement: of the axes inside them

Several subjects with the same rows are compared pair by pair as well (table "agreement"). See docs/studies/regions.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from pydantic import Field

from armillary.core.columns import columns_for, columns_key
from armillary.core.config import Config as Settings
from armillary.core.jackknife import GROUPS
from armillary.core.method import Pass
from armillary.core.report import Report
from armillary.core.rows import Rows, width
from armillary.core.run import drive
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.errors import TooFewRowsError
from armillary.inspect.agreement import Assigned, compare, overview, require_regions
from armillary.studies.by_rows import by_rows
from armillary.studies.quality.region_baselines import Baselines, Scored
from armillary.studies.quality.region_measured import Measured
from armillary.studies.quality.region_report import report
from armillary.studies.quality.region_sums import Draws, Reads, RegionSums
from armillary.studies.together import distinct, together
from armillary.studies.units import RowUnits

needs: frozenset[Need] = frozenset({"fit", "rows"})
accepts: frozenset[Need] = frozenset()


class Config(Settings):
    """Settings of the regions study."""

    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    max_rows: int | None = Field(None, ge=1)
    """Read the first rows only; None for all."""
    baselines: bool = True
    """Score one Gaussian and spheres about the centroids too, in a second pass with two matrices of the width squared."""
    n_readings: int = Field(10_000, ge=0)
    """About how many rows, drawn at random, every reading rebuilds."""
    n_sample: int = Field(50_000, ge=1)
    """Rows, drawn at random, that labels and other subjects' regions are compared on."""
    label: str | None = None
    """Label of the documents that regions are compared with; None for all they have."""
    n_draws: int = Field(100, ge=2)
    """Draws of labels behind their null."""
    narrow_share: float = Field(0.5, gt=0, le=1)
    """A region is narrow where one token holds at least this share of its rows."""
    narrow_rows: int = Field(10, ge=1)
    """Rows below which a region is called neither narrow nor broad."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind the intervals of means and of fvu."""
    seed: int = Field(0, ge=0)
    """Of the bootstrap and of all that is drawn."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Diagnose the regions of fits, on rows that should not be those they were fitted to.

    Args:
        subjects: fits with regions, with rows. Subjects with the same rows object share their readings and are compared.
        config: settings.

    Raises:
        InputError: a subject without rows or without regions, a bare dictionary, or a label that is not there or says nothing.
        ShapeError: the rows do not hold what a fit reads.
        TooFewRowsError: no row is left once special tokens are taken out.
    """
    began = time.monotonic()
    asked = as_subjects(subjects)
    for subject in asked:
        require_regions(subject.fit(), subject.label)
    measured = by_rows(asked, lambda group: _measure(group, config))
    seconds = time.monotonic() - began
    with torch.no_grad():
        reports = [report(one, config, seconds) for one in measured]
        return _together(reports, measured, config, began)


def _measure(subjects: Sequence[Subject], config: Config) -> list[Measured]:
    """The passes over one rows object, for all of its subjects."""
    rows = subjects[0].require_rows()
    units = RowUnits.of(rows, config.max_rows)
    order = Pass(config.batch_size, n_batches=None if config.max_rows is None else -(-config.max_rows // config.batch_size))
    draws = Draws(config.seed, config.n_sample, _share(rows, config))
    reads = [Reads(order, columns_for(subject.fit(), rows.layout)[0], units, rows) for subject in subjects]
    sums = [RegionSums(subject.fit(), one, draws) for subject, one in zip(subjects, reads, strict=True)]
    scorers, mine = _baselines(subjects, reads) if config.baselines else ({}, {})
    drive([*sums, *scorers.values()], rows, title="regions")
    scored = {key: one.finish() for key, one in scorers.items()}
    found = [one.finish() for one in sums]
    if not any(one.n.sum() for one in found):
        raise TooFewRowsError("regions: every row belongs to a special token, so none is left to measure on")
    baselines: list[tuple[Scored, int] | None] = [(scored[mine[i][0]], mine[i][1]) if config.baselines else None for i in range(len(found))]
    return [
        Measured(subject, rows, one, of, baseline)
        for subject, one, of, baseline in zip(subjects, reads, found, baselines, strict=True)
    ]  # fmt: skip


def _share(rows: Rows, config: Config) -> float:
    """Share of the rows that readings rebuild."""
    sizes = [n for n in (rows.n_rows, config.max_rows) if n is not None]
    return min(1.0, config.n_readings / max(min(sizes), 1)) if sizes else 1.0


def _baselines(subjects: Sequence[Subject], reads: Sequence[Reads]) -> tuple[dict[str, Baselines], dict[int, tuple[str, int]]]:
    """A scorer for every choice of columns, and which scorer, and which of its sets of centroids, belongs to each subject."""
    by_columns: dict[str, list[int]] = {}
    for i, one in enumerate(reads):
        by_columns.setdefault(columns_key(one.columns), []).append(i)
    scorers = {
        key: Baselines(reads[group[0]], width(subjects[group[0]].fit().inputs), [subjects[i].fit().dictionary.directions() for i in group])
        for key, group in by_columns.items()
    }
    return scorers, {i: (key, place) for key, group in by_columns.items() for place, i in enumerate(group)}


# ---------------------------------------------------------------- several subjects


def _together(reports: Sequence[Report], measured: Sequence[Measured], config: Config, began: float) -> Report:
    """One report: with several subjects, their likelihoods in one table, and every pair that read the same rows."""
    whole = together("regions", reports)
    if len(reports) == 1:
        return whole
    labels = distinct([one.title for one in reports])
    tables = {"likelihood": _likelihoods(labels, reports), **whole.tables}
    pairs = _pairs(labels, measured, config)
    if pairs["one"]:
        tables = {"agreement": pairs, **tables}
    return replace(whole, tables=tables, seconds=time.monotonic() - began)


def _likelihoods(labels: Sequence[str], reports: Sequence[Report]) -> dict[str, list[Any]]:
    """The subjects' tables as one, best first; a baseline that several share once, one of other rows by the subject's name."""
    rows: dict[tuple[Any, ...], None] = {}
    names = list(reports[0].tables["likelihood"])
    for label, one in zip(labels, reports, strict=True):
        for cells in zip(*one.tables["likelihood"].values(), strict=True):
            name = label if cells[0] == "this fit" else cells[0] if cells[0] == "one Gaussian" else f"{cells[0]} ({label})"
            taken = any(other[0] == name and other[1:] != cells[1:] for other in rows)
            rows[f"{name} ({label})" if taken else name, *cells[1:]] = None
    ordered = sorted(rows, key=lambda cells: -(cells[1] if cells[1] is not None else float("-inf")))
    return {name: [cells[i] for cells in ordered] for i, name in enumerate(names)}


def _pairs(labels: Sequence[str], measured: Sequence[Measured], config: Config) -> dict[str, list[Any]]:
    """A row per pair of subjects that read the same columns of the same rows."""
    found = []
    for i, j in combinations(range(len(measured)), 2):
        one, other = measured[i], measured[j]
        if one.rows is other.rows and columns_key(one.reads.columns) == columns_key(other.reads.columns):
            found.append((labels[i], labels[j], compare(*_assigned(one, other), seed=config.seed)))
    return overview(found)


def _assigned(one: Measured, other: Measured) -> list[Assigned]:
    """What is kept of two subjects, of the rows in both samples (a fit cut down to some regions has none for some rows)."""
    pair = (one, other)
    rows, here, there = np.intersect1d(one.found.sample_row, other.found.sample_row, return_indices=True)
    group = one.reads.units.unit(rows) % GROUPS
    regions = [each.found.sample[place, 0].astype(np.int64) for each, place in ((one, here), (other, there))]
    spreads = [(each.found.squares / max(int(each.found.n.sum()), 1)) ** 0.5 for each in pair]
    return [
        Assigned(each.subject.fit(), region, group, spread, each.found.target.sample)
        for each, region, spread in zip(pair, regions, spreads, strict=True)
    ]  # fmt: skip
