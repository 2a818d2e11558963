"""Logistic regression for many small problems: folds of one table at once, along a path of penalties.

    minimise   C * sum_i a_i log(1 + exp(-y_i (w . x_i + b)))  +  |w|^2 / 2   (l2)   or   |w|_1   (l1)        as scikit-learn has it

l2 by Newton's method with halved steps, l1 by FISTA (Beck and Teboulle 2009) with restarts; a, [P, n], leaves rows out of each of
P problems (or balances classes). The best C is the one of the largest mean AUROC of the rows left out.

Letters: n rows, k columns, P problems, C inverse strength of the penalty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.ranks import auroc

Penalty = Literal["l2", "l1"]
#: The penalties that are tried, weakest first: Kantamneni et al. (2025), "Are sparse autoencoders useful?", arXiv 2502.16681.
CS = tuple(float(c) for c in np.logspace(5, -5, 10))
FOLDS = 5
#: Relative decrease of the loss at which Newton's method, and FISTA, stop; and their most steps.
TOLERANCE, NEWTON_STEPS, FISTA_STEPS = 1e-8, 60, 500


@dataclass(frozen=True)
class Linear:
    """Scores x @ weight + bias.

    Args:
        weight: [k].
        bias: added to each score.
        c: the penalty it was fitted with.
    """

    weight: Floats
    bias: float
    c: float

    def __call__(self, x: Floats) -> Floats:
        found: Floats = x @ self.weight + self.bias
        return found


def fit(x: Floats, positive: Bools, c: float, *, penalty: Penalty = "l2", balanced: bool = False) -> Linear:
    """The regression of [n] labels on [n, k] rows; `balanced` gives both classes the same total weight."""
    weights = _balance(positive) if balanced else np.ones(len(x))
    turned, back = _reduced(x) if penalty == "l2" else (x, None)
    found = _SOLVERS[penalty](turned, np.where(positive, 1.0, -1.0), weights[None], c, np.zeros((1, turned.shape[1] + 1)))[0]
    return Linear(found[:-1] if back is None else back @ found[:-1], float(found[-1]), c)


def fit_best(x: Floats, positive: Bools, *, penalty: Penalty = "l2", seed: int = 0) -> Linear:
    """The same with the C of `CS` that tells left-out rows apart best, the smallest of equals; 1 where a class has one row."""
    n_folds = min(FOLDS, int(positive.sum()), int((~positive).sum()))
    if n_folds < 2:
        return fit(x, positive, 1.0, penalty=penalty)
    turned, back = _reduced(x) if penalty == "l2" else (x, None)
    sign, fold = np.where(positive, 1.0, -1.0), folds(positive, n_folds, seed)
    kept = (fold[None] != np.arange(n_folds)[:, None]).astype(np.float64)  # [P, n]
    whole = np.concatenate([kept, np.ones((1, len(x)))])  # the last problem has every row
    at, best, found = np.zeros((n_folds + 1, turned.shape[1] + 1)), (-np.inf, 1.0), np.zeros(0)
    for c in CS[::-1]:  # strongest first: each solution is the start of the next
        at = _SOLVERS[penalty](turned, sign, whole, c, at)
        score = turned @ at[:-1, :-1].T + at[:-1, -1]  # [n, P]
        value = float(np.mean([auroc(score[fold == i, i], positive[fold == i]) for i in range(n_folds)]))
        if value > best[0] + 1e-12:
            best, found = (value, c), at[-1].copy()
    return Linear(found[:-1] if back is None else back @ found[:-1], float(found[-1]), best[1])


def folds(positive: Bools, n_folds: int, seed: int) -> Ints:
    """[n] fold of each row; each class is dealt evenly."""
    rng, out = np.random.default_rng(seed), np.zeros(len(positive), np.int64)
    for side in (True, False):
        rows = rng.permutation(np.flatnonzero(positive == side))
        out[rows] = np.arange(len(rows)) % n_folds
    return out


def _balance(positive: Bools) -> Floats:
    n = len(positive)
    share = np.where(positive, positive.sum(), n - positive.sum())
    found: Floats = n / (2.0 * np.maximum(share, 1))
    return found


def _reduced(x: Floats) -> tuple[Floats, Floats | None]:
    """Rows in the space they span, where that has fewer dimensions than columns: an l2 penalty does not see the rotation."""
    n, k = x.shape
    if k <= n:
        return x, None
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return u * s, vt.T


# ---------------------------------------------------------------- solvers


def _newton(x: Floats, sign: Floats, weights: Floats, c: float, start: Floats) -> Floats:
    """[P, k + 1] weights and biases under an l2 penalty."""
    wide = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    at = start.copy()
    for p, own in enumerate(weights):
        at[p] = _newton_one(wide[own > 0], sign[own > 0], c * own[own > 0], at[p])
    return at


def _newton_one(x: Floats, sign: Floats, weight: Floats, at: Floats) -> Floats:
    ridge = np.append(np.ones(x.shape[1] - 1), 1e-10)  # the bias goes free
    loss = _loss(x, sign, weight, at, ridge)
    for _ in range(NEWTON_STEPS):
        chance = _logistic(-sign * (x @ at))
        gradient = ridge * at - x.T @ (weight * sign * chance)
        hessian = (x.T * (weight * chance * (1 - chance))) @ x
        hessian[np.diag_indices_from(hessian)] += ridge
        step = np.linalg.solve(hessian, gradient)
        size, new = 1.0, _loss(x, sign, weight, at - step, ridge)
        while not new <= loss and size > 1e-6:
            size /= 2
            new = _loss(x, sign, weight, at - size * step, ridge)
        if not new < loss:
            return at
        at, gain, loss = at - size * step, loss - new, new
        if gain <= TOLERANCE * max(loss, 1e-12):
            return at
    return at


def _loss(x: Floats, sign: Floats, weight: Floats, at: Floats, ridge: Floats) -> float:
    return float(weight @ np.logaddexp(0.0, -sign * (x @ at)) + 0.5 * (ridge * at) @ at)


def _fista(x: Floats, sign: Floats, weights: Floats, c: float, start: Floats) -> Floats:
    """[P, k + 1] weights and biases under an l1 penalty; the bias goes free."""
    wide = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    # The slope of the loss changes by at most this much: the largest eigenvalue of X^T X / 4.
    step = 1.0 / max(c * float(weights.max()) * float(np.linalg.norm(wide, 2)) ** 2 / 4, 1e-30)
    shrink = np.append(np.full(x.shape[1], step), 0.0)
    at, ahead, t = start.copy(), start.copy(), 1.0
    for _ in range(FISTA_STEPS):
        pull = _logistic(-sign[:, None] * (wide @ ahead.T)) * sign[:, None] * weights.T  # [n, P]
        new = ahead + step * c * (wide.T @ pull).T
        new = np.sign(new) * np.maximum(np.abs(new) - shrink, 0)
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        is_back = float(((ahead - new) * (new - at)).sum()) > 0  # O'Donoghue and Candes' restart
        move = np.abs(new - at).max()
        ahead, t = (new, 1.0) if is_back else (new + (t - 1) / t_new * (new - at), t_new)
        at = new
        if move <= 1e-7 * max(1.0, np.abs(at).max()):
            break
    return at


def _logistic(value: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(0.5 * value))
    return found


_SOLVERS = {"l2": _newton, "l1": _fista}
