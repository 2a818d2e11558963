"""Best: the n best-scored rows of every feature, kept while (feature, row) pairs stream by.

The result is a function of the set of pairs alone: not of their order, nor of how they are cut into batches. Ties go to the lower row.

Letters: F features, n kept per feature, p pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from armillary.core.statistics import Floats
from armillary.core.tokens import Ints

Bools = NDArray[np.bool_]
#: Pairs are not sorted in before so many wait.
LEAST_WAITING = 1 << 16


@dataclass(frozen=True)
class Pairs:
    """Rows in which features fire.

    Args:
        feature: [p] int64.
        row: [p] int64.
        score: [p] float64, what they are ranked by.
        value: [p] float64 activation.
        group: [p] int64 document, or -1; see `Best`. Where groups do not count, a number that is kept along with the pair.
    """

    feature: Ints
    row: Ints
    score: Floats
    value: Floats
    group: Ints

    def __len__(self) -> int:
        return len(self.feature)

    def __getitem__(self, which: Bools | Ints) -> Pairs:
        return Pairs(self.feature[which], self.row[which], self.score[which], self.value[which], self.group[which])


class Best:
    """The `n` best pairs of each of `n_features` features, best first; unused places have row -1.

    Pairs wait until there are as many of them as are kept, so that sorting costs the same per pair whatever F is; `settle` before reading.

    Args:
        n_features: F.
        n: how many to keep of each.
        one_per_group: keep at most one pair of a feature and a group.
    """

    def __init__(self, n_features: int, n: int, *, one_per_group: bool = False) -> None:
        self.n, self.one_per_group = n, one_per_group
        self.score = np.full((n_features, n), -np.inf)
        self.value = np.zeros((n_features, n))
        self.row = np.full((n_features, n), -1, dtype=np.int64)
        self.group = np.full((n_features, n), -1, dtype=np.int64)
        self._waiting: list[Pairs] = []

    @property
    def worst(self) -> Floats:
        """[F] score that a pair has to reach; minus infinity where there is room. What waits is not counted."""
        return self.score[:, -1] if self.n else np.full(len(self.score), np.inf)

    def offer(self, pairs: Pairs) -> None:
        """Take in pairs; a pair that was offered before must not come again."""
        if self.n > 0:
            self._waiting.append(pairs[self._may_enter(pairs)])
        if sum(map(len, self._waiting)) >= max(self.row.size, LEAST_WAITING):
            self.settle()

    def settle(self) -> None:
        """Sort in the pairs that wait."""
        if not self._waiting:
            return
        pairs = _joined(self._waiting)
        self._waiting = []
        touched = np.unique(pairs.feature)
        kept = self._ranked(_joined([self._held(touched), pairs]))
        self.score[touched], self.row[touched], self.value[touched], self.group[touched] = -np.inf, -1, 0, -1
        place = _place_in_run(kept.feature)
        kept, place = kept[place < self.n], place[place < self.n]
        for name in ("score", "row", "value", "group"):
            getattr(self, name)[kept.feature, place] = getattr(kept, name)

    def _may_enter(self, pairs: Pairs) -> Ints:
        """Places of the pairs that beat the last one kept of their feature: few, once the first batches are through."""
        near = np.flatnonzero(pairs.score >= self.worst[pairs.feature])
        feature, score, row = pairs.feature[near], pairs.score[near], self.row[pairs.feature[near], -1]
        wins = (score > self.score[feature, -1]) | (pairs.row[near] < row) | (row < 0)
        return np.asarray(near[wins])

    def _held(self, features: Ints) -> Pairs:
        """What is kept of the given features."""
        names = ("row", "score", "value", "group")
        feature = np.repeat(features, self.n)
        all_places = Pairs(feature, *(getattr(self, name)[features].ravel() for name in names))
        return all_places[all_places.row >= 0]

    def _ranked(self, pairs: Pairs) -> Pairs:
        """Pairs by feature, then from best to worst."""
        ranked = pairs[np.lexsort((pairs.row, -pairs.score, pairs.feature))]
        if not self.one_per_group:
            return ranked
        # The first, so the best, of every feature and group; pairs of no group stand alone.
        alone = np.where(ranked.group < 0, -1 - np.arange(len(ranked)), ranked.group)
        _, first = np.unique(np.stack([ranked.feature, alone]), axis=1, return_index=True)
        return ranked[np.sort(first)]

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint keeps."""
        self.settle()
        return {name: torch.from_numpy(getattr(self, name)) for name in ("score", "row", "value", "group")}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.numpy().copy())
        self._waiting = []

    def absorb(self, state: Mapping[str, Any]) -> None:
        """Take in what another rank kept."""
        feature, place = np.nonzero(state["row"].numpy() >= 0)
        self.offer(Pairs(feature, *(state[name].numpy()[feature, place] for name in ("row", "score", "value", "group"))))


def _joined(parts: Sequence[Pairs]) -> Pairs:
    names = ("feature", "row", "score", "value", "group")
    return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _place_in_run(feature: Ints) -> Ints:
    """Position of each entry among the equal ones around it, for sorted features."""
    starts = np.flatnonzero(np.diff(feature, prepend=-1))
    return np.arange(len(feature)) - np.repeat(starts, np.diff(np.append(starts, len(feature))))
