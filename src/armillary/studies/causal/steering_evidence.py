"""Evidence: what rows say of some features, gathered in one pass.

Documents (blocks of rows, where there is no text) are dealt to two halves. One half tells whether a feature fires at all, and the
difference between the mean of the rows it fires on and the mean of the others; the other half holds the passages by which it is judged
what was written, so that no baseline was made from these. Passages are those with the largest activations, equal ones in a drawn order; a
region's are drawn among its members, whose responsibilities say how sure, not how much.

A subspace has no direction of its own: any basis of it serves as well. What it adds to the rows c W has one that is most of it, the first
right singular vector of all its parts, through the origin as these are. Those of the first half say which.

Letters: N rows, F features of the fit, f candidates, D width, n passages kept per feature, R atoms of a subspace, c [R] and W [R, D] its
codes and atoms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition, feature_activations
from armillary.core.method import Pass
from armillary.core.rows import PRIORITIES, Batch, Permutation, Rows
from armillary.core.tokens import Bools, Ints
from armillary.inspect.best import Best, Pairs
from armillary.studies.one_pass import OnePass, counted
from armillary.studies.units import RowUnits

#: Responsibility from which a row is a region's.
MEMBER = 0.5


@dataclass(frozen=True)
class Evidence:
    """What was found of the candidates.

    Args:
        features: [f] which.
        n_fires: [f] rows of the first half on which each fires.
        difference: [f, D] mean of those rows minus the mean of the other ones; NaN where either is empty.
        passages: [f, n] rows of the second half with its largest activations, of a region any members; -1 where there are fewer.
        others: [m] rows of the second half, drawn at random.
        rows: what was read.
        principal: by subspace, [D] the principal direction of what it adds to rows of the first half, as long as the root mean square of
            what lies along it, turned the way of the mean; none of one that adds nothing.
    """

    features: Ints
    n_fires: Ints
    difference: Tensor
    passages: Ints
    others: Ints
    rows: Rows
    principal: Mapping[int, Tensor] = field(default_factory=dict)


class Gather(OnePass):
    """The pass.

    Args:
        fit: whose features.
        rows: what is read; special tokens are left out.
        features: [f] candidates.
        n: passages of each.
        n_others: rows drawn at random, at most.
        batch_size: rows per batch.
        seed: of the halves and the draw.
    """

    label = "steering"

    def __init__(
        self, fit: Decomposition, rows: Rows, features: Sequence[int], *, n: int, n_others: int, batch_size: int, seed: int
    ) -> None:
        self.fit, self.rows, self.features = fit, rows, np.asarray(features, dtype=np.int64)
        self.units, self.order = RowUnits.of(rows), Pass(batch_size)
        self.columns, self.deal = columns_for(fit, rows.layout)[0], Permutation(PRIORITIES, seed)
        # Of a key of its own: with that of the random passages, a region's would be among these.
        self.ties = Permutation(PRIORITIES, seed, 1)
        f, d = len(self.features), sum(columns for _, columns in fit.inputs)
        kinds = [fit.dictionary.feature(int(one)).kind for one in self.features]
        self.subspaces = {
            int(one): fit.dictionary.atoms_of([int(one)]) for one, kind in zip(features, kinds, strict=True) if kind == "subspace"
        }
        self.is_region = np.array([kind == "region" for kind in kinds])  # [f]
        self.least = torch.tensor([MEMBER if kind == "region" else fit.encoder.fires or 0.0 for kind in kinds]).double()  # [f]
        self.best = {"passages": Best(f, n, one_per_group=self.units.kind == "document"), "others": Best(1, n_others)}
        self.sums = {"fires": torch.zeros(f, d + 1, dtype=torch.float64), "all": torch.zeros(d + 1, dtype=torch.float64)}
        self.sums |= {_codes(one): torch.zeros([len(atoms) + 1] * 2, dtype=torch.float64) for one, atoms in self.subspaces.items()}

    def update(self, batch: Batch) -> None:
        x, row = counted(self.units, batch)
        x, device = x[:, self.columns], self.fit.dictionary.atoms.device
        codes = self.fit.encode(x.to(device))
        value = feature_activations(self.fit.dictionary, codes).columns(torch.from_numpy(self.features).to(device)).double().cpu()  # [n, f]
        is_first = self._is_first(row)
        first = torch.from_numpy(is_first)
        self._add(x[first.to(x.device)].cpu().double(), value[first])
        for one, atoms in self.subspaces.items():
            c = codes.columns(atoms).cpu().double()[first]  # [n, R]
            c = torch.cat([c, c.new_ones(len(c), 1)], dim=1)
            self.sums[_codes(one)] += c.T @ c
        self._offer(row[~is_first], value[~first])

    def _is_first(self, row: Ints) -> Bools:
        """[n] whether rows are of the first half."""
        return np.asarray(self.deal(self.units.unit(row)) % 2 == 0)

    def _add(self, x: Tensor, value: Tensor) -> None:
        """Sums of rows [n, D] and their number, of all and of those each candidate fires on."""
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        self.sums["fires"] += (value > self.least).double().T @ x
        self.sums["all"] += x.sum(0)

    def _offer(self, row: Ints, value: Tensor) -> None:
        document = self.units.unit(row)
        which, feature = np.nonzero((value > self.least).numpy())
        found = np.where(self.is_region[feature], 0.0, value.numpy()[which, feature])
        # Ties go to the lower "row", here a draw; the row itself is kept along as the value, which holds it exactly.
        drawn = self.ties(row[which] % PRIORITIES)
        self.best["passages"].offer(Pairs(feature, drawn, found, row[which].astype(np.float64), document[which]))
        priority = -self.deal(row % PRIORITIES).astype(np.float64)
        self.best["others"].offer(Pairs(np.zeros_like(row), row, priority, priority, document))

    def state(self) -> Mapping[str, Any]:
        return {"best": {name: best.state() for name, best in self.best.items()}, "sums": dict(self.sums), "is_done": self.is_done}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, best in self.best.items():
            best.load(state["best"][name])
        self.sums, self.is_done = dict(state["sums"]), state["is_done"]

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        first, *others = states
        self.load({**first, "sums": {name: torch.stack([one["sums"][name] for one in states]).sum(0) for name in self.sums}})
        for other in others:
            for name, best in self.best.items():
                best.absorb(other["best"][name])

    def finish(self) -> Evidence:
        for best in self.best.values():
            best.settle()
        fires, n = self.sums["fires"][:, :-1], self.sums["fires"][:, -1:]
        others, m = self.sums["all"][:-1] - fires, self.sums["all"][-1] - n
        drawn, passages = self.best["others"].row[0], self.best["passages"]
        return Evidence(
            self.features,
            n[:, 0].long().numpy(),
            (fires / n - others / m).float(),  # NaN over 0
            np.where(passages.row >= 0, passages.value, -1).astype(np.int64),
            np.sort(drawn[drawn >= 0]),
            self.rows,
            self._principal(),
        )

    def _principal(self) -> dict[int, Tensor]:
        """See `Evidence`."""
        found = {}
        for one, atoms in self.subspaces.items():
            sums = self.sums[_codes(one)]
            n = sums[-1, -1].clamp_min(1)
            vector = principal(self.fit.dictionary.atoms[atoms].cpu().double(), sums[:-1, :-1] / n, sums[-1, :-1] / n)
            if float(vector.norm()) > 0:
                found[one] = vector.float()
        return found


def principal(basis: Tensor, moment: Tensor, mean: Tensor) -> Tensor:
    """[D] the direction along which c W is longest in the root mean square, and that long; turned the way of its mean.

    Args:
        basis: W [R, D].
        moment: [R, R] mean of c c^T.
        mean: [R] mean of c.
    """
    value, vector = torch.linalg.eigh(moment)
    _, length, axes = torch.linalg.svd((vector * value.clamp_min(0).sqrt()).T @ basis, full_matrices=False)
    found: Tensor = length[0] * axes[0]
    return -found if float(mean @ basis @ axes[0]) < 0 else found


def _codes(feature: int) -> str:
    """Name of the sums over a subspace's codes with 1 behind them, [R + 1, R + 1]."""
    return f"codes {feature}"
