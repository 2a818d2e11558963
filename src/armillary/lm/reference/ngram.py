"""Interpolated Kneser-Ney n-gram model, in numpy: the yardstick the reference models are held against.

Modified Kneser-Ney as in Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998),
section 3: three discounts per order from counts of counts, and below the highest order the number of different tokens seen
before an n-gram in place of its frequency.

    p_k(w | c) = max(n(c w) - D(n(c w)), 0) / n(c .) + gamma(c) * p_{k-1}(w | c')        p_0 = 1 / V

An n-gram is one int64, its tokens the digits in base V.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from armillary.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Level:
    """One order: sorted n-grams with their counts, and per context its total and the mass given to lower orders."""

    grams: Ints  # [n]
    counts: Ints  # [n]
    contexts: Ints  # [m]
    totals: Ints  # [m]
    backoff: Floats  # [m] gamma(c)
    discounts: Floats  # [4] D(0), D(1), D(2), D(3 and more)

    def interpolate(self, grams: Ints, lower: Floats, vocabulary: int) -> Floats:
        """Probability [N] of each n-gram's last token, from those of the next lower order."""
        counts, _ = _look_up(self.grams, self.counts, grams)
        totals, is_known = _look_up(self.contexts, self.totals, grams // vocabulary)
        backoff, _ = _look_up(self.contexts, self.backoff, grams // vocabulary)
        own = np.maximum(counts - self.discounts[np.minimum(counts, 3)], 0.0) / np.maximum(totals, 1)
        return np.where(is_known, own + backoff * lower, lower)


@dataclass(frozen=True)
class NGram:
    """A fitted model; `levels[k]` is the order k + 1."""

    vocabulary: int
    bos: int
    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.levels)

    @staticmethod
    def fit(documents: Iterable[Ints], vocabulary: int, *, order: int = 5, bos: int = 0) -> NGram:
        """Count documents (token ids [T] each, without BOS; they are padded with `bos` in front).

        Raises:
            InputError: when an n-gram of this order does not fit 63 bits, or there is no text.
        """
        if vocabulary**order > 2**63:
            raise InputError(f"{order}-grams over {vocabulary} tokens do not fit 63 bits: use a lower order")
        grams = [_windows(document, order, vocabulary, bos) for document in documents]
        if not sum(map(len, grams)):
            raise InputError("an n-gram model needs at least one token of text; got none")
        keys, counts = np.unique(np.concatenate(grams), return_counts=True)
        levels = [_level(keys, counts.astype(np.int64), vocabulary)]
        for k in range(order - 1, 0, -1):
            keys, counts = np.unique(keys % vocabulary**k, return_counts=True)  # distinct left neighbours
            levels.append(_level(keys, counts.astype(np.int64), vocabulary))
        return NGram(vocabulary, bos, tuple(reversed(levels)))

    def log_probabilities(self, document: Ints) -> Floats:
        """Natural log probability [T] of each token of a document [T] (without BOS) given all before it."""
        grams = _windows(document, self.order, self.vocabulary, self.bos)
        p = np.full(len(grams), 1.0 / self.vocabulary)
        for k, level in enumerate(self.levels, 1):
            p = level.interpolate(grams % self.vocabulary**k, p, self.vocabulary)
        logs: Floats = np.log(p)
        return logs


def _windows(document: Ints, order: int, vocabulary: int, bos: int) -> Ints:
    """The n-gram that ends at each token [T], as one number each."""
    padded = np.concatenate([np.full(order - 1, bos, np.int64), np.asarray(document, np.int64)])
    grams = np.zeros(len(document), np.int64)
    for i in range(order):
        grams = grams * vocabulary + padded[i : i + len(document)]
    return grams


def _level(grams: Ints, counts: Ints, vocabulary: int) -> Level:
    discounts = _discounts(counts)
    contexts, starts = np.unique(grams // vocabulary, return_index=True)
    totals = np.add.reduceat(counts, starts)
    taken = np.add.reduceat(discounts[np.minimum(counts, 3)], starts)
    return Level(grams, counts, contexts, totals, taken / totals, discounts)


def _discounts(counts: Ints) -> Floats:
    """D(1), D(2), D(3+) from the counts of counts n1..n4 (Chen and Goodman, eq. 17); 0.75 where these are too few."""
    n = np.array([(counts == i).sum() for i in range(5)], np.float64)
    if (n[1:] == 0).any():
        return np.array([0.0, 0.75, 0.75, 0.75])
    y = n[1] / (n[1] + 2 * n[2])
    return np.array([0.0, *(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))]).clip(0.0)


def _look_up(keys: Ints, values: NDArray[Number], wanted: Ints) -> tuple[NDArray[Number], NDArray[np.bool_]]:
    """Values of the wanted keys, 0 where there is none; and whether there is one."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    is_found = keys[at] == wanted
    return np.where(is_found, values[at], values.dtype.type(0)), is_found
