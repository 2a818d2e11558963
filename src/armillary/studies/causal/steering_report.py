"""The steering study's report: estimates over features, tables and figures.

Letters: f features, S strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from armillary.core.config import Config
from armillary.core.report import Better, Estimate, Report
from armillary.core.statistics import Units, ratio_interval
from armillary.core.tokens import Bools
from armillary.studies.causal.steering_judge import ASPECTS, BEST, Aspect, rank_correlation
from armillary.studies.causal.steering_measured import Judged, Measured, Shown, Steered, Value
from armillary.studies.causal.steering_scores import marks
from armillary.studies.causal.steering_writing import WAYS, Way

#: Estimate -> which way is good, its unit, its ceiling.
NUMBERS: dict[str, tuple[Better, str, float | None]] = {
    "score": ("higher", "", 1.0),
    "concept": ("higher", "", 1.0),
    "fluency": ("higher", "", 1.0),
    "log_odds": ("higher", "nats", None),
    "own": ("higher", "", 1.0),
    "loss": ("lower", "nats", 0.0),
    "distinct": ("higher", "", None),
    "similarity": ("higher", "", None),
}
NAMES: dict[Way, str] = {"feature": "feature", "against": "against it", "random": "random direction", "diffmeans": "DiffMeans"}
#: Features whose texts are shown, and texts of each; warnings about features.
EXAMPLES, EACH, WARNED = 4, 2, 4


@dataclass(frozen=True)
class MeanMarks:
    """A curve.

    Args:
        means: [S] concept, fluency and score; None at KL that are left out.
        n: features that it is of.
        n_reached: [S] features that reach each KL with something written.
    """

    means: Sequence[tuple[float, ...] | None]
    n: int
    n_reached: Sequence[int]


class Reporter:
    """Makes the report of one subject.

    Args:
        measured: what was found.
        config: of the study, with `n_bootstrap`, `seed` and `targets`.
        words: of token ids.
    """

    def __init__(self, measured: Measured, config: Any, words: Sequence[str]) -> None:
        self.m, self.config, self.words = measured, config, words

    def report(self, settings: Config, seconds: float) -> Report:
        """All of it, with the settings it was made with and how long it took."""
        m = self.m
        return Report(
            m.subject.label,
            self.estimates(),
            self.tables(),
            {"pareto": self.figure(["feature"]), "pareto_baselines": self.figure(list(WAYS))},
            notes=self.notes(),
            warnings=self.warnings(),
            provenance={
                "study": "steering",
                "fit": dict(m.subject.fit().provenance),
                "model": m.writer.model.name,
                "settings": settings.model_dump(mode="json"),
            },
            seconds=seconds,
        )

    # ------------------------------------------------------------ estimates

    def estimates(self) -> dict[str, Estimate]:
        """Means over features, the headline first."""
        found = {
            "area": self._both("area", "feature", better="higher", ceiling=1.0),
            "above_random": self._above("random"),
            "above_diffmeans": self._above("diffmeans"),
            "area_diffmeans": self._both("area", "diffmeans", better="higher", ceiling=1.0),
            "area_against": self._both("area", "against", ceiling=1.0),
        }
        for name, (better, unit, ceiling) in NUMBERS.items():
            if name != "similarity" or any(one.likeness is not None for one in self.m.features):
                found[name] = self._both(name, "feature", better=better, unit=unit, ceiling=ceiling)
        met = [self.m.reached(one) for one in self.m.features]
        reached = [n / of if of else None for n, of in met]
        why = "no feature was steered" if not met else self._unscored()
        found["reached"] = self._mean(reached, why=why, better="higher", ceiling=1.0)
        return found if self.m.judged is None else {**found, **self._by_judge(self.m.judged)}

    def _both(self, name: str, way: Way, **more: Any) -> Estimate:
        """A number along a way, with that of the random directions as its null, over the KL that both reach."""
        values, nulls = self.m.values(name, way, "random"), self.m.values(name, "random", way)
        return self._mean(values, nulls, why=self._why(name, way, "random"), **more)

    def _above(self, way: Way) -> Estimate:
        """The area of the features above that of another way, over the KL that both reach."""
        differences = _minus(self.m.values("area", "feature", way), self.m.values("area", way, "feature"))
        return self._mean(differences, why=self._why("area", way, "feature"), better="higher", null=0.0)

    def _mean(self, values: Sequence[Value], nulls: Sequence[Value] = (), *, null: float | None = None, why: str, **more: Any) -> Estimate:
        """Over features that have a value."""
        ids = [i for i, value in enumerate(values) if value is not None]
        if not ids:
            return Estimate.missing(why, better=more.get("better", "neither"), unit=more.get("unit", ""))
        numbers = [self.m.features[i].aim.feature for i in ids]
        units = Units.of_values("feature", [float(values[i] or 0.0) for i in ids], numbers)
        low, high = ratio_interval(units, n_samples=self.config.n_bootstrap, seed=self.config.seed)
        known = [nulls[i] for i in ids if i < len(nulls) and nulls[i] is not None]
        return Estimate(
            units.value, low, high, len(ids), null=float(np.mean(known)) if known else null, units=units, **more  # type: ignore[arg-type]
        )  # fmt: skip

    def _why(self, name: str, way: Way, beside: Way) -> str:
        """Why no feature has a value of this name along a way, should none have one."""
        features = self.m.features
        if not any(way in one.curves for one in features):
            return self._untried(way)
        unknown = self._unreadable(name)
        if unknown:
            return unknown
        if not any(self.m.shared(one, way, beside) for one in features):
            return f"no KL was reached with something written along both {NAMES[way]} and {NAMES[beside]}"
        return "no strength has texts in both halves of the prompts" if name == "score" else "too little was written"

    def _unreadable(self, name: str) -> str:
        """Why a number could not be read from any text; "" where it can be."""
        aims = [one.aim for one in self.m.features]
        if name == "own" and not any(aim.own is not None for aim in aims):
            return "it is not known which tokens the features promote at this site"
        if name == "log_odds" and not self.m.has_passages:
            return "a classifier of passages needs rows with text"
        if name == "log_odds" and not any(aim.concept for aim in aims):
            return self._unscored()
        is_scored = name not in ("area", "concept", "fluency", "score") or any(aim.shares for aim in aims)
        return "" if is_scored else self._unscored()

    def _untried(self, way: Way) -> str:
        """Why no feature was steered a way."""
        if way == "diffmeans" and any(one.curves for one in self.m.features):
            return "the difference of means needs rows on which a feature fires and others, of a fit that rebuilds what it reads"
        if way == "against" and any(one.curves for one in self.m.features):
            return "regions are moved toward their centroid, never away from it"
        nulls = [one.aim.no_null for one in self.m.features if one.aim.no_null]
        return nulls[0] if way == "random" and nulls else self._unscored()

    def _unscored(self) -> str:
        """What is said of features that cannot be scored."""
        reasons = [one.aim.reason for one in self.m.features if one.aim.reason]
        return f"no feature has one: {reasons[0]}" if reasons else "no feature was steered"

    # ------------------------------------------------------------ the judge

    def _by_judge(self, judged: Judged) -> dict[str, Estimate]:
        scores = {
            **{f"judge_{aspect}": judged.ratings.of[aspect] for aspect in ASPECTS},
            "judge_score": judged.ratings.score(("concept", "fluency")),
            "judge_score_axbench": judged.ratings.score(ASPECTS),
        }
        return {name: self._rated(judged, values) for name, values in scores.items()}

    def _rated(self, judged: Judged, values: Any) -> Estimate:
        """Mean rating of every feature's texts, over features."""

        def of(way: Way) -> list[Value]:
            mine = [[i for i, text in enumerate(judged.shown) if (text.feature, text.way) == (one.aim.feature, way)] for one in steered]
            return [None if np.isnan(values[some]).all() else float(np.nanmean(values[some])) for some in mine]

        steered = self.m.features
        why = "the judge gave no rating that can be read" if judged.shown else "nothing was written for the judge to rate"
        return self._mean(of("feature"), of("random"), why=why, better="higher", ceiling=float(BEST))

    def correlations(self, judged: Judged) -> dict[str, list[Any]]:
        """Spearman's correlation of each proxy with the judge's rating of what it stands for, over all texts that were rated."""
        aims = {one.aim.feature: one for one in self.m.features}
        stands: dict[str, Aspect] = {
            "log_odds": "concept",
            "own": "concept",
            "similarity": "concept",
            "loss": "fluency",
            "distinct": "fluency",
        }
        rows: dict[str, list[Any]] = {"proxy": [], "rating": [], "rank_correlation": [], "texts": []}
        for proxy, aspect in stands.items():
            values = [self._reading(proxy, aims[text.feature], text) for text in judged.shown]
            value, n = rank_correlation(np.array(values), judged.ratings.of[aspect])
            for key, cell in zip(rows, (proxy, aspect, value, n), strict=True):
                rows[key].append(cell)
        return rows

    @staticmethod
    def _reading(proxy: str, one: Steered, text: Shown) -> float:
        if proxy in ("loss", "distinct"):
            return float(getattr(text.texts, proxy)[text.place])
        # Of a random direction too the feature's own tokens: the judge was asked about the feature.
        reading = {"log_odds": one.aim.log_odds, "own": one.aim.own_share("feature"), "similarity": one.likeness}[proxy]
        return float("nan") if reading is None else float(reading(text.texts)[text.place])

    # ------------------------------------------------------------ tables

    def tables(self) -> dict[str, Mapping[str, Sequence[Any]]]:
        found: dict[str, Mapping[str, Sequence[Any]]] = {"curve": self._curve(), "features": self._features()}
        if any(one.alphas for one in self.m.features):
            found["alphas"] = self._alphas()
        found |= {"strengths": self._strengths(), "texts": self._texts()}
        return found if self.m.judged is None else {**found, "judge": self.correlations(self.m.judged)}

    def mean_marks(self, way: Way) -> MeanMarks:
        """Along a way, means over features that are the same at every KL that has one."""
        found = [marks for marks in (self.m.marks(one, way) for one in self.m.features) if marks]
        has = np.array([[mark is not None for mark in marks] for marks in found], bool).reshape(-1, len(self.config.targets))
        features, targets = without_gaps(has)
        means: list[tuple[float, ...] | None] = [None] * len(targets)
        for j in np.flatnonzero(targets):
            some = [mark for i in np.flatnonzero(features) if (mark := found[i][j]) is not None]
            means[j] = tuple(np.mean([(mark.concept, mark.fluency, mark.score) for mark in some], axis=0).tolist())
        return MeanMarks(means, int(features.sum()), has.sum(0).tolist())

    def _curve(self) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {name: [] for name in ("along", "KL", "concept", "fluency", "score", "features", "reached by")}
        for way in WAYS:
            found = self.mean_marks(way)
            for target, means, n in zip(self.config.targets, found.means, found.n_reached, strict=True):
                cells = (None, None, None, 0) if means is None else (*means, found.n)
                for key, cell in zip(rows, (NAMES[way], target, *cells, n), strict=True):
                    rows[key].append(cell)
        return rows

    def _features(self) -> dict[str, list[Any]]:
        m, aims = self.m, [one.aim for one in self.m.features]
        return {
            "feature": [aim.feature for aim in aims],
            "kind": [aim.kind for aim in aims],
            "rows": [aim.n_fires for aim in aims],
            "auroc": [None if aim.concept is None else aim.concept.auroc for aim in aims],
            "area": m.values("area", "feature", "random"),
            "random": m.values("area", "random", "feature"),
            "diffmeans": m.values("area", "diffmeans", "random"),
            "against": m.values("area", "against", "random"),
            "score": m.values("score", "feature", "random"),
            "own": m.values("own", "feature", "random"),
            "targets met": [f"{n} of {of}" for n, of in map(m.reached, m.features)],
            "with random": [self._n_shared(one, "random") for one in m.features],
            "with diffmeans": [self._n_shared(one, "diffmeans") for one in m.features],
            "promotes": [" ".join(self._shown([] if aim.own is None else aim.own[:5].tolist())) for aim in aims],
            "passages": [" ".join(self._shown([] if aim.concept is None else aim.concept.words(5))) for aim in aims],
            "missing": ["; ".join(filter(None, (aim.reason, aim.no_null))) for aim in aims],
        }

    def _n_shared(self, one: Steered, beside: Way) -> int | None:
        """KL that are reached along the feature and another way; None without the latter."""
        return len(self.m.shared(one, "feature", beside)) if beside in one.curves else None

    def _shown(self, ids: Sequence[int]) -> list[str]:
        return [repr(self.words[i])[1:-1].strip() or repr(self.words[i]) for i in ids]

    def _alphas(self) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {name: [] for name in ("feature", "alpha", "KL", "concept", "fluency", "score")}
        for one in self.m.features:
            share = one.aim.shares.get("feature")
            found = [None] * len(one.alphas) if share is None else marks(one.alphas, self.m.plain, share)
            for point, mark in zip(one.alphas, found, strict=True):
                cells = (None, None, None) if mark is None else (mark.concept, mark.fluency, mark.score)
                for key, cell in zip(rows, (one.aim.feature, point.dose.strength, point.dose.achieved, *cells), strict=True):
                    rows[key].append(cell)
        return rows

    def _strengths(self) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {name: [] for name in ("feature", "along", "KL wanted", "strength", "KL", "note")}
        for one in self.m.features:
            for way, points in one.curves.items():
                for dose in (point.dose for point in points):
                    note = "" if dose.strength is not None else "jumped over" if dose.jump is not None else "unreachable"
                    cells = (one.aim.feature, NAMES[way], dose.target, dose.signed, dose.achieved, note)
                    for key, cell in zip(rows, cells, strict=True):
                        rows[key].append(cell)
        return rows

    def _texts(self) -> dict[str, list[Any]]:
        """What the first features wrote at the largest KL they reach."""
        rows: dict[str, list[Any]] = {name: [] for name in ("feature", "KL", "prompt", "plain", "steered")}
        prompts, n = self.m.writer.prompts, self.m.writer.how.n_continuations
        for one in [one for one in self.m.features if any(point.texts for point in one.curves.get("feature", ()))][:EXAMPLES]:
            point = max((point for point in one.curves["feature"] if point.texts), key=lambda point: point.dose.target)
            assert point.texts is not None
            for i in range(0, min(EACH * n, len(point.texts.text)), n):
                cells = (one.aim.feature, point.dose.achieved, prompts[i // n], self.m.plain.text[i], point.texts.text[i])
                for key, cell in zip(rows, cells, strict=True):
                    rows[key].append(cell)
        return rows

    # ------------------------------------------------------------ the rest

    def figure(self, ways: Sequence[Way]) -> dict[str, Any]:
        """Concept against fluency, a mark per KL, means over the same features; from text without an edit at the lower right."""
        dash: dict[Way, str] = {"feature": "solid", "against": "dot", "random": "dash", "diffmeans": "dashdot"}
        data = []
        for way in ways:
            found = self.mean_marks(way)
            known = [(target, cells) for target, cells in zip(self.config.targets, found.means, strict=True) if cells]
            x, y = [1.0, *(cells[1] for _, cells in known)], [0.0, *(cells[0] for _, cells in known)]
            text = ["no edit", *(f"KL {target:g}, {found.n} of {len(self.m.features)} features" for target, _ in known)]
            line = {"dash": dash[way]}
            data.append({"type": "scatter", "mode": "lines+markers", "name": NAMES[way], "x": x, "y": y, "text": text, "line": line})
        axes = {"xaxis": {"title": {"text": "fluency"}}, "yaxis": {"title": {"text": "concept"}}}
        return {"data": data, "layout": {"title": {"text": "Concept against fluency"}, **axes}}

    def notes(self) -> list[str]:
        """How the numbers were made."""
        m, how = self.m, self.m.writer.how
        by = (
            "a classifier of their passages by tokens, on documents that no baseline was made from"
            if m.has_passages
            else "the tokens they promote, each random direction and difference of means by its own"
        )
        return [
            f"Concepts are known by {by}. Fluency: loss and repetition under the model without edits.",
            f"{len(m.writer.prompts)} prompts, {how.n_continuations} continuations of up to {how.n_tokens} tokens each, temperature "
            f"{how.temperature:g}, top_p {how.top_p:g}; edited: {how.position} tokens.",
            f"Null: {self._null()}, at the same KL; each comparison is over the KL that both reach.",
            "Curves: means over the same features at every KL, those that reach all KL shown; what few reach is left out.",
            *self._of_subspaces(),
            "Intervals: 95 %, bootstrap over features.",
        ]

    def _of_subspaces(self) -> list[str]:
        """Along what features of several atoms without a position are steered."""
        if not any(one.aim.kind == "subspace" for one in self.m.features):
            return []
        if self.m.subject.rows is None:
            return ["Subspaces are steered along their first atom: without rows none of their directions stands out."]
        return ["Subspaces are steered along the principal direction of what they add to the rows, both ways."]

    def _null(self) -> str:
        kinds = {one.aim.kind == "region" for one in self.m.features}
        names = {False: "a random direction as long", True: "a random point as far from the mean of all centroids"}
        return ", of regions ".join(names[kind] for kind in sorted(kinds))

    def warnings(self) -> list[str]:
        """What is missing, and why."""
        m = self.m
        missing = [f"feature {one.aim.feature}: {one.aim.reason}" for one in m.features if one.aim.reason]
        without = [one.aim.feature for one in m.features if one.aim.no_null]
        unmet = sum(of - n for n, of in map(m.reached, m.features))
        found = missing[:WARNED] + (
            [f"{len(missing) - WARNED} more features have no scores; see the table"] if len(missing) > WARNED else []
        )
        found += [f"feature {one} has no null: {self._untried('random')}" for one in without[:1]] if without else []
        found += [f"{unmet} strengths could not be found: their KL is unreachable or jumped over; see the table"] if unmet else []
        found += [f"in {m.n_empty} steered texts nothing was written; they are missing"] if m.n_empty else []
        if m.judged is not None and m.judged.ratings.n_missing:
            found.append(
                f"{m.judged.ratings.n_missing} of {m.judged.ratings.n_asked} ratings are missing: the judge gave no digit from 0 to 2"
            )
        return found


def without_gaps(has: Bools) -> tuple[Bools, Bools]:
    """The largest part of a table without gaps among those with the columns that some row has.

    Args:
        has: [f, S] whether a cell is there.

    Returns:
        [f] rows and [S] columns; of parts of one size that with more rows. None of either where there is no cell.
    """

    def size(columns: Bools) -> tuple[int, int]:
        n = int(has[:, columns].all(1).sum())
        return n * int(columns.sum()), n

    columns = max(has, key=size, default=np.zeros(has.shape[1], bool))
    return np.asarray(has[:, columns].all(1) & columns.any()), columns


def _minus(ours: Sequence[Value], theirs: Sequence[Value]) -> list[Value]:
    return [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)]
