"""Updates of semi-nonnegative matrix factorisation, each exact for the block it changes, so that the objective cannot rise.

    1/2 |X^T - Z^T Y|^2 + price sum Y        Y >= 0,  every row of Z has at most s entries that are not 0

With one factor fixed this is a quadratic in the rows of the other, 1/2 <W, G W> - <L, W>:

    codes    W = Y    G = Z Z^T    L = Z X^T        y_f <- max(0, u - price / G_ff)
    atoms    W = Z    G = Y Y^T    L = Y X          z_f <- the s largest entries of u          u = w_f + (L_f - G_f W) / G_ff

The minimiser over one row under its constraint is a projection of u (`core.sweeps`): hierarchical alternating least squares, with a
budget of entries where it is atoms (Peharz and Pernkopf 2012).

Letters: n rows of data, D neurons, F features, m = n or D, s entries. Codes are stored feature by feature, Y [F, n].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from armillary.core.onednn import linear as product
from armillary.errors import InputError, NonFiniteError

#: Rows whose products are summed in float32.
STRETCH = 128
#: What a share of the neurons may be above a whole number of them: 0.07 of 100 are 7.
ROUNDING = 1e-9
#: An atom of less than this share of the longest one's norm has vanished.
VANISHED = 1e-12
#: Floor of the multiplicative rule's quotient, as a share of the mean inner product.
FLOOR = 1e-9


def least_squares(linear: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """All rows W [F, m] at once, without constraints: (G + r I) W = L, where r is `ridge` times the mean of G's diagonal."""
    shift = (ridge * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
    shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(shifted)
    if int(info):  # rounding made it indefinite
        found: Tensor = torch.linalg.pinv(shifted, hermitian=True) @ linear
        return found
    return torch.cholesky_solve(linear, factor).contiguous()


def accelerate(w: Tensor, linear: Tensor, times: Callable[[Tensor], Tensor], lipschitz: Tensor, n_steps: int) -> Tensor:
    """W [F, m] >= 0 after steps of accelerated projected gradient (Beck and Teboulle 2009), matrix products only.

    Momentum that points uphill is dropped; should the objective still have risen, one plain step is taken, which cannot raise it.

    Args:
        w: where to begin.
        linear: L [F, m].
        times: the quadratic's map, such as W -> G W.
        lipschitz: its largest eigenvalue.
        n_steps: how many.
    """
    lipschitz = lipschitz.clamp_min(torch.finfo(w.dtype).tiny)

    def step(at: Tensor) -> Tensor:
        return (at + (linear - times(at)) / lipschitz).clamp_min_(0)

    now, ahead, t = w, w, 1.0
    for _ in range(n_steps):
        new = step(ahead)
        if float(((ahead - new) * (new - now)).sum()) > 0:
            t = 1.0
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        now, ahead, t = new, new + (t - 1) / t_new * (new - now), t_new
    return now if quadratic(now, linear, times) <= quadratic(w, linear, times) else step(w)


def quadratic(w: Tensor, linear: Tensor, times: Callable[[Tensor], Tensor]) -> float:
    """1/2 <W, G W> - <L, W>, summed in float64."""
    return float(((times(w) / 2 - linear) * w).sum(dtype=torch.float64))


def multiply(codes: Tensor, linear: Tensor, gram: Tensor, price: float = 0.0) -> Tensor:
    """The multiplicative rule of Ding, Li and Jordan 2010 (eq. 10) for Y [F, n] with P = Z X^T and Q = Z Z^T."""
    floor = FLOOR * linear.abs().mean()
    above = linear.clamp_min(0) + gram.neg().clamp_min_(0) @ codes
    below = linear.neg().clamp_min_(0) + gram.clamp_min(0) @ codes + (price + floor)
    return codes * (above / below.clamp_min(torch.finfo(below.dtype).tiny)).sqrt_()


def squared_error(x_squared: float, linear: Tensor, gram: Tensor, codes: Tensor, gram_codes: Tensor) -> float:
    """|X^T - Z^T Y|^2 without forming the residual: |X|^2 - 2 <P, Y> + <Q, N>, with P = Z X^T, Q = Z Z^T, N = Y Y^T; summed in float64.

    Raises:
        NonFiniteError: it is no number.
    """
    cross, size = (linear * codes).sum(dtype=torch.float64), (gram * gram_codes).sum(dtype=torch.float64)
    found = float(x_squared - 2 * cross + size)
    if not math.isfinite(found):
        raise NonFiniteError(f"the squared error of the factorisation is {found}: the rows differ too much in size for float32")
    return max(0.0, found)


def gram_of_codes(codes: Tensor) -> Tensor:
    """N = Y Y^T [F, F] in float64, summed over short stretches of Y [F, n]: a long sum in float32 would hide the end of a descent."""
    total = codes.new_zeros(len(codes), len(codes), dtype=torch.float64)
    for part in torch.split(codes, STRETCH, dim=1):
        total += product(part.contiguous(), part.contiguous())
    return total


def squared_length(x: Tensor) -> float:
    """|X|^2 of rows [n, D], summed over rows in float64."""
    return float(torch.linalg.vecdot(x, x).sum(dtype=torch.float64))


def normalise(atoms: Tensor) -> Tensor:
    """Give atoms [F, D] norm 1, in place, and those that have vanished beside the others no entry.

    Returns:
        [F, 1] the norms that codes take over, 0 where an atom has vanished.
    """
    norm = atoms.norm(dim=1, keepdim=True)
    norm = torch.where(norm > VANISHED * norm.max(), norm, 0.0)
    atoms.div_(torch.where(norm > 0, norm, torch.inf))
    return norm


def violation(codes: Tensor, linear: Tensor, gram: Tensor, price: float = 0.0) -> float:
    """How far Y [F, n] >= 0 is from optimal: the largest projected gradient, as a share of the largest entry of P."""
    gradient = gram @ codes - linear + price  # [F, n]
    wrong = torch.where(codes > 0, gradient.abs(), gradient.neg().clamp_min(0))
    return float(wrong.max() / linear.abs().max().clamp_min(torch.finfo(linear.dtype).tiny))


# ---------------------------------------------------------------- what atoms may be


class Budget:
    """What atoms may be: at most s entries each, none of them negative unless they are signed.

    Args:
        n_entries: s.
        is_signed: whether entries may be negative.
    """

    def __init__(self, n_entries: int, *, is_signed: bool = True) -> None:
        self.n_entries, self.is_signed = n_entries, is_signed

    @staticmethod
    def of(neurons: int | float | None, d: int, *, is_signed: bool = True) -> Budget:
        """So many of d neurons at most: a count, a share of all (rounded up), or None for any number.

        Raises:
            InputError: more than there are, or not above 0.
        """
        most = d if isinstance(neurons, int) else 1
        if neurons is not None and not 0 < neurons <= most:
            what = f"a count of at most the width, {d}, or a share up to 1.0"
            raise InputError(f"neurons_per_feature must be {what}, got {neurons}")
        if neurons is None or isinstance(neurons, int):
            return Budget(neurons or d, is_signed=is_signed)
        return Budget(max(1, math.ceil(neurons * d - ROUNDING)), is_signed=is_signed)

    def keep(self, rows: Tensor) -> Tensor:
        """The nearest rows [m, D] that are allowed: the s largest entries of each, the others 0."""
        rows = rows if self.is_signed else rows.clamp_min(0)
        if self.n_entries >= rows.shape[1]:
            return rows
        index = rows.abs().topk(self.n_entries, dim=1, sorted=False).indices
        return torch.zeros_like(rows).scatter_(1, index, rows.gather(1, index))

    def of_any_norm(self, u: Tensor, f: int, curvature: float) -> Tensor:
        """A `Projection`: `keep` for one row."""
        u = u if self.is_signed else u.clamp_min(0)
        if self.n_entries >= len(u):
            return u
        index = u.abs().topk(self.n_entries, sorted=False).indices
        return torch.zeros_like(u).index_copy_(0, index, u[index])

    def of_norm_one(self, u: Tensor, f: int, curvature: float) -> Tensor:
        """A `Projection` onto rows of norm 1: where codes have a price, longer atoms would evade it."""
        kept = self.of_any_norm(u, f, curvature)
        norm = torch.linalg.vector_norm(kept)
        return kept.div_(norm.clamp_min_(torch.finfo(norm.dtype).tiny))

    def inner(self, atoms: Tensor, x: Tensor, x_t: Tensor) -> Tensor:
        """P = Z X^T [F, n] from x [n, D] and its transpose, which is read only where atoms have entries if those are few."""
        if 4 * self.n_entries > atoms.shape[1] or atoms.device.type != "cpu":
            return product(atoms, x)
        index = atoms.abs().topk(self.n_entries, dim=1, sorted=False).indices  # [F, s]
        return torch.nn.functional.embedding_bag(index, x_t, per_sample_weights=atoms.gather(1, index), mode="sum")
