"""The labels study's report: means over features, the table of features, a figure and warnings.

Letters: f features scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.provenance import of_rows, versions
from armillary.core.report import Estimate, Report
from armillary.core.statistics import Floats, Units, permutation_p, ratio_interval, wilson_interval
from armillary.core.tokens import Ints
from armillary.inspect.asking import Asking
from armillary.studies.figures import bars
from armillary.studies.quality.label_measured import JUDGED, NO_JUDGE, Measured, Score

if TYPE_CHECKING:
    from armillary.studies.quality.labels import Config

#: Swaps of label and other label behind a p-value.
N_SWAPS = 2000
#: Features below which means are rough.
FEW = 10
#: Scores in the order they are told.
NAMES = (*JUDGED, "embedding", "surprisal", "token_rule", "bag_of_words", "top_token")


def report(one: Measured, config: Config, seconds: float) -> Report:
    """The report of one subject."""
    estimates = {name: _estimate(one, name, one.scores[name], config) for name in NAMES}
    estimates |= {"scored": _share_scored(one), "answered": _share_answered(one, config)}
    areas = {name: estimates[name] for name in NAMES if name != "surprisal"}
    return Report(
        one.subject.label,
        estimates=estimates,
        tables={"features": _features(one), "not scored": {"feature": list(one.too_few), "reason": list(one.too_few.values())}},
        figures={"scores": bars(areas, title="How well labels tell active texts from silent ones", y="area under the curve")},
        notes=_notes(one, config),
        warnings=_warnings(one, estimates),
        provenance=_provenance(one, config),
        seconds=seconds,
    )


# ---------------------------------------------------------------- estimates


def _estimate(one: Measured, name: str, scores: Mapping[int, Score], config: Config) -> Estimate:
    """Mean over the features that have this score."""
    unit, ceiling = ("nats", None) if name == "surprisal" else ("", 1.0)
    known = {feature: score for feature, score in scores.items() if not isinstance(score.value, str)}
    if not known:
        return Estimate.missing(_reason(one, scores), better="higher", unit=unit)
    values = np.array([score.value for score in known.values()], np.float64)
    units = Units.of_values("feature", values, _ids(one, list(known)))
    low, high = ratio_interval(units, n_samples=config.n_bootstrap, seed=config.seed)
    pairs = np.array([(score.value, score.null) for score in known.values() if score.null is not None], np.float64).reshape(-1, 2)
    null = float(pairs[:, 1].mean()) if len(pairs) else None
    p = _swapped_p(pairs, config.seed) if len(pairs) > 1 else None
    return Estimate(units.value, low, high, len(known), null, ceiling, p=p, better="higher", unit=unit, units=units)


def _reason(one: Measured, scores: Mapping[int, Score]) -> str:
    """Why no feature has a score."""
    if not scores:
        looked = len(one.too_few)
        return f"none of the {looked} features looked at is active, and silent, on texts enough in both halves of the documents"
    (reason, n), *others = Counter(str(score.value) for score in scores.values()).most_common()
    return reason if not others else f"{reason} ({n} of {len(scores)} features)"


def _ids(one: Measured, features: Sequence[int]) -> Ints:
    """Numbers by which features are paired."""
    return np.array(features, np.int64) + one.first_id


def _swapped_p(pairs: Floats, seed: int) -> float:
    """Share of random swaps of label and other label [f, 2] that do as well."""
    gap = pairs[:, 0] - pairs[:, 1]
    signs = np.random.default_rng([seed, 3]).choice([-1.0, 1.0], size=(N_SWAPS, len(gap)))
    return float(permutation_p(gap.mean(), (signs * gap).mean(1)))


def _share_scored(one: Measured) -> Estimate:
    """Of the features that were looked at."""
    n = len(one.trials) + len(one.too_few)
    low, high = wilson_interval(len(one.trials), n)
    return Estimate(len(one.trials) / n, low, high, n, ceiling=1.0)


def _share_answered(one: Measured, config: Config) -> Estimate:
    if one.judge is None:
        return Estimate.missing(NO_JUDGE, better="higher")
    if not one.answered:
        return Estimate.missing("no question was asked: no feature has both a label and texts enough", better="higher")
    answered, asked = np.array(list(one.answered.values()), np.float64).T
    units = Units("feature", _ids(one, list(one.answered)), answered, asked)
    low, high = ratio_interval(units, n_samples=config.n_bootstrap, seed=config.seed)
    return Estimate(units.value, low, high, int(asked.sum()), ceiling=1.0, better="higher", units=units)


# ---------------------------------------------------------------- the rest of the report


def _features(one: Measured) -> dict[str, Sequence[Any]]:
    """A row per feature that was scored; of each score the value, and that of another feature's label."""
    table: dict[str, Sequence[Any]] = {
        "feature": list(one.trials),
        "label": [one.labels[feature].text for feature in one.trials],
        "from": [one.labels[feature].kind for feature in one.trials],
        "rows_active": [one.labels[feature].evidence.n_active for feature in one.trials],
        "texts_active": [len(trial.active) for trial in one.trials.values()],
        "texts_silent": [len(trial.silent) for trial in one.trials.values()],
    }
    for name in NAMES:
        scores = [one.scores[name][feature] for feature in one.trials]
        table[name] = [None if isinstance(score.value, str) else score.value for score in scores]
        table[f"{name}: another's"] = [score.null for score in scores]
    missing = [{name: str(of[feature].value) for name, of in one.scores.items() if name in JUDGED} for feature in one.trials]
    table["missing"] = [
        "; ".join(f"{name}: {why}" for name, why in some.items() if isinstance(one.scores[name][feature].value, str))
        for feature, some in zip(one.trials, missing, strict=True)
    ]
    return table


