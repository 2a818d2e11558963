"""Rows of labelled documents in which a feature is planted, for tests of studies that ask documents for their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.rows import TensorRows
from armillary.core.tokens import Document, Tokens
from documents import LENGTH, in_documents
from toys import ReluEncoder, fit_of

WIDTH = 8


def with_labels(x: Tensor, labels: Mapping[int, Mapping[str, str]], ids: np.ndarray | None = None) -> TensorRows:  # type: ignore[type-arg]
    """Rows in documents of `LENGTH`, each with a text of its own."""
    rows = in_documents(x, ids)
    tokens = rows.tokens
    assert isinstance(tokens, Tokens)
    documents = [Document(f"text {i:04d} of some", f"d{i}", labels.get(i, {})) for i in range(len(tokens.documents))]
    return TensorRows(x, tokens=replace(tokens, documents=documents))


def planted(n_documents: int = 160, seed: int = 0, width: int = WIDTH) -> tuple[TensorRows, Decomposition]:
    """Documents of two kinds: in one of them a few tokens lie along direction 0. The fit has a feature for each direction and its negative.

    Labels: "kind" is told by feature 0, "noise" by nothing, "constant" is the same everywhere, "rare" has one document.
    """
    rng = np.random.default_rng(seed)
    is_code = np.arange(n_documents) % 2 == 0
    x = 0.3 * rng.normal(size=(n_documents, LENGTH, width))
    for i in np.flatnonzero(is_code):
        x[i, rng.integers(LENGTH, size=3), 0] += 2.0
    labels = {
        i: {
            "kind": "code" if is_code[i] else "prose", "noise": str(rng.integers(2)), "constant": "one", "rare": "yes" if i == 0 else "no"
        } for i in range(n_documents)
    }  # fmt: skip
    rows = with_labels(torch.from_numpy(x.reshape(-1, width)), labels)
    return rows, signed_fit(rows)


def signed_fit(rows: TensorRows, scale: float = 1.0) -> Decomposition:
    """A feature for each direction of the axes, and for its negative; atoms are `scale` long, and codes as much smaller."""
    eye = torch.eye(rows.x.shape[1], dtype=torch.float64)
    weight = torch.cat([eye, -eye])
    return fit_of(
        Dictionary.of_directions(scale * weight), ReluEncoder(weight / scale, torch.full((len(weight),), -0.4 / scale).double()), rows
    )
