"""Solver: both factors of rows that fit in memory, by turns, on a schedule that finds the same factors again.

    warm-up    atoms by ridge least squares over all features at once, cut to their s largest entries; codes by sweeps
    fading     sweeps over atoms and codes, while a price on codes falls from its first value to the one that stays
    descent    sweeps alone, until the objective no longer falls: here it cannot rise

Without the price, features that fire for a sum of two parts are a local minimum; while codes cost something they come apart.

Letters: n rows, D neurons, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from armillary.core.onednn import linear as product
from armillary.core.progress import tell
from armillary.core.sweeps import sweep, sweep_codes
from armillary.methods.snmf.start import Init, first_codes
from armillary.methods.snmf.updates import (
    Budget,
    accelerate,
    gram_of_codes,
    least_squares,
    multiply,
    normalise,
    squared_error,
    squared_length,
)

Solver = Literal["hals", "fista", "multiplicative"]

#: Iterations of least squares in the beginning, and those over which the price fades, or is steered, afterwards.
WARM_UP, FADING, STEERING = 10, 10, 24
#: The price that fades, and the first one of those that are steered, as a share of the median over features of the largest inner product.
FADING_PRICE, FIRST_PRICE = 0.2, 0.1
#: Power of the quotient of codes by which a price is steered, and its bounds.
STEER, LEAST, MOST = 0.7, 0.7, 1.4
#: Iterations over which the objective has to fall by `tol` of itself.
WINDOW = 4
#: A feature is dead when its codes' squares are below this share of the mean feature's.
DEAD = 1e-8
#: Rows whose squared residual is below this share of the mean row's square are explained: no feature is begun from them.
EXPLAINED = 1e-9
#: Warm-up and fading need no more rows than these, and no more than so many per feature; descent takes all.
FIRST_ROWS, FIRST_ROWS_PER_FEATURE = 2000, 20
#: Sweeps over the codes of rows that are met for the first time.
CARRIED_SWEEPS = 6
#: Rows whose residuals are looked at together.
PART = 4096
#: Iterations that the multiplicative rule may go on without a better state, as its authors' code does.
PATIENCE = 100
#: Sweeps over the codes per iteration of the descent, in which they hardly change.
SETTLED_SWEEPS = 2
#: Steps of accelerated gradient per iteration.
STEPS = 10
#: Iterations that remove the shrinkage a price leaves behind, and sweeps over the codes in each.
DEBIASING, DEBIASING_SWEEPS = 4, 4


@dataclass(frozen=True)
class Plan:
    """The numbers of one solution.

    Args:
        n_features: F.
        budget: what atoms may be.
        solver: sweeps over both factors, accelerated gradients for codes, or the paper's: least squares and the multiplicative rule.
        init: how codes begin.
        n_iter: iterations at most.
        tol: share of the objective by which it has to fall within a few iterations.
        n_sweeps: over codes per iteration, while the price changes.
        ridge: of the least squares, as a share of the codes' mean square.
        code_price: of the size of codes, as a share of the median over features of the largest inner product.
        target_l0: codes per row that the price is steered to, or None.
    """

    n_features: int
    budget: Budget
    solver: Solver = "hals"
    init: Init = "als"
    n_iter: int = 200
    tol: float = 1e-4
    n_sweeps: int = 4
    ridge: float = 1e-6
    code_price: float = 0.0
    target_l0: float | None = None

    @property
    def warm_up(self) -> int:
        """Iterations whose atoms are solved by least squares."""
        if self.solver == "multiplicative":
            return self.n_iter
        wanted = 1 if self.init == "random" else WARM_UP
        return max(1, min(wanted, self.n_iter * wanted // (wanted + self._wanted_fading)))  # fewer where n_iter is small

    @property
    def fading(self) -> int:
        """Iterations after these over which the price changes."""
        return max(0, min(self._wanted_fading, self.n_iter - self.warm_up))

    @property
    def _wanted_fading(self) -> int:
        return FADING if self.target_l0 is None else STEERING

    @property
    def first_of_start(self) -> int:
        """The iteration at which a fit that has atoms to begin from goes on."""
        return self.warm_up if self.target_l0 is not None else self.settled

    def is_under_way(self, i: int) -> bool:
        """Whether the price still changes in iteration i, so that objectives before and after it cannot be compared."""
        return self.solver != "multiplicative" and i <= self.settled

    @property
    def settled(self) -> int:
        """The iteration from which on the objective cannot rise."""
        return self.warm_up + self.fading

    @property
    def is_priced(self) -> bool:
        """Whether codes cost something in the end."""
        return self.code_price > 0 or self.target_l0 is not None


class Data:
    """Rows in both orders, and their squared length.

    Args:
        x: [n, D] float32.
    """

    def __init__(self, x: Tensor) -> None:
        self.x, self.x_t = x.contiguous(), x.T.contiguous()
        self.squared = squared_length(x)

    def part(self, n: int) -> Data:
        """About n of the rows, evenly spread; all where there are fewer than twice as many."""
        step = len(self.x) // n
        return self if step < 2 else Data(self.x[::step])

    def outer(self, codes: Tensor) -> Tensor:
        """Y X [F, D]."""
        return product(codes, self.x_t)


@dataclass
class Factors:
    """Both factors while they are solved for, and what is known of them.

    Args:
        atoms: Z [F, D], of norm 1 between iterations.
        codes: Y [F, n].
        used: Y Y^T [F, F] in float64.
        price: of a code's size now.
        trace: the objective after each iteration, as a share of |X|^2: the squared error and twice the price of the codes.
        errors: the squared error after each, as a share of |X|^2.
        n_revived: how often a dead feature was given a new beginning.
    """

    atoms: Tensor
    codes: Tensor
    used: Tensor
    price: float = 0.0
    trace: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    n_revived: int = 0

    def copy(self) -> Factors:
        """The same factors, to be changed."""
        return replace(self, atoms=self.atoms.clone(), codes=self.codes.clone(), trace=[*self.trace], errors=[*self.errors])

    @property
    def l0(self) -> float:
        """Codes per row."""
        return float((self.codes > 0).sum() / self.codes.shape[1])


def solve(data: Data, plan: Plan, *, seed: int, start: Tensor | None = None) -> Factors:
    """Factors of the rows.

    Args:
        data: rows that are not all 0.
        plan: the numbers.
        seed: of the random beginning.
        start: atoms [F, D] to begin from instead.
    """
    is_new = start is None and plan.solver != "multiplicative"
    here = data.part(max(FIRST_ROWS, FIRST_ROWS_PER_FEATURE * plan.n_features)) if is_new else data
    first = 0 if start is None else plan.first_of_start
    now = best = begun(here, plan, seed) if start is None else given(start, data, plan, first - 1)
    for i in range(first, first + plan.n_iter):
        if i == plan.settled and here is not data:
            here, now = data, carried(now, data, plan)
        now = now.copy()
        iterate(now, here, plan, i)
        if plan.is_under_way(i) or not best.trace or now.trace[-1] <= best.trace[-1]:
            best = now
        tell(f"iteration {i + 1 - first} of at most {plan.n_iter}, error {now.errors[-1]:.4g}")
        if _is_done(now, best, plan, i):
            break
    now = best if here is data else carried(best, data, plan)
    if plan.is_priced and plan.solver != "multiplicative":
        debias(now, data, plan.budget)
    return now


def begun(data: Data, plan: Plan, seed: int) -> Factors:
    """Factors with their first codes, whose atoms follow."""
    codes = first_codes(data.x, plan.n_features, plan.init, seed)
    return Factors(data.x.new_zeros(plan.n_features, data.x.shape[1]), codes, gram_of_codes(codes))


def carried(now: Factors, data: Data, plan: Plan) -> Factors:
    """The same atoms with codes for all rows."""
    inner, gram = plan.budget.inner(now.atoms, data.x, data.x_t), product(now.atoms, now.atoms)
    codes = torch.zeros_like(inner)
    sweep_codes(codes, inner, gram, CARRIED_SWEEPS, price=now.price)
    return replace(now, codes=codes, used=gram_of_codes(codes))


def given(atoms: Tensor, data: Data, plan: Plan, i: int) -> Factors:
    """Factors with atoms [F, D] as they are allowed, and their codes at the price of iteration i."""
    codes = data.x.new_zeros(len(atoms), len(data.x))
    now = Factors(plan.budget.keep(atoms.to(data.x, copy=True)), codes, gram_of_codes(codes))
    _normalise(now)
    _update_codes(now, data, plan, i)
    return now


def iterate(now: Factors, data: Data, plan: Plan, i: int) -> None:
    """Update both factors in place, as iteration i does."""
    _update_atoms(now, data, plan, i)
    _normalise(now)
    _update_codes(now, data, plan, i)


def _is_done(now: Factors, best: Factors, plan: Plan, i: int) -> bool:
    if plan.solver == "multiplicative":  # its objective rises at times
        return len(now.trace) > PATIENCE and min(now.trace[:-PATIENCE]) - best.trace[-1] <= plan.tol * best.trace[-1]
    if now is not best:  # the objective has risen, by no more than rounding: this is the bottom
        return True
    return i >= plan.settled + WINDOW and now.trace[-1 - WINDOW] - now.trace[-1] <= plan.tol * now.trace[-1]


def _update_atoms(now: Factors, data: Data, plan: Plan, i: int) -> None:
    outer, used = data.outer(now.codes), now.used.to(now.codes)  # Y X [F, D], Y Y^T [F, F]
    if i < plan.warm_up:
        now.atoms = plan.budget.keep(least_squares(outer, used, plan.ridge))
    else:
        sweep(now.atoms, outer, used, plan.budget.of_norm_one if now.price else plan.budget.of_any_norm)
    if plan.solver != "multiplicative":
        _revive(now, data, plan.budget)


def _normalise(now: Factors) -> None:
    """Atoms of norm 1; codes take over their scale."""
    now.codes *= normalise(now.atoms)


def _update_codes(now: Factors, data: Data, plan: Plan, i: int) -> None:
    inner, gram = plan.budget.inner(now.atoms, data.x, data.x_t), product(now.atoms, now.atoms)  # Z X^T [F, n], Z Z^T [F, F]
    now.price = _price(now, plan, i, typical(inner))
    if plan.solver == "hals":
        sweep_codes(now.codes, inner, gram, plan.n_sweeps if plan.is_under_way(i) else SETTLED_SWEEPS, price=now.price)
    elif plan.solver == "fista":
        now.codes = accelerate(now.codes, inner - now.price, lambda codes: gram @ codes, torch.linalg.eigvalsh(gram)[-1], STEPS)
    else:
        now.codes = multiply(now.codes, inner, gram, now.price)
    _measure(now, data, inner, gram)


def _measure(now: Factors, data: Data, inner: Tensor, gram: Tensor) -> None:
    now.used = gram_of_codes(now.codes)
    now.errors.append(squared_error(data.squared, inner, gram, now.codes, now.used) / data.squared)
    now.trace.append(now.errors[-1] + 2 * now.price * float(now.codes.sum(dtype=torch.float64)) / data.squared)


def typical(inner: Tensor) -> float:
    """The median over features of the largest of their inner products [F, n]; features that no row points along do not count."""
    largest = inner.amax(1)
    largest = largest[largest > 0]
    return float(largest.median()) if len(largest) else 0.0


def _price(now: Factors, plan: Plan, i: int, unit: float) -> float:
    """The price of iteration i, where `unit` is the median over features of the largest inner product."""
    if plan.solver == "multiplicative":
        return plan.code_price * unit
    if i + 1 < plan.warm_up:
        return 0.0
    done = (i + 1 - plan.warm_up) / plan.fading if plan.fading else 1.0  # share of the fading
    if done > 1 or (done == 1 and plan.target_l0 is not None):
        return now.price if plan.is_priced else 0.0
    if plan.target_l0 is not None:
        times = (now.l0 / plan.target_l0) ** STEER
        return now.price * min(max(times, LEAST), MOST) if now.price else FIRST_PRICE * unit
    return (plan.code_price if done == 1 else max(FADING_PRICE * (1 - done), plan.code_price)) * unit


def _revive(now: Factors, data: Data, budget: Budget) -> None:
    """Give features that are hardly used a new beginning: the rows that are explained worst. The error stays what it is."""
    used = now.used.diagonal()
    dead = (used <= DEAD * used.mean()).nonzero().flatten()
    if len(dead) == 0:
        return
    left = torch.cat([_residual(now, data, slice(i, i + PART)).square().sum(1) for i in range(0, len(data.x), PART)])
    worst = left.topk(min(len(dead), len(left))).indices
    worst = worst[left[worst] > EXPLAINED * data.squared / len(left)]
    dead = dead[: len(worst)]
    now.atoms[dead], now.codes[dead] = budget.keep(_residual(now, data, worst)), 0
    now.n_revived += len(dead)


def _residual(now: Factors, data: Data, rows: slice | Tensor) -> Tensor:
    """[rows, D] what is not explained of these rows."""
    return data.x[rows] - now.codes[:, rows].T @ now.atoms


def debias(now: Factors, data: Data, budget: Budget) -> None:
    """Solve both factors again, codes only where they are above 0: the price has chosen them, and made them too small."""
    on = now.codes > 0
    for _ in range(DEBIASING):
        sweep(now.atoms, data.outer(now.codes), gram_of_codes(now.codes).to(now.codes), budget.of_any_norm)
        _normalise(now)
        inner, gram = budget.inner(now.atoms, data.x, data.x_t), product(now.atoms, now.atoms)
        sweep_codes(now.codes, inner, gram, DEBIASING_SWEEPS, on=on)
    now.used = gram_of_codes(now.codes)
    now.errors.append(squared_error(data.squared, inner, gram, now.codes, now.used) / data.squared)
