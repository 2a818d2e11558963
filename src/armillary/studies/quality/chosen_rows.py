"""Rows that were chosen beforehand, gathered from one pass.

Letters: n rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from armillary.core.method import Pass
from armillary.core.rows import Batch
from armillary.core.tokens import Ints
from armillary.errors import TooFewRowsError
from armillary.studies.one_pass import OnePass


@final
class ChosenRows(OnePass):
    """Keeps some rows of a pass, in float32 or their own wider dtype.

    Args:
        row: [n] indices in stored order, ascending.
        order: the pass.
    """

    def __init__(self, row: Ints, order: Pass) -> None:
        self.row, self.order = row, order
        self.x, self.has = torch.zeros(0, 0), torch.zeros(len(row), dtype=torch.bool)

    def update(self, batch: Batch) -> None:
        place = np.minimum(np.searchsorted(self.row, batch.row), len(self.row) - 1)
        kept = self.row[place] == batch.row
        rows = batch.x[torch.from_numpy(kept).to(batch.x.device)].cpu()
        rows = rows if rows.dtype == torch.float64 else rows.float()
        if self.x.numel() == 0:
            self.x = rows.new_zeros(len(self.row), rows.shape[1])
        at = torch.from_numpy(place[kept])
        self.x[at], self.has[at] = rows, True

    def state(self) -> Mapping[str, Any]:
        return {"x": self.x, "has": self.has, "is_done": self.is_done}

    def load(self, state: Mapping[str, Any]) -> None:
        self.x, self.has, self.is_done = state["x"], state["has"], state["is_done"]

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        filled = [state for state in states if state["x"].numel()]
        self.x = torch.stack([state["x"] for state in filled]).sum(0)  # each row is with one rank, zero with the others
        self.has = torch.stack([state["has"] for state in filled]).any(0)

    def finish(self) -> Tensor:
        """[n, D] the rows, in the order they were named.

        Raises:
            TooFewRowsError: some of them never came.
        """
        if not self.has.all():
            raise TooFewRowsError(f"{int((~self.has).sum())} of the {len(self.row)} rows asked for never came; harvest the rows anew")
        return self.x
