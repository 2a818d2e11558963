"""Solver: EM over rows that are held in memory, with moves between regions, until the log-likelihood no longer rises.

    sweep      stepwise EM once over all rows, where there are many regions
    moves      rounds of them: proposed by some rows, kept if the rows are more likely after a few steps
    settle     steps over all rows, which leap along the tail; then further rounds, as long as one is kept

The steps after a move are taken on the rows that proposed it where it promises more than they can mislead by: the parameters of a fit are
worth as many nats to its own rows, in sum, as there are of them (Akaike 1974). Otherwise these steps are on all rows as well.

Letters: n rows, D width, K regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from armillary.methods.mfa.em import Shape, Sums, collect, maximise
from armillary.methods.mfa.gate import MANY, PROBED, gate_for, part_size
from armillary.methods.mfa.leap import leap
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.moves import Moves, made, proposed
from armillary.methods.mfa.sharing import ALL, Work
from armillary.methods.mfa.spectrum import Selection, of_own_rank

#: Steps that are looked at together.
LATELY = 3
#: Rows of a step of stepwise EM: at least so many, and so many per region; steps that make a sweep worth while, and first ones that only
#: add up.
STEP_ROWS, STEP_ROWS_PER_REGION, FEWEST, HELD = 512, 16, 6, 3
#: Regions from which on there is a sweep: of few, whole steps are quick, and now and then end higher.
SWEPT = 64
#: Step t of stepwise EM moves sums by (t + DELAY)^-DECAY of the way (Cappe and Moulines 2009).
DELAY, DECAY = 2, 0.6
#: Steps before the first round of moves, and after each; steps after a sweep; rounds at most, and of many regions,
#: of which each matters less.
SETTLE, SETTLE_SWEPT, ROUNDS, ROUNDS_OF_MANY = 5, 1, 10, 1
#: Rows that propose moves: at most so many, or so many per region.
PROPOSING, PROPOSING_PER_REGION = 16_384, 100


@dataclass
class Run:
    """A mixture in progress.

    Args:
        mixture: the parameters, of this rank's regions.
        shape: what it shall be.
        trace: mean log-likelihood before each step.
        n_moves: regions that were split at another's cost.
        n_candidates: regions that are considered for a row; None for all.
        work: this rank's share.
        past: parameters since the last leap.
        safe: where to go back to should the last leap have been too long.
    """

    mixture: Mixture
    shape: Shape
    trace: list[float] = field(default_factory=list)
    n_moves: int = 0
    n_candidates: int | None = None
    work: Work = ALL
    past: list[Mixture] = field(default_factory=list)
    safe: Mixture | None = None

    def step(self, x: Tensor) -> float:
        """One step of EM, and after every second one a leap; by how much the step before it raised the log-likelihood."""
        sums = self.sums(x)
        if self.safe is not None and sums.log_likelihood < self.trace[-1]:  # the leap was too long
            self.mixture, self.past = self.safe, []
            sums = self.sums(x)
        self.trace.append(sums.log_likelihood)
        self.past = [*self.past, self.mixture][-2:]
        self.mixture, self.safe = maximise(sums, self.mixture, self.shape, self.work), None
        if len(self.past) == 2:
            self.safe, self.mixture, self.past = self.mixture, leap(self.past[0], self.past[1], self.mixture), []
        return self.trace[-1] - self.trace[-2] if len(self.trace) > 1 else float("inf")

    def sweep(self, x: Tensor, n_step: int, seed: int) -> None:
        """Stepwise EM once over the rows, n_step at a time in random order: as good as several steps on all of them (`em`)."""
        gate = gate_for(self.mixture, self.n_candidates, x[:PROBED], self.work)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
        sums = Sums.empty(self.mixture)
        for i, rows in enumerate(torch.split(order, n_step)):
            batch = Sums.empty(self.mixture)
            for part in torch.split(x[rows], part_size(self.mixture, gate, self.work)):
                collect(batch, self.mixture, part, gate, self.work)
            sums.step(batch, len(rows) / n_step * (i + DELAY) ** -DECAY if i else 1.0)
            if i >= HELD:
                self.mixture = maximise(sums, self.mixture, self.shape, self.work)

    def sums(self, x: Tensor) -> Sums:
        """Those of all rows."""
        return sums_of(self.mixture, x, self.n_candidates, self.work)

    def land(self, x: Tensor) -> None:
        """Undo the last leap unless it makes the rows more likely than the step it began from."""
        if self.safe is not None and self.sums(x).log_likelihood < self.trace[-1]:
            self.mixture = self.safe
        self.safe, self.past = None, []

    def settle(self, x: Tensor, n_steps: int, tol: float) -> None:
        """All of `settling`."""
        for _ in self.settling(x, n_steps, tol):
            pass

    def settling(self, x: Tensor, n_steps: int, tol: float) -> Iterator[None]:
        """Steps until three in a row gain less than `tol` nats per row: where there is a gate a single one may tell of the gate alone."""
        gains: list[float] = []
        for _ in range(n_steps):
            gains.append(self.step(x))
            yield
            if len(gains) > LATELY and sum(gains[-LATELY:]) < tol:
                break
        self.land(x)

    def move(self, x: Tensor, tol: float, *, seed: int) -> bool:
        """A round of moves, of the regions that promise most or else of the others; whether one was kept."""
        few = self._proposing(x, seed)
        return any(self._move(x, few, tol, seed, is_late=is_late) for is_late in (False, True))

    def _move(self, x: Tensor, few: Tensor, tol: float, seed: int, *, is_late: bool) -> bool:
        """Moves all at once, and where these do not help together the best one alone; whether it was kept."""
        gate = gate_for(self.mixture, self.n_candidates, few[:PROBED], self.work)
        moves = proposed(self.mixture, few, self.shape, gate, seed=seed, work=self.work, is_late=is_late)
        if not moves.pairs:
            return False
        rows = few if moves.gain > self.shape.n_parameters(x.shape[1]) / len(few) else x
        level = self.sums(rows).log_likelihood
        return any(self._made(moves, n, rows, tol, level) for n in dict.fromkeys((len(moves.pairs), 1)))

    def _proposing(self, x: Tensor, seed: int) -> Tensor:
        """The rows that propose moves."""
        n = max(PROPOSING, PROPOSING_PER_REGION * self.shape.n_regions)
        if len(x) <= n:
            return x
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n].to(x.device)]

    def _made(self, moves: Moves, n: int, x: Tensor, tol: float, level: float) -> bool:
        """Make n moves and settle; whether the rows became more likely, else all is as it was."""
        before, trace = self.mixture, list(self.trace)
        self.mixture = made(before, moves, n, self.work)
        self.settle(x, SETTLE, tol)
        if self.sums(x).log_likelihood > level:
            self.n_moves += n
            return True
        self.mixture, self.trace = before, trace
        return False


def step_rows(n_regions: int) -> int:
    """Rows of a step of stepwise EM: short steps learn more from a pass, if every region has some."""
    return max(STEP_ROWS, STEP_ROWS_PER_REGION * n_regions)


def sums_of(mixture: Mixture, x: Tensor, n_candidates: int | None = None, work: Work = ALL) -> Sums:
    """The sums of all rows, part by part."""
    sums, gate = Sums.empty(mixture), gate_for(mixture, n_candidates, x[:PROBED], work)
    for part in torch.split(x, part_size(mixture, gate, work)):
        collect(sums, mixture, part, gate, work)
    return sums


def solve(
    x: Tensor,
    start: Mixture,
    shape: Shape,
    *,
    n_steps: int,
    tol: float,
    moves: bool,
    seed: int,
    n_candidates: int | None = None,
    ranks: Selection | None = None,
    work: Work = ALL,
) -> Run:
    """A mixture of rows.

    Args:
        x: [n, D], centred.
        start: where to begin, this rank's regions.
        shape: what it shall be.
        n_steps: of EM at most, besides those between moves.
        tol: nats per row that a step has to gain.
        moves: whether regions are split and given up.
        seed: of the moves.
        n_candidates: regions that are considered for a row; None for all.
        ranks: how axes that are no more than noise are told and given up; None to keep all.
        work: this rank's share.
    """
    run = Run(start, shape, n_candidates=n_candidates, work=work)
    for _ in course(run, x, n_steps=n_steps, tol=tol, moves=moves, seed=seed):
        pass
    if ranks is not None:
        run.mixture = of_own_rank(run.mixture, len(x), ranks)
        run.settle(x, SETTLE, tol)
    return run


def course(run: Run, x: Tensor, *, n_steps: int, tol: float, moves: bool, seed: int) -> Iterator[None]:
    """A run on its way, with a stop at every state that is kept; arguments as of `solve`."""
    k = run.shape.n_regions
    if k >= SWEPT and len(x) >= FEWEST * step_rows(k):
        run.sweep(x, step_rows(k), seed)
        yield
        yield from run.settling(x, SETTLE_SWEPT, tol)
    else:
        yield from run.settling(x, SETTLE, tol)
    rounds = iter(range(0 if not moves or k == 1 else ROUNDS if k < MANY else ROUNDS_OF_MANY))
    for i in rounds:
        if not run.move(x, tol, seed=seed + 1000 * i):
            break
        yield
    yield from run.settling(x, n_steps, tol)
    for i in rounds:
        if not run.move(x, tol, seed=seed + 1000 * i):
            break
        yield from run.settling(x, n_steps, tol)