def _notes(one: Measured, config: Config) -> list[str]:
    pool = one.pool
    halves = f"{int(pool.for_labels.sum()):,} texts of one half of the documents, scored on {int((~pool.for_labels).sum()):,} of the other"
    notes = [
        f"Labels are made from {halves}; texts have at most {config.length} tokens, special tokens are left out.",
        f"Null: {config.n_permuted} label(s) of other features on the same texts. Intervals: 95 %, bootstrap over features.",
        f"Silent texts are {'drawn at random' if config.negatives == 'random' else 'those most like active ones by their words'}.",
        f"Embeddings: {one.embedding}.",
    ]
    if one.judge is not None and one.by_odds is not None:
        how = "log odds of yes against no" if one.by_odds else "yes or no in words, so that areas are balanced accuracies"
        notes.append(f"Judge: {one.judge.name}, by {how}; one text per question.")
    if isinstance(one.judge, Asking):
        notes.append(f"The judge so far: {one.judge.tally.describe()}")
    return notes


def _warnings(one: Measured, estimates: Mapping[str, Estimate]) -> list[str]:
    found = []
    n, looked = len(one.trials), len(one.trials) + len(one.too_few)
    if one.too_few:
        first, why = next(iter(one.too_few.items()))
        found.append(f"{len(one.too_few)} of {looked} features looked at are not scored; feature {first}, for instance, is {why}.")
    if 0 < n < FEW:
        found.append(f"Only {n} feature(s) are scored: intervals are rough{', and there is no null' if n == 1 else ''}.")
    unlabelled = Counter(label.reason for label in one.labels.values() if label.text is None)
    found += [f"{times} feature(s) have no label: {reason}." for reason, times in unlabelled.most_common()]
    answered, asked = (sum(pair[i] for pair in one.answered.values()) for i in (0, 1))
    if answered < asked:
        found.append(f"{asked - answered:,} of {asked:,} questions have no answer that can be read; they are missing, not wrong.")
    if isinstance(one.judge, Asking) and one.judge.tally.over_budget:
        found.append(f"The judge's budget was spent: {one.judge.tally.over_budget:,} prompts were not asked.")
    for name in JUDGED:
        score = estimates[name]
        if score.low is not None and score.null is not None and score.low <= score.null:
            found.append(f"{name}: this judge does not tell the features' labels from labels of others.")
    return found


def _provenance(one: Measured, config: Config) -> dict[str, Any]:
    model, judge = one.subject.model, one.judge
    settings = judge.settings if isinstance(judge, Asking) else {}
    return {
        "study": "labels",
        "subject": dict(one.subject.fit().provenance),
        "rows": of_rows(one.subject.require_rows()),
        "model": None if model is None else {"name": model.name, "revision": model.revision},
        "judge": None if judge is None else {"name": judge.name, "settings": settings},
        "embedding": one.embedding,
        "settings": config.model_dump(mode="json"),
        "versions": versions(),
    }
