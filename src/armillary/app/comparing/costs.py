"""Costs: what the studies of a comparison will ask of a model, counted before it is asked.

What counts is how often the model is run, and on how many tokens: a small model spends most of its time between passes, and writing a token
takes several times as long as reading one. Both are timed for a moment on this machine, so that

    seconds = passes x read.call + tokens read x read.token + steps x write.call + tokens written x write.token + what takes no model

Counted is the most that a study can need: features that never fire are left out when it comes to it. Of a task's pairs a few are asked now,
since how many of them a model can do decides what learning from them takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from armillary.app.comparing.run import Asked
from armillary.core.decomposition import Decomposition
from armillary.core.model import Model
from armillary.core.pairs import can_do
from armillary.core.progress import duration
from armillary.core.report import number
from armillary.core.study import Subject
from armillary.core.task import Pair
from armillary.errors import InputError
from armillary.studies.causal.interchange import draw
from armillary.studies.causal.steering_writing import TOGETHER
from armillary.studies.causal.strength import first_row
from armillary.studies.quality.label_scores import TOGETHER as READ_TOGETHER
from armillary.studies.quality.loss import choose_sequences, parts

#: Guesses at the strength of each KL, and passes that they take: as it went with eight fits of the two models that ship.
GUESSES, SEARCH_PASSES = 3, 6
#: Seconds that the classifier of a feature's concept takes: 0.1 on one core, 0.3 on two that get in each other's way.
LEARNT = 0.2
#: A pass that is differentiated counts as so many, and one whose distributions are compared at every token.
BACK, SCORED = 1.5, 1.3
#: Pairs that are asked now.
ASKED = 48
#: Tokens of the line that a text is read behind.
LINE = 10
#: Texts read and written together where a model is timed, about as many as studies do; tokens written of each.
TIMED, TOKENS = 64, 8
#: What is timed is done so often after it was done once, and not again after so many seconds.
TIMES, ENOUGH = 3, 2.0
#: A text to read, and a beginning to go on from.
TEXT, BEGINNING = "The city lies on a river in the north of the country.", "The city lies on a"


@dataclass(frozen=True)
class Work:
    """What is asked of a model.

    Args:
        passes, read: forward passes, and the tokens that all of them read.
        steps, written: steps of writing, and the tokens that all of them write.
        besides: seconds that take no model.
    """

    passes: int = 0
    read: int = 0
    steps: int = 0
    written: int = 0
    besides: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Cost:
    """What one study will take.

    Args:
        title: of the study.
        what: in words.
        work: of the model.
    """

    title: str
    what: str
    work: Work

    @property
    def tokens(self) -> int:
        """Read or written."""
        return self.work.read + self.work.written


def costs(asked: Sequence[Asked], subjects: Sequence[Subject]) -> list[Cost]:
    """Of every study, for these subjects."""
    return [Cost(one.title, *_COSTS.get(one.study, _reads)(one, subjects)) for one in asked]


def _reads(one: Asked, subjects: Sequence[Subject]) -> tuple[str, Work]:
    return f"one reading of the store for {len(subjects)} fits", Work()


def _fidelity(one: Asked, subjects: Sequence[Subject]) -> tuple[str, Work]:
    """Clean and with each reconstruction in place; ablations once for each site."""
    c = one.config
    held = next((subject.rows.tokens for subject in subjects if subject.rows is not None and subject.rows.tokens is not None), None)
    some = [] if held is None else list(parts(held, choose_sequences(held, c.n_tokens, c.seed), c.batch_tokens))
    padded = sum(part.tokens.n_sequences * int(part.tokens.lengths.max()) for part in some)
    ablations = 1 + 3 * len({subject.what.targets for subject in subjects if isinstance(subject.what, Decomposition)})
    runs = len(subjects) + ablations
    what = f"{len(subjects)} fits and {ablations} ablations x {sum(len(part.tokens) for part in some):,} tokens"
    return what, Work(passes=runs * len(some), read=math.ceil(SCORED * runs * padded))


def _labels(one: Asked, subjects: Sequence[Subject]) -> tuple[str, Work]:
    """Each text behind its feature's label, behind others' and behind none."""
    c = one.config
    features = sum(min(len(c.features) or c.n_features, subject.what.n_features) for subject in subjects)
    texts = features * (c.n_active + c.n_silent) * (2 + c.n_permuted)
    what = f"{len(subjects)} fits x {c.n_features} features x {c.n_active + c.n_silent} texts"
    return what, Work(passes=math.ceil(texts / READ_TOGETHER), read=texts * (c.length + LINE)) if c.surprisal else Work()


# ---------------------------------------------------------------- steering


def _steering(one: Asked, subjects: Sequence[Subject]) -> tuple[str, Work]:
    c = one.config
    strengths, texts = 2 * len(c.targets), min(c.n_prompts, len(c.prompts)) * c.n_continuations
    what = f"{len(subjects)} fits x {c.n_features} features x {strengths} strengths, also of a random direction and DiffMeans"
    return f"{what}, x {texts} texts of {c.n_tokens} tokens", sum((_steered(c, subject) for subject in subjects), Work())


def _steered(c: Any, subject: Subject) -> Work:
    """Of one fit: the search for strengths along every way, what is written there, and what that costs the model."""
    fit, prompts = subject.what, c.prompts[: c.n_prompts]
    features, texts = min(len(c.features) or c.n_features, fit.n_features), len(prompts) * c.n_continuations
    length = _length(subject.model, prompts)
    ways = _ways(subject)
    tried = sum(1 + signs * (len(first_row(1.0, is_bounded)) + GUESSES * len(c.targets)) for signs, is_bounded in ways)
    curves = [len(c.targets)] * sum(signs for signs, _ in ways) + ([len(c.alphas)] if ways[0][1] else [])
    written, together = sum(curves) * texts, max(1, TOGETHER // texts)
    calls = math.ceil(features * sum(curves) / together)
    return Work(
        passes=SEARCH_PASSES + calls,
        read=features * (tried * len(prompts) * length + written * (length + c.n_tokens)),
        steps=calls * c.n_tokens,
        written=features * written * c.n_tokens,
        besides=features * LEARNT,
    )


def _ways(subject: Subject) -> list[tuple[int, bool]]:
    """Signs of the feature, of a random direction and of a difference of means, and whether there is a largest strength."""
    fit = subject.what
    dictionary = fit.dictionary if isinstance(fit, Decomposition) else fit
    is_region = dictionary.n_features > 0 and dictionary.feature(0).position is not None
    has_means = subject.rows is not None and isinstance(fit, Decomposition) and fit.inputs == fit.targets
    return [(1, True), (1, True)] * is_region + [(2, False), (1, False)] * (not is_region) + [(1, False)] * has_means


# ---------------------------------------------------------------- localization


def _localization(one: Asked, subjects: Sequence[Subject]) -> tuple[str, Work]:
    assert one.task is not None
    c, task, model = one.config, one.task, subjects[0].model
    variables, places = c.variables or task.variables, len(c.positions or task.positions)
    length = _length(model, [_run(pair) for pair in (*task.train[:64], *task.test[:64])])
    n_steps, n_settings = sum(c.n_steps) * len(c.penalties), len(c.n_steps) * len(c.penalties)
    work, learnt = Work(), 0
    for variable in variables:
        drawn = [draw([pair for pair in of if pair.variable == variable], c.max_pairs, c.seed) for of in (task.train, task.test)]
        train, test = (math.ceil(len(pairs) * _share_done(model, pairs)) for pairs in drawn)
        learnt = max(learnt, train)
        work += _passes(sum(2 * len(pairs) for pairs in drawn) + 2 * (train + test) + places * test, length, c.batch_tokens)
        judged = places * (n_settings * c.validation * train + test) + c.n_random * test
        work += _passes(math.ceil(len(subjects) * judged), length, c.batch_tokens)
        work += _learnt(len(subjects) * places * n_steps, train, c, length)
    what = f"{len(subjects)} fits x {len(variables)} variables x {places} positions, about {learnt} pairs to learn from, {n_steps} steps"
    return what, work


def _share_done(model: Model | None, pairs: Sequence[Pair]) -> float:
    """Share of pairs that a model answers as it should, of a few; 1 where it cannot be asked."""
    some = draw(pairs, ASKED, 0)
    try:
        return float(can_do(model, some).mean()) if model is not None and some else 1.0
    except InputError:
        return 1.0


def _run(pair: Pair) -> str:
    return pair.base.text + pair.expected


def _passes(texts: int, length: int, batch_tokens: int) -> Work:
    return Work(passes=math.ceil(texts * length / batch_tokens), read=texts * length)


def _learnt(n_steps: int, train: int, c: Any, length: int) -> Work:
    """Steps of learning from those pairs whose base and source are not held back; the last batch of an order is smaller."""
    pairs = math.ceil(train * (1 - c.validation) ** 2)
    size = pairs / math.ceil(pairs / c.batch_size) if pairs else 0.0
    return Work(passes=math.ceil(BACK * n_steps), read=math.ceil(BACK * n_steps * size * length)) if pairs else Work()


def _length(model: Model | None, texts: Sequence[str]) -> int:
    """Tokens of the longest of some texts; a guess where no model is known."""
    try:
        return max(1, int(model.tokenize(list(texts)).lengths.max())) if model is not None and texts else 8
    except InputError:
        return 8


_COSTS: dict[str, Callable[[Asked, Sequence[Subject]], tuple[str, Work]]] = {
    "fidelity": _fidelity,
    "steering": _steering,
    "localization": _localization,
    "labels": _labels,
}


# ---------------------------------------------------------------- in seconds


@dataclass(frozen=True)
class Pace:
    """Seconds of a model on this machine.

    Args:
        read: of a pass, and of each token in it.
        write: of a step of writing, and of each text that goes on by a token.
    """

    read: tuple[float, float]
    write: tuple[float, float]

    def seconds(self, work: Work) -> float:
        """That some work takes."""
        reading = work.passes * self.read[0] + work.read * self.read[1]
        return reading + work.steps * self.write[0] + work.written * self.write[1] + work.besides


def pace(model: Model) -> Pace:
    """How fast a model reads and writes, timed for a moment with one text and with many."""

    def read(n: int) -> float:
        tokens = model.tokenize([TEXT] * n)
        return _seconds(lambda: model.logits(tokens))

    def write(n: int) -> float:
        tokens = model.tokenize([BEGINNING] * n)
        return _seconds(lambda: model.generate(tokens, max_new_tokens=TOKENS, temperature=1.0, top_p=0.9, seed=list(range(n)))) / TOKENS

    return Pace(_line(read(1), read(TIMED), len(model.tokenize([TEXT]))), _line(write(1), write(TIMED), 1))


def _seconds(do: Callable[[], object]) -> float:
    """The median of a few times, the first of which warms up."""
    found: list[float] = []
    while len(found) <= TIMES and sum(found) < ENOUGH:
        began = time.perf_counter()
        do()
        found.append(time.perf_counter() - began)
    return float(np.median(found[1:] or found))


def _line(one: float, many: float, size: int) -> tuple[float, float]:
    """Seconds of a call and of each thing in it, from those of a call with `size` things and of one with `TIMED` times as many."""
    each = max(0.0, many - one) / (size * (TIMED - 1))
    return max(0.0, one - size * each), each


def speed_of(subjects: Sequence[Subject]) -> Pace | None:
    """Of the model that fits are of; None where there is none, or one without logits or a tokenizer, or that reads too little at once."""
    model = next((subject.model for subject in subjects if subject.model is not None), None)
    try:
        return None if model is None or not model.has_logits else pace(model)
    except InputError:
        return None


def lines(found: Sequence[Cost], rate: Pace | None) -> list[str]:
    """The costs, a line each, and all together."""
    out = [f"{one.title}: {one.what}{_about(one.work, rate)}" for one in found]
    total = sum((one.work for one in found), Work())
    return [*out, f"in all {number(sum(one.tokens for one in found))} tokens{_about(total, rate)}, besides what reading the store takes"]


def _about(work: Work, rate: Pace | None) -> str:
    return f", about {duration(rate.seconds(work))}" if rate and work != Work() else ""
