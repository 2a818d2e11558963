"""What one subject of the labels study gives: trials, labels, and the score of each label and of another feature's in its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from armillary.core.model import Model
from armillary.core.rows import tensor_sha256
from armillary.core.study import Subject
from armillary.core.tokens import Ints
from armillary.inspect.activity import Activations, Active
from armillary.inspect.asking import Judge
from armillary.inspect.evidence import Evidence, Source, evidence
from armillary.inspect.judges import LocalJudge
from armillary.inspect.labels import Label, counts_from, label_evidence, with_effects
from armillary.studies.quality.label_examples import Drawing, Pool, Trial, nearest_texts, trial
from armillary.studies.quality.label_scores import (
    Embed,
    Reader,
    bag_of_words,
    by_model,
    questions,
    score_answers,
    score_embedding,
    score_rule,
    score_surprisal,
    tfidf,
    token_rule,
    top_token,
    verdicts,
)

if TYPE_CHECKING:
    from armillary.studies.quality.labels import Config

JUDGED = ("detection", "fuzzing")
NO_JUDGE = "no judge was given"


@dataclass(frozen=True)
class Read:
    """What the pass over the rows gave for one subject.

    Args:
        found: activations of the features looked at.
        pool: the text, in two halves.
        likeliest: of regions, their likeliest rows.
    """

    found: Activations
    pool: Pool
    likeliest: Mapping[int, Ints]


@dataclass(frozen=True)
class Score:
    """A label's score in one way.

    Args:
        value: the score, or why there is none.
        null: the mean score of other features' labels on the same texts; None where there is none.
    """

    value: float | str
    null: float | None = None


@dataclass(frozen=True)
class Measured:
    """All of one subject.

    Args:
        subject: it.
        pool: the text.
        judge: who was asked, or None.
        too_few: features that were looked at and not scored, and why.
        trials, labels, scores: by feature.
        answered: (questions answered, questions asked) by feature.
        by_odds: whether the judge told probabilities; None where nobody was asked.
        embedding: what embedded labels and texts.
    """

    subject: Subject
    pool: Pool = field(repr=False)
    judge: Judge | None
    too_few: Mapping[int, str]
    trials: Mapping[int, Trial] = field(repr=False)
    labels: Mapping[int, Label] = field(repr=False)
    scores: Mapping[str, Mapping[int, Score]]
    answered: Mapping[int, tuple[int, int]]
    by_odds: bool | None
    embedding: str

    @cached_property
    def first_id(self) -> int:
        """What sets apart the ids of this dictionary's features: feature 3 of one dictionary is not feature 3 of another."""
        return int(tensor_sha256(self.subject.fit().dictionary.atoms)[:8], 16) << 31


def measure(subject: Subject, read: Read, judge: Judge | None, encoder: Model | None, config: Config) -> Measured:
    """Draw trials, make labels and score them."""
    active, trials, too_few = _trials(read, config)
    labels = _labels(subject, read, {feature: active[feature] for feature in trials}, judge, config)
    others = _others(labels, config)
    by_label, embedding = _ways(subject, read.pool, judge, encoder, config)
    scores = {name: _scored(way, trials, labels, others) for name, way in by_label.items()}
    judged, answered, by_odds = _judged(judge, trials, labels, others)
    rules = _ruled(trials, labels, read.pool, config)
    return Measured(
        subject, read.pool, judge, too_few, trials, labels, {**judged, **scores, **rules}, answered, by_odds, embedding
    )  # fmt: skip


def _trials(read: Read, config: Config) -> tuple[dict[int, Active], dict[int, Trial], dict[int, str]]:
    """Activations as they count; the trials of the first features that are active on texts enough; and why others have none."""
    pool, source = read.pool, Source(read.found.tokens, read.pool.rows_for_labels)
    near = nearest_texts(pool.texts) if config.negatives == "near" else None
    draw = Drawing(config.n_active, config.n_silent, config.n_levels, config.least, config.marked, config.seed, near)
    active, trials, too_few = dict[int, Active](), dict[int, Trial](), dict[int, str]()
    for feature, whole in read.found.of.items():
        if len(trials) == (len(config.features) or config.n_features):
            break
        active[feature] = whole.from_value(counts_from(whole.among(pool.rows_for_labels), config.densest, source))
        found = trial(pool, feature, active[feature], draw)
        if isinstance(found, Trial):
            trials[feature] = found
        else:
            too_few[feature] = found
    return active, trials, too_few


def _labels(subject: Subject, read: Read, active: Mapping[int, Active], judge: Judge | None, config: Config) -> dict[int, Label]:
    """Labels from the half of the documents that is for them."""
    fit, rows = subject.fit(), read.pool.rows_for_labels
    source = Source(read.found.tokens, rows)
    seen = {
        feature: evidence(fit, feature, one.among(rows), source, shape=config.shape, likeliest=read.likeliest.get(feature))
        for feature, one in active.items()
    }
    writer = judge if config.labels_by == "judge" else None
    return label_evidence(with_effects(seen, fit, None if writer is None else subject.model, config.shape), writer, config.side)


