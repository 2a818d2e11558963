"""The probing study's report: curves over the number of features, a table of tasks, and the figure.

Letters: C tasks, k features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.report import Estimate, Report
from armillary.core.study import Subject
from armillary.core.tokens import Ints
from armillary.studies.provenance import of_study
from armillary.studies.quality.labelled import Panel
from armillary.studies.quality.labelled_report import left_out, missed, over_concepts, told_by_words
from armillary.studies.quality.probing_tasks import Score, Task, beyond

if TYPE_CHECKING:
    from armillary.studies.quality.probing import Config

#: Training documents below which a probe of several features is hardly more than chance.
FEWEST = 40
#: Held-out documents with a concept below which its scores are hardly more than chance.
FEWEST_POSITIVES = 5


@dataclass(frozen=True)
class Baselines:
    """What the raw dimensions and the words tell, of C tasks.

    Args:
        raw, pca: [C] curves of probes of k raw dimensions, and of k principal components, as far as there are so many.
        full: [C] probes of all raw dimensions.
        words: [C] classifiers of the documents' tokens.
    """

    raw: list[list[Score]]
    pca: list[list[Score]]
    full: list[Score]
    words: list[Score]


@dataclass(frozen=True)
class Measured:
    """What was measured of one subject.

    Args:
        subject: it.
        panel: what it was asked.
        ks: how many features.
        tasks: [C].
        scores: [C] curves of probes of the k best features.
        random: [C] AUROCs of probes of k random features.
        best: [C] the best features, best first, those that fire in a training document.
        baselines: of the same tasks; None without any.
    """

    subject: Subject
    panel: Panel
    ks: Sequence[int] = ()
    tasks: Sequence[Task] = ()
    scores: Sequence[Sequence[Score]] = ()
    random: Sequence[Sequence[float]] = ()
    best: Sequence[Ints] = ()
    baselines: Baselines | None = field(default=None)


def report(one: Measured, config: Config, seconds: float) -> Report:
    """The report of one subject."""
    estimates = _estimates(one, config)
    tables = {"curve": _curve_table(one, estimates), "tasks": _task_table(one)} if one.tasks else {}
    return Report(
        one.subject.label,
        estimates=estimates,
        tables=tables | left_out(one.panel.concepts),
        figures={"curves": curves([one], ["features"])} if one.tasks else {},
        notes=_notes(one, config),
        warnings=_warnings(one, estimates, config),
        provenance=of_study("probing", one.subject, one.panel.documents.rows, config),
        seconds=seconds,
    )


# ---------------------------------------------------------------- estimates


def _estimates(one: Measured, config: Config) -> dict[str, Estimate]:
    told = one.baselines
    if told is None:
        ks = [k for k in config.ks if k <= one.subject.fit().n_features]
        names = [*(f"auroc_{k}" for k in ks), *(f"above_raw_{k}" for k in ks), "full_vector", "bag_of_words"]
        return {name: Estimate.missing(one.panel.concepts.why_none, better="higher") for name in names}

    def mean(values: Sequence[float | None], **fields: Any) -> Estimate:
        concepts = [task.concept for task in one.tasks]
        return over_concepts(concepts, values, n_bootstrap=config.n_bootstrap, seed=config.seed, **fields)

    full = float(np.mean([each.auroc for each in told.full]))
    found = {
        f"auroc_{k}": mean(_at(one.scores, i), null=float(np.mean([each[i] for each in one.random])), ceiling=full)
        for i, k in enumerate(one.ks)
    }
    for i, k in enumerate(one.ks):
        gaps = [None if raw is None or own is None else own - raw for own, raw in zip(_at(one.scores, i), _at(told.raw, i), strict=True)]
        found[f"above_raw_{k}"] = mean(gaps, null=0.0, undefined=f"there are fewer than {k} raw dimensions")
    found["full_vector"] = mean([each.auroc for each in told.full], null=0.5, ceiling=1.0)
    found["bag_of_words"] = mean([each.auroc for each in told.words], null=0.5, ceiling=1.0)
    return found


def _at(table: Sequence[Sequence[Score]], i: int) -> list[float | None]:
    """[C] AUROC at the i-th k; None where there are not so many columns."""
    return [curve[i].auroc if i < len(curve) else None for curve in table]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


# ---------------------------------------------------------------- tables and figure


def _curve_table(one: Measured, estimates: Mapping[str, Estimate]) -> dict[str, list[Any]]:
    assert one.baselines is not None
    at = range(len(one.ks))
    return {
        "k": list(one.ks),
        "auroc": [estimates[f"auroc_{k}"].value for k in one.ks],
        "least": [estimates[f"auroc_{k}"].low for k in one.ks],
        "most": [estimates[f"auroc_{k}"].high for k in one.ks],
        "f1": [_mean([curve[i].f1 for curve in one.scores]) for i in at],
        "accuracy": [_mean([curve[i].accuracy for curve in one.scores]) for i in at],
        "raw dimensions": [_mean(_at(one.baselines.raw, i)) for i in at],
        "principal components": [_mean(_at(one.baselines.pca, i)) for i in at],
        "random features": [estimates[f"auroc_{k}"].null for k in one.ks],
    }


def _task_table(one: Measured) -> dict[str, list[Any]]:
    """A row per task and k."""
    told = one.baselines
    assert told is not None
    cells = [(c, i) for c in range(len(one.tasks)) for i in range(len(one.ks))]
    scores = [one.scores[c][i] for c, i in cells]
    return {
        "concept": [one.tasks[c].concept.name for c, _ in cells],
        "k": [one.ks[i] for _, i in cells],
        "training documents": [len(one.tasks[c].train) for c, _ in cells],
        "held-out documents": [len(one.tasks[c].test) for c, _ in cells],
        "auroc": [score.auroc for score in scores],
        "f1": [score.f1 for score in scores],
        "accuracy": [score.accuracy for score in scores],
        "C": [score.c for score in scores],
        "raw dimensions": [_at(told.raw, i)[c] for c, i in cells],
        "principal components": [_at(told.pca, i)[c] for c, i in cells],
        "random features": [one.random[c][i] for c, i in cells],
        "full_vector": [told.full[c].auroc for c, _ in cells],
        "bag_of_words": [told.words[c].auroc for c, _ in cells],
        "best features": [", ".join(str(feature) for feature in one.best[c][: min(one.ks[i], 5)]) for c, i in cells],
    }


def curves(several: Sequence[Measured], names: Sequence[str]) -> dict[str, Any]:
    """AUROC over k: of each subject, and of the first one's baselines."""
    first = next((one for one in several if one.baselines is not None), None)
    traces = [_trace(one.ks, [_at(one.scores, i) for i in range(len(one.ks))], name) for one, name in zip(several, names, strict=True)]
    if first is not None and first.baselines is not None:
        told, at = first.baselines, range(len(first.ks))
        lines: dict[str, Sequence[Sequence[float | None]]] = {
            "raw dimensions": [_at(told.raw, i) for i in at],
            "principal components": [_at(told.pca, i) for i in at],
            "random features": [[each[i] for each in first.random] for i in at],
            "all dimensions": [[each.auroc for each in told.full] for _ in at],
        }
        traces += [_trace(first.ks, values, name, dash="dot") for name, values in lines.items()]
    axes = {"xaxis": {"title": {"text": "features of a probe"}, "type": "log"}, "yaxis": {"title": {"text": "AUROC, mean over concepts"}}}
    return {"data": traces, "layout": {"title": {"text": "Probes of few features on held-out documents"}, "showlegend": True, **axes}}


