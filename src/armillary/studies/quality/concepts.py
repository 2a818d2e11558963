"""Concepts: is there one feature that tells documents with a concept from documents without it?

    score of a document    the largest activation of the feature over its tokens, special tokens left out
    auroc                  of the feature that is best on the training documents, on the held-out ones; ties count half; mean over concepts
    auroc_train            the same on the training documents, which flatters it
    auroc_hard             on held-out documents, against the negatives whose words are most like those of the positives
    s_cd                   log (mean over documents with the concept of the largest cosine of a token with the feature / the same without)
    raw_dimension, full_vector, diffmeans, bag_of_words, length      what else tells the concept, learnt on the same training documents

A concept is a value of a label of the documents against the label's other values. The measures are those of AxBench (Wu et al. 2025, arXiv
2501.17148) and of Shafran, Geiger and Geva (2025, arXiv 2506.10920). See docs/studies/concepts.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from armillary.core.config import Config as Settings
from armillary.core.report import Report
from armillary.core.rows import IndexedRows
from armillary.core.statistics import Floats
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.core.tokens import Ints
from armillary.studies.by_rows import by_rows
from armillary.studies.quality.bag_of_words import hard_negatives, word_scores
from armillary.studies.quality.concept_picks import Pick, picks
from armillary.studies.quality.concept_report import Measured, report
from armillary.studies.quality.concept_score import log_ratio
from armillary.studies.quality.document_reading import Reading, largest_cosines, read_features
from armillary.studies.quality.labelled import Concept, Panel
from armillary.studies.quality.linear_probe import Probe, diffmeans_scores
from armillary.studies.quality.pooled import Pooled
from armillary.studies.quality.ranks import auroc
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "rows", "labels"})
accepts: frozenset[Need] = frozenset()


class Config(Settings):
    """Settings of the concepts study."""

    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    concepts: tuple[str, ...] = ()
    """Concepts to ask for, such as kind=code, or labels, all of whose values are asked for; none for everything."""
    n_documents: int | None = Field(10_000, ge=4)
    """Documents at most, chosen by a hash of their text; None for all."""
    test_share: float = Field(0.5, gt=0, lt=1)
    """Share of the documents that is held out, chosen by a hash of their text."""
    split: str | None = None
    """A label that holds documents out instead: those where it is not "train"."""
    min_positives: int = Field(10, ge=2)
    """Documents with, and without, a concept that are needed on each side."""
    max_concepts: int = Field(50, ge=1)
    """Concepts at most, the most frequent ones."""
    n_neighbours: int = Field(3, ge=1)
    """Hard negatives drawn for each document with the concept."""
    cosines: bool = True
    """Measure s_cd, in a second reading of the rows."""
    n_draws: int = Field(100, ge=2)
    """Draws of labels behind the null."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the split, the null and the bootstrap."""


def run(subjects: Subjects, *, config: Config = Config()) -> Report:  # noqa: B008 (frozen)
    """Measure how well single features tell the labels of documents they were not chosen by.

    Args:
        subjects: fits with rows of labelled documents. Subjects with the same rows object share their readings.
        config: settings.

    Raises:
        InputError: a subject without rows, rows without labelled documents, or a split that leaves a side empty.
        UnknownNameError: a label that no document has.
        ShapeError: the rows do not hold what a fit reads.
        TooFewRowsError: no token is left once special ones are taken out.
    """
    began = time.monotonic()
    measured = by_rows(as_subjects(subjects), lambda group: _measure(group, config))
    seconds = time.monotonic() - began
    return together("concepts", [report(one, config, seconds) for one in measured])