def _others(labels: Mapping[int, Label], config: Config) -> dict[int, list[int]]:
    """For each feature others, drawn at random, that have another label."""
    rng = np.random.default_rng([config.seed, 1])
    told = [feature for feature, label in labels.items() if label.text is not None]
    out = {}
    for feature, label in labels.items():
        different = [other for other in told if other != feature and labels[other].text != label.text]
        out[feature] = [int(i) for i in rng.permutation(different)[: config.n_permuted]]
    return out


# ---------------------------------------------------------------- by label

#: Scores a label on a trial, or says why not.
Way = Callable[[str, Trial], float | str]


def _ways(subject: Subject, pool: Pool, judge: Judge | None, encoder: Model | None, config: Config) -> tuple[dict[str, Way | str], str]:
    """How labels are scored without asking, or why they are not; and a name for what embeds."""
    embed, name = _embed(subject, pool, encoder, config)
    ways: dict[str, Way | str] = {"embedding": embed if isinstance(embed, str) else partial(score_embedding, embed)}
    reader = judge.model if isinstance(judge, LocalJudge) else subject.model
    if not config.surprisal:
        ways["surprisal"] = "switched off by surprisal=False"
    elif reader is None or not reader.has_logits:
        ways["surprisal"] = "no model with logits was given"
    else:
        ways["surprisal"] = partial(score_surprisal, Reader(reader))
    return ways, name


def _embed(subject: Subject, pool: Pool, encoder: Model | None, config: Config) -> tuple[Embed | str, str]:
    model = subject.require_model() if encoder is None and config.embedding == "model" else encoder
    return (tfidf(pool.texts_for_labels), "words (tf-idf)") if model is None else (by_model(model), model.name)


def _scored(
    way: Way | str, trials: Mapping[int, Trial], labels: Mapping[int, Label], others: Mapping[int, Sequence[int]]
) -> dict[int, Score]:
    """The score of each feature's label, and of others' in its place."""
    if isinstance(way, str):
        return {feature: Score(way) for feature in trials}
    out = {}
    for feature, one in trials.items():
        text = labels[feature].text
        wrong = [way(other, one) for i in others[feature] if (other := labels[i].text) is not None]
        out[feature] = Score(f"no label: {labels[feature].reason}") if text is None else Score(way(text, one), _mean(wrong))
    return out


def _mean(found: Sequence[float | str]) -> float | None:
    values = [value for value in found if not isinstance(value, str)]
    return float(np.mean(values)) if values else None


# ---------------------------------------------------------------- by a judge


def _judged(
    judge: Judge | None, trials: Mapping[int, Trial], labels: Mapping[int, Label], others: Mapping[int, Sequence[int]]
) -> tuple[dict[str, dict[int, Score]], dict[int, tuple[int, int]], bool | None]:
    """Scores of detection and fuzzing, and how many questions of each feature were answered; all features are asked about together."""
    if judge is None:
        return {task: {feature: Score(NO_JUDGE) for feature in trials} for task in JUDGED}, {}, None
    told = {feature: label.text for feature, label in labels.items() if label.text is not None}
    asked = [q for feature in told for q in questions(trials[feature], {i: told[i] for i in (feature, *others[feature])})]
    made = verdicts(judge, asked)
    groups = defaultdict(list)
    for place, question in enumerate(asked):
        groups[question.task, question.feature, question.label_of].append(place)
    found = {key: score_answers([asked[i] for i in places], [made.score[i] for i in places]) for key, places in groups.items()}

    def one(task: str, feature: int) -> Score:
        if feature not in told:
            return Score(f"no label: {labels[feature].reason}")
        wrong = [found[task, feature, other] for other in others[feature] if (task, feature, other) in found]
        return Score(found[task, feature, feature], _mean(wrong))

    answered = {
        feature: (sum(made.score[i] is not None for i in places), len(places))
        for feature in told
        if (places := [i for key, some in groups.items() if key[1] == feature for i in some])
    }
    return {task: {feature: one(task, feature) for feature in trials} for task in JUDGED}, answered, made.by_odds if asked else None


# ---------------------------------------------------------------- by rule


def _ruled(trials: Mapping[int, Trial], labels: Mapping[int, Label], pool: Pool, config: Config) -> dict[str, dict[int, Score]]:
    """Scores of rules that need no label, and of other features' rules on the same texts."""
    seen: dict[int, Evidence] = {feature: label.evidence for feature, label in labels.items()}
    rules = {
        "token_rule": {feature: token_rule(seen[feature], pool.tokens) for feature in trials},
        "bag_of_words": {feature: bag_of_words(one, pool.tokens) for feature, one in trials.items()},
        "top_token": {feature: top_token(seen[feature], pool.tokens) for feature in trials},
    }
    rng = np.random.default_rng([config.seed, 2])
    others = {feature: rng.permutation([i for i in trials if i != feature])[: config.n_permuted] for feature in trials}
    return {
        name: {
            feature: Score(score_rule(of[feature], one), _mean([score_rule(of[int(i)], one) for i in others[feature]]))
            for feature, one in trials.items()
        }
        for name, of in rules.items()
    }
