"""The concepts study's report: means over concepts, a table of them, a figure and warnings.

Letters: C concepts, S draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from armillary.core.report import Estimate, Report
from armillary.core.statistics import Floats, benjamini_hochberg, permutation_p
from armillary.core.study import Subject
from armillary.core.tokens import Ints
from armillary.studies.figures import bars
from armillary.studies.provenance import of_study
from armillary.studies.quality.concept_picks import Pick
from armillary.studies.quality.labelled import Concept, Panel
from armillary.studies.quality.labelled_report import left_out, missed, over_concepts, plain, told_by_words
from armillary.studies.quality.ranks import auroc, interval

if TYPE_CHECKING:
    from armillary.studies.quality.concepts import Config

#: Other ways to tell a concept, in the order they are shown.
BASELINES = ("raw_dimension", "full_vector", "diffmeans", "bag_of_words", "length")
#: AUROC above which something tells a concept at all.
TOLD = 0.55
ESTIMATES = ("auroc", "auroc_train", "auroc_hard", "s_cd", "above_raw", "above_words", *BASELINES)


@dataclass(frozen=True)
class Measured:
    """What the readings gave for one subject.

    Args:
        subject: it.
        panel: what it was asked, C concepts.
        picks: [C] its features.
        baselines: AUROC on held-out documents [C] by name.
        hard: [C] held-out documents with each concept, and its hard negatives.
        s_cd: [C] log ratios, or why there are none.
    """

    subject: Subject
    panel: Panel
    picks: Sequence[Pick] = ()
    baselines: Mapping[str, list[float]] = field(default_factory=dict)
    hard: Sequence[Ints] = ()
    s_cd: list[float | None] | str = ""


def report(one: Measured, config: Config, seconds: float) -> Report:
    """The report of one subject."""
    estimates, concepts = _estimates(one, config), one.panel.concepts
    shown = {name: estimates[name] for name in ("auroc", "auroc_hard", *BASELINES)}
    return Report(
        one.subject.label,
        estimates=estimates,
        tables=({"concepts": _table(one)} if concepts.asked else {}) | left_out(concepts),
        figures={"auroc": bars(shown, title="Telling concepts on held-out documents", y="AUROC")} if concepts.asked else {},
        notes=_notes(one, config),
        warnings=_warnings(one, estimates, config),
        provenance=of_study("concepts", one.subject, one.panel.documents.rows, config),
        seconds=seconds,
    )


# ---------------------------------------------------------------- estimates


def _estimates(one: Measured, config: Config) -> dict[str, Estimate]:
    concepts = one.panel.concepts.asked
    if not concepts:
        return {name: Estimate.missing(one.panel.concepts.why_none, better="higher") for name in ESTIMATES}

    def mean(values: Sequence[float | None], **fields: Any) -> Estimate:
        return over_concepts(concepts, values, n_bootstrap=config.n_bootstrap, seed=config.seed, **fields)

    test = [pick.test for pick in one.picks]
    full, raw, words = (float(np.mean(one.baselines[name])) for name in ("full_vector", "raw_dimension", "bag_of_words"))
    ratios = [None] * len(concepts) if isinstance(one.s_cd, str) else one.s_cd
    why = one.s_cd if isinstance(one.s_cd, str) else "no feature was picked whose mean cosines are above 0 on both sides"
    return {
        "auroc": mean(test, ceiling=full, **_against_null([pick.null_test for pick in one.picks], test)),
        "auroc_train": mean([pick.train for pick in one.picks], ceiling=1.0, **_against_null(*_on_train(one.picks))),
        "auroc_hard": mean(_hard(one), null=0.5, ceiling=1.0),
        "s_cd": mean(ratios, null=0.0, undefined=why),
        "above_raw": mean(list(np.subtract(test, one.baselines["raw_dimension"])), null=0.0, ceiling=full - raw),
        "above_words": mean(list(np.subtract(test, one.baselines["bag_of_words"])), null=0.0, ceiling=full - words),
        **{name: mean(one.baselines[name], null=0.5, ceiling=1.0) for name in BASELINES},
    }


def _on_train(picks: Sequence[Pick]) -> tuple[list[Floats], list[float]]:
    return [pick.null_train for pick in picks], [pick.train for pick in picks]


def _against_null(null: Sequence[Floats], values: Sequence[float]) -> dict[str, float]:
    """The mean of the draws, and the p-value of the mean over concepts among them."""
    drawn = np.mean(null, axis=0)  # [S]
    return {"null": float(drawn.mean()), "p": float(permutation_p(np.mean(values), drawn))}


def _hard(one: Measured) -> list[float | None]:
    """[C] AUROC against hard negatives."""
    return [
        auroc(pick.score[rows], concept.positive[rows])
        for pick, concept, rows in zip(one.picks, one.panel.concepts.asked, one.hard, strict=True)
    ]


# ---------------------------------------------------------------- the rest


def _table(one: Measured) -> dict[str, list[Any]]:
    concepts, picks = one.panel.concepts.asked, one.picks
    ends = [interval(pick.score[each.test], each.positive[each.test]) for each, pick in zip(concepts, picks, strict=True)]
    p = np.array([float(permutation_p(pick.test, pick.null_test)) for pick in picks])
    ratios = [None] * len(concepts) if isinstance(one.s_cd, str) else one.s_cd
    return {
        "concept": [each.name for each in concepts],
        "with it, training": [_count(each, each.train) for each in concepts],
        "with it, held out": [_count(each, each.test) for each in concepts],
        "without it, held out": [len(each.test) - _count(each, each.test) for each in concepts],
        "feature": [None if pick.is_tied else pick.feature for pick in picks],
        "sign": [None if pick.is_tied else pick.sign for pick in picks],
        "auroc_train": [pick.train for pick in picks],
        "auroc": [pick.test for pick in picks],
        "least": [low for low, _ in ends],
        "most": [high for _, high in ends],
        "null": [float(pick.null_test.mean()) for pick in picks],
        "p": p.tolist(),
        "q": benjamini_hochberg(p).tolist(),
        "auroc_hard": plain(_hard(one)),
        "s_cd": plain(ratios),
        **{name: plain(one.baselines[name]) for name in BASELINES},
    }


def _count(concept: Concept, rows: Ints) -> int:
    return int(concept.positive[rows].sum())


def _notes(one: Measured, config: Config) -> list[str]:
    n, n_test = len(one.panel.documents), int(one.panel.is_test.sum())
    how = f"by the label {config.split!r}" if config.split is not None else "by a hash of their text"
    return [
        f"{n:,} documents, {n_test:,} of them held out {how}; special tokens are left out.",
        "A feature is chosen by AUROC on the training documents and judged on the others; of one that takes both signs, either counts.",
        f"Null: the same choice for labels dealt to other documents of the same side, {config.n_draws} times. Ceiling: full_vector.",
        "Intervals: 95 %, bootstrap over concepts; in the table, Newcombe's over documents.",
        "full_vector and diffmeans read the mean over a document's tokens; raw_dimension is chosen as features are, with either sign.",
        "length: the number of tokens alone, as a maximum over more of them is larger.",
    ]


def _warnings(one: Measured, estimates: Mapping[str, Estimate], config: Config) -> list[str]:
    found = missed(one.panel.concepts, config.concepts)
    if one.panel.concepts.asked and len(one.panel.concepts.asked) < 5:
        found.append(f"Number of concepts: {len(one.panel.concepts.asked)}, so that the interval over them is rough or missing.")
    if tied := [each.name for each, pick in zip(one.panel.concepts.asked, one.picks, strict=True) if pick.is_tied]:
        found.append(
            f"No feature fires in a training document of {len(tied)} of the concepts, or none does better there than one that does not: "
            "their AUROC of 0.5 is a tie, not a measurement."
        )
    raw = estimates["above_raw"]
    if raw.low is not None and raw.low <= 0:
        found.append("The features tell these concepts no better than single raw dimensions do.")
    found += told_by_words(estimates)
    own, length = estimates["auroc"].value, estimates["length"].value
    if own is not None and length is not None and length >= max(own - 0.01, TOLD):
        found.append("The documents' lengths alone tell these concepts as well as the features do.")
    return found
