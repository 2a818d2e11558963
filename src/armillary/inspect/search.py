"""Search: one streaming pass over a text's rows that keeps the best of them for every feature asked for. `contexts`, `region_search` and
`members` say what is ranked.

Letters: N rows, F features of the fit, f features asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.method import Consumer, Pass
from armillary.core.rows import PRIORITIES, Batch, Permutation, Rows
from armillary.core.tokens import Ints
from armillary.inspect.best import Best
from armillary.inspect.windows import is_text


class Search(Consumer):
    """A search in progress, which can share a pass with fits and studies.

    Args:
        fit: whose features.
        rows: where to look; special tokens are left out.
        features: [f] those asked for, each once.
        batch_size: rows per batch.
        seed: of what is drawn.
    """

    def __init__(self, fit: Decomposition, rows: Rows, features: Ints, *, batch_size: int, seed: int) -> None:
        self.fit, self.rows, self.features = fit, rows, features
        self.columns = columns_for(fit, rows.layout)[0]
        self.order, self.is_done, self.priority = Pass(batch_size), False, Permutation(PRIORITIES, seed)
        self.place = np.full(fit.n_features, -1, dtype=np.int64)  # of each feature among those asked for
        self.place[features] = np.arange(len(features))
        self.best: dict[str, Best] = {}  # what is kept, by name
        self.count = torch.zeros(len(features), dtype=torch.int64)  # rows that are each feature's
        self.n_rows = 0

    @abstractmethod
    def look(self, x: Tensor, row: Ints) -> None:
        """Take in rows [n, D], where the fit is, and their numbers [n]."""

    def next_pass(self) -> Pass | None:
        return None if self.is_done else self.order

    def end_pass(self) -> None:
        self.is_done = True

    def update(self, batch: Batch) -> None:
        kept = is_text(self.rows, batch.row)
        self.n_rows += int(kept.sum())
        x = batch.x[torch.from_numpy(kept).to(batch.x.device)][:, self.columns]
        self.look(x.to(self.fit.dictionary.atoms.device), batch.row[kept])

    def add(self, place: Ints) -> None:
        """Count rows by the place of the feature they are of."""
        self.count += torch.from_numpy(np.bincount(place, minlength=len(self.features)))

    def state(self) -> Mapping[str, Any]:
        best = {name: best.state() for name, best in self.best.items()}
        return {"best": best, "count": self.count, "n_rows": self.n_rows, "is_done": self.is_done}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, best in self.best.items():
            best.load(state["best"][name])
        self.count, self.n_rows, self.is_done = state["count"], state["n_rows"], state["is_done"]

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        first, *others = states
        self.load({**first, "count": sum(state["count"] for state in states), "n_rows": sum(state["n_rows"] for state in states)})
        for other in others:
            for name, best in self.best.items():
                best.absorb(other["best"][name])

    def settle(self) -> None:
        """Sort in what waits, so that all of `best` can be read."""
        for best in self.best.values():
            best.settle()
