"""Bag of words: what the tokens of a document tell without any model. The baseline of every probe, and the measure of alike documents.

    weight of a token in a document    (1 + log count) * (1 + log (n / documents that have it)), of length 1 in all

Letters: n documents, V different tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from armillary.core.statistics import Floats
from armillary.core.tokens import Bools, Ints
from armillary.studies.quality.pooled import Documents

#: Inverse strength of the classifier's penalty, as rows have length 1.
C = 10.0


def word_counts(documents: Documents) -> sparse.csr_matrix:
    """[n, V] how often each token that counts occurs, a column per token id that does."""
    tokens = documents.rows.tokens
    assert tokens is not None
    place = documents.place(np.arange(tokens.n_rows))
    _, column = np.unique(tokens.ids[tokens.rows], return_inverse=True)
    on = place >= 0
    shape = (len(documents), int(column.max()) + 1)
    return sparse.csr_matrix((np.ones(int(on.sum())), (place[on], column[on])), shape)


def weigh(counts: sparse.csr_matrix, is_train: Bools) -> sparse.csr_matrix:
    """[n, V] weights; how rare a token is is learnt from the training documents alone."""
    known = np.asarray((counts[is_train] > 0).sum(0)).ravel()
    rarity = np.where(known > 0, 1 + np.log(max(int(is_train.sum()), 1) / np.maximum(known, 1)), 0.0)
    held = counts.copy()
    held.data = 1 + np.log(held.data)
    weighted = held.multiply(rarity[None]).tocsr()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(length, 1e-30)) @ weighted


def word_scores(words: sparse.csr_matrix, train: Ints, positive: Bools, test: Ints) -> Floats:
    """Scores of documents `test` by a logistic classifier of the words of documents `train` with labels `positive`."""
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=C, solver="liblinear", max_iter=1000).fit(words[train], positive)
    found: Floats = model.decision_function(words[test])
    return found


def hard_negatives(words: sparse.csr_matrix, positive: Ints, negative: Ints, n_neighbours: int) -> Ints:
    """Of the documents `negative`, those among the `n_neighbours` whose words are most like those of one of `positive`."""
    likeness = (words[positive] @ words[negative].T).toarray()
    k = min(n_neighbours, len(negative))
    return negative[np.unique(np.argsort(-likeness, axis=1, kind="stable")[:, :k])]
