"""Claims: what the papers say of one method against another, and whether it holds in a comparison.

A claim holds where the difference has the sign that was claimed and its 95 % interval excludes 0, does not hold where the interval excludes
0 on the other side, and cannot be told in between, or where a number is missing; nor that two are as good where neither is told from its
null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from armillary.core.comparison import HALF, RATE, Measured, difference, over_seeds, p_null
from armillary.core.report import Estimate, number

Verdict = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True)
class Claim:
    """One method is better than another in one number.

    Args:
        text: what is claimed.
        source: who claims it.
        study: of the comparison, or how its title begins: a claim about localization is looked at in every task.
        estimate: of that study.
        ours, theirs: methods; `theirs` None for the estimate's null.
        sign: 1 if ours is better, 0 if it is as good: holds where no difference is found that is larger than `margin`.
        margin: what counts as no difference.
    """

    text: str
    source: str
    study: str
    estimate: str
    ours: str
    theirs: str | None
    sign: Literal[0, 1] = 1
    margin: float = 0.0


def judged(claims: Sequence[Claim], measured: Measured) -> dict[str, list[Any]]:
    """A table: every claim in every study it is about, with the difference that was measured and the verdict."""
    columns: dict[str, list[Any]] = {name: [] for name in ("claim", "source", "measured in", "difference", "low", "high", "verdict")}
    for claim in claims:
        for row in _rows(claim, measured):
            for name, cell in zip(columns, row, strict=True):
                columns[name].append(cell)
    return columns


def _rows(claim: Claim, measured: Measured) -> Iterator[tuple[Any, ...]]:
    places = [key for key in measured if key[0].partition(":")[0] == claim.study and key[1] == claim.estimate]
    if not places:
        yield claim.text, claim.source, claim.study, None, None, None, "cannot be told"
    for key in places:
        found = None if _are_both_null(claim, measured[key]) else _difference(claim, measured[key].get(claim.ours, ()), measured[key])
        where = f"{key[0]}, {key[1]}"
        if found is None:
            yield claim.text, claim.source, where, None, None, None, "cannot be told"
            continue
        value, half = found[0], HALF * found[1]
        yield claim.text, claim.source, where, value, value - half, value + half, verdict(claim, value, half)


def verdict(claim: Claim, value: float, half: float) -> Verdict:
    """From how much better ours is, and half its interval."""
    low, high = value - half, value + half
    if claim.sign == 0:
        is_near, is_far = -claim.margin <= low and high <= claim.margin, low > claim.margin or high < -claim.margin
        return "holds" if is_near else "does not hold" if is_far else "cannot be told"
    return "holds" if low > claim.margin else "does not hold" if high < claim.margin else "cannot be told"


def _difference(claim: Claim, ours: Sequence[Estimate], row: Any) -> tuple[float, float] | None:
    """By how much ours is better, and the standard error."""
    theirs = [_null(one) for one in ours] if claim.theirs is None else row.get(claim.theirs, ())
    found = difference(ours, theirs)
    if found is None:
        return None
    is_lower = any(one.better == "lower" for one in ours)
    return (-found[0] if is_lower else found[0]), found[1]


def _are_both_null(claim: Claim, row: Mapping[str, Sequence[Estimate]]) -> bool:
    """Whether being as good says nothing, as neither is told from its null: nothing can be found there by anyone."""
    sides = [over_seeds(row.get(name, ())) for name in (claim.ours, claim.theirs) if name is not None]
    return claim.sign == 0 and all(side.null is not None and not p_null(side) < RATE for side in sides)


def _null(estimate: Estimate) -> Estimate:
    """The null as an estimate without an error of its own."""
    if estimate.null is None:
        return Estimate.missing("no null")
    return Estimate(estimate.null, estimate.null, estimate.null, better=estimate.better)


def told(columns: dict[str, list[Any]]) -> str:
    """How many claims hold, in a line."""
    verdicts = columns["verdict"]
    counts = [f"{verdicts.count(name)} {name}" for name in ("holds", "does not hold", "cannot be told")]
    return f"papers' claims are about {number(len(verdicts))} of these comparisons: {', '.join(counts)}"
