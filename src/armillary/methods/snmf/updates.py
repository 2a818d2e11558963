"""Updates of semi-nonnegative matrix factorisation, each exact for the block it changes, so that the objective cannot rise.

    1/2 |X^T - Z^T Y|^2 + price sum Y        Y >= 0,  every row of Z has at most s entries that are not 0

With one factor fixed this is a quadratic in the rows of the other, 1/2 <W, G W> - <L, W>:

    codes    W = Y    G = Z Z^T    L = Z X^T        y_f <- max(0, u - price / G_ff)
    atoms    W = Z    G = Y Y^T    L = Y X          z_f <- the s largest entries of u          u = w_f + (L_f - G_f W) / G_ff

The minimiser over one row under its constraint is a projection of u: hierarchical alternating least squares (Cichocki and Phan 2009),
with a budget of entries where it is atoms (Peharz and Pernkopf 2012). No inverse is formed.

Letters: n rows of data, D neurons, F features, m = n or D, s entries. Codes are stored feature by feature, Y [F, n].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from armillary.core.onednn import linear as product

#: Rows that share one product with the other rows; inside a block every update is passed on at once.
BLOCK = 16
#: A row whose curvature is below this share of the mean one is left alone: nothing would tell where it should go.
FLAT = 1e-10
#: Features are updated group by group where there are at least so many per group.
GROUPED = 3
#: Rows whose products are summed in float32.
STRETCH = 32
#: Floor of the multiplicative rule's quotient, as a share of the mean inner product.
FLOOR = 1e-9

#: Projection of u [m], the minimiser of row f without constraint, given f and the curvature G_ff.
Projection = Callable[[Tensor, int, float], Tensor]


def sweep(w: Tensor, linear: Tensor, gram: Tensor, project: Projection) -> None:
    """Update every row of w [F, m] once, in place, by the minimiser over that row.

    Args:
        w: what is updated.
        linear: L [F, m].
        gram: G [F, F].
        project: onto what a row may be.
    """
    curvature = gram.diagonal().tolist()
    least = FLAT * max(sum(curvature) / len(curvature), torch.finfo(gram.dtype).tiny)
    for first in range(0, len(w), BLOCK):
        last = min(first + BLOCK, len(w))
        slope = linear[first:last] - gram[first:last] @ w  # [b, m] the negative gradient
        for f in range(first, last):
            if curvature[f] > least:
                row = project(torch.add(w[f], slope[f - first], alpha=1 / curvature[f]), f, curvature[f])
                slope[f - first + 1 :].addr_(gram[f + 1 : last, f], row - w[f], alpha=-1)
                w[f] = row


def sweep_codes(codes: Tensor, linear: Tensor, gram: Tensor, n_sweeps: int, *, price: float = 0.0, on: Tensor | None = None) -> None:
    """Update codes [F, n] so many times, in place; features that share no neuron are updated together, which comes to the same.

    Args:
        codes: Y.
        linear: P = Z X^T [F, n].
        gram: Q = Z Z^T [F, F].
        n_sweeps: how often.
        price: of a code's size.
        on: [F, n] bool, the codes that may differ from 0; all by default.
    """
    groups = apart(gram) if gram.device.type == "cpu" else []
    if not groups:
        for _ in range(n_sweeps):
            sweep(codes, linear, gram, nonnegative(price) if on is None else within(on))
        return
    parts = [(group, gram[group], linear[group] - price, None if on is None else on[group]) for group in groups]
    for group, rows, push, may in parts * n_sweeps:
        curvature = rows.gather(1, group[:, None])  # [g, 1] G_ff
        new = torch.addmm(push, rows, codes, alpha=-1).div_(curvature).add_(codes[group]).clamp_min_(0)
        codes[group] = new if may is None else new.mul_(may)


def apart(gram: Tensor) -> list[Tensor]:
    """Groups of features none of which has a neuron in common with another of its group, greedily; none where they would be too many.

    Features without a neuron are in no group.
    """
    touching = (gram != 0).numpy()
    colour = np.full(len(gram), -1)
    for f in np.flatnonzero(touching.diagonal()):
        taken = np.zeros(len(gram) + 1, dtype=bool)
        taken[colour[touching[f]]] = True  # those without a colour yet take the last place
        colour[f] = int(taken[:-1].argmin())
    n_groups = int(colour.max()) + 1
    if GROUPED * n_groups > len(gram):
        return []
    return [torch.from_numpy(np.flatnonzero(colour == i)) for i in range(n_groups)]


def nonnegative(price: float = 0.0) -> Projection:
    """Onto rows without a negative entry, where an entry's size costs `price`."""
    return lambda u, _, curvature: u.sub_(price / curvature).clamp_min_(0)


def within(on: Tensor) -> Projection:
    """Onto rows without a negative entry that are 0 where on [F, m] is false."""
    return lambda u, f, _: u.clamp_min_(0).mul_(on[f])


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
    """|X^T - Z^T Y|^2 without forming the residual: |X|^2 - 2 <P, Y> + <Q, N>, with P = Z X^T, Q = Z Z^T, N = Y Y^T; summed in float64."""
    cross, size = (linear * codes).sum(dtype=torch.float64), (gram * gram_codes).sum(dtype=torch.float64)
    return max(0.0, float(x_squared - 2 * cross + size))


def gram_of_codes(codes: Tensor) -> Tensor:
    """N = Y Y^T [F, F] in float64, summed over short stretches of Y [F, n]: a long sum in float32 would hide the end of a descent."""
    total = codes.new_zeros(len(codes), len(codes), dtype=torch.float64)
    for part in torch.split(codes, STRETCH, dim=1):
        total += product(part.contiguous(), part.contiguous())
    return total


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

    def keep(self, rows: Tensor) -> Tensor:
        """The nearest rows [m, D] that are allowed: the s largest entries of each, the others 0."""
        rows = rows if self.is_signed else rows.clamp_min(0)
        if self.n_entries >= rows.shape[1]:
            return rows
        index = rows.abs().topk(self.n_entries, dim=1, sorted=False).indices
        return torch.zeros_like(rows).scatter_(1, index, rows.gather(1, index))

    def of_any_norm(self, u: Tensor, f: int, curvature: float) -> Tensor:
        """A `Projection`."""
        return self.keep(u[None])[0]

    def of_norm_one(self, u: Tensor, f: int, curvature: float) -> Tensor:
        """A `Projection` onto rows of norm 1: where codes have a price, longer atoms would evade it."""
        kept = self.keep(u[None])[0]
        norm = kept.norm()
        return kept / norm if float(norm) > 0 else kept

    def inner(self, atoms: Tensor, x: Tensor, x_t: Tensor) -> Tensor:
        """P = Z X^T [F, n] from x [n, D] and its transpose, which is read only where atoms have entries if those are few."""
        if 4 * self.n_entries > atoms.shape[1] or atoms.device.type != "cpu":
            return product(atoms, x)
        index = atoms.abs().topk(self.n_entries, dim=1, sorted=False).indices  # [F, s]
        return torch.nn.functional.embedding_bag(index, x_t, per_sample_weights=atoms.gather(1, index), mode="sum")
