"""Pooled: what every feature does in every document, from one pass over the rows.

Per document the largest, the least and the mean activation over its tokens; special tokens, and tokens of no document, are left out. A
sparse fit's table is sparse: about 40 bytes per feature that fires in a document, where a dense one takes 16 per feature and document.
Means are summed token by token in the order they come, so the size of batches changes nothing.

Letters: N rows, n documents, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from armillary.core.codes import Codes
from armillary.core.method import Pass
from armillary.core.rows import Batch, Rows
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Document, Ints
from armillary.errors import InputError, TooFewRowsError
from armillary.studies.one_pass import OnePass
from armillary.studies.quality.ranks import Table

#: Entries that wait at least before a sparse table takes them in.
WAIT = 1 << 20


@dataclass(frozen=True)
class Documents:
    """The documents that are read.

    Args:
        rows: all rows.
        number: [n] index of each in the tokens' documents.
        n_rows: [n] tokens of each that count.
        share: [n] a number in [0, 1) drawn from its text and a seed, equal for equal texts.
    """

    rows: Rows
    number: Ints
    n_rows: Ints
    share: Floats

    @staticmethod
    def of(rows: Rows, *, n_documents: int | None, seed: int) -> Documents:
        """Those with at least one token that counts; the `n_documents` of the smallest share where there are more.

        Raises:
            InputError: the rows have no text.
            TooFewRowsError: no token counts.
        """
        tokens = rows.tokens
        if tokens is None or not tokens.documents:
            raise InputError("this study asks documents for their labels, but the rows have no text; harvest text that has labels")
        of_row = tokens.document[tokens.rows]
        counts = np.bincount(of_row[(of_row >= 0) & ~tokens.is_special[tokens.rows]], minlength=len(tokens.documents))
        number = np.flatnonzero(counts)
        if len(number) == 0:
            raise TooFewRowsError("every row belongs to a special token or to no document, so no document is left; harvest longer texts")
        share = np.array([_share(tokens.documents[int(i)], seed) for i in number])
        kept = np.sort(np.argsort(share, kind="stable")[:n_documents])
        return Documents(rows, number[kept], counts[number[kept]].astype(np.int64), share[kept])

    def __len__(self) -> int:
        return len(self.number)

    def __iter__(self) -> Any:
        assert self.rows.tokens is not None
        return (self.rows.tokens.documents[int(i)] for i in self.number)

    def place(self, row: Ints) -> Ints:
        """[N] place of each row's document among these; -1 for rows that do not count."""
        tokens = self.rows.tokens
        assert tokens is not None
        token = tokens.rows[row]
        found = np.minimum(np.searchsorted(self.number, tokens.document[token]), len(self.number) - 1)
        is_ours = (self.number[found] == tokens.document[token]) & ~tokens.is_special[token]
        return np.where(is_ours, found, -1)

    def held_out(self, test_share: float, label: str | None) -> Bools:
        """[n] whether each is of the held-out side: by its share, or by a label whose values are "train" and anything else.

        Raises:
            InputError: a side without a document.
        """
        told = [document.labels.get(label, "") for document in self] if label is not None else []
        is_test = np.array([one != "train" for one in told]) if label is not None else self.share_again < test_share
        if is_test.all() or not is_test.any():
            how = f"split={label!r} puts" if label is not None else f"test_share={test_share} puts"
            hint = "one of its values must be 'train'" if label is not None else "harvest more texts"
            raise InputError(f"{how} all {len(self)} documents on the {'held-out' if is_test.all() else 'training'} side; {hint}")
        return is_test

    @property
    def share_again(self) -> Floats:
        """[n] another number in [0, 1) from each share, independent of which documents were chosen by it."""
        found: Floats = (self.share * 2**26) % 1.0
        return found


