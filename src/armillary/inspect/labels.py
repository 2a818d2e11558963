"""Labels: a short text that says what a feature stands for, from a judge or, without one, from its tokens.

    found = label(fit, rows, [3, 17], judge=LocalJudge(lm), model=lm)
    found[3].text                       "names of cities"; None where there is no label, and `reason` says why

A summary of tokens is no understanding: it lists the tokens on which the feature is active more often than tokens are, and the neighbour
that most of them share. Labels are hypotheses; the study `labels` scores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from armillary.core.decomposition import Decomposition
from armillary.core.encoders import MixtureEncoder
from armillary.core.model import Model
from armillary.core.rows import Rows, as_rows
from armillary.core.run import drive
from armillary.core.tokens import Ints
from armillary.errors import InputError
from armillary.inspect.activity import Active, Activity, Example
from armillary.inspect.answers import parse_label
from armillary.inspect.asking import Judge, in_words
from armillary.inspect.evidence import Evidence, Preferred, Shape, Source, effects, evidence, output_side
from armillary.inspect.region_search import RegionSearch

#: What a judge is shown.
Side = Literal["input", "output", "both"]
SIDES: tuple[Side, ...] = ("input", "output", "both")
#: Tokens of a summary, and the share of a feature's rows that each has to have; the share, and the lift, that a neighbour has to have.
N_SUMMARY, LEAST_SHARE, NEIGHBOUR_SHARE, LEAST_LIFT = 5, 0.05, 0.3, 2.0
#: Times as many of the likeliest rows of a region are looked for as are shown: on some of them it is not active, or they do not count.
SPARE = 4
NOTHING_STANDS_OUT = "no token stands out"


@dataclass(frozen=True)
class Label:
    """What a feature is said to stand for.

    Args:
        text: the label, or None with a `reason`; never a text that merely says so.
        kind: what it was made from: the "input" side, the "output" side, "both", or "tokens" without a judge.
        judge: the judge's name; "" for a summary of tokens.
        evidence: what it was made from.
        reason: why there is no text.
    """

    text: str | None
    kind: Literal["input", "output", "both", "tokens"]
    judge: str
    evidence: Evidence = field(repr=False)
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the texts of the evidence marked."""
        found = self.evidence
        return {
            "feature": found.feature, "label": self.text, "kind": self.kind, "judge": self.judge, "reason": self.reason,
            "feature_kind": found.kind, "n_active": found.n_active, "n_rows": found.n_rows,
            "top": [one.marked() for one in found.top], "sample": [one.marked() for one in found.sample],
            "tokens": [{"token": one.text, "share": one.share, "lift": one.lift} for one in found.tokens],
            "promoted": list(found.promoted), "suppressed": list(found.suppressed),
        }  # fmt: skip


def label(
    fit: Decomposition,
    rows: Rows,
    features: Sequence[int],
    judge: Judge | None = None,
    *,
    model: Model | None = None,
    side: Side = "both",
    shape: Shape = Shape(),  # noqa: B008 (frozen)
    densest: float = 0.05,
    batch_size: int = 4096,
    max_rows: int | None = None,
) -> dict[int, Label]:
    """Label features, in one pass over the rows.

    Args:
        fit: whose features.
        rows: with text; special tokens are left out.
        features: which.
        judge: who puts the evidence into words; None for summaries of tokens.
        model: gives the tokens that features promote; without it there is no output side.
        side: what the judge is shown.
        shape: how much evidence.
        densest: of a feature that is active on more than this share of the rows only its strongest activations count, so many.
        batch_size: rows per batch; changes speed only.
        max_rows: read the first rows only; None for all.

    Raises:
        InputError: a feature that does not exist, rows without text, or another side.
        ShapeError: the rows do not hold what the fit reads.
    """
    if side not in SIDES:
        raise InputError(f"side is one of {', '.join(SIDES)}, got {side!r}")
    read = as_rows(rows)
    activity = Activity(fit, read, features, batch_size=batch_size, max_rows=max_rows)
    regions = region_search(fit, read, features, shape, activity)
    with torch.no_grad():
        drive([activity, *regions], read, title="labels")
    found, likeliest = activity.finish(), likeliest_rows(regions)
    source = Source(found.tokens, found.seen)
    strong = {feature: active.from_value(counts_from(active, densest, source)) for feature, active in found.of.items()}
    seen = {
        feature: evidence(fit, feature, active, source, shape=shape, likeliest=likeliest.get(feature)) for feature, active in strong.items()
    }
    return label_evidence(with_effects(seen, fit, model, shape), judge, side)


def counts_from(active: Active, densest: float, source: Source) -> float:
    """The activation from which on a feature counts as active: of a dense one only its strongest activations do; else 0."""
    return active.level(max(1, int(densest * source.n_rows)))


def region_search(fit: Decomposition, rows: Rows, features: Sequence[int], shape: Shape, activity: Activity) -> list[RegionSearch]:
    """Of regions of a mixture, a search for their likeliest rows that shares the pass of `activity`; nothing for other features."""
    if not isinstance(fit.encoder, MixtureEncoder) or shape.n_top == 0:
        return []
    search = RegionSearch(
        fit, rows, n=SPARE * shape.n_top, n_axis=0, regions=features, window=shape.window, batch_size=activity.order.batch_size,
        seed=shape.seed,
    )  # fmt: skip
    search.order = activity.order
    return [search]


