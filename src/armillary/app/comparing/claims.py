"""Claims: what the papers say of one method against another, and whether it holds in a comparison.

A claim holds where the difference has the sign that was claimed and its 95 % interval excludes 0, does not hold where the interval excludes
0 on the other side, and cannot be told in between, or where a number or its error is missing; nor that one is as good as the other, or no
better, where neither is told from its null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from armillary.core.comparison import HALF, RATE, Gap, Measured, above_null, difference, over_seeds, p_null
from armillary.core.report import Estimate, number

Verdict = Literal["holds", "does not hold", "cannot be told"]
#: Share of a number by which rounding may move the end of its interval.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """One method is better than another in one number.

    Args:
        text: what is claimed.
        source: who claims it.
        study: of the comparison, or how its title begins: a claim about localization is looked at in every task.
        estimate: of that study.
        ours, theirs: methods; `theirs` None for the estimate's null.
        sign: 1 if ours is better; 0 if it is as good, which holds where the whole interval is within `margin` of 0; -1 if it is no better,
            which holds where the whole interval is below `margin`.
        margin: what counts as no difference.
    """

    text: str
    source: str
    study: str
    estimate: str
    ours: str
    theirs: str | None
    sign: Literal[-1, 0, 1] = 1
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
        found = None if _are_both_null(claim, measured[key]) else _difference(claim, measured[key])
        where = f"{key[0]}, {key[1]}"
        if found is None or (found.value and not found.error):  # units that all agree tell no error
            yield claim.text, claim.source, where, None, None, None, "cannot be told"
            continue
        value, half = found.value, HALF * found.error
        yield claim.text, claim.source, where, value, value - half, value + half, verdict(claim, value, half)


def verdict(claim: Claim, value: float, half: float) -> Verdict:
    """From how much better ours is, and half its interval."""
    low, high, slack = value - half, value + half, ROUNDING * (abs(value) + half)
    is_more, is_less = low > claim.margin + slack, high < claim.margin - slack
    if claim.sign == 1:
        return "holds" if is_more else "does not hold" if is_less else "cannot be told"
    is_worse = claim.sign == 0 and high < -claim.margin - slack
    if is_more or is_worse:
        return "does not hold"
    is_within = high <= claim.margin + slack and (claim.sign == -1 or low >= -claim.margin - slack)
    return "holds" if is_within else "cannot be told"


def _difference(claim: Claim, row: Mapping[str, Sequence[Estimate]]) -> Gap | None:
    """By how much ours is better."""
    ours = row.get(claim.ours, ())
    if claim.theirs is None:
        return above_null(ours)
    found = difference(ours, row.get(claim.theirs, ()))
    if found is None:
        return None
    is_lower = any(one.better == "lower" for one in ours)
    return found._replace(value=-found.value) if is_lower else found


def _are_both_null(claim: Claim, row: Mapping[str, Sequence[Estimate]]) -> bool:
    """Whether being as good, or no better, says nothing, as neither is told from its null: nothing can be found there by anyone."""
    sides = [row.get(name, ()) for name in (claim.ours, claim.theirs) if name is not None]
    return claim.sign != 1 and all(over_seeds(side).null is not None and not p_null(side) < RATE for side in sides)


def told(columns: dict[str, list[Any]]) -> str:
    """How many claims hold, in a line."""
    verdicts = columns["verdict"]
    counts = [f"{verdicts.count(name)} {name}" for name in ("holds", "does not hold", "cannot be told")]
    return f"papers' claims are about {number(len(verdicts))} of these comparisons: {', '.join(counts)}"
