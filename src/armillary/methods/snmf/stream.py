"""Stream: factorisation of more rows than fit in memory, from two sums that grow with every batch.

    B = sum over rows of y x^T  [F, D]        C = sum over rows of y y^T  [F, F]

With atoms held still a row's codes depend on that row alone, and the best atoms for given codes depend on B and C alone. So memory is
that of the atoms, B and C, whatever the number of rows.

Letters: n rows of this rank's batch, D neurons, F features. Codes are stored feature by feature, Y [F, n].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armillary.core import distributed
from armillary.core.onednn import linear as product
from armillary.core.sweeps import sweep, sweep_codes
from armillary.methods.snmf.solver import DEAD, EXPLAINED
from armillary.methods.snmf.updates import Budget, gram_of_codes, normalise, squared_error, squared_length

#: Sweeps over the codes of a batch, which begin at 0.
SWEEPS = 5


@dataclass
class Stream:
    """Atoms and the sums they follow from.

    Args:
        atoms: Z [F, D] of norm 1.
        outer: B [F, D].
        used: C [F, F] float64.
        totals: squared error and squared length of the rows as they were read, how many rows, how many codes above 0; [4] float64.
        price: of a code's size, by which codes are chosen; they are then solved without it.
    """

    atoms: Tensor
    outer: Tensor
    used: Tensor
    totals: Tensor
    price: float

    @property
    def error(self) -> float:
        """The squared error of the rows, as a share of their squared length."""
        return float(self.totals[0] / self.totals[1])

    @property
    def l0(self) -> float:
        """Codes per row."""
        return float(self.totals[3] / self.totals[2])

    @property
    def n_dead(self) -> int:
        """Features that hardly any row uses."""
        used = self.used.diagonal()
        return int((used <= DEAD * used.mean()).sum())

    def forget(self) -> None:
        """Sums of no rows, for atoms as they are."""
        for total in (self.outer, self.used, self.totals):
            total.zero_()

    def take(self, x: Tensor, budget: Budget) -> None:
        """Add a batch of all ranks, of which x [n, D] float32 are this one's rows, to the sums."""
        x_t = x.T.contiguous()
        inner, gram = budget.inner(self.atoms, x, x_t), product(self.atoms, self.atoms)
        codes = torch.zeros_like(inner)
        sweep_codes(codes, inner, gram, SWEEPS, price=self.price)
        if self.price:  # it has chosen the codes, and made them too small
            sweep_codes(codes, inner, gram, SWEEPS, on=codes > 0)
        outer, used, squared = product(codes, x_t), gram_of_codes(codes), squared_length(x)
        counts = [squared_error(squared, inner, gram, codes, used), squared, len(x), int((codes > 0).sum())]
        totals = torch.tensor(counts, dtype=torch.float64, device=x.device)
        distributed.sum_(outer, used, totals)
        self.outer += outer
        self.used += used
        self.totals += totals
        if self.n_dead:
            self._revive(x - codes.T @ self.atoms, budget)

    def move(self, budget: Budget, n_sweeps: int = 1) -> None:
        """Sweeps over the atoms for the sums as they are; their scale goes to the codes."""
        used = self.used.float()
        for _ in range(n_sweeps):
            sweep(self.atoms, self.outer, used, budget.of_any_norm)
        norm = normalise(self.atoms)  # [F, 1]
        self.outer *= norm
        self.used *= norm.double() * norm.double().T

    def _revive(self, residual: Tensor, budget: Budget) -> None:
        """Give features that are hardly used a new beginning: the rows of this batch that are explained worst."""
        diagonal = self.used.diagonal()
        dead = (diagonal <= DEAD * diagonal.mean()).nonzero().flatten()
        mine = residual[residual.square().sum(1).topk(min(len(dead), len(residual))).indices]
        worst = torch.cat([part.to(residual.device) for part in distributed.gather(mine)])
        left = worst.square().sum(1)
        order = left.argsort(descending=True, stable=True)[: len(dead)]
        order = order[left[order] > EXPLAINED * float(self.totals[1] / self.totals[2])]
        dead = dead[: len(order)]
        new = budget.keep(worst[order])
        self.atoms[dead] = new / new.norm(dim=1, keepdim=True).clamp_min(torch.finfo(new.dtype).tiny)
        self.outer[dead], self.used[dead], self.used[:, dead] = 0, 0, 0

    def state(self) -> dict[str, Any]:
        return {"atoms": self.atoms, "outer": self.outer, "used": self.used, "totals": self.totals, "price": self.price}

    @staticmethod
    def of(state: Mapping[str, Any]) -> Stream:
        return Stream(**state)
