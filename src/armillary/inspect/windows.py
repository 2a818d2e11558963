"""Windows: rows in their text, with a feature's activation on every token around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from armillary.core.columns import columns_for
from armillary.core.decomposition import Decomposition
from armillary.core.rows import IndexedRows, Rows
from armillary.core.tokens import Bools, Ints


@dataclass(frozen=True)
class Window:
    """A row in its text.

    Args:
        row: its index.
        value: the feature's activation on it, or what it was chosen by.
        tokens: the texts of the tokens around it, itself among them.
        activations: the feature's activation on each; None on a token that is no row, and where rows cannot be fetched one by one, unless
            `value` is the centre's.
        centre: where in `tokens` the row is.
        document: index of its document, or -1.
        name: that document's name.
    """

    row: int
    value: float
    tokens: tuple[str, ...]
    activations: tuple[float | None, ...]
    centre: int
    document: int = -1
    name: str = ""

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True)
class Surroundings:
    """What lies around some rows.

    Args:
        rows: whose they are.
        size: tokens to the left and to the right.
        spans: by row, the rows of the tokens around it; -1 for tokens that are none.
        known: a feature's activation by row, where rows can be fetched.
    """

    rows: Rows = field(repr=False)
    size: tuple[int, int]
    spans: Mapping[int, Sequence[int]]
    known: Mapping[int, float]

    @staticmethod
    def of(fit: Decomposition, rows: Rows, feature: int, centres: Sequence[int], size: tuple[int, int]) -> Surroundings:
        """Of these rows; the feature's activations on all of them are worked out together."""
        spans = {row: _around(rows, row, size) for row in centres}
        known = _activations(fit, rows, feature, sorted({row for span in spans.values() for row in span if row >= 0}))
        return Surroundings(rows, size, spans, known)

    def window(self, row: int, value: float, *, is_activation: bool = False) -> Window:
        """One of the rows; `is_activation` where `value` is the feature's activation on it."""
        tokens, span = self.rows.tokens, self.spans[row]
        activations = tuple(value if is_activation and other == row else self.known.get(other) for other in span)
        if tokens is None:
            return Window(row, value, ("",), activations, 0)
        texts = tuple(tokens.text(token) for token in tokens.window_tokens(row, *self.size))
        document = int(tokens.document[tokens.rows[row]])
        name = tokens.documents[document].name if document >= 0 else ""
        return Window(row, value, texts, activations, span.index(row), document, name)


def is_text(rows: Rows, row: Ints) -> Bools:
    """[m] whether each of the rows is a token of the text, not a special one; all are where no tokens are known."""
    tokens = rows.tokens
    return np.ones(len(row), bool) if tokens is None else ~tokens.is_special[tokens.rows[row]]


def _around(rows: Rows, row: int, size: tuple[int, int]) -> list[int]:
    """Rows of the tokens around a row, -1 for tokens that are none."""
    tokens = rows.tokens
    if tokens is None:
        return [row]
    around = np.asarray(tokens.window_tokens(row, *size))
    place = np.searchsorted(tokens.rows, around)
    return np.where(tokens.is_row[around], place, -1).tolist()  # type: ignore[no-any-return]


def _activations(fit: Decomposition, rows: Rows, feature: int, wanted: Sequence[int]) -> dict[int, float]:
    """The feature's activation on rows, where they can be fetched."""
    if not isinstance(rows, IndexedRows) or not wanted:
        return {}
    x = rows.read(np.asarray(wanted, dtype=np.int64))[:, columns_for(fit, rows.layout)[0]]
    with torch.no_grad():
        value = fit.activations(x.to(fit.dictionary.atoms.device)).columns([feature])[:, 0]
    return dict(zip(wanted, value.tolist(), strict=True))
