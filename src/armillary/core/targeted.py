"""Targeted: rows of which some columns are read and others are to be rebuilt, as a transcoder does.

Targeted.of(acts[["mlp_in.6", "mlp_out.6"]], inputs="mlp_in.6", targets="mlp_out.6")
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.method import Consumer, Pass
from armillary.core.rows import Batch, Layout, Rows, as_rows
from armillary.core.side_by_side import SideBySide
from armillary.core.site import Site
from armillary.errors import InputError, unknown

#: One site of some rows: its spelling, itself, or the number of its stretch of columns from the left.
Which = str | Site | SupportsIndex


@dataclass(frozen=True)
class Targeted:
    """What to read and what to rebuild, among the sites of some rows.

    Args:
        rows: all of them.
        inputs: numbers of the stretches of columns that are read.
        targets: numbers of those that are rebuilt; the same ones for an autoencoder.
    """

    rows: Rows
    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @staticmethod
    def of(rows: Rows, *, inputs: Which | Sequence[Which], targets: Which | Sequence[Which] | None = None) -> Targeted:
        """Rows of several sites side by side, and which of them are read and rebuilt; rebuilt is what is read where not told otherwise.

        Raises:
            UnknownNameError: the rows do not hold the site.
        """
        read = _stretches(rows, inputs)
        return Targeted(rows, read, read if targets is None else _stretches(rows, targets))

    @staticmethod
    def pair(x: Rows | Tensor | NDArray[Any], y: Rows | Tensor | NDArray[Any]) -> Targeted:
        """Read x, rebuild y: two stores, tensors or arrays with equally many rows."""
        read, n = as_rows(x), len(as_rows(x).layout)
        both = SideBySide(read, y)
        return Targeted(both, tuple(range(n)), tuple(range(n, len(both.layout))))

    @property
    def is_own(self) -> bool:
        """Whether rows are rebuilt from themselves."""
        return self.inputs == self.targets

    @property
    def input_layout(self) -> Layout:
        return tuple(self.rows.layout[i] for i in self.inputs)

    @property
    def target_layout(self) -> Layout:
        return tuple(self.rows.layout[i] for i in self.targets)

    def view(self) -> View:
        """The rows as one who reads inputs and targets, and nothing else, sees them."""
        return View(self.rows, self.inputs if self.is_own else (*self.inputs, *self.targets))


def _stretches(rows: Rows, wanted: Which | Sequence[Which]) -> tuple[int, ...]:
    several = [wanted] if isinstance(wanted, str | Site | SupportsIndex) else list(wanted)
    if not several:
        raise InputError("at least one site is needed, got none")
    return tuple(_stretch(rows, one) for one in several)


def _stretch(rows: Rows, wanted: Which) -> int:
    if isinstance(wanted, bool):
        raise InputError(f"a site or the number of a stretch of columns is needed, got {wanted}")
    if isinstance(wanted, SupportsIndex):
        wanted = operator.index(wanted)
        if not 0 <= wanted < len(rows.layout):
            raise InputError(f"stretch {wanted} is out of range: the rows hold {len(rows.layout)} sites, 0 to {len(rows.layout) - 1}")
        return wanted
    site = Site.parse(wanted) if isinstance(wanted, str) else wanted
    places = [i for i, (source, _) in enumerate(rows.layout) if source is not None and source.site == site]
    if not places:
        raise unknown("site of the rows", str(site), [str(source.site) for source, _ in rows.layout if source is not None])
    if len(places) > 1:
        raise InputError(f"{site} is there {len(places)} times, of several models; name its stretch of columns by number: {places}")
    return places[0]


class View:
    """Some stretches of columns of other rows, as rows. Satisfies `core.rows.Rows`.

    Args:
        rows: the others.
        stretches: numbers of the stretches, from left to right.
    """

    def __init__(self, rows: Rows, stretches: Sequence[int]) -> None:
        self.rows, self.stretches = rows, tuple(stretches)
        ends = torch.tensor([0, *(columns for _, columns in rows.layout)]).cumsum(0).tolist()
        places = [place for i in self.stretches for place in range(ends[i], ends[i + 1])]
        is_run = places == list(range(places[0], places[0] + len(places)))
        self._columns: slice | Tensor = slice(places[0], places[-1] + 1) if is_run else torch.tensor(places)

    @property
    def layout(self) -> Layout:
        return tuple(self.rows.layout[i] for i in self.stretches)

    @property
    def n_rows(self) -> int | None:
        return self.rows.n_rows

    @property
    def tokens(self) -> Any:
        return self.rows.tokens

    @property
    def record(self) -> Mapping[str, Any]:
        return self.rows.record

    def cut(self, batch: Batch) -> Batch:
        """The columns of a batch of the whole rows."""
        return Batch(batch.x[:, self._columns], batch.row)

    def batches(self, size: int, **order: Any) -> Any:
        """See `core.rows.Rows.batches`."""
        return map(self.cut, self.rows.batches(size, **order))


class Viewing(Consumer):
    """A consumer that is given some columns of the rows that are read.

    Args:
        inner: the consumer.
        view: which columns.
    """

    def __init__(self, inner: Consumer, view: View) -> None:
        self.inner, self.view = inner, view

    @property
    def merges(self) -> bool:
        return self.inner.merges

    def next_pass(self) -> Pass | None:
        return self.inner.next_pass()

    def update(self, batch: Batch) -> None:
        self.inner.update(self.view.cut(batch))

    def end_pass(self) -> None:
        self.inner.end_pass()

    def state(self) -> Mapping[str, Any]:
        return self.inner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.inner.load(state)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.inner.merge(states)

    def finish(self) -> Any:
        return self.inner.finish()

    def describe(self) -> str:
        return self.inner.describe()