def _trace(ks: Sequence[int], values: Sequence[Sequence[float | None]], name: str, dash: str = "solid") -> dict[str, Any]:
    y = [_mean(each) for each in values]
    return {"type": "scatter", "mode": "lines+markers", "x": list(ks), "y": y, "name": name, "line": {"dash": dash}}


# ---------------------------------------------------------------- the rest


def _notes(one: Measured, config: Config) -> list[str]:
    sizes = [len(task.train) for task in one.tasks] or [0]
    share = config.positive_share if config.setting == "imbalance" else 0.5
    return [
        f"{len(one.panel.documents):,} documents; a document is the {config.pool} over its tokens, special ones left out.",
        f"Setting {config.setting}: {min(sizes):,} to {max(sizes):,} training documents a concept, {share:.0%} of them with it.",
        f"Columns, scales and penalty ({config.penalty}, one of ten by cross-validation) are chosen on training documents alone.",
        f"Null: as many random features, {config.n_random} draws. Ceiling: a probe of all raw dimensions.",
        "Intervals: 95 %, bootstrap over concepts.",
    ]


def _warnings(one: Measured, estimates: Mapping[str, Estimate], config: Config) -> list[str]:
    found = missed(one.panel.concepts, config.concepts)
    if one.tasks and config.setting != "scarcity" and (fewest := min(len(task.train) for task in one.tasks)) < FEWEST:
        found.append(f"Some concepts have only {fewest} training documents: their probes are rough.")
    if one.tasks and (fewest := min(int(task.test_labels.sum()) for task in one.tasks)) < FEWEST_POSITIVES:
        found.append(f"Some concepts have only {fewest} held-out documents with them: their scores are rough.")
    found += _silence(one) + beyond("k", config.ks, one.subject.fit())
    for k in one.ks[:1]:
        gap = estimates[f"above_raw_{k}"]
        if gap.low is not None and gap.low <= 0:
            found.append(f"{k} feature{'s' * (k > 1)} of the fit tell these concepts no better than {k} raw dimension{'s' * (k > 1)}.")
    return found + told_by_words(estimates)


def _silence(one: Measured) -> list[str]:
    """Warnings where the largest k, or any, asks for more features than fire."""
    fewest = min((len(best) for best in one.best), default=0)
    if not (one.ks and one.tasks) or fewest >= one.ks[-1]:
        return []
    if n := sum(len(best) == 0 for best in one.best):
        return [f"No feature fires in a training document of {n} of the concepts: their AUROC of 0.5 is a tie, not a measurement."]
    return [f"Of some concepts only {fewest} features fire in a training document: a probe of more is one of these."]
