"""Scores of steered text without a judge.

    concept    (p - p_0) / (1 - p_0), at least 0     p: mean probability of the concept given a text; p_0: of text without an edit
    fluency    min(1, e^(loss_0 - loss)) min(1, distinct / distinct_0)          loss: mean nats per token under the model without edits
    score      harmonic mean of both, 0 if either is 0: Wu et al. 2025 (AxBench, arXiv 2501.17148)
    area       of the part of the unit square that lies under and to the left of some strength's (fluency, concept)

Text without an edit has concept 0 and fluency 1, and adds nothing to the area. All means are over the texts of a strength
that have a value both with and without the edit.

Letters: n texts, S strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools
from armillary.studies.causal.steering_writing import Point, Texts

#: Log-odds, or a share, of each text.
Reading = Callable[[Texts], Floats]


@dataclass(frozen=True)
class Mark:
    """What a strength does.

    Args:
        concept, fluency: from 0 to 1.
    """

    concept: float
    fluency: float

    @property
    def score(self) -> float:
        """The harmonic mean."""
        return harmonic(self.concept, self.fluency)


def harmonic(*parts: float) -> float:
    """The harmonic mean; 0 if a part is 0."""
    return len(parts) / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


def gain(share: Floats, plain: Floats) -> float:
    """How far the mean share went from the plain one to 1; at least 0, and 0 without a text that has both."""
    now, before = _means(share, plain)
    return max(0.0, (now - before) / (1 - before)) if before < 1 else 0.0


def probability(log_odds: Floats) -> Floats:
    """[n] from log-odds."""
    return np.asarray(expit(log_odds), dtype=np.float64)


def fluency(texts: Texts, plain: Texts, chosen: Bools) -> float:
    """Of the chosen texts, against the same ones without an edit."""
    now, before = _means(texts.loss[chosen], plain.loss[chosen])
    return float(min(1.0, np.exp(before - now))) * _variety(texts.distinct[chosen], plain.distinct[chosen])


def _variety(distinct: Floats, plain: Floats) -> float:
    """Texts of one token have no pairs: they are as varied as can be."""
    now, before = _means(distinct, plain)
    return min(1.0, now / before) if before > 0 else 1.0


def mark(texts: Texts, plain: Texts, share: Reading, chosen: Bools | None = None) -> Mark | None:
    """Of some texts, all by default; None where none of them has tokens with and without the edit.

    Args:
        texts, plain: with and without the edit.
        share: of the concept in each text, 0 to 1.
        chosen: [n] which texts.
    """
    some = np.ones(len(texts.ids), bool) if chosen is None else chosen
    if np.isnan(texts.loss[some] + plain.loss[some]).all():
        return None
    return Mark(gain(share(texts)[some], share(plain)[some]), fluency(texts, plain, some))


def marks(points: Sequence[Point], plain: Texts, share: Reading, chosen: Bools | None = None) -> list[Mark | None]:
    """[S] of every strength; None where a KL could not be had or nothing was written."""
    return [None if point.texts is None else mark(point.texts, plain, share, chosen) for point in points]


def area(found: Sequence[Mark | None]) -> float | None:
    """The area under a curve of marks; None where there is none."""
    known = sorted((one for one in found if one is not None), key=lambda one: -one.fluency)
    if not known:
        return None
    edges = [one.fluency for one in known] + [0.0]
    best = np.maximum.accumulate([one.concept for one in known])
    return float(sum((here - there) * height for here, there, height in zip(edges, edges[1:], best, strict=False)))


def chosen_elsewhere(points: Sequence[Point], plain: Texts, share: Reading, half: Bools) -> float | None:
    """The score at the strength that is best on one half of the texts, on the other half; mean over both ways round.

    None where a half has no text, or no strength has texts in both.
    """
    if half.all() or not half.any():
        return None
    sides = [marks(points, plain, share, side) for side in (half, ~half)]
    found = []
    for here, there in (sides, sides[::-1]):
        both = [(one, other) for one, other in zip(here, there, strict=True) if one is not None and other is not None]
        if not both:
            return None
        found.append(max(both, key=lambda pair: pair[0].score)[1].score)
    return sum(found) / 2


def mean_change(points: Sequence[Point], plain: Texts, of: Reading) -> float | None:
    """How much a number of a text rises above that of plain texts, in the mean over strengths; None where it cannot be read."""
    means = [_means(of(point.texts), of(plain)) for point in points if point.texts is not None]
    known = [now - before for now, before in means if not np.isnan(now)]
    return sum(known) / len(known) if known else None


def _means(values: Floats, plain: Floats) -> tuple[float, float]:
    """Means of both over the texts that have both; NaN without any."""
    both = ~np.isnan(values + plain)
    return (float(values[both].mean()), float(plain[both].mean())) if both.any() else (float("nan"), float("nan"))
