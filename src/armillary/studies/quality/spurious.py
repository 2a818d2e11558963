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
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from armillary.core.codes import Codes, dense_codes
from armillary.core.columns import columns_for
from armillary.core.config import Config as Settings
from armillary.core.method import Pass
from armillary.core.provenance import of_rows, versions
from armillary.core.report import Estimate, Report
from armillary.core.rows import width
from armillary.core.run import drive
from armillary.core.statistics import Floats, Units, ratio_interval
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError
from armillary.studies.quality.labelled import Concept, Concepts, concepts_of, over_concepts
from armillary.studies.quality.linear_probe import Probe
from armillary.studies.quality.pooled import Documents, Pool
from armillary.studies.quality.probing_tasks import Task
from armillary.studies.quality.spurious_parts import Means, right, strongest, trained
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "rows", "labels"})
accepts: frozenset[Need] = frozenset()

#: Accuracy that a probe must lose to the second label before a share of it can be won back.
LEAST_LOSS = 0.001
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
    min_positives: int = Field(10, ge=2)
    """Documents with, and without, a class that are needed on each side; of a pair, documents in each combination."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the split, the probes, the null and the bootstrap."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Measure TPP and SCR, which were found unreliable.

    Args:
        subjects: fits with rows of labelled documents, which reconstruct what they read.
        config: settings.

    Raises:
        InputError: without include_unreliable; a subject without rows, rows without labelled documents, a pair that is none.
        UnknownNameError: a label that no document has.
    """
    began = time.monotonic()
    asked = as_subjects(subjects)
    for subject in asked:
        subject.fit(), subject.require_rows()
    if not config.include_unreliable:
        raise InputError("TPP and SCR were found unreliable (arXiv 2605.18229): use probing, or pass include_unreliable=True all the same")
    if len(config.pair) not in (0, 2):
        raise InputError(f"pair={config.pair} must be two concepts, such as ('kind=question', 'domain=person')")
    with torch.no_grad():
        reports = [_report(subject, config, began) for subject in asked]
    return together("spurious", reports)


def _report(subject: Subject, config: Config, began: float) -> Report:
    documents = Documents.of(subject.require_rows(), n_documents=config.n_documents, seed=config.seed)
    is_test = documents.held_out(config.test_share, None)
    means = _means(subject, documents, config)
    ns = [n for n in config.ns if n <= subject.fit().n_features]
    classes = _classes(documents, is_test, config)
    estimates = _tpp(means, classes, ns, config) | _scr(means, documents, is_test, ns, config)
    return Report(
        subject.label,
        estimates=estimates,
        notes=[
            f"{len(documents):,} documents, {int(is_test.sum()):,} held out.",
            f"TPP's classes: {', '.join(one.name for one in classes.asked)}.",
            "Null: as many features drawn at random. What the fit does not explain stays.",
            "Intervals: 95 %, bootstrap over classes; of SCR, over documents.",
        ],
        warnings=[WARNING],
        provenance={
            "study": "spurious",
            "subject": dict(subject.fit().provenance),
            "rows": of_rows(documents.rows),
            "settings": config.model_dump(mode="json"),
            "versions": versions(),
        },
        seconds=time.monotonic() - began,
    )


def _means(subject: Subject, documents: Documents, config: Config) -> Means:
    """Means over documents of what is reconstructed and of the codes, in one pass."""
    fit = subject.fit()
    read, target = columns_for(fit, documents.rows.layout)
    if target is None:
        raise InputError(f"{subject.label} reconstructs another site, which the rows do not hold; harvest both sites")
    atoms, order = fit.dictionary.atoms, Pass(config.batch_size)

    def codes(x: Tensor) -> Codes:
        here = x.to(atoms.device)
        return fit.encode(here[:, read], target=None if fit.inputs == fit.targets else here[:, target].to(atoms.dtype))

    raw = Pool(lambda x: dense_codes(x[:, target].double()), width(fit.targets), None, documents, order)
    own = Pool(codes, fit.dictionary.n_atoms, None if fit.encoder.fires is None else 0.0, documents, order)
    drive([raw, own], documents.rows, title="spurious")
    return Means(np.asarray(raw.finish().mean), own.finish().mean, fit.dictionary)


# ---------------------------------------------------------------- targeted probe perturbation


def _classes(documents: Documents, is_test: Bools, config: Config) -> Concepts:
    """The values of one label."""
    settings: dict[str, Any] = {"min_positives": config.min_positives, "max_concepts": 50}
    found = concepts_of(documents, is_test, wanted=() if config.label is None else (config.label,), **settings)
    names = [one.label for one in found.asked]
    most = max(dict.fromkeys(names), key=names.count, default="")
    return Concepts([one for one in found.asked if one.label == most], found.left_out)


