"""What was written of one fit's features, and the numbers of each: a row per feature, a column per estimate and way.

Letters: f features, n texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from armillary.core.statistics import Floats
from armillary.core.study import Subject
from armillary.core.tokens import Bools
from armillary.studies.causal.steering_aims import Aim
from armillary.studies.causal.steering_judge import Ratings
from armillary.studies.causal.steering_scores import Mark, Reading, area, chosen_elsewhere, marks, mean_change
from armillary.studies.causal.steering_writing import Point, Texts, Way, Writer

#: A number of a feature, or None.
Value = float | None


@dataclass(frozen=True)
class Steered:
    """One feature's texts.

    Args:
        aim: the feature.
        curves: by way, a point per KL.
        alphas: of a region, points at fixed shares of the way to its centroid.
        likeness: to its passages by an encoder, or None.
    """

    aim: Aim
    curves: Mapping[Way, Sequence[Point]]
    alphas: Sequence[Point] = ()
    likeness: Reading | None = None


@dataclass(frozen=True)
class Shown:
    """A text that a judge is shown.

    Args:
        feature, way: that it was written along.
        texts, place: which texts it is one of, and which.
        concept: what it should be about, in words.
    """

    feature: int
    way: Way
    texts: Texts
    place: int
    concept: str


@dataclass(frozen=True)
class Judged:
    """Texts and their ratings.

    Args:
        shown: [n].
        ratings: of each.
    """

    shown: Sequence[Shown]
    ratings: Ratings


@dataclass(frozen=True)
class Measured:
    """Of one subject.

    Args:
        subject: whose.
        writer: of its texts.
        features: what was steered.
        judged: by a judge, if there was one.
        has_passages: whether concepts are known by passages; else by the tokens that features promote.
    """

    subject: Subject
    writer: Writer
    features: Sequence[Steered]
    has_passages: bool
    judged: Judged | None = field(default=None, repr=False)

    @property
    def plain(self) -> Texts:
        return self.writer.plain()

    @property
    def half(self) -> Bools:
        """[n] the texts of every other prompt, or every other text of a lone prompt."""
        prompt = self.writer.prompt
        return np.asarray(prompt % 2 == 0 if len(self.writer.prompts) > 1 else np.arange(len(prompt)) % 2 == 0)

    def marks(self, one: Steered, way: Way) -> list[Mark | None]:
        """A mark per KL."""
        if way not in one.aim.shares or way not in one.curves:
            return []
        return marks(one.curves[way], self.plain, one.aim.shares[way])

    def values(self, name: str, way: Way, beside: Way) -> list[Value]:
        """[f] a number of every feature, along a way, over the KL that another way reaches too, where there is one."""
        return [None if way not in one.curves else self._value(name, one, way, beside) for one in self.features]

    def shared(self, one: Steered, way: Way, beside: Way) -> list[Point]:
        """The points of a way at KL that both ways reach with something written; all of its own where there is no other way."""
        mine = one.curves.get(way, ())
        theirs = one.curves.get(beside, mine) if mine else ()
        return [point for point, other in zip(mine, theirs, strict=True) if _is_written(point) and _is_written(other)]

    def _value(self, name: str, one: Steered, way: Way, beside: Way) -> Value:
        readings: dict[str, Reading | None] = {
            "log_odds": one.aim.log_odds, "own": one.aim.own_share(way), "loss": _loss, "distinct": _distinct, "similarity": one.likeness,
        }  # fmt: skip
        points = self.shared(one, way, beside)
        if name in readings:
            reading = readings[name]
            return None if reading is None else mean_change(points, self.plain, reading)
        share = one.aim.shares.get(way)
        if share is None:
            return None
        if name == "score":
            return chosen_elsewhere(points, self.plain, share, self.half)
        found = [mark for mark in marks(points, self.plain, share) if mark is not None]
        of: dict[str, Callable[[], float | None]] = {
            "area": lambda: area(found),
            "concept": lambda: float(np.mean([mark.concept for mark in found])),
            "fluency": lambda: float(np.mean([mark.fluency for mark in found])),
        }
        return of[name]() if found else None

    def reached(self, one: Steered) -> tuple[int, int]:
        """Targets that were met, with and against the feature, and all of them."""
        points = [point for way in ("feature", "against") for point in one.curves.get(way, ())]
        return sum(point.texts is not None for point in points), len(points)

    @property
    def n_empty(self) -> int:
        """Steered texts in which nothing was written."""
        texts = {id(point.texts): point.texts for one in self.features for curve in one.curves.values() for point in curve}
        return sum(int(np.isnan(one.loss).sum()) for one in texts.values() if one is not None)


def _is_written(point: Point) -> bool:
    return point.texts is not None and any(point.texts.ids)


def _loss(texts: Texts) -> Floats:
    return texts.loss


def _distinct(texts: Texts) -> Floats:
    return texts.distinct
