"""Probing: how much of a label can be read off a few features of a fit?

    auroc_<k>        a logistic probe of the k features that differ most between documents with a concept and without, on held-out documents
    above_raw_<k>    the same minus a probe of k raw dimensions, chosen and fitted in the same way
    full_vector      a probe of all raw dimensions;     bag_of_words: a classifier of the documents' tokens

Columns are divided by their mean over non-zeros, the k best by |mean difference| are kept, and the penalty is chosen by cross-validation
among ten, all on the training documents (Kantamneni et al. 2025, "Are sparse autoencoders useful?", arXiv 2502.16681). See
docs/studies/probing.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from armillary.core.config import Config as Settings
from armillary.core.report import Report
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.core.tokens import Ints
from armillary.studies.by_rows import by_rows
from armillary.studies.quality.bag_of_words import word_scores
from armillary.studies.quality.document_reading import Reading, read_features
from armillary.studies.quality.labelled import Concept, Panel
from armillary.studies.quality.logistic import Penalty
from armillary.studies.quality.pooled import Pooled
from armillary.studies.quality.probing_report import Baselines, Measured, curves, report
from armillary.studies.quality.probing_tasks import Score, Setting, Task, ascending, curve, principal, probe_all
from armillary.studies.quality.ranks import Table
from armillary.studies.together import distinct, together

needs: frozenset[Need] = frozenset({"fit", "rows", "labels"})
accepts: frozenset[Need] = frozenset()


class Config(Settings):
    """Settings of the probing study."""

    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    concepts: tuple[str, ...] = ()
    """Concepts to probe for, such as kind=code, or labels, all of whose values are probed for; none for everything."""
    ks: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 512)
    """How many features a probe has; those beyond the fit's features are left out."""
    pool: Literal["mean", "max"] = "mean"
    """What a document's tokens are pooled by."""
    penalty: Penalty = "l2"
    """Of the probes."""
    setting: Setting = "normal"
    """Training documents: as many with a concept as without (normal), only n_scarce of them (scarcity), or few with it (imbalance)."""
    n_train: int | None = Field(1000, ge=4)
    """Training documents of a concept at most."""
    n_test: int | None = Field(1000, ge=4)
    """Held-out documents of a concept at most."""
    n_scarce: int = Field(20, ge=4)
    """Training documents of a concept in the setting scarcity."""
    positive_share: float = Field(0.1, gt=0, lt=1)
    """Share of the documents that have the concept in the setting imbalance, on both sides."""
    n_documents: int | None = Field(10_000, ge=4)
    """Documents at most, chosen by a hash of their text; None for all."""
    test_share: float = Field(0.5, gt=0, lt=1)
    """Share of the documents that is held out, chosen by a hash of their text."""
    split: str | None = None
    """A label that holds documents out instead: those where it is not "train"."""
    min_positives: int = Field(10, ge=2)
    """Documents with, and without, a concept that are needed on each side."""
    max_concepts: int = Field(30, ge=1)
    """Concepts at most, the most frequent ones."""
    n_random: int = Field(2, ge=1)
    """Draws of random features behind the null."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the split, the draws of documents and features, the folds and the bootstrap."""

    @field_validator("ks")
    @classmethod
    def _ascending(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        return ascending(ks)


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Probe for the labels of documents with a few features.

    Args:
        subjects: fits with rows of labelled documents. Subjects with the same rows object share their reading, tasks and baselines.
        config: settings.

    Raises:
        InputError: a subject without rows, rows without labelled documents, or a split that leaves a side empty.
        UnknownNameError: a label that no document has.
        ShapeError: the rows do not hold what a fit reads.
        TooFewRowsError: no token is left once special ones are taken out.
    """
    began = time.monotonic()
    asked = as_subjects(subjects)
    measured = by_rows(asked, lambda group: _measure(group, config))
    seconds = time.monotonic() - began
    whole = together("probing", [report(one, config, seconds) for one in measured])
    if len(asked) == 1 or not whole.figures:
        return whole
    return replace(whole, figures={"curves": curves(measured, distinct([one.label for one in asked]))})


def _measure(subjects: Sequence[Subject], config: Config) -> list[Measured]:
    """The reading of one rows object, for all of its subjects."""
    panel = Panel.of(subjects[0].require_rows(), config, wanted=config.concepts, max_concepts=config.max_concepts)
    tasks = [_task(one, config) for one in panel.concepts.asked]
    if not tasks:
        return [Measured(subject, panel) for subject in subjects]
    readings = read_features(subjects, panel.documents, config.batch_size, "probing")
    words = panel.words()
    by_words = [Score.of(word_scores(words, each.train, each.labels, each.test), each.test_labels) for each in tasks]
    train = np.flatnonzero(~panel.is_test)
    baselines = {key: _baselines(raw, tasks, train, by_words, config) for key, raw in {one.key: one.raw for one in readings}.items()}
    return [_measured(one, panel, tasks, baselines[one.key], config) for one in readings]


def _task(concept: Concept, config: Config) -> Task:
    """The documents that the setting asks for."""
    share = config.positive_share if config.setting == "imbalance" else 0.5
    n_train = config.n_scarce if config.setting == "scarcity" else config.n_train
    return Task.of(concept, share=share, n_train=n_train, n_test=config.n_test, seed=config.seed)


def _pooled(pooled: Pooled, config: Config) -> Table:
    return pooled.mean if config.pool == "mean" else pooled.largest


def _baselines(columns: Pooled, tasks: Sequence[Task], train: Ints, by_words: Sequence[Score], config: Config) -> Baselines:
    """What the raw dimensions that a fit reads tell, in four ways."""
    raw = np.asarray(_pooled(columns, config))
    tables = {"raw": raw, "pca": principal(raw, train)}
    curves = {name: [_curve(table, each, config, n_random=0)[0] for each in tasks] for name, table in tables.items()}
    full = [probe_all(raw, each, penalty=config.penalty, seed=config.seed) for each in tasks]
    return Baselines(curves["raw"], curves["pca"], full, list(by_words))


def _curve(table: Table, task: Task, config: Config, n_random: int) -> tuple[list[Score], list[float], Ints]:
    ks = [k for k in config.ks if k <= table.shape[1]]
    if not ks:
        return [], [], np.zeros(0, np.int64)
    return curve(table, task, ks, n_random=n_random, penalty=config.penalty, seed=config.seed)


def _measured(one: Reading, panel: Panel, tasks: Sequence[Task], baselines: Baselines, config: Config) -> Measured:
    found = [_curve(_pooled(one.codes, config), each, config, config.n_random) for each in tasks]
    return Measured(
        one.subject,
        panel,
        ks=[k for k in config.ks if k <= one.codes.n_features],
        tasks=list(tasks),
        scores=[scores for scores, _, _ in found],
        random=[drawn for _, drawn, _ in found],
        best=[best for _, _, best in found],
        baselines=baselines,
    )
