"""The feature that tells a concept best on the training documents, and how well it tells it on the others.

A document's score is the largest activation over its tokens; of a feature that takes both signs, also the largest of its negative. Null:
the same choice among all features for labels dealt to other documents, so it holds what choosing among many features gains. A draw deals
all values of all labels together, so that its mean over concepts spreads as the mean of the values themselves does.

Letters: n documents, U of them on a side, F' candidates, S draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.labelled import Concept
from armillary.studies.quality.pooled import Pooled
from armillary.studies.quality.ranks import Ranked, Table


@dataclass(frozen=True)
class Pick:
    """The choice for one concept.

    Args:
        feature: its number; the first where `is_tied`.
        sign: +1, or -1 where the feature's negative is what tells the concept.
        is_tied: the best feature scores all training documents alike, as one that never fires does, so that nothing was chosen.
        train, test: AUROC on either side.
        null_train, null_test: [S] the same for labels dealt to other documents, each with its own choice.
        score: [n] of every document.
    """

    feature: int
    sign: int
    is_tied: bool
    train: float
    test: float
    null_train: Floats
    null_test: Floats
    score: Floats


@dataclass(frozen=True)
class Candidates:
    """Scores [n, F'] to choose from, and the feature and sign of each column."""

    table: Table
    feature: Ints
    sign: Ints

    @staticmethod
    def of(pooled: Pooled, train: Ints) -> Candidates:
        """Every feature's largest activation; also that of the negative of features below 0 in a training document."""
        least = pooled.least[train].min(axis=0)
        lowest = least.toarray().ravel() if sparse.issparse(least) else np.asarray(least)
        below = np.flatnonzero(lowest < 0)
        own = np.arange(pooled.n_features)
        if len(below) == 0:
            return Candidates(pooled.largest, own, np.ones(len(own), np.int64))
        negative = -pooled.least[:, below]
        both = [pooled.largest, negative]
        table = np.concatenate(both, axis=1) if isinstance(negative, np.ndarray) else sparse.hstack(both, format="csc")
        return Candidates(table, np.concatenate([own, below]), np.repeat([1, -1], [len(own), len(below)]))

    def score(self, column: int) -> Floats:
        """[n] of one candidate."""
        found = self.table[:, [column]]
        return np.asarray(found if isinstance(found, np.ndarray) else found.toarray(), np.float64).ravel()


def picks(pooled: Pooled, concepts: Sequence[Concept], *, n_draws: int, seed: int) -> list[Pick]:
    """A pick per concept; those of one label share their ranks and the dealings of their documents."""
    sides = [np.unique(np.concatenate(several)) for several in ([one.train for one in concepts], [one.test for one in concepts])]
    orders = [_orders(len(rows), n_draws, seed=(seed, side)) for side, rows in enumerate(sides)]
    found: dict[str, Pick] = {}
    for label in dict.fromkeys(one.label for one in concepts):
        group = [one for one in concepts if one.label == label]
        train, test = group[0].train, group[0].test
        candidates = Candidates.of(pooled, train)
        ranked = Ranked.of(candidates.table[train]), Ranked.of(candidates.table[test])
        dealt = [dealings(order, np.isin(rows, own)) for order, rows, own in zip(orders, sides, (train, test), strict=True)]
        for one in group:
            found[one.name] = _pick(one, candidates, ranked, dealt)
    return [found[one.name] for one in concepts]


def _orders(n: int, n_draws: int, *, seed: tuple[int, int]) -> Ints:
    """[1 + S, n] orders of n documents, the first their own."""
    own = np.arange(n)
    return np.concatenate([own[None], np.random.default_rng(seed).permuted(np.tile(own, (n_draws, 1)), axis=1)])


def dealings(orders: Ints, has_label: Bools) -> Ints:
    """[1 + S, m] orders of the m of U documents that have a label, from orders [1 + S, U] of all.

    Whoever is sent to a document without the label is sent on from there, until one has it. So every order of the m is as likely as any
    other, and labels that most documents share are dealt alike.
    """
    to = orders[:, has_label]
    while (is_lost := ~has_label[to]).any():
        to = np.where(is_lost, np.take_along_axis(orders, to, 1), to)
    return (np.cumsum(has_label) - 1)[to]


def _pick(concept: Concept, candidates: Candidates, ranked: tuple[Ranked, Ranked], dealt: Sequence[Ints]) -> Pick:
    sides = concept.positive[concept.train], concept.positive[concept.test]
    labels = [side[order] for side, order in zip(sides, dealt, strict=True)]  # [1 + S, n] each; the first is the concept itself
    train = ranked[0].auroc(labels[0])  # [1 + S, F']
    best = train.argmax(1)
    on_train, on_test = train[np.arange(len(best)), best], ranked[1].columns(best).each(labels[1])
    column = int(best[0])
    score = candidates.score(column)
    return Pick(
        feature=int(candidates.feature[column]),
        sign=int(candidates.sign[column]),
        is_tied=bool(np.ptp(score[concept.train]) == 0),
        train=float(on_train[0]),
        test=float(on_test[0]),
        null_train=on_train[1:],
        null_test=on_test[1:],
        score=score,
    )
