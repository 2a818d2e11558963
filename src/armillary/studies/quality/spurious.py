"""Spurious: TPP and SCR, two published scores of how well ablated features single a concept out. An audit found both unreliable.

    tpp_<n>    ablating the n features that matter most to a class: how much its probe's accuracy falls, minus how much that of the others
    scr_<n>    share of the accuracy that a probe loses to a second label that came with the first, won back by ablating n features of it

They are measured only with `include_unreliable`: an audit (arXiv 2605.18229) found that TPP falls as training goes on and that SCR turns
against the truth at large n; use `probing` instead. Karvonen et al. (2025), SAEBench, arXiv 2503.09532; Marks et al. (2024), arXiv
2403.19647. See docs/studies/spurious.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from armillary.core.config import Config as Settings
from armillary.core.report import Estimate, Report
from armillary.core.statistics import Floats
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.errors import InputError
from armillary.studies.by_rows import by_rows
from armillary.studies.provenance import of_study
from armillary.studies.quality.document_reading import read_atoms
from armillary.studies.quality.labelled import Concepts, Panel
from armillary.studies.quality.probing_tasks import ascending, beyond
from armillary.studies.quality.spurious_parts import Means
from armillary.studies.quality.spurious_scr import Removal
from armillary.studies.quality.spurious_tpp import Perturbation
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "rows", "labels"})
accepts: frozenset[Need] = frozenset()

WARNING = (
    "TPP and SCR are unreliable: an audit of evaluation metrics (arXiv 2605.18229) found that TPP falls as training goes on and that SCR "
    "turns against the truth at large n. Do not rank fits by them; use the study probing."
)


class Config(Settings):
    """Settings of the spurious study."""

    include_unreliable: bool = False
    """Measure scores that were found unreliable; without this the study refuses."""
    label: str | None = None
    """The label whose values are TPP's classes; None for the one with the most."""
    pair: tuple[str, ...] = ()
    """SCR's two concepts, which documents have in every combination, such as kind=question domain=person."""
    ns: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 500)
    """How many features are ablated; those beyond the fit's features are left out."""
    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    n_documents: int | None = Field(10_000, ge=4)
    """Documents at most, chosen by a hash of their text; None for all."""
    test_share: float = Field(0.5, gt=0, lt=1)
    """Share of the documents that is held out, chosen by a hash of their text."""
    split: str | None = None
    """A label that holds documents out instead: those where it is not "train"."""
    min_positives: int = Field(10, ge=2)
    """Documents with, and without, a class that are needed on each side; of a pair, documents in each combination."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the split, the probes, the null and the bootstrap."""

    @field_validator("ns")
    @classmethod
    def _ascending(cls, ns: tuple[int, ...]) -> tuple[int, ...]:
        return ascending(ns)


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Measure TPP and SCR, which were found unreliable.

    Args:
        subjects: fits with rows of labelled documents, which reconstruct what they read.
        config: settings.

    Raises:
        InputError: without include_unreliable; a subject without rows, rows without labelled documents or without what a fit
            reconstructs, a pair that is none.
        UnknownNameError: a label that no document has.
    """
    began = time.monotonic()
    if not config.include_unreliable:
        found = "TPP and SCR were found unreliable (arXiv 2605.18229)"
        raise InputError(f"{found}: use probing, or pass include_unreliable=True (--include-unreliable) all the same")
    if config.pair and not (len(set(config.pair)) == len(config.pair) == 2 and all("=" in one for one in config.pair)):
        raise InputError(f"pair={config.pair} must be two concepts, such as ('kind=question', 'domain=person')")
    measured = by_rows(as_subjects(subjects), lambda group: _measure(group, config))
    seconds = time.monotonic() - began
    return together("spurious", [_report(one, config, seconds) for one in measured])


@dataclass(frozen=True)
class _Measured:
    """What was measured of one subject: the documents, TPP's classes, and both scores."""

    subject: Subject
    panel: Panel
    classes: Concepts
    estimates: dict[str, Estimate]


def _measure(subjects: Sequence[Subject], config: Config) -> list[_Measured]:
    """One reading of the rows, and probes for each site that is reconstructed."""
    wanted = () if config.label is None else (config.label,)
    panel = Panel.of(subjects[0].require_rows(), config, wanted=wanted, max_concepts=50)
    classes = _classes(panel.concepts)
    readings = read_atoms(subjects, panel.documents, config.batch_size, "spurious")
    scores = {key: _scores(np.asarray(raw.mean), panel, classes, config) for key, raw in {one.key: one.raw for one in readings}.items()}
    found = []
    for one in readings:
        fit = one.subject.fit()
        means, ns = Means(np.asarray(one.raw.mean), one.codes.mean, fit.dictionary), [n for n in config.ns if n <= fit.n_features]
        estimates = [score.estimates(means, ns, n_bootstrap=config.n_bootstrap, seed=config.seed) for score in scores[one.key]]
        found.append(_Measured(one.subject, panel, classes, estimates[0] | estimates[1]))
    return found


def _classes(concepts: Concepts) -> Concepts:
    """The values of one label: the one with the most."""
    names = [one.label for one in concepts.asked]
    most = max(dict.fromkeys(names), key=names.count, default="")
    return Concepts([one for one in concepts.asked if one.label == most], concepts.left_out)


def _scores(x: Floats, panel: Panel, classes: Concepts, config: Config) -> tuple[Perturbation, Removal]:
    """Both scores, with probes of the documents' means [n, D]."""
    return Perturbation.of(x, classes, seed=config.seed), Removal.of(x, panel, config.pair, least=config.min_positives, seed=config.seed)


def _report(one: _Measured, config: Config, seconds: float) -> Report:
    documents, classes = one.panel.documents, ", ".join(each.name for each in one.classes.asked)
    return Report(
        one.subject.label,
        estimates=one.estimates,
        notes=[
            f"{len(documents):,} documents, {int(one.panel.is_test.sum()):,} held out.",
            f"TPP's classes: {classes or 'none'}.",
            "Null: as many features drawn at random. What the fit does not explain stays.",
            "Intervals: 95 %, bootstrap over classes; of SCR, over documents.",
        ],
        warnings=[WARNING, *beyond("n", config.ns, one.subject.fit())],
        provenance=of_study("spurious", one.subject, documents.rows, config),
        seconds=seconds,
    )
