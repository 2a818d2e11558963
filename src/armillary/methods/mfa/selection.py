"""Selection: how many regions, and of which rank? By the likelihood of rows that no fit has seen.

Every size is fitted twice, from a start of its own and from the next smaller fit of its rank with the largest regions cut in two (the first
of a rank from that of the rank before), and the one under which its rows are likelier is kept. What is chosen:

    best    the fit under which held-out rows are likeliest
    elbow   the one of fewest parameters that has nearly all of what the best has over the worst

Letters: K regions, R rank.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from armillary.core.decomposition import Decomposition
from armillary.core.method import fit_many
from armillary.core.report import Estimate, Report
from armillary.core.statistics import paired_difference
from armillary.errors import InputError
from armillary.methods.mfa.criteria import Criteria, criteria
from armillary.methods.mfa.method import MFA
from armillary.methods.mfa.regions import grow

#: Share of the gain that the elbow has.
NEARLY = 0.95


@dataclass(frozen=True)
class Candidate:
    """One fit.

    Args:
        n_regions, rank: K and R.
        fit: the mixture.
        held_out: log-likelihood of held-out rows, nats per row.
        criteria: BIC, AIC and ICL on the rows it was fitted to.
        seconds: of the fit.
    """

    n_regions: int
    rank: int
    fit: Decomposition
    held_out: Estimate
    criteria: Criteria
    seconds: float

    @property
    def value(self) -> float:
        """Held-out log-likelihood."""
        assert self.held_out.value is not None
        return self.held_out.value


@dataclass(frozen=True)
class Selection:
    """All fits that were tried, in the order they were made."""

    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The fit under which held-out rows are likeliest."""
        return max(self.candidates, key=lambda one: one.value)

    @property
    def elbow(self) -> Candidate:
        """The fit of fewest parameters with 95 % of what the best has over the worst."""
        worst = min(one.value for one in self.candidates)
        enough = worst + NEARLY * (self.best.value - worst)
        return min((one for one in self.candidates if one.value >= enough), key=lambda one: one.criteria.n_parameters)

    def __rich__(self) -> Any:
        return self.report().__rich__()

    def report(self) -> Report:
        """A table of all, the curve of held-out likelihoods, and what is chosen."""
        best, elbow = self.best, self.elbow
        return Report(
            "selection of regions and rank",
            {f"best: {best.n_regions} regions of rank {best.rank}": best.held_out}
            | {f"elbow: {elbow.n_regions} regions of rank {elbow.rank}": elbow.held_out},
            {"fits": _table(self)},
            {"held-out log-likelihood": _curves(self)},
            notes=[
                "Log-likelihoods are of held-out rows, nats per row, with intervals over blocks of consecutive rows; 'behind' is the "
                f"paired difference to the best. The elbow is the fit of fewest parameters with {NEARLY:.0%} of what the best has over "
                "the worst."
            ],
            warnings=_warnings(self),
            seconds=sum(one.seconds for one in self.candidates),
        )


def select(
    method: MFA, rows: Any, held_out: Any, *, n_regions: Sequence[int], ranks: Sequence[int] | None = None, seed: int = 0
) -> Selection:
    """Fit mixtures of several sizes and compare them on rows that none has seen.

    Args:
        method: all other options.
        rows: to fit, as of `MFA.fit`.
        held_out: other rows.
        n_regions: K of the fits.
        ranks: R of the fits; the method's if None.
        seed: of the fits.

    Raises:
        InputError: nothing to try.
    """
    sizes, widths = sorted(set(n_regions)), sorted(set(ranks or [method.rank]))
    if not sizes:
        raise InputError("n_regions is empty; pass the numbers of regions to try, such as [8, 16, 32]")
    told = method.model_dump(exclude_unset=True)
    methods = [MFA(**{**told, "n_regions": k, "rank": rank}) for rank in widths for k in sizes]
    return Selection(tuple(_tried(methods, rows, held_out, seed)))


def _tried(methods: Sequence[MFA], rows: Any, held_out: Any, seed: int) -> Iterator[Candidate]:
    """The fits of methods whose ranks rise, and within a rank their numbers of regions."""
    last: dict[int, Decomposition] = {}  # of every rank the last fit, and under 0 the smallest of the rank before
    for method in methods:
        began = time.monotonic()
        smaller = last.get(method.rank, last.get(0))
        starts = [None] if smaller is None else [None, grow(smaller, method.n_regions)]
        fits = fit_many([method] * len(starts), rows, seed=seed, starts=starts)
        fit = max(fits, key=lambda one: float(one.provenance["log_likelihood"]))
        if method.rank not in last:
            last[0] = fit
        last[method.rank] = fit
        seconds = time.monotonic() - began
        yield Candidate(method.n_regions, method.rank, fit, criteria(fit, held_out).log_likelihood, criteria(fit, rows), seconds)


def _table(selection: Selection) -> dict[str, list[Any]]:
    tried = selection.candidates
    best = selection.best.held_out
    behind = [paired_difference(one.held_out.units, best.units) for one in tried if one.held_out.units and best.units]
    return {
        "regions": [one.n_regions for one in tried],
        "rank": [one.rank for one in tried],
        "parameters": [one.criteria.n_parameters for one in tried],
        "held_out": [one.value for one in tried],
        "low": [one.held_out.low for one in tried],
        "high": [one.held_out.high for one in tried],
        "behind": [value for value, _, _ in behind],
        "behind_low": [low for _, low, _ in behind],
        "behind_high": [high for _, _, high in behind],
        "bic": [one.criteria.bic.value for one in tried],
        "aic": [one.criteria.aic.value for one in tried],
        "icl": [one.criteria.icl.value for one in tried],
        "seconds": [round(one.seconds, 2) for one in tried],
    }


def _curves(selection: Selection) -> dict[str, Any]:
    """A line per rank, with intervals."""
    traces = []
    for rank in dict.fromkeys(one.rank for one in selection.candidates):
        line = [one for one in selection.candidates if one.rank == rank]
        up = [0.0 if one.held_out.high is None else one.held_out.high - one.value for one in line]
        down = [0.0 if one.held_out.low is None else one.value - one.held_out.low for one in line]
        error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
        places = {"x": [one.n_regions for one in line], "y": [one.value for one in line]}
        traces.append({"type": "scatter", "mode": "lines+markers", "name": f"rank {rank}", **places, "error_y": error})
    axes = {"xaxis": {"title": {"text": "regions"}, "type": "log"}, "yaxis": {"title": {"text": "held-out log-likelihood, nats per row"}}}
    return {"data": traces, "layout": {"title": {"text": "Held-out log-likelihood"}, **axes}}


def _warnings(selection: Selection) -> list[str]:
    """Where the best lies at the edge of what was tried."""
    best, tried = selection.best, selection.candidates
    edges = {
        "most regions": (best.n_regions, [one.n_regions for one in tried]),
        "highest rank": (best.rank, [one.rank for one in tried]),
    }
    return [
        f"the best fit has the {name} that was tried ({value}); more may be better still"
        for name, (value, all_values) in edges.items()
        if len(set(all_values)) > 1 and value == max(all_values)
    ]
