"""Method: hyper-parameters that know how to fit; Consumer: a fit or a study fed batch by batch by the one loop in `run`.

Letters: N rows, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.config import Config
from armillary.core.decomposition import Decomposition
from armillary.core.rows import Batch, Layout, Rows, as_rows, width
from armillary.errors import InputError, NonFiniteError, ShapeError, TooFewRowsError

if TYPE_CHECKING:
    from armillary.core.pairs import Pairs
    from armillary.core.targeted import Targeted

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

    batch_size: int = 4096
    seed: int | None = None
    epoch: int = 0
    n_batches: int | None = None


class Consumer(ABC):
    """Something that reads batches: a fit in progress, or a study's measurement.

    `next_pass` is a function of the state alone, so a consumer that was loaded from a checkpoint asks for the pass it was in.
    """

    #: What a journal calls it.
    label: str = ""

    @property
    def merges(self) -> bool:
        """Whether the ranks' states are merged at the end of the pass it is in; not where ranks work together in every batch."""
        return True

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
        if values.dtype.kind == "O":
            raise InputError(
                f"labels are {sorted({type(label).__name__ for label in values})} objects; pass integers, bool, floats or text"
            )
        if values.dtype.kind in "US":
            found, values = np.unique(values, return_inverse=True)
            names = [str(name) for name in found]
        if rows.n_rows is None or len(values) != rows.n_rows:
            raise ShapeError(f"{len(values)} labels for {rows.n_rows} rows")
        if names and not set(np.unique(values)) <= set(range(len(names))):
            raise InputError(
                f"labels run from {values.min()} to {values.max()}, but {len(names)} names were given, for 0 to {len(names) - 1}"
            )
        return Labelled(rows, values, tuple(names))

    def classes(self) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """[N] class of every row, 0..K-1, and the K classes' names; classes without a row are left out.

        Raises:
            InputError: the labels are values, or all alike.
        """
        if self.labels.dtype.kind == "f":
            raise InputError(f"labels are {self.labels.dtype} values where classes are needed; pass integers, bool or text")
        found, number = np.unique(self.labels, return_inverse=True)
        if len(found) < 2:
            raise InputError(f"all {len(number)} labels are {found.tolist()}; at least two classes are needed")
        return number.astype(np.int64), tuple(self.names[int(label)] if self.names else str(label) for label in found)


