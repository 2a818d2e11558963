"""Steering: does adding a feature make a model write about what the feature stands for, and what does that cost?

For every feature the strengths are searched at which the next token's distribution changes by given KL; the model writes on from neutral
prompts at each, and the texts are scored without a judge:

    concept    how much likelier a classifier of the feature's passages (a bag of tokens) finds it, as a share of what is left to 1
    fluency    perplexity and repetition under the model without edits, against text without an edit
    score      the harmonic mean of both, at the strength that is best on the other half of the prompts
    area       under the curve of concept against fluency over all strengths

Null: a random direction of equal length at the same KL, over the KL that both reach. Baseline: the difference of means (DiffMeans) of the
same rows. Regions are moved toward their centroid. With a judge, three ratings of each text, after Wu et al. 2025 (AxBench, arXiv
2501.17148) and Shafran, Geiger and Geva 2025 (arXiv 2506.10920).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field

from armillary.core.config import Config as Settings
from armillary.core.model import Model
from armillary.core.progress import progress
from armillary.core.report import Report
from armillary.core.run import drive
from armillary.core.site import Site
from armillary.core.study import Need, Subject, Subjects, as_subjects
from armillary.errors import InputError, MismatchError
from armillary.studies.causal.edit_families import Position
from armillary.studies.causal.steering_aims import Aim, Aimer, candidates, check_width, chosen, written_site
from armillary.studies.causal.steering_encoder import Embeddings
from armillary.studies.causal.steering_evidence import Evidence, Gather
from armillary.studies.causal.steering_judge import Asked, Case, rate
from armillary.studies.causal.steering_measured import Judged, Measured, Shown, Steered
from armillary.studies.causal.steering_report import Reporter
from armillary.studies.causal.steering_scores import Reading
from armillary.studies.causal.steering_writing import WAYS, Line, Point, Sampled, Way, Writer, curves
from armillary.studies.causal.strength import TARGETS, Dose
from armillary.studies.together import together

needs: frozenset[Need] = frozenset({"fit", "logits"})
#: With rows, features are chosen among those that fire and concepts are known by their passages; without, by the tokens they promote.
accepts: frozenset[Need] = frozenset({"rows"})

#: Texts that fit anything, so that what comes of them is the edit's.
PROMPTS = ("I think that", "It is", "The most", "This is", "There was")
#: Random passages for each of a feature's; features that are searched and written for together.
OTHERS, TOGETHER = 4, 8


class Config(Settings):
    """Settings of the study."""

    features: tuple[int, ...] = ()
    """Which features to steer; by default some that fire, drawn by the seed."""
    n_features: int = Field(8, ge=1)
    """How many to draw."""
    prompts: tuple[str, ...] = PROMPTS
    """Texts to go on from; neutral, so that what comes of them is the edit's."""
    n_prompts: int = Field(5, ge=1)
    """Use the first so many of the prompts."""
    n_continuations: int = Field(2, ge=1)
    """Texts written after each prompt, at each strength."""
    n_tokens: int = Field(32, ge=2)
    """Tokens of a text at most; passages are as long."""
    targets: tuple[float, ...] = TARGETS
    """KL between the next token's distributions without and with the edit, in nats; a strength is found for each."""
    tolerance: float = Field(0.02, gt=0, lt=1)
    """Relative distance from a KL that is near enough."""
    alphas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Of regions also these shares of the way to the centroid, from 0 to 1."""
    position: Position = "all"
    """Tokens that are changed: all but special ones, the prompt's last one, or that and all that are generated."""
    temperature: float = Field(1.0, ge=0)
    """Of the drawing; 0 takes the likeliest token."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Draw from the smallest set of tokens that holds this probability."""
    n_passages: int = Field(48, ge=8)
    """Passages that a feature's concept is learned from."""
    least_auroc: float = Field(0.65, ge=0.5, le=1)
    """How well a classifier has to tell a feature's passages from others, on other documents, to be used."""
    n_own: int = Field(50, ge=1)
    """Tokens that count as a feature's own: those it promotes most."""
    n_judged: int = Field(2, ge=1)
    """Texts of each strength that a judge is shown, where there is one; every text is three questions."""
    batch_size: int = Field(4096, ge=1)
    """Rows per batch; changes speed and memory, not the result."""
    n_bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples behind each interval."""
    seed: int = Field(0, ge=0)
    """Of the features drawn, the halves of the documents, random directions, the texts and the bootstrap."""


def run(
    subjects: Subjects,
    *,
    config: Config = Config(),  # noqa: B008 (frozen)
    judge: Asked | None = None,
    encoder: Model | None = None,
) -> Report:
    """Steer features and score what is written.

    Args:
        subjects: fits with the model, and rows where there are any; with the same rows object they share a pass, with the same model
            the texts without an edit.
        config: settings.
        judge: rates texts; see `inspect.judges`.
        encoder: a model of sentences, whose similarity of texts to passages is reported too.

    Raises:
        InputError: a bare dictionary, a fit that names no site, no prompt or one that does not fit the model's context with what is to
            be written, an alpha outside 0 to 1, or no feature that fires.
        CapabilityError: the model has no logits, or no such site.
        MismatchError: rows of another model.
        ShapeError: a fit of another width than the model's site.
    """
    began = time.monotonic()
    asked = as_subjects(subjects)
    for subject in asked:
        _check(subject, config)
    with torch.no_grad():
        writers = _writers(asked, config)
        for subject in asked:
            check_width(subject.fit(), writers[id(subject.model)])
        evidence = _gather(asked, config)
        embeddings = None if encoder is None else Embeddings(encoder)
        works = [
            _Work(subject, found, writers[id(subject.model)], embeddings, config) for subject, found in zip(asked, evidence, strict=True)
        ]
        measured = _measured(works)
    if judge is not None:
        measured = [replace(one, judged=_judge(judge, one, config)) for one in measured]
    reports = [Reporter(one, config, one.writer.model.vocabulary()).report(config, time.monotonic() - began) for one in measured]
    return together("steering", reports)


def _check(subject: Subject, config: Config) -> None:
    fit, model = subject.fit(), subject.require_model(logits=True)
    written_site(fit)
    if not config.prompts or not config.targets or not all(0 < target < float("inf") for target in config.targets):
        raise InputError(f"steering needs prompts and KL targets above 0, got {len(config.prompts)} prompts and {list(config.targets)}")
    if not all(0 <= alpha <= 1 for alpha in config.alphas):
        raise InputError(f"alphas are shares of the way to a centroid, from 0 to 1, got {list(config.alphas)}")
    if subject.rows is None:
        return
    theirs = {source.revision for source, _ in subject.require_rows().layout if source is not None}
    if theirs and theirs != {model.revision}:
        raise MismatchError(
            f"the rows of {subject.label} are of revision {min(theirs)[:8]}, the model of {model.revision[:8]}; pass its own"
        )


def _writers(subjects: Sequence[Subject], config: Config) -> dict[int, Writer]:
    """By model, a writer that has written without an edit: what does not fit the context is refused before anything is read."""
    how = Sampled(config.n_continuations, config.n_tokens, config.temperature, config.top_p, config.seed, config.position)
    sites: dict[int, dict[Site, Subject]] = {}
    for subject in subjects:
        sites.setdefault(id(subject.model), {})[written_site(subject.fit())] = subject
    found = {}
    for key, by_site in sites.items():
        model = next(iter(by_site.values())).require_model(logits=True)
        found[key] = Writer(model, config.prompts[: config.n_prompts], how, list(by_site))
        found[key].plain()
    return found


#: What a subject's rows say, and the features to steer.
_Found = tuple[Evidence, list[int]]


def _gather(subjects: Sequence[Subject], config: Config) -> list[_Found | None]:
    """One pass per rows object, for all of its subjects; None for subjects without rows."""
    consumers: dict[int, Gather] = {}
    for key in dict.fromkeys(id(subject.rows) for subject in subjects if subject.rows is not None):
        group = [i for i, subject in enumerate(subjects) if id(subject.rows) == key]
        consumers |= {i: _consumer(subjects[i], config) for i in group}
        drive([consumers[i] for i in group], subjects[group[0]].require_rows(), title="steering: passages")
    found: list[_Found | None] = [None] * len(subjects)
    for i, consumer in consumers.items():
        evidence = consumer.finish()
        found[i] = evidence, chosen(evidence.features.tolist(), evidence, config.features, config.n_features)
    return found


def _consumer(subject: Subject, config: Config) -> Gather:
    fit = subject.fit()
    some = candidates(fit, config.features, config.n_features, has_rows=True, seed=config.seed)
    n = config.n_passages
    return Gather(fit, subject.require_rows(), some, n=n, n_others=OTHERS * n, batch_size=config.batch_size, seed=config.seed)


@dataclass(frozen=True)
class _Work:
    """What is to be done for one subject; `found` is None without rows."""

    subject: Subject
    found: _Found | None
    writer: Writer
    embeddings: Embeddings | None
    config: Config

    @property
    def evidence(self) -> Evidence | None:
        return None if self.found is None else self.found[0]

    @property
    def has_passages(self) -> bool:
        return self.evidence is not None and self.evidence.rows.tokens is not None

    @property
    def features(self) -> list[int]:
        if self.found is not None:
            return self.found[1]
        config = self.config
        return candidates(self.subject.fit(), config.features, config.n_features, has_rows=False, seed=config.seed)

    def steered(self) -> Iterator[Steered]:
        """The features, one after another."""
        config = self.config
        fit, least, size = self.subject.fit(), config.least_auroc, config.n_tokens
        aimer = Aimer(fit, self.writer.model, self.evidence, config.n_own, size, least, config.seed)
        for first in range(0, len(self.features), TOGETHER):
            aims = [aimer.aim(feature) for feature in self.features[first : first + TOGETHER]]
            found = zip(aims, _curves(self.writer, aims, config), _alphas(self.writer, aims, config), strict=True)
            yield from (Steered(aim, along, alphas, self._likeness(aim)) for aim, along, alphas in found)

    def _likeness(self, aim: Aim) -> Reading | None:
        """To its passages, by the encoder."""
        if self.embeddings is None or self.evidence is None or not self.has_passages:
            return None
        return self.embeddings.likeness(aim, self.evidence.rows, self.config.n_tokens)


def _measured(works: Sequence[_Work]) -> list[Measured]:
    """The texts of every subject."""
    measured = []
    with progress("steering", total=sum(len(work.features) for work in works), unit="features") as bar:
        for work in works:
            steered = []
            for one in work.steered():
                steered.append(one)
                bar.advance(1)
            measured.append(Measured(work.subject, work.writer, steered, work.has_passages))
    return measured


def _lines(aim: Aim) -> dict[Way, Line]:
    """What is searched: the feature's own signs together; the baselines have one."""
    both = (1, -1) if "against" in aim.families else (1,)
    return {way: (family, both if way == "feature" else (1,)) for way, family in aim.families.items() if way != "against"}


