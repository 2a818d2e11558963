"""Rows of one word each, with first letters that features tell or absorb, for tests of studies that read tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import LinearEncoder
from armillary.core.rows import TensorRows
from armillary.core.tokens import Document, Tokens
from toys import fit_of


def words_in_rows(words: list[str], x: Tensor) -> TensorRows:
    """A row per word, each a document of its own."""
    n = len(words)
    ids = np.array([sorted(set(words)).index(word) for word in words])
    tokens = Tokens(
        ids=ids, starts=np.arange(n + 1), document=np.arange(n), position=np.zeros(n, np.int64),
        span=np.array([[0, len(word)] for word in words]), is_special=np.zeros(n, bool), is_row=np.ones(n, bool),
        documents=[Document(word, word) for word in words],
    )  # fmt: skip
    return TensorRows(x, tokens=tokens)


#: Groups of words of a letter, half of which have a feature of their own; one such feature is too little for the main set.
GROUPS, EACH = 40, 8


def planted(silent: float, seed: int = 0) -> tuple[TensorRows, Decomposition]:
    """Words of three first letters, a direction and a feature each. On a share `silent` of the groups of words the letter's feature is
    silent, and another feature of that group alone carries the letter."""
    rng = np.random.default_rng(seed)
    n_own = round(silent * GROUPS)
    width, n_features = 3 + GROUPS, 3 + 3 * GROUPS
    letter, group = (one.ravel() for one in np.indices((3, GROUPS, EACH))[:2])
    words = [
        f"{'stu'[i]}{'xabcdefghi'[g // 4 if g < n_own else 0]}{''.join(rng.choice(list('klmnopqr'), size=6))}"
        for i, g in zip(letter, group, strict=True)
    ]
    is_own = group < n_own
    eye = torch.eye(width, dtype=torch.float64)
    x = eye[letter] + eye[3 + group] * torch.from_numpy(is_own)[:, None] + 0.01 * torch.from_numpy(rng.normal(size=(len(words), width)))
    atoms = torch.cat([eye[:3], *(eye[i] + eye[3:] for i in range(3))])  # the letters, then a feature for each group of each letter
    codes = torch.zeros(len(words), n_features, dtype=torch.float64)
    codes[torch.arange(len(words)), torch.from_numpy(np.where(is_own, 3 + letter * GROUPS + group, letter))] = 1.0
    # The codes are carried by columns of their own, which are far from the probes' scale and which a linear encoder reads.
    rows = words_in_rows(words, torch.cat([x, 1e-4 * codes], dim=1))
    wide = torch.cat([atoms, torch.zeros(n_features, n_features, dtype=torch.float64)], dim=1)
    read = torch.cat([torch.zeros(n_features, width, dtype=torch.float64), 1e4 * torch.eye(n_features, dtype=torch.float64)], dim=1)
    center = torch.zeros(width + n_features, dtype=torch.float64)
    return rows, fit_of(Dictionary.of_directions(wide), LinearEncoder(read, center, fires=0.0), rows)