def _share(document: Document, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{document.sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


@dataclass(frozen=True)
class Pooled:
    """Three tables [n, F]: over the tokens of a document, the largest, the least and the mean activation of a feature."""

    largest: Table
    least: Table
    mean: Table

    @property
    def n_features(self) -> int:
        return int(self.mean.shape[1])


@final
class Pool(OnePass):
    """Pools a reading of the rows by document.

    Args:
        read: activations [N, F] of a batch's x; sparse, and dense ones with a threshold, are kept sparse.
        n_features: F.
        fires: the magnitude above which an activation counts; None to keep them all.
        documents: the documents.
        order: the pass.
    """

    def __init__(self, read: Callable[[Tensor], Codes], n_features: int, fires: float | None, documents: Documents, order: Pass) -> None:
        self.read, self.documents, self.order = read, documents, order
        self.sums: _Sums = _Dense(len(documents), n_features) if fires is None else _Sparse(len(documents), n_features, fires)

    def update(self, batch: Batch) -> None:
        place = self.documents.place(batch.row)
        kept = place >= 0
        if kept.any():
            self.sums.add(self.read(batch.x[torch.from_numpy(kept).to(batch.x.device)]), place[kept])

    def state(self) -> Mapping[str, Any]:
        return {"is_done": self.is_done, **{name: torch.from_numpy(value) for name, value in self.sums.arrays().items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        self.is_done = state["is_done"]
        self.sums.take({name: state[name].numpy() for name in self.sums.arrays()})

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.sums.unite([{name: state[name].numpy() for name in self.sums.arrays()} for state in states])

    def finish(self) -> Pooled:
        return self.sums.finish(self.documents.n_rows)


class _Sums(Protocol):
    """What is kept of the rows so far, by document and feature."""

    def add(self, codes: Codes, place: Ints) -> None:
        """Take in the codes of rows and the place of each one's document."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]: ...
    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None: ...
    def unite(self, several: Sequence[Mapping[str, NDArray[Any]]]) -> None: ...
    def finish(self, n_rows: Ints) -> Pooled: ...


class _Dense:
    """[n, F] arrays of every activation."""

    def __init__(self, n: int, n_features: int) -> None:
        self.largest = np.full((n, n_features), -np.inf, np.float32)
        self.least = np.full((n, n_features), np.inf, np.float32)
        self.total = np.zeros((n, n_features))

    def add(self, codes: Codes, place: Ints) -> None:
        """Take in the codes of some tokens, each of the document at its place [N]."""
        value = codes.dense().double().cpu().numpy()
        if not (np.diff(place) >= 0).all():  # rows in stored order need no sorting
            order = np.argsort(place, kind="stable")
            place, value = place[order], value[order]
        there, starts = np.unique(place, return_index=True)
        self.largest[there] = np.maximum(self.largest[there], np.maximum.reduceat(value, starts))
        self.least[there] = np.minimum(self.least[there], np.minimum.reduceat(value, starts))
        for row, one in zip(place, value, strict=True):  # one by one, so that sums are the same for every size of batches
            self.total[row] += one

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"largest": self.largest, "least": self.least, "total": self.total}

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.largest, self.least, self.total = (arrays[name].copy() for name in ("largest", "least", "total"))

    def unite(self, several: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.largest = np.max([one["largest"] for one in several], axis=0)
        self.least = np.min([one["least"] for one in several], axis=0)
        self.total = np.sum([one["total"] for one in several], axis=0)

    def finish(self, n_rows: Ints) -> Pooled:
        return Pooled(self.largest.astype(np.float64), self.least.astype(np.float64), self.total / n_rows[:, None])


class _Sparse:
    """Lists of the (document, feature) pairs that fire; what is new waits until it is worth sorting it in."""

    def __init__(self, n: int, n_features: int, fires: float) -> None:
        self.shape, self.fires = (n, n_features), fires
        nothing, none = np.zeros(0), np.zeros(0, np.int64)
        self.held = _Pairs(none, nothing, nothing, nothing, none)
        self.waiting: list[_Pairs] = []

    def add(self, codes: Codes, place: Ints) -> None:
        row, slot = codes.fires(self.fires).nonzero(as_tuple=True)
        feature = slot if codes.index is None else codes.index[row, slot]
        value = codes.value[row, slot].double().cpu().numpy()
        key = place[row.cpu().numpy()] * self.shape[1] + feature.cpu().numpy()
        self.waiting.append(_Pairs(key, value, value, value, np.ones(len(key), np.int64)))
        if sum(len(one.key) for one in self.waiting) > max(WAIT, len(self.held.key)):
            self._settle()

    def _settle(self) -> None:
        self.held, self.waiting = _united([self.held, *self.waiting]), []

    def arrays(self) -> dict[str, NDArray[Any]]:
        self._settle()
        return {name: getattr(self.held, name) for name in _Pairs.__dataclass_fields__}

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.held, self.waiting = _Pairs(**arrays), []

    def unite(self, several: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.held, self.waiting = _united([_Pairs(**one) for one in several]), []

    def finish(self, n_rows: Ints) -> Pooled:
        self._settle()
        held, (n, n_features) = self.held, self.shape
        row, column = np.divmod(held.key, n_features)
        is_silent = held.count < n_rows[row]  # on some token, where the activation is 0
        largest = np.where(is_silent, np.maximum(held.largest, 0), held.largest)
        least = np.where(is_silent, np.minimum(held.least, 0), held.least)
        return Pooled(*(_table(value, row, column, (n, n_features)) for value in (largest, least, held.total / n_rows[row])))


@dataclass(frozen=True)
class _Pairs:
    """key [p] document * F + feature, each once in a settled list; largest, least, total and count of the activations that fired."""

    key: Ints
    largest: Floats
    least: Floats
    total: Floats
    count: Ints


def _united(parts: Sequence[_Pairs]) -> _Pairs:
    """The parts' pairs in order of their keys; totals are added up in the order of the parts."""
    key = np.concatenate([one.key for one in parts])
    if len(key) == 0:
        return parts[0]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    place = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(key))))
    largest, least, total, count = (np.concatenate([getattr(one, name) for one in parts])[order] for name in _VALUES)
    return _Pairs(
        ordered[starts],
        np.maximum.reduceat(largest, starts),
        np.minimum.reduceat(least, starts),
        np.bincount(place, weights=total).astype(np.float64),  # one after the other, unlike reduceat
        np.add.reduceat(count, starts),
    )


_VALUES = ("largest", "least", "total", "count")


def _table(value: Floats, row: Ints, column: Ints, shape: tuple[int, int]) -> sparse.csc_matrix:
    found = sparse.csc_matrix((value, (row, column)), shape)
    found.eliminate_zeros()
    return found
