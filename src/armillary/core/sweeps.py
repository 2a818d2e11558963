"""Sweeps: exact updates of one block of coefficients after the other, for quadratics 1/2 <W, G W> - <L, W> in the rows of W.

The minimiser over one row under its constraint is a projection of u, its minimiser without any:

    u_f = w_f + (L_f - G_f W) / G_ff

This is coordinate descent for non-negative least squares, and hierarchical alternating least squares (Cichocki and Phan 2009) where both
factors take turns. No inverse is formed.

Letters: F rows of W, m entries of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from armillary.core.onednn import linear as product

#: Rows that share one product with the other rows; inside a block every update is passed on at once.
BLOCK = 16
#: A row whose curvature is below this share of the mean one is left alone: nothing would tell where it should go.
FLAT = 1e-10
#: Features are updated group by group where there are at least so many per group.
GROUPED = 3

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
        for f, row, downhill in zip(range(first, last), w[first:last].unbind(), slope.unbind(), strict=True):
            if curvature[f] > least:
                new = project(torch.add(row, downhill, alpha=1 / curvature[f]), f, curvature[f])
                slope[f - first + 1 :].addr_(gram[f + 1 : last, f], new - row, alpha=-1)
                row.copy_(new)


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
    if groups:
        sweep_groups(codes, linear - price, gram, groups, n_sweeps, on=on)
        return
    for _ in range(n_sweeps):
        sweep(codes, linear, gram, nonnegative(price) if on is None else within(on))


def sweep_groups(codes: Tensor, linear: Tensor, gram: Tensor, groups: Sequence[Tensor], n_sweeps: int, *, on: Tensor | None = None) -> None:
    """Update codes [F, n] so many times, in place, all of a group at once: see `apart`.

    Args:
        codes: Y >= 0.
        linear: P [F, n], a price taken off; where it is -inf a code becomes 0.
        gram: Q [F, F].
        groups: of features.
        n_sweeps: how often.
        on: [F, n] bool, the codes that may differ from 0; all by default.
    """
    order, size = torch.cat(list(groups)), [len(group) for group in groups]  # a group's features lie side by side
    curvature = gram.diagonal()[order][:, None]
    rows = torch.split((gram[order][:, order] / curvature).fill_diagonal_(0), size)
    push, now = torch.split(linear[order] / curvature, size), codes[order]
    may = None if on is None else torch.split(on[order], size)
    now_t = now.T
    for i, part in list(enumerate(torch.split(now, size))) * n_sweeps:
        torch.sub(push[i], product(rows[i], now_t), out=part).clamp_min_(0)
        if may is not None:
            part.mul_(may[i])
    codes[order] = now


def apart(gram: Tensor) -> list[Tensor]:
    """Groups of features none of which has a neuron in common with another of its group, greedily; none where they would be too many.

    Features without a neuron are in no group.
    """
    free_of = (gram == 0).numpy()
    left = ~free_of.diagonal()
    groups: list[list[int]] = []
    while left.any() and GROUPED * len(groups) <= len(gram):
        free, group = left.copy(), list[int]()
        while free[f := int(free.argmax())]:
            group.append(f)
            free &= free_of[f]
        left[group] = False
        groups.append(group)
    return [] if GROUPED * len(groups) > len(gram) else [torch.tensor(group) for group in groups]


def nonnegative(price: float = 0.0) -> Projection:
    """Onto rows without a negative entry, where an entry's size costs `price`."""
    return lambda u, _, curvature: u.sub_(price / curvature).clamp_min_(0)


def within(on: Tensor) -> Projection:
    """Onto rows without a negative entry that are 0 where on [F, m] is false."""
    return lambda u, f, _: u.clamp_min_(0).mul_(on[f])