def _tpp(means: Means, classes: Concepts, ns: Sequence[int], config: Config) -> dict[str, Estimate]:
    concepts = classes.asked
    if len(concepts) < 3:
        reason = f"it takes a label with three classes, as each of two is what the other is not; {classes.why_none}"
        return {f"tpp_{n}": Estimate.missing(reason, better="higher") for n in ns}
    tasks = [Task.of(one, share=0.5, n_train=4000, n_test=1000, seed=config.seed) for one in concepts]
    probes = [trained(means.x[each.train], each.labels, seed=config.seed) for each in tasks]
    effects = [means.effects(each.train, each.labels, probe, absolute=False) for each, probe in zip(tasks, probes, strict=True)]
    rng = np.random.default_rng(config.seed)
    out = {}
    for n in ns:
        values = [_fall(means, tasks, probes, c, strongest(effects[c], n)) for c in range(len(tasks))]
        chance = [_fall(means, tasks, probes, c, rng.permutation(means.dictionary.n_features)[:n]) for c in range(len(tasks))]
        out[f"tpp_{n}"] = over_concepts(
            concepts, values, null=float(np.mean(chance)), ceiling=0.5, n_bootstrap=config.n_bootstrap, seed=config.seed
        )
    return out


def _fall(means: Means, tasks: Sequence[Task], probes: Sequence[Probe], c: int, features: Ints) -> float:
    """How much more the accuracy of class c falls than that of the others."""
    falls = []
    for each, probe in zip(tasks, probes, strict=True):
        before, after = (right(probe, x, each.test_labels).mean() for x in (means.x[each.test], means.without(each.test, features)))
        falls.append(float(before - after))
    return falls[c] - float(np.mean([fall for j, fall in enumerate(falls) if j != c]))


# ---------------------------------------------------------------- spurious correlation removal


def _scr(means: Means, documents: Documents, is_test: Bools, ns: Sequence[int], config: Config) -> dict[str, Estimate]:
    def missing(reason: str) -> dict[str, Estimate]:
        return {f"scr_{n}": Estimate.missing(reason, better="higher") for n in ns}

    if not config.pair:
        return missing("no pair of concepts was named")
    found = concepts_of(documents, is_test, wanted=config.pair, min_positives=config.min_positives, max_concepts=2).asked
    if len(found) < 2:
        return missing("one of the pair has too few documents")
    train, test = (_cells(found, side, config.seed) for side in (np.flatnonzero(~is_test), np.flatnonzero(is_test)))
    if min(len(train[0]), len(test[0])) < config.min_positives:
        return missing(f"a combination of the pair has fewer than {config.min_positives} documents on a side")
    return _won_back(means, found, train, test, ns=ns, config=config)


def _cells(pair: Sequence[Concept], rows: Ints, seed: int) -> list[Ints]:
    """Documents with neither concept, the second, the first, and both: equally many of each."""
    one, two = (concept.positive[rows] for concept in pair)
    cells = [rows[(one == first) & (two == second)] for first in (False, True) for second in (False, True)]
    size, rng = min(len(cell) for cell in cells), np.random.default_rng(seed)
    return [rng.permutation(cell)[:size] for cell in cells]


def _won_back(
    means: Means, pair: Sequence[Concept], train: list[Ints], test: list[Ints], *, ns: Sequence[int], config: Config
) -> dict[str, Estimate]:
    """SCR in the direction in which the biased probe does worse."""
    coinciding, judged = np.concatenate([train[0], train[3]]), np.concatenate(test)
    balanced = np.concatenate(train)
    biased = trained(means.x[coinciding], pair[0].positive[coinciding], seed=config.seed)
    scores = [right(biased, means.x[judged], one.positive[judged]) for one in pair]
    intended, other = (pair[0], pair[1]) if scores[0].mean() <= scores[1].mean() else (pair[1], pair[0])
    labels, before = intended.positive[judged], min(scores, key=lambda score: float(score.mean()))
    clean = right(trained(means.x[balanced], intended.positive[balanced], seed=config.seed), means.x[judged], labels)
    of_other = trained(means.x[balanced], other.positive[balanced], seed=config.seed)
    effects = means.effects(balanced, other.positive[balanced], of_other, absolute=True)
    rng = np.random.default_rng(config.seed)

    def gained(features: Ints) -> Floats:
        return right(biased, means.without(judged, features), labels) - before

    return {
        f"scr_{n}": _share(
            gained(strongest(effects, n)), clean - before, gained(rng.permutation(means.dictionary.n_features)[:n]), judged, config
        )
        for n in ns
    }


def _share(gained: Floats, lost: Floats, by_chance: Floats, judged: Ints, config: Config) -> Estimate:
    """The ratio of totals over documents."""
    if lost.mean() < LEAST_LOSS:
        return Estimate.missing(f"the second concept costs the probe {lost.mean():.3f} of accuracy: nothing to win back", better="higher")
    units = Units("document", judged, gained, lost)
    low, high = ratio_interval(units, n_samples=config.n_bootstrap, seed=config.seed)
    null = float(by_chance.sum() / lost.sum())
    return Estimate(units.value, low, high, len(judged), null, ceiling=1.0, better="higher", units=units)
