"""Labels: do labels of features tell texts on which a feature is active from texts on which it is not?

Labels are made from one half of the documents (by a judge, else summaries of tokens) and scored on the other. All but one are areas under
the curve, 0.5 by chance; yes and no in words give the balanced accuracy instead, which is the same area:

    detection      a judge: does this text hold something that fits the label?
    fuzzing        a judge: are the marked tokens those the feature is active on?
    embedding      cosine of label and text, by words or by a model
    surprisal      nats per token that the label spares a model on active texts, less those on silent ones
    token_rule     whether the text has a token of the summary       controls without a label: bag_of_words, top_token
    scored         share of the features looked at that are active on texts enough;      answered: share of the judge's questions

Null of each: the label (or rule) of another feature on the same texts, by the same judge. See docs/studies/labels.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from armillary.core.config import Config as Settings
from armillary.core.model import Model
from armillary.core.report import Report
from armillary.core.run import drive
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.errors import InputError
from armillary.inspect.activity import MARKED, Activity
from armillary.inspect.asking import Judge
from armillary.inspect.evidence import Shape
from armillary.inspect.judges import LocalJudge, judge_of
from armillary.inspect.labels import Side, likeliest_rows, region_search
from armillary.studies.by_rows import by_rows
from armillary.studies.quality.label_examples import Pool
from armillary.studies.quality.label_measured import Read, measure
from armillary.studies.quality.label_report import report
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "rows"})
#: A model gives the tokens that features promote, reads texts for surprisal, and may judge.
accepts: frozenset[Need] = frozenset({"logits"})

#: Times as many features are looked at as are scored, where they are drawn: many are active too seldom.
SPARE = 4


class Config(Settings):
    """Settings of the labels study."""

    features: tuple[int, ...] = ()
    """Which features; none named: n_features drawn at random from those that are active on texts enough."""
    n_features: int = Field(20, ge=1)
    """Features to score where none are named."""
    judge: str = "none"
    """Who labels and scores: none, model (the fit's own), replay:FILE, or a URL such as http://localhost:8000/v1. Else pass `judge`."""
    judge_model: str | None = None
    """Which of the models behind the URL."""
    max_calls: int | None = Field(None, ge=0)
    """Questions that are asked at most; what is left is missing. None for no limit."""
    cache: str | None = None
    """File (.jsonl) that keeps the judge's answers, so that none is asked for twice; None for none."""
    labels_by: Literal["judge", "tokens"] = "judge"
    """Who makes the labels where there is a judge: it, or summaries of tokens, which a small judge can score though it writes none."""
    side: Side = "both"
    """What a judge makes labels from: texts (input), promoted tokens (output), or both."""
    embedding: Literal["words", "model"] = "words"
    """Embed labels and texts by their words (tf-idf), or by the last layer of the fit's own model."""
    surprisal: bool = True
    """Measure surprisal where a model with logits is given."""
    n_active: int = Field(25, ge=2)
    """Texts per feature on which it is active."""
    n_silent: int = Field(25, ge=2)
    """Texts per feature on which it is silent."""
    negatives: Literal["random", "near"] = "random"
    """Silent texts: drawn at random, or those whose words are most like those of active ones."""
    n_permuted: int = Field(1, ge=1)
    """Labels of other features behind each null."""
    length: int = Field(32, ge=2)
    """Tokens of a text at most."""
    n_levels: int = Field(10, ge=1)
    """Levels of activation that active texts are drawn from."""
    least: int = Field(10, ge=2)
    """Texts of each kind in each half of the documents below which a feature is not scored."""
    densest: float = Field(0.05, gt=0, le=1)
    """Of a feature that is active on more than this share of the rows only its strongest activations count, so many."""
    marked: float = Field(MARKED, gt=0, le=1)
    """Tokens are marked from this share of a text's largest activation on."""
    n_top: int = Field(10, ge=1)
    """Texts with the largest activations that a label is made from; as many are drawn from five levels."""
    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    max_rows: int | None = Field(200_000, ge=1)
    """Read the first rows only; None for all. Memory grows with the rows on which the features are active."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind the intervals."""
    seed: int = Field(0, ge=0)
    """Of all that is drawn."""

    @property
    def shape(self) -> Shape:
        """How much evidence a label is made from."""
        return Shape(n_top=self.n_top, per_quantile=-(-self.n_top // 5), seed=self.seed)


def run(
    subjects: Subjects,
    *,
    config: Config = Config(),  # noqa: B008 (frozen)
    judge: Judge | None = None,
    encoder: Model | None = None,
) -> Report:
    """Label features and score the labels on other documents.

    Args:
        subjects: fits with rows that have text, and with the model for promoted tokens and surprisal. Subjects with the same rows object
            share one reading. The features of a host with random weights are a subject like any other, and the control to have.
        config: settings.
        judge: who labels and scores, instead of `config.judge`.
        encoder: embeds labels and texts (a model made for sentences, say), instead of `config.embedding`.

    Raises:
        InputError: a subject without rows, rows without text, a feature that does not exist, or a judge that cannot be had.
        ShapeError: the rows do not hold what a fit reads.
        CapabilityError: a judge without logits.
    """
    began = time.monotonic()
    asked = as_subjects(subjects)
    judges = _judges(asked, config, judge)
    read = by_rows(asked, lambda group: _read(group, config))
    with torch.no_grad():
        measured = [measure(subject, read[i], judges[i], encoder, config) for i, subject in enumerate(asked)]
    seconds = time.monotonic() - began
    return together("labels", [report(one, config, seconds) for one in measured])


def _judges(asked: Sequence[Subject], config: Config, judge: Judge | None) -> list[Judge | None]:
    """The judge of each subject."""
    if judge is not None:
        return [judge] * len(asked)
    if config.judge == "model":
        models = {id(subject.model): subject.require_model(logits=True) for subject in asked}
        made = {key: LocalJudge(model, cache=config.cache, max_calls=config.max_calls) for key, model in models.items()}
        return [made[id(subject.model)] for subject in asked]
    one = judge_of(config.judge, model=config.judge_model, cache=config.cache, max_calls=config.max_calls)
    return [one] * len(asked)


def _read(subjects: Sequence[Subject], config: Config) -> list[Read]:
    """One pass over one rows object, for all of its subjects."""
    rows, n = subjects[0].require_rows(), config.max_rows
    activities = [Activity(one.fit(), rows, _candidates(one, config), batch_size=config.batch_size, max_rows=n) for one in subjects]
    searches = [region_search(one.fit(), rows, a.features.tolist(), config.shape, a) for one, a in zip(subjects, activities, strict=True)]
    drive([*activities, *(search for some in searches for search in some)], rows, title="labels")
    found = [activity.finish() for activity in activities]
    pool = Pool.of(found[0].tokens, found[0].seen, length=config.length, seed=config.seed)
    if pool.for_labels.all() or not pool.for_labels.any():
        raise InputError(
            "labels are made from one half of the documents and scored on the other; give rows of two different documents or more"
        )
    return [Read(each, pool, likeliest_rows(some)) for each, some in zip(found, searches, strict=True)]


def _candidates(subject: Subject, config: Config) -> list[int]:
    """The features to look at, in the order they are taken."""
    if config.features:
        return list(config.features)
    order = np.random.default_rng(config.seed).permutation(subject.fit().n_features)
    return [int(i) for i in order[: SPARE * config.n_features]]
