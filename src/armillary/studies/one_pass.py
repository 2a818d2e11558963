"""OnePass: a consumer that reads the rows once, and which of a batch's rows count."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from armillary.core.method import Consumer, Pass
from armillary.core.rows import Batch
from armillary.core.tokens import Ints
from armillary.studies.units import RowUnits


class OnePass(Consumer):
    """Reads the rows once, in the order that a subclass sets."""

    order: Pass
    is_done: bool = False

    @final
    def next_pass(self) -> Pass | None:
        return None if self.is_done else self.order

    @final
    def end_pass(self) -> None:
        self.is_done = True


def counted(units: RowUnits, batch: Batch) -> tuple[Tensor, Ints]:
    """The rows [n, D] of a batch that count, where they are, and their numbers [n]."""
    kept = units.counts(batch.row)
    return batch.x[torch.from_numpy(kept).to(batch.x.device)], batch.row[kept]