class Method(Config, ABC):
    """Hyper-parameters of a way to take rows apart. Frozen; `fit` returns a new value and changes nothing."""

    #: What `fit` reads: rows, `Labelled` rows, or `Pairs` of prompts, whose rows are what the sources have at the site.
    needs: ClassVar[Needs] = "rows"
    #: Whether memory stays flat in the number of rows; if not, a seeded reservoir of `max_rows` is fitted and recorded.
    streams: ClassVar[bool] = True
    #: Changes of the data under which the features keep their meaning, checked by the conformance suite.
    invariances: ClassVar[frozenset[Literal["scale", "shift", "rotation"]]] = frozenset()
    #: Whether it can rebuild other columns than it reads; `consumer` is then given `Targeted` rows as they are.
    takes_targets: ClassVar[bool] = False

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

    def memory(self, d: int, n_rows: int | None = None, *, world: int = 1) -> dict[str, int]:
        """Bytes of memory that a fit will need, by what for, of every rank; empty where that is next to nothing.

        Args:
            d: width of the rows.
            n_rows: how many there are, if that is known.
            world: ranks that work together.
        """
        return {}

    @final
    def fit(
        self,
        data: Rows | Labelled | Pairs | Targeted | Tensor | NDArray[Any],
        *,
        seed: int = 0,
        start: Decomposition | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Decomposition:
        """Fit to rows, a tensor [N, D], an array, labelled rows, pairs of prompts, or rows with a target.

        Args:
            data: what to fit; `Labelled` or `core.pairs.Pairs` for supervised methods, `Targeted` for a transcoder.
            seed: same seed, same bits.
            start: a decomposition to go on from.
            checkpoint: a file for the state of the fit, written now and then; if it exists the fit goes on from it, to the same bits.

        Raises:
            TooFewRowsError, NonFiniteError, ShapeError, InputError: the data does not fit the method.
        """
        return fit_many([self], data, seed=seed, starts=[start], checkpoint=checkpoint)[0]


def fit_many(
    methods: Sequence[Method],
    data: Rows | Labelled | Pairs | Targeted | Tensor | NDArray[Any] | Sequence[Targeted],
    *,
    seed: int = 0,
    starts: Sequence[Decomposition | None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
) -> list[Decomposition]:
    """Fit several methods in as few passes over the rows as they allow; see `Method.fit`.

    Args:
        methods: any number.
        data: what all of them fit; or one `Targeted` per method, all of the same rows, so that sites have fits of their own.
        seed, checkpoint: as of `Method.fit`.
        starts: a fit to go on from, or None, per method.
        labels: what a journal calls each fit; by default its method's name, with a number where several have the same.
    """
    from armillary.core import distributed
    from armillary.core.run import drive

    distributed.start()
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to {2**32 - 1}, got {seed}")
    given = [_Given.of(method, one) for method, one in zip(methods, _one_each(data, len(methods)), strict=True)]
    rows = given[0].rows
    first = [None] * len(methods) if starts is None else list(starts)
    if len(first) != len(methods) or (labels is not None and len(labels) != len(methods)):
        raise InputError(f"{len(methods)} methods need as many starts and labels, got {len(first)} and {len(labels or methods)}")
    names = labels or _labels(methods)
    consumers = [one.consumer(seed, start, label) for one, start, label in zip(given, first, names, strict=True)]
    identity = {"methods": [_identity(method) for method in methods], "seed": seed, "rows": [one.identity() for one in given]}
    identity |= {"starts": [None if fit is None else _sha256(fit) for fit in first]}
    with torch.no_grad():
        title = " + ".join(dict.fromkeys(type(method).__name__ for method in methods))
        drive(consumers, rows, checkpoint=checkpoint, title=title, identity=json.dumps(identity, sort_keys=True))
    return [_with_provenance(consumer.finish(), one.method, one.seen, seed) for consumer, one in zip(consumers, given, strict=True)]


def _labels(methods: Sequence[Method]) -> list[str]:
    """The methods' names, numbered where several have the same."""
    names = [type(method).__name__ for method in methods]
    return [name if names.count(name) == 1 else f"{name} {names[:i].count(name) + 1}" for i, name in enumerate(names)]


def _one_each(data: Any, n: int) -> list[Rows | Labelled | Pairs | Targeted]:
    """What each of n methods is given.

    Raises:
        InputError: not one per method, or not all of the same rows.
    """
    from armillary.core.pairs import Pairs
    from armillary.core.targeted import Targeted

    if not (isinstance(data, list | tuple) and data and all(isinstance(one, Targeted) for one in data)):
        return [data if isinstance(data, Labelled | Pairs | Targeted) else as_rows(data)] * n
    if len(data) != n or any(one.rows is not data[0].rows for one in data):
        raise InputError(f"{n} methods need {n} Targeted of the same rows, got {len(data)} of {len({id(one.rows) for one in data})}")
    return list(data)


@dataclass(frozen=True)
class _Given:
    """What one method is given.

    Args:
        method: it.
        data: as its `consumer` takes it.
        rows: what is read.
        seen: the columns of `rows` that concern it.
        roles: which stretches of columns are read, and which are rebuilt, where that was told.
    """

    method: Method
    data: Any
    rows: Rows
    seen: Rows
    roles: tuple[tuple[int, ...], ...] = ()

    @staticmethod
    def of(method: Method, data: Rows | Labelled | Pairs | Targeted) -> _Given:
        """Checked against what the method needs."""
        from armillary.core.pairs import Pairs
        from armillary.core.targeted import Targeted

        _check_needs(method, data)
        if isinstance(data, Labelled | Pairs):
            found = _Given(method, data.rows if method.needs == "rows" else data, data.rows, data.rows)
        elif isinstance(data, Targeted):
            view = data.view()
            found = _Given(method, data if method.takes_targets else view, data.rows, view, (data.inputs, data.targets))
        else:
            found = _Given(method, data, data, data)
        if found.rows.n_rows is not None:
            require_rows(method, found.rows.n_rows, width(found.seen.layout))
        return found

    def consumer(self, seed: int, start: Decomposition | None, label: str) -> Consumer:
        """The fit in progress, given its own columns only."""
        from armillary.core.targeted import View, Viewing

        inner = self.method.consumer(self.data, seed=seed, start=start)
        inner.label = label
        return Viewing(inner, self.seen) if isinstance(self.seen, View) else inner

    def identity(self) -> dict[str, Any]:
        """What tells these data from others."""
        from armillary.core.pairs import Pairs
        from armillary.core.provenance import of_rows

        labels, widths = _labels_sha256(self.data), [columns for _, columns in self.seen.layout]
        pairs = self.data.identity() if isinstance(self.data, Pairs) else {}
        return {**of_rows(self.seen), **pairs, "widths": widths, "labels": labels, "roles": self.roles}


def _identity(method: Method) -> dict[str, Any]:
    return {"method": type(method).__name__, "options": method.model_dump(mode="json")}


def _sha256(fit: Decomposition) -> str:
    """A hash of what a fit computes."""
    from dataclasses import replace

    from armillary.core.artifact import sha256_of

    return sha256_of(replace(fit, provenance={}))


def _labels_sha256(data: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(data.labels).tobytes()).hexdigest() if isinstance(data, Labelled) else ""


def _check_needs(method: Method, data: Rows | Labelled | Pairs | Targeted) -> None:
    from armillary.core.pairs import Pairs
    from armillary.core.targeted import Targeted

    name = type(method).__name__
    if method.needs == "labelled" and not isinstance(data, Labelled):
        raise InputError(f"{name} is supervised: pass Labelled.of(rows, labels), got {type(data).__name__}")
    if method.needs == "pairs" and not isinstance(data, Pairs):
        raise InputError(f"{name} learns through the model: pass Pairs.of(model, site, position, task.train), got {type(data).__name__}")
    if isinstance(data, Targeted) and not (data.is_own or method.takes_targets):
        raise InputError(f"{name} rebuilds what it reads; rows with a target are for sparse autoencoders such as TopKSAE")


def require_rows(method: Method, n: int, d: int) -> None:
    """Refuse to fit `n` rows of width `d` where they are too few. `fit` asks before it reads; a fit to a stream asks again at its end.

    Raises:
        TooFewRowsError: fewer than `method.min_rows(d)`.
    """
    if n < (needed := method.min_rows(d)):
        raise TooFewRowsError(f"{type(method).__name__} needs at least {needed} rows, got {n}; harvest more text or ask for fewer features")


def refuse_start(method: Method, start: Decomposition | None) -> None:
    """For methods with a closed form or a restart of their own, which cannot go on from an earlier fit.

    Raises:
        InputError: `start` is given.
    """
    if start is not None:
        raise InputError(f"{type(method).__name__} cannot go on from an earlier fit; leave out start={start!r}")


def _with_provenance(fit: Decomposition, method: Method, rows: Rows, seed: int) -> Decomposition:
    from dataclasses import replace

    from armillary.core.provenance import of_rows, versions

    if not bool(torch.isfinite(fit.dictionary.atoms).all()):
        raise NonFiniteError(f"the fit of {type(method).__name__} is no longer finite; scale the rows down, or lower its lr if it has one")
    record = {**_identity(method), "seed": seed, **of_rows(rows)}
    return replace(fit, provenance={**record, **fit.provenance, "versions": versions()})


def one_to_one(layout: Layout) -> dict[str, Layout]:
    """Keyword arguments of a Decomposition that reconstructs what it reads."""
    return {"inputs": layout, "targets": layout}
