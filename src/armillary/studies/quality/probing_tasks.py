"""Tasks of k-sparse probing, and one probe of a few columns: which columns, which penalty, and what it scores on held-out documents.

The recipe of sae-probes (Kantamneni et al. 2025, arXiv 2502.16681): columns are divided by their mean over non-zeros before the mean
difference is taken, so that no column wins by its scale.

Letters: n documents, F columns, k of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import f1_score

from armillary.core.decomposition import Decomposition
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.labelled import Concept
from armillary.studies.quality.logistic import Penalty, fit_best
from armillary.studies.quality.ranks import Table, auroc

Setting = Literal["normal", "scarcity", "imbalance"]


def ascending(ks: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of features, in order.

    Raises:
        ValueError: none, one below 1, or one twice.
    """
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError("should be different numbers from 1 on, such as (1, 5, 20)")
    return tuple(sorted(ks))


def beyond(name: str, ks: Sequence[int], fit: Decomposition) -> list[str]:
    """A warning where a fit has fewer features than some numbers, called `name`, ask for."""
    left_out = ", ".join(str(k) for k in ks if k > fit.n_features)
    return [f"Left out as the fit has only {fit.n_features:,} features: {name} = {left_out}."] if left_out else []


@dataclass(frozen=True)
class Task:
    """A concept with the documents that are drawn for it.

    Args:
        concept: to be told.
        train, test: documents.
    """

    concept: Concept
    train: Ints
    test: Ints

    @staticmethod
    def of(concept: Concept, *, share: float, n_train: int | None, n_test: int | None, seed: int) -> Task:
        """As many documents as there are, at most so many, of which `share` have the concept."""
        rng = np.random.default_rng([seed, concept.key])
        sides = [_draw(rows, concept.positive[rows], share, n, rng) for rows, n in ((concept.train, n_train), (concept.test, n_test))]
        return Task(concept, *sides)

    @property
    def labels(self) -> Bools:
        """[n train] whether each training document has the concept."""
        return self.concept.positive[self.train]

    @property
    def test_labels(self) -> Bools:
        return self.concept.positive[self.test]


def _draw(rows: Ints, positive: Bools, share: float, most: int | None, rng: np.random.Generator) -> Ints:
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    n = int(min(n_positive / share, n_negative / (1 - share)))
    n = n if most is None else min(n, most)
    with_it = max(1, min(n_positive, round(n * share)))
    parts = [(rows[positive], with_it), (rows[~positive], max(1, min(n_negative, n - with_it)))]
    return np.sort(np.concatenate([rng.permutation(side)[:size] for side, size in parts]))


@dataclass(frozen=True)
class Columns:
    """Columns in the order of how much they differ between the classes on training documents.

    Args:
        order: [at most k] columns.
        scale: [at most k] what each is divided by.
        alive: columns that are not 0 in every training document.
        scales: [F] of all columns.
    """

    order: Ints
    scale: Floats
    alive: Ints
    scales: Floats

    @staticmethod
    def of(table: Table, task: Task, k: int) -> Columns:
        """The k columns of the largest |mean with - mean without|, each in units of its mean magnitude over non-zeros."""
        rows = table[task.train]
        size = np.asarray(abs(rows).sum(axis=0)).ravel()
        n_nonzero = np.asarray((rows != 0).sum(axis=0)).ravel()
        scale = np.where(n_nonzero > 0, size / np.maximum(n_nonzero, 1), 1.0)
        means = [np.asarray(table[task.train[on]].mean(axis=0)).ravel() for on in (task.labels, ~task.labels)]
        gap = np.abs(means[0] - means[1]) / scale
        order = np.argsort(-gap, kind="stable")[:k]
        return Columns(order, scale[order], np.flatnonzero(n_nonzero), scale)


@dataclass(frozen=True)
class Score:
    """What a probe scores on held-out documents, and the penalty that was chosen on the training ones."""

    auroc: float
    f1: float
    accuracy: float
    c: float = float("nan")

    @staticmethod
    def of(score: Floats, positive: Bools, c: float = float("nan")) -> Score:
        called = score > 0
        return Score(auroc(score, positive), float(f1_score(positive, called, zero_division=0.0)), float((called == positive).mean()), c)


def probe(table: Table, task: Task, columns: Ints, scale: Floats, *, penalty: Penalty, seed: int) -> Score:
    """A probe of some columns."""
    train, test = (_dense(table, rows, columns) / scale for rows in (task.train, task.test))
    found = fit_best(train, task.labels, penalty=penalty, seed=seed)
    return Score.of(found(test), task.test_labels, found.c)


def probe_all(table: Floats, task: Task, *, penalty: Penalty, seed: int) -> Score:
    """A probe of every column, standardised."""
    train = table[task.train]
    deviation = train.std(0)
    scale = np.where(deviation > 1e-6 * np.abs(train.mean(0)), deviation, np.inf)  # what does not vary says nothing
    centred = (table - train.mean(0)) / scale
    found = fit_best(centred[task.train], task.labels, penalty=penalty, seed=seed)
    return Score.of(found(centred[task.test]), task.test_labels, found.c)


def probe_random(table: Table, task: Task, columns: Columns, k: int, *, n_draws: int, penalty: Penalty, seed: int) -> float:
    """Mean AUROC of probes of k columns drawn at random among those that are ever used."""
    rng = np.random.default_rng([seed, task.concept.key, k])
    drawn = [rng.permutation(columns.alive)[:k] for _ in range(n_draws)]
    return float(np.mean([probe(table, task, one, columns.scales[one], penalty=penalty, seed=seed).auroc for one in drawn]))


def _dense(table: Table, rows: Ints, columns: Ints) -> Floats:
    found = table[rows][:, columns]
    return np.asarray(found if isinstance(found, np.ndarray) else found.toarray(), np.float64)


def principal(table: Floats, train: Ints) -> Floats:
    """[n, r] coordinates of rows on the principal axes of the training documents' rows."""
    mean = table[train].mean(0)
    _, s, axes = np.linalg.svd(table[train] - mean, full_matrices=False)
    found: Floats = (table - mean) @ axes[s > 1e-9 * max(s[0], 1e-30)].T
    return found


def curve(
    table: Table, task: Task, ks: Sequence[int], *, n_random: int, penalty: Penalty, seed: int
) -> tuple[list[Score], list[float], Ints]:
    """Scores of probes of the k best columns for every k, of random ones, and the best columns among those that are ever used."""
    best = Columns.of(table, task, max(ks))
    scores = [probe(table, task, best.order[:k], best.scale[:k], penalty=penalty, seed=seed) for k in ks]
    drawn = [probe_random(table, task, best, k, n_draws=n_random, penalty=penalty, seed=seed) for k in ks] if n_random else []
    return scores, drawn, best.order[np.isin(best.order, best.alive)]
