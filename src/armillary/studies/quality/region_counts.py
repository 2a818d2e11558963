"""Counts of what the rows of regions are: their tokens and their documents, and how broad that makes a region.

    entropy of a region     ln n - 1/n sum c ln c + (m - 1) / 2n       n rows, m different tokens (or documents), c rows of each

in nats, the last term Miller's (1955) correction of what a small sample hides. Its null is a region of as many rows drawn at random.

Memory: a counter per (group, region, token) that occurs, so at most one per row, and at most the vocabulary's size per region and group.

Letters: n rows, K regions, G groups, c counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints

#: A key is (group * K + region) * BASE + what.
BASE = 1 << 32
#: Keys wait until there are at least so many.
LEAST_WAITING = 1 << 16


class SparseCounts:
    """How often each key [int64] came."""

    def __init__(self) -> None:
        self.key, self.count = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[tuple[Ints, Ints]] = []

    def add(self, key: Ints) -> None:
        """Count keys [n]."""
        found, times = np.unique(key, return_counts=True)
        self._put(found, times.astype(np.int64))

    def _put(self, key: Ints, count: Ints) -> None:
        self._waiting.append((key, count))
        if sum(len(one) for one, _ in self._waiting) >= max(LEAST_WAITING, len(self.key)):  # so that sorting costs the same per row
            self.settle()

    def settle(self) -> None:
        """Sort in what waits."""
        parts = [(self.key, self.count), *self._waiting]
        self._waiting = []
        self.key, self.count = added(np.concatenate([key for key, _ in parts]), np.concatenate([count for _, count in parts]))

    def state(self) -> dict[str, Any]:
        self.settle()
        return {"key": torch.from_numpy(self.key), "count": torch.from_numpy(self.count)}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the sum of states; what it held is forgotten."""
        self._waiting = [(state["key"].numpy(), state["count"].numpy()) for state in states]
        self.key, self.count = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.settle()


def added(key: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Every key once, in order, with the sum of its counts."""
    found, place = np.unique(key, return_inverse=True)
    return found, np.bincount(place, weights=count, minlength=len(found)).astype(np.int64)


@dataclass(frozen=True)
class Members:
    """What the rows of regions are.

    Args:
        n_regions: K.
        group, region, what, count: [c] rows of a group of units and a region that are one token (or of one document).
    """

    n_regions: int
    group: Ints
    region: Ints
    what: Ints
    count: Ints

    @staticmethod
    def of(counts: SparseCounts, n_regions: int) -> Members:
        """From settled counts."""
        place = counts.key // BASE
        return Members(n_regions, place // n_regions, place % n_regions, counts.key % BASE, counts.count)

    def without(self, group: int) -> Members:
        """Without one group of units."""
        kept = self.group != group
        return Members(self.n_regions, *(one[kept] for one in (self.group, self.region, self.what, self.count)))

    def whole(self) -> Members:
        """With all groups as one."""
        key, count = added(self.region * BASE + self.what, self.count)
        return Members(self.n_regions, np.zeros_like(key), key // BASE, key % BASE, count)

    def shuffled(self, seed: int) -> Members:
        """Regions of as many rows each, drawn at random from all."""
        rng = np.random.default_rng(seed)
        what, count = added(self.what, self.count)
        edge = np.cumsum(count)
        counts = SparseCounts()
        for region, n in enumerate(self.sizes().tolist()):
            drawn = np.searchsorted(edge, rng.integers(edge[-1], size=n), side="right")
            counts.add(region * BASE + what[drawn])
        counts.settle()
        return Members.of(counts, self.n_regions)

    # ------------------------------------------------------------ of whole members

    def sizes(self) -> Ints:
        """[K] rows of each region."""
        return np.bincount(self.region, weights=self.count, minlength=self.n_regions).astype(np.int64)

    def entropies(self) -> Floats:
        """[K] entropy of what each region's rows are, in nats; NaN without a row."""
        n, different = self.sizes(), np.bincount(self.region, minlength=self.n_regions)
        inside = np.bincount(self.region, weights=self.count * np.log(self.count), minlength=self.n_regions)
        safe = np.maximum(n, 1)
        found: Floats = np.log(safe) - inside / safe + (different - 1) / (2 * safe)
        return np.where(n > 0, found, np.nan)

    def commonest(self) -> tuple[Ints, Floats]:
        """[K] what most rows of each region are (the lowest number of several, -1 without a row), and their share."""
        order = np.lexsort((self.what, -self.count, self.region))
        region, first = np.unique(self.region[order], return_index=True)
        best = order[first]
        what, share = np.full(self.n_regions, -1, np.int64), np.full(self.n_regions, np.nan)
        what[region], share[region] = self.what[best], self.count[best] / self.sizes()[region]
        return what, share


def mean_entropy(members: Members) -> float:
    """Mean over rows of their region's entropy."""
    whole = members.whole()
    n = whole.sizes()
    return float((np.nan_to_num(whole.entropies()) * n).sum() / n.sum()) if n.sum() else np.nan


def narrow_share(members: Members, *, share: float, fewest: int) -> float:
    """Share of the rows that lie in narrow regions: of at least `fewest` rows, at least `share` of them one token."""
    whole = members.whole()
    n = whole.sizes()
    return float(n[is_narrow(whole, share=share, fewest=fewest)].sum() / n.sum()) if n.sum() else np.nan


def is_narrow(whole: Members, *, share: float, fewest: int) -> Bools:
    """[K] which regions are."""
    found = whole.commonest()[1]
    return (np.nan_to_num(found) >= share) & (whole.sizes() >= fewest)


def distance_from_uniform(rows: Ints) -> float:
    """Largest difference of the distribution function of binned values [bins] from that of uniform ones, at the edges of the bins."""
    expected = np.arange(1, len(rows) + 1) / len(rows)
    return float(np.abs(np.cumsum(rows) / rows.sum() - expected).max())
