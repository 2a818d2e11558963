"""Summary: what one pass over the rows leaves behind; OnePass: the consumer that is made of one.

Many methods are a function of a few sums (PCA, difference in means, ridge) or of a sample of rows (ICA, a logistic probe). For these
reading is written here once: what is left of the method is its mathematics.

Letters: n rows, D width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.method import Consumer, Pass
from armillary.core.moments import Moments
from armillary.core.rows import Batch, Permutation
from armillary.errors import TooFewRowsError

#: Rows whose sums are formed together.
GROUPED = 1 << 14
#: A reservoir forgets what it does not keep when it holds so many times its size.
SPARE = 1.25


class Summary(ABC):
    """Something that grows with every batch and can be added up over ranks."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """How many rows it has seen."""

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Take in one batch."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `merge` makes it again."""

    @abstractmethod
    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the sum of the given states; what it held is forgotten."""


S = TypeVar("S", bound=Summary)


@final
class OnePass(Consumer, Generic[S]):
    """Reads all rows once, in stored order, into a summary.

    Args:
        summary: empty.
        finish: makes the result from the full summary.
    """

    def __init__(self, summary: S, finish: Callable[[S], Any]) -> None:
        self._summary, self._finish, self._is_done = summary, finish, False

    def next_pass(self) -> Pass | None:
        return None if self._is_done else Pass()

    def update(self, batch: Batch) -> None:
        self._summary.update(batch)

    def end_pass(self) -> None:
        self._is_done = True

    def state(self) -> Mapping[str, Any]:
        return {"is_done": self._is_done, "summary": self._summary.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._is_done = state["is_done"]
        self._summary.merge([state["summary"]])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self._summary.merge([state["summary"] for state in states])

    def finish(self) -> Any:
        return self._finish(self._summary)


@final
class MomentSums(Summary):
    """Float64 moments of the rows, or of what is computed from each batch.

    Args:
        d: columns.
        covariance: whether to keep [D, D] second moments.
        columns: what is summed, [n, d], given the batch; the rows themselves by default.
    """

    def __init__(self, d: int, *, covariance: bool, columns: Callable[[Batch], Tensor] = lambda batch: batch.x) -> None:
        self.moments = Moments.empty(d, covariance=covariance)
        self._columns = columns

    @property
    def n_rows(self) -> int:
        return self.moments.n

    def update(self, batch: Batch) -> None:
        self.moments = self.moments + Moments.of(self._columns(batch), covariance=self.moments.scatter.ndim == 2)

    def state(self) -> dict[str, Any]:
        return self.moments.state()

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.moments = Moments(**states[0])
        for state in states[1:]:
            self.moments = self.moments + Moments(**state)


def group_sums(x: Tensor, group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Sums [n_groups, D] and sizes [n_groups], float64, of the rows x [n, D] that share a group [n]; the same bits on every run."""
    sums = x.new_zeros(n_groups, x.shape[1], dtype=torch.float64)
    if x.is_cuda:  # index_add_ adds atomically there, in any order; an accumulating index_put_ sorts first
        sums.index_put_((group,), x.double(), accumulate=True)
    else:  # some at a time, as float64 takes twice the memory of the rows
        for part, places in zip(torch.split(x, GROUPED), torch.split(group, GROUPED), strict=True) if len(x) else ():
            sums.index_add_(0, places, part.double())
    return sums, torch.bincount(group, minlength=n_groups).double()


@final
class GroupSums(Summary):
    """Float64 sums and sizes of groups of rows, such as the classes of labelled rows.

    Args:
        group: [N] int64 group of every row.
        n_groups: how many there are.
        d: columns.
    """

    def __init__(self, group: NDArray[np.int64], n_groups: int, d: int) -> None:
        self._group = group
        self.sums = torch.zeros(n_groups, d, dtype=torch.float64)
        self.counts = torch.zeros(n_groups, dtype=torch.float64)

    @property
    def n_rows(self) -> int:
        return int(self.counts.sum())

    def update(self, batch: Batch) -> None:
        group = torch.from_numpy(self._group[batch.row]).to(batch.x.device)
        sums, counts = group_sums(batch.x, group, len(self.counts))
        self.sums += sums.cpu()
        self.counts += counts.cpu()

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.sums = torch.stack([state["sums"] for state in states]).sum(0)
        self.counts = torch.stack([state["counts"] for state in states]).sum(0)


