"""A feature's concept as a bag of tokens: a classifier of its passages against random ones, which knows nothing of activations.

Texts are vectors of log(1 + count) times the inverse document frequency, of length 1; logistic regression with classes of equal weight.
How well it tells passages of other documents apart, its AUROC, is cross-validated; a classifier that cannot is not used.

Letters: n texts, V tokens that occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from armillary.core.rows import Rows
from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError
from armillary.studies.quality.concept_score import auroc

#: Inverse strength of the ridge, folds of documents, and the fewest passages that a classifier is made from.
C, FOLDS, FEWEST = 10.0, 4, 8

#: A text as token ids.
Text = Sequence[int]


@dataclass(frozen=True)
class Concept:
    """The classifier.

    Args:
        place: of each token among those that occur.
        rarity: [V] inverse document frequencies.
        weight: [V] and
        bias: of the log-odds.
        auroc: on passages of documents that it was not fitted to.
        n: passages of the feature.
    """

    place: dict[int, int]
    rarity: Floats
    weight: Floats
    bias: float
    auroc: float
    n: int

    def log_odds(self, texts: Sequence[Text]) -> Floats:
        """[n] of the concept given each text; NaN for a text without tokens."""
        found = vectors(texts, self.place, self.rarity) @ self.weight + self.bias
        return np.where([len(text) > 0 for text in texts], found, np.nan)

    def words(self, n: int = 8) -> list[int]:
        """The tokens that speak most for it."""
        by_place = list(self.place)
        return [by_place[i] for i in np.argsort(-self.weight, kind="stable")[:n] if self.weight[i] > 0]


def passages(rows: Rows, row: Ints, size: int) -> list[Text]:
    """The tokens of rows and of the text around them, about `size` in all."""
    tokens = rows.tokens
    if tokens is None:
        raise InputError("rows without tokens have no passages")
    return [tokens.ids[tokens.window_tokens(int(one), size // 2, size - size // 2 - 1)].tolist() for one in row]


def learn(with_it: Sequence[Text], others: Sequence[Text], unit: Ints) -> Concept | str:
    """The classifier of passages, or why there is none.

    Args:
        with_it: the feature's passages.
        others: random ones.
        unit: documents of the former, then of the latter: folds share none.
    """
    if len(with_it) < FEWEST or len(others) < FEWEST:
        return f"only {min(len(with_it), len(others))} passages where {FEWEST} are needed"
    texts = [*with_it, *others]
    label = np.arange(len(texts)) < len(with_it)
    scores = np.full(len(texts), np.nan)
    fold = np.unique(unit, return_inverse=True)[1] % FOLDS
    for one in range(FOLDS):
        out = fold == one
        if min(label[~out].sum(), (~label)[~out].sum()) < 2:
            return "its passages are of too few documents"
        scores[out] = _fitted(texts, label, ~out).log_odds([text for text, is_out in zip(texts, out, strict=True) if is_out])
    whole = _fitted(texts, label, np.ones(len(texts), bool))
    value = auroc(scores[label], scores[~label])
    return Concept(whole.place, whole.rarity, whole.weight, whole.bias, value, len(with_it))


def _fitted(texts: Sequence[Text], label: Bools, chosen: Bools) -> Concept:
    """The classifier of the chosen texts."""
    from sklearn.linear_model import LogisticRegression

    some = [text for text, is_in in zip(texts, chosen, strict=True) if is_in]
    place = {token: i for i, token in enumerate(sorted({token for text in some for token in text}))}
    present = sparse.csr_matrix(counts(some, place) > 0)
    rarity = np.log((1 + len(some)) / (1 + np.asarray(present.sum(0)).ravel())) + 1
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
    model.fit(vectors(some, place, rarity), label[chosen])
    return Concept(place, rarity, model.coef_[0].astype(np.float64), float(model.intercept_[0]), 0.5, 0)


def counts(texts: Sequence[Text], place: dict[int, int]) -> sparse.csr_matrix:
    """[n, V] how often each known token occurs."""
    pairs = [(i, place[token]) for i, text in enumerate(texts) for token in text if token in place]
    row, column = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return sparse.csr_matrix((np.ones(len(pairs)), (row, column)), shape=(len(texts), len(place)))


def vectors(texts: Sequence[Text], place: dict[int, int], rarity: Floats) -> sparse.csr_matrix:
    """[n, V] of length 1, or 0 where no token is known."""
    x = counts(texts, place)
    x.data = np.log1p(x.data) * rarity[x.indices]
    text = np.repeat(np.arange(len(texts)), np.diff(x.indptr))  # of each number
    x.data /= np.sqrt(np.bincount(text, x.data**2, minlength=len(texts)))[text]
    return x
