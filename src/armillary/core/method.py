"""Method: hyper-parameters that know how to fit; Consumer: a fit or a study fed batch by batch by the one loop in `run`.

Letters: N rows, D width.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.config import Config
from armillary.core.decomposition import Decomposition
from armillary.core.rows import Batch, Layout, Rows, as_rows, width
from armillary.errors import InputError, ShapeError, TooFewRowsError

Needs = Literal["rows", "labelled", "pairs"]


@dataclass(frozen=True)
class Pass:
    """One pass over the rows that a consumer asks for. Consumers that ask for equal passes share one reading of the data.

    Args:
        batch_size: rows per batch.
        seed: None for the stored order, else the key of the shuffle.
        epoch: which order of that key.
        n_batches: stop after so many; None for all.
    """

    batch_size: int
    seed: int | None = None
    epoch: int = 0
    n_batches: int | None = None


class Consumer(ABC):
    """Something that reads batches: a fit in progress, or a study's measurement.

    `next_pass` is a function of the state alone, so a consumer that was loaded from a checkpoint asks for the pass it was in.
    """

    @abstractmethod
    def next_pass(self) -> Pass | None:
        """The pass it is in or wants next; None when it has seen enough."""

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Take in one batch (this rank's share of it)."""

    @abstractmethod
    def end_pass(self) -> None:
        """The pass is over (and merged over ranks): move on to the next."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """Everything a later process needs to go on to the same bits: tensors and plain values."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""

    @abstractmethod
    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the sum of all ranks' states (this one's among them), called at the end of each pass when there are several."""

    @abstractmethod
    def finish(self) -> Any:
        """The result, once `next_pass` returned None."""

    def describe(self) -> str:
        """A few words for the progress bar, such as the current loss."""
        return ""


@dataclass(frozen=True)
class Labelled:
    """Rows with a target for supervised methods.

    Args:
        rows: the rows.
        labels: [N] classes (integers or bool) or values (floats).
        names: the classes' names, in the order of their numbers.
    """

    rows: Rows
    labels: NDArray[Any]
    names: tuple[str, ...] = ()

    @staticmethod
    def of(data: Rows | Tensor | NDArray[Any], labels: Sequence[Any] | NDArray[Any] | Tensor, names: Sequence[str] = ()) -> Labelled:
        """Rows or a tensor with a label per row; text labels become class numbers in sorted order.

        Raises:
            ShapeError: not one label per row.
        """
        rows, values = as_rows(data), np.asarray(labels)
        if values.dtype.kind in "US":
            found, values = np.unique(values, return_inverse=True)
            names = [str(name) for name in found]
        if rows.n_rows is None or len(values) != rows.n_rows:
            raise ShapeError(f"{len(values)} labels for {rows.n_rows} rows")
        return Labelled(rows, values, tuple(names))


class Method(Config, ABC):
    """Hyper-parameters of a way to take rows apart. Frozen; `fit` returns a new value and changes nothing."""

    #: What `fit` reads: rows, `Labelled` rows, or pairs of rows.
    needs: ClassVar[Needs] = "rows"
    #: Whether memory stays flat in the number of rows; if not, a seeded reservoir of `max_rows` is fitted and recorded.
    streams: ClassVar[bool] = True
    #: Changes of the data under which the features keep their meaning, checked by the conformance suite.
    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset()

    @abstractmethod
    def consumer(self, data: Any, *, seed: int, start: Decomposition | None) -> Consumer:
        """A fit in progress. Its `finish` returns the Decomposition, without provenance (that is `fit`'s business).

        Args:
            data: Rows, or what `needs` says.
            seed: the only source of randomness.
            start: a fit to begin from, where the method can.
        """

    @abstractmethod
    def min_rows(self, d: int) -> int:
        """The fewest rows of width `d` this fit can be made from."""

    @final
    def fit(
        self,
        data: Rows | Labelled | Tensor | NDArray[Any],
        *,
        seed: int = 0,
        start: Decomposition | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Decomposition:
        """Fit to rows, a tensor [N, D], an array, or labelled rows.

        Args:
            data: what to fit; `Labelled` for supervised methods.
            seed: same seed, same bits.
            start: a decomposition to go on from.
            checkpoint: a file for the state of the fit, written now and then; if it exists the fit goes on from it, to the same bits.

        Raises:
            TooFewRowsError, NonFiniteError, ShapeError, InputError: the data does not fit the method.
        """
        return fit_many([self], data, seed=seed, starts=[start], checkpoint=checkpoint)[0]


def fit_many(
    methods: Sequence[Method],
    data: Rows | Labelled | Tensor | NDArray[Any],
    *,
    seed: int = 0,
    starts: Sequence[Decomposition | None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> list[Decomposition]:
    """Fit several methods in as few passes over the rows as they allow; see `Method.fit`."""
    from armillary.core.run import drive

    read: Rows | Labelled = data if isinstance(data, Labelled) else as_rows(data)
    rows = read.rows if isinstance(read, Labelled) else read
    for method in methods:
        _check_enough(method, read)
    first = starts or [None] * len(methods)
    consumers = [method.consumer(read, seed=seed, start=start) for method, start in zip(methods, first, strict=True)]
    with torch.no_grad():
        drive(consumers, rows, checkpoint=checkpoint, title=" + ".join(type(method).__name__ for method in methods))
    return [_with_provenance(consumer.finish(), method, rows, seed) for method, consumer in zip(methods, consumers, strict=True)]


def _check_enough(method: Method, data: Rows | Labelled) -> None:
    rows = data.rows if isinstance(data, Labelled) else data
    if method.needs == "labelled" and not isinstance(data, Labelled):
        raise InputError(f"{type(method).__name__} is supervised: pass Labelled.of(rows, labels), got {type(data).__name__}")
    n, needed = rows.n_rows, method.min_rows(width(rows.layout))
    if n is not None and n < needed:
        raise TooFewRowsError(f"{type(method).__name__} needs at least {needed} rows, got {n}; harvest more text or ask for fewer features")


def _with_provenance(fit: Decomposition, method: Method, rows: Rows, seed: int) -> Decomposition:
    from dataclasses import replace

    from armillary.core.provenance import of_rows, versions

    record = {"method": type(method).__name__, "options": method.model_dump(mode="json"), "seed": seed, **of_rows(rows)}
    return replace(fit, provenance={**record, **fit.provenance, "versions": versions()})


def one_to_one(layout: Layout) -> dict[str, Layout]:
    """Keyword arguments of a Decomposition that reconstructs what it reads."""
    return {"inputs": layout, "targets": layout}