@final
class Reservoir(Summary):
    """A random sample of rows without replacement, the same for any batch size, order of reading and number of ranks.

    Every row draws an exponential waiting time -log(u) / weight, where u depends on the seed and the row's index alone, and the first
    `size` rows to arrive are kept: with equal weights a uniform sample, else each next row is drawn in proportion to its weight
    (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", algorithm A-Res, on a log scale).

    Args:
        size: rows to keep; all of them where there are fewer.
        seed: integers that choose the sample.
    """

    _RANGE = 1 << 62

    def __init__(self, size: int, *seed: int) -> None:
        self.size = size
        self._draw = Permutation(self._RANGE, *seed)
        self._n_rows = 0
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.float64], Tensor]] = []
        self._bar = np.inf  # rows that arrive later than this are not in the sample

    @property
    def n_rows(self) -> int:
        return self._n_rows

    def update(self, batch: Batch, weight: NDArray[np.float64] | None = None) -> None:
        """Take in one batch, with a weight >= 0 per row [n] or equal weights; a row of weight 0 is never kept."""
        self._n_rows += len(batch)
        time = -np.log((self._draw(batch.row) + 1.0) / self._RANGE)
        if weight is not None:
            time = np.divide(time, weight, out=np.full(len(batch), np.inf), where=weight > 0)
        early = np.isfinite(time) & (time <= self._bar)
        if early.any():
            self._parts.append((batch.row[early], time[early], batch.x.cpu()[torch.from_numpy(early)]))
        if sum(len(row) for row, _, _ in self._parts) > SPARE * self.size:
            self._drop()

    def sample(self) -> tuple[Tensor, NDArray[np.int64]]:
        """The rows [m, D], on the CPU in their own dtype, and their indices [m], the earliest first.

        Raises:
            TooFewRowsError: no row was kept.
        """
        if not self._parts:
            raise TooFewRowsError("there is no row to sample from")
        self._drop()
        row, _, x = self._parts[0]
        return x, row

    def __len__(self) -> int:
        """How many rows `sample` gives."""
        return min(self.size, sum(len(row) for row, _, _ in self._parts))

    def state(self) -> dict[str, Any]:
        if not self._parts:
            return {"n_rows": self._n_rows}
        self._drop()
        row, time, x = self._parts[0]
        return {"n_rows": self._n_rows, "row": torch.from_numpy(row), "time": torch.from_numpy(time), "x": x}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self._n_rows = sum(state["n_rows"] for state in states)
        self._parts = [(state["row"].numpy(), state["time"].numpy(), state["x"]) for state in states if "x" in state]
        self._bar = np.inf
        if self._parts:
            self._drop()

    def _drop(self) -> None:
        """Forget all rows but the `size` earliest; what remains is one part, in order of arrival."""
        rows, times, xs = zip(*self._parts, strict=True)
        row, time = np.concatenate(rows), np.concatenate(times)
        kept = np.lexsort((row, time))[: self.size]
        if len(kept) == self.size:
            self._bar = float(time[kept[-1]])
        self._parts = [(row[kept], time[kept], _chosen(xs, kept))]


def _chosen(parts: Sequence[Tensor], which: NDArray[np.int64]) -> Tensor:
    """Rows of some tensors put one below the other, by number; without putting them so."""
    found = parts[0].new_empty(len(which), *parts[0].shape[1:], dtype=functools.reduce(torch.promote_types, (x.dtype for x in parts)))
    ends = np.cumsum([len(x) for x in parts])
    for x, end in zip(parts, ends, strict=True):
        here = np.flatnonzero((which >= end - len(x)) & (which < end))
        found[torch.from_numpy(here)] = x[torch.from_numpy(which[here] - (end - len(x)))].to(found.dtype)
    return found
