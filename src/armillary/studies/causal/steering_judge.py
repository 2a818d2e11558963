"""Steered text before a judge: a language model that rates one thing about one text at a time, with a digit.

    concept        is the text about it?                                0, 1, 2
    instruction    does it go on from what it was given?                0, 1, 2
    fluency        is it written as people write?                       0, 1, 2

A text's score is the harmonic mean of its ratings, 0 if one is 0: of concept and fluency after Shafran, Geiger and Geva 2025 (arXiv
2506.10920), of all three after Wu et al. 2025 (AxBench, arXiv 2501.17148). A rating that is no digit is missing, and so is the score.

Letters: n texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from armillary.core.statistics import Floats
from armillary.inspect import asking
from armillary.inspect.answers import verdict
from armillary.studies.causal.steering_scores import harmonic

#: Who rates.
Asked = asking.Asked
Aspect = Literal["concept", "instruction", "fluency"]
ASPECTS: tuple[Aspect, ...] = ("concept", "instruction", "fluency")
#: The largest rating.
BEST = 2

_SCALES: dict[Aspect, str] = {
    "concept": (
        "Concept: {concept}\n\nText: {text}\n\n"
        "How strongly is the concept present in the text? It counts wherever it shows, even in text that makes no sense.\n"
        "0 = it is not there\n1 = there is a trace of it\n2 = the text is clearly about it"
    ),
    "instruction": (
        "Beginning: {prompt}\n\nContinuation: {text}\n\n"
        "Does the continuation go on from this beginning? Leave aside what it is about and how well it is written.\n"
        "0 = it has nothing to do with the beginning\n1 = it goes on from it in part\n2 = it goes on from it"
    ),
    "fluency": (
        "Text: {text}\n\n"
        "Does the text read like something a person wrote? Leave aside what it is about; it may be cut off at its end.\n"
        "0 = it is broken or repeats itself\n1 = it can be read, with faults\n2 = it reads well"
    ),
}


@dataclass(frozen=True)
class Case:
    """A text to be rated.

    Args:
        concept: what it should be about, in words.
        prompt: what it goes on from.
        text: the continuation.
    """

    concept: str
    prompt: str
    text: str

    def question(self, aspect: Aspect) -> str:
        """The prompt for one rating."""
        filled = _SCALES[aspect].format(concept=self.concept, prompt=self.prompt, text=self.text)
        return f"{filled}\n\nAnswer with one digit, 0, 1 or 2, and nothing else.\nRating:"


@dataclass(frozen=True)
class Ratings:
    """Of n texts; NaN where the judge did not answer with a digit.

    Args:
        of: [n] by aspect, 0 to 2.
        n_asked, n_missing: ratings.
    """

    of: dict[Aspect, Floats]
    n_asked: int
    n_missing: int

    def score(self, aspects: Sequence[Aspect]) -> Floats:
        """[n] harmonic mean of ratings, from 0 to 2; NaN where one is missing."""
        rows = np.stack([self.of[aspect] for aspect in aspects], axis=1)
        return np.array([np.nan if np.isnan(row).any() else harmonic(*row.tolist()) for row in rows], dtype=np.float64)


def rate(judge: Asked, cases: Sequence[Case]) -> Ratings:
    """Three ratings of every text, all asked together.

    Raises:
        InputError: the judge gave more or fewer answers than it was asked for.
    """
    questions = [case.question(aspect) for aspect in ASPECTS for case in cases]
    ratings = [parsed(answer) for answer in asking.in_words(judge, questions)]
    values = np.array([np.nan if one is None else one for one in ratings], dtype=np.float64)
    of = dict(zip(ASPECTS, values.reshape(len(ASPECTS), len(cases)), strict=True))
    return Ratings(of, len(questions), int(np.isnan(values).sum()))


def parsed(answer: str | None) -> int | None:
    """The rating in an answer: a digit from 0 to 2 that has a line to itself, the only one of its kind, or None."""
    digit = verdict(answer, ("0", "1", "2"))
    return None if digit is None else int(digit)


def rank_correlation(proxy: Floats, rating: Floats) -> tuple[float | None, int]:
    """Spearman's correlation of a proxy with a rating over the texts that have both, and their number; None where either is constant."""
    both = ~(np.isnan(proxy) | np.isnan(rating))
    x, y = proxy[both], rating[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, len(x)
    return float(stats.spearmanr(x, y).statistic), len(x)