def likeliest_rows(searches: Sequence[RegionSearch]) -> Mapping[int, Ints]:
    """Of each region, the rows of largest likelihood."""
    found = [search.finish() for search in searches]
    return {
        int(region): np.array([row for row, _ in one.likelihood.of(one.place(int(region)))], np.int64)
        for one in found
        for region in one.regions
    }


def with_effects(found: Mapping[int, Evidence], fit: Decomposition, model: Model | None, shape: Shape) -> dict[int, Evidence]:
    """The evidence of features with their output side."""
    alive = [feature for feature, one in found.items() if one.n_active]
    of_all = effects(model, fit, alive, shape.n_tokens) if alive else "it is never active"
    with_output = {feature: replace(found[feature], **output_side(of_all, feature)) for feature in alive}  # type: ignore[arg-type]
    return {feature: with_output.get(feature, one) for feature, one in found.items()}


def label_evidence(found: Mapping[int, Evidence], judge: Judge | None, side: Side = "both") -> dict[int, Label]:
    """Labels from evidence; the judge is asked once, about all features together."""
    if judge is None:
        return {feature: token_label(one) for feature, one in found.items()}
    kinds = {feature: _side(one, side) for feature, one in found.items()}
    prompts = {feature: prompt(found[feature], kind) for feature, kind in kinds.items() if kind is not None}
    answers = dict(zip(prompts, in_words(judge, list(prompts.values())), strict=True))
    return {feature: _judged(one, kinds[feature], side, judge.name, answers.get(feature)) for feature, one in found.items()}


def _side(one: Evidence, side: Side) -> Side | None:
    """What can be shown of a feature; None where there is nothing."""
    has_output = bool(one.promoted or one.suppressed)
    if one.n_active == 0 or (side == "output" and not has_output):
        return None
    return side if has_output or side == "input" else "input"


def _judged(one: Evidence, kind: Side | None, wanted: Side, judge: str, answer: str | None) -> Label:
    if kind is None:
        return Label(None, wanted, judge, one, one.no_effect if one.n_active else _never(one))
    text, reason = parse_label(answer)
    return Label(text, kind, judge, one, reason)


def _never(one: Evidence) -> str:
    return f"it is active on none of the {one.n_rows:,} rows"


# ---------------------------------------------------------------- without a judge


def token_label(one: Evidence) -> Label:
    """The summary of a feature's tokens as a label."""
    text = summary(one)
    return Label(text, "tokens", "", one, "" if text is not None else _never(one))


def summary(one: Evidence) -> str | None:
    """The tokens a feature prefers, and the neighbour most of them share; None for a feature that is never active."""
    if one.n_active == 0:
        return None
    names = list(dict.fromkeys(shown(token.text) for token in summary_tokens(one)))
    if not names:
        return NOTHING_STANDS_OUT
    sides = {"after": _neighbour(one.before), "before": _neighbour(one.after)}
    where = ", ".join(f"{side} {name!r}" for side, name in sides.items() if name)
    return f"tokens: {', '.join(names)}{f' ({where})' if where else ''}"


def summary_tokens(one: Evidence) -> list[Preferred]:
    """The tokens that a summary lists."""
    return [token for token in one.tokens if token.share >= LEAST_SHARE and token.lift >= LEAST_LIFT][:N_SUMMARY]


def _neighbour(found: Sequence[Preferred]) -> str:
    """The neighbour that stands out, or ""."""
    return next((shown(token.text) for token in found if token.share >= NEIGHBOUR_SHARE and token.lift >= LEAST_LIFT), "")


def shown(token: str) -> str:
    """A token as a reader sees it: without the space it begins with; what is nothing but space by its name."""
    return token.strip() or ("line break" if "\n" in token else "space")


# ---------------------------------------------------------------- with a judge


def prompt(one: Evidence, side: Side) -> str:
    """What a judge is asked about a feature."""
    parts = []
    if side != "output":
        parts.append(
            "One unit inside a language model is active on the parts of these excerpts that are marked <<like this>>. "
            "The number in front of an excerpt says how active it is there, 10 being the most."
        )
        parts.append("\n".join(_line(example, one.largest) for example in (*one.top, *one.sample)))
    if side != "input":
        what = "One unit inside a language model changes what comes next" if side == "output" else "It also changes what comes next"
        sides = {"likelier": one.promoted, "less likely": one.suppressed}
        told = "; ".join(f"{how}: {', '.join(map(repr, tokens))}" for how, tokens in sides.items() if tokens)
        parts.append(f"{what}. {told}.")
    parts.append(
        "What do they have in common? Prefer what is plain in the marked words themselves to what stands around them, and leave out what "
        "only one line shows. Answer with one short phrase and nothing else; if they have nothing in common, answer: unclear."
    )
    return "\n\n".join([*parts, "Phrase:"])


def _line(example: Example, largest: float) -> str:
    level = round(10 * example.value / largest) if largest > 0 else 0
    return f"{level:>2}  {one_line(example.marked())}"


def one_line(text: str) -> str:
    """A text on one line, its line breaks shown."""
    return text.replace("\n", "↵").strip()