def _curves(writer: Writer, aims: Sequence[Aim], config: Config) -> list[dict[Way, list[Point]]]:
    """What is written along every way that there is."""
    lines = [_lines(aim) for aim in aims]
    found = iter(curves(writer, [line for one in lines for line in one.values()], config.targets, tolerance=config.tolerance))
    out = []
    for aim, one in zip(aims, lines, strict=True):
        points = {way: next(found) for way in one}
        if "against" in aim.families:
            points["against"] = [point for point in points["feature"] if point.dose.sign < 0]
            points["feature"] = [point for point in points["feature"] if point.dose.sign > 0]
        out.append({way: points[way] for way in WAYS if way in points})
    return out


def _alphas(writer: Writer, aims: Sequence[Aim], config: Config) -> list[list[Point]]:
    """Of regions, what is written at fixed shares of the way to the centroid."""
    asked = [
        [(aim.families["feature"], alpha) for alpha in config.alphas] if aim.kind == "region" and "feature" in aim.families else []
        for aim in aims
    ]
    every = [one for some in asked for one in some]
    kls, texts = iter(writer.effect.of(every)), iter(writer.steered(every))
    return [[Point(Dose(kl := next(kls), 1, alpha, kl), next(texts)) for _, alpha in some] for some in asked]


def _judge(judge: Asked, measured: Measured, config: Config) -> Judged:
    """Ratings of some texts of every strength, of every prompt in turn, along each feature and its random direction."""
    words = measured.writer.model.vocabulary()
    shown: list[Shown] = []
    ways: tuple[Way, ...] = ("feature", "random")
    for one in measured.features:
        concept = described(one.aim, words, measured)
        for way in ways:
            for texts in [point.texts for point in one.curves.get(way, ()) if point.texts is not None]:
                places = [i for i in measured.writer.by_turns if texts.text[i].strip()][: config.n_judged]
                shown += [Shown(one.aim.feature, way, texts, place, concept) for place in places]
    prompts, prompt = measured.writer.prompts, measured.writer.prompt
    cases = [Case(one.concept, prompts[int(prompt[one.place])], one.texts.text[one.place]) for one in shown]
    return Judged(shown, rate(judge, cases))


def described(aim: Aim, words: Sequence[str], measured: Measured) -> str:
    """A feature's concept in words, for a judge: the tokens it promotes, and passages of the text it responds to."""
    parts = []
    if aim.own is not None:
        parts.append("the topic of these words: " + ", ".join(repr(words[i].strip()) for i in aim.own[:10].tolist() if words[i].strip()))
    rows = measured.subject.rows
    if aim.near and rows is not None and rows.tokens is not None:
        parts.append("what these excerpts share: " + " | ".join(repr(rows.tokens.window(row, 12, 4)) for row in aim.near[:3]))
    return "; ".join(parts) or f"feature {aim.feature}"