def _measure(subjects: Sequence[Subject], config: Config) -> list[Measured]:
    """The readings of one rows object, for all of its subjects."""
    panel = Panel.of(subjects[0].require_rows(), config, wanted=config.concepts, max_concepts=config.max_concepts)
    asked = panel.concepts.asked
    if not asked:
        return [Measured(subject, panel) for subject in subjects]
    readings = read_features(subjects, panel.documents, config.batch_size, "concepts")
    words = panel.words()
    hard = [_hard(one, words, config.n_neighbours) for one in asked]
    without_model = {
        "bag_of_words": [_of_scores(one, word_scores(words, one.train, one.positive[one.train], one.test)) for one in asked],
        "length": [_by_length(one, panel.documents.n_rows.astype(np.float64)) for one in asked],
    }
    baselines = {key: _baselines(raw, asked, config) | without_model for key, raw in {one.key: one.raw for one in readings}.items()}
    chosen = [picks(one.codes, asked, n_draws=config.n_draws, seed=config.seed) for one in readings]
    return [
        Measured(one.subject, panel, own, baselines[one.key], hard, ratios)
        for one, own, ratios in zip(readings, chosen, _log_ratios(readings, chosen, asked, config), strict=True)
    ]


def _hard(concept: Concept, words: sparse.csr_matrix, n_neighbours: int) -> Ints:
    """Held-out documents with the concept, and the hard negatives."""
    positive = concept.positive[concept.test]
    return np.concatenate([concept.test[positive], hard_negatives(words, concept.test[positive], concept.test[~positive], n_neighbours)])


def _of_scores(concept: Concept, score: Floats) -> float:
    """AUROC of scores of the held-out documents."""
    return auroc(score, concept.positive[concept.test])


def _by_length(concept: Concept, n_tokens: Floats) -> float:
    """AUROC of the documents' lengths [n], longer or shorter as the training documents say: a maximum over more tokens is larger."""
    longer = auroc(n_tokens[concept.train], concept.positive[concept.train]) >= 0.5
    return _of_scores(concept, n_tokens[concept.test] if longer else -n_tokens[concept.test])


def _baselines(raw: Pooled, concepts: Sequence[Concept], config: Config) -> dict[str, list[float]]:
    """AUROC on held-out documents of the best raw dimension and of two read-outs of the mean over a document's tokens."""
    x = np.asarray(raw.mean)
    best = picks(raw, concepts, n_draws=0, seed=config.seed)
    full = [Probe.of(x[each.train], each.positive[each.train])(x[each.test]) for each in concepts]
    means = [diffmeans_scores(x[each.train], each.positive[each.train], x[each.test]) for each in concepts]
    return {
        "raw_dimension": [pick.test for pick in best],
        "full_vector": [_of_scores(each, score) for each, score in zip(concepts, full, strict=True)],
        "diffmeans": [_of_scores(each, score) for each, score in zip(concepts, means, strict=True)],
    }


# ---------------------------------------------------------------- S_CD


def _log_ratios(
    readings: Sequence[Reading], chosen: Sequence[Sequence[Pick]], concepts: Sequence[Concept], config: Config
) -> list[list[float | None] | str]:
    """S_CD of each subject's picks, or why there is none; one more reading for all of them."""
    whys = [_why_no_cosines(one, config) for one in readings]
    asked = [(one, own) for one, own, why in zip(readings, chosen, whys, strict=True) if not why]
    if not asked:
        return list(whys)
    found = largest_cosines([(one, _directions(one, own)) for one, own in asked], config.batch_size)
    ratios = iter([_of_cosines(np.asarray(each.largest), own, concepts) for each, (_, own) in zip(found, asked, strict=True)])
    return [why or next(ratios) for why in whys]


def _why_no_cosines(one: Reading, config: Config) -> str:
    if not config.cosines:
        return "switched off by cosines=False"
    if one.target is None:
        return "the rows do not hold what the fit reconstructs"
    if not isinstance(one.documents.rows, IndexedRows):
        return "it takes a second reading, and these rows are a live stream; harvest them"
    return ""


def _directions(one: Reading, own: Sequence[Pick]) -> Tensor:
    """[C, D] what each pick adds, turned to the side that tells the concept."""
    directions = one.subject.fit().dictionary.directions()
    return torch.stack([pick.sign * directions[pick.feature] for pick in own]).cpu()


def _of_cosines(cosines: Floats, own: Sequence[Pick], concepts: Sequence[Concept]) -> list[float | None]:
    """[C] S_CD of held-out documents from their largest cosines [n, C]; None where nothing was picked."""
    sides = [(cosines[one.test, i], one.positive[one.test]) for i, one in enumerate(concepts)]
    return [None if pick.is_tied else log_ratio(each[on], each[~on]) for pick, (each, on) in zip(own, sides, strict=True)]
