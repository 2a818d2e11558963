"""Rows cut into documents of equal length, with a token id per row and labels per document."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.rows import TensorRows
from armillary.core.tokens import Document, Tokens

#: Rows of a document.
LENGTH = 20


def in_documents(
    x: Tensor, ids: NDArray[np.int64] | None = None, labels: Mapping[int, Mapping[str, str]] | None = None, special: bool = False
) -> TensorRows:
    """Rows with tokens: documents of `LENGTH` rows, with a token id per row and labels per document."""
    n, d = len(x), len(x) // LENGTH
    position = np.tile(np.arange(LENGTH), d)
    tokens = Tokens(
        ids=np.ones(n, np.int64) if ids is None else ids, starts=np.arange(d + 1) * LENGTH, document=np.repeat(np.arange(d), LENGTH),
        position=position, span=np.stack([position, position + 1], axis=1), is_special=np.full(n, special), is_row=np.ones(n, bool),
        documents=[Document("abcdefghijklmnopqrst", f"d{i}", (labels or {}).get(i, {})) for i in range(d)],
    )  # fmt: skip
    return TensorRows(x, tokens=tokens)
