"""SideBySide: the rows of several places as one, such as the same tokens in two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.rows import Batch, IndexedRows, Layout, Rows, as_rows
from armillary.core.site import Site, Source
from armillary.core.tokens import Tokens
from armillary.errors import InputError, MismatchError, ShapeError


@final
class SideBySide:
    """Row i is row i of every part, one beside the other. Satisfies `core.rows.IndexedRows`.

    A part of no known source is called by its place, `path:part0`, so that what is read can be told from what is rebuilt.

    Args:
        parts: two or more stores or tensors with the same rows in the same order; each can be read row by row.

    Raises:
        ShapeError: they have different numbers of rows.
        MismatchError: their tokens are not the same.
        InputError: a part is a stream, or there are fewer than two.
    """

    def __init__(self, *parts: Rows | Tensor | NDArray[Any]) -> None:
        found = [as_rows(part) for part in parts]
        if len(found) < 2:
            raise InputError(f"rows are put side by side with others, got {len(found)} part")
        self.parts: list[IndexedRows] = [_indexed(part) for part in found]
        counts = [part.n_rows for part in self.parts]
        if len(set(counts)) > 1:
            raise ShapeError(f"rows side by side must be equally many, got {', '.join(map(str, counts))}")
        _check_tokens(self.parts)

    def __repr__(self) -> str:
        return f"SideBySide({', '.join(map(repr, self.parts))})"

    @property
    def layout(self) -> Layout:
        named = ((source or Source("", "", Site.module(f"part{i}")), d) for i, part in enumerate(self.parts) for source, d in part.layout)
        return tuple(named)

    @property
    def n_rows(self) -> int | None:
        return self.parts[0].n_rows

    @property
    def tokens(self) -> Tokens | None:
        return next((part.tokens for part in self.parts if part.tokens is not None), None)

    @property
    def record(self) -> Mapping[str, Any]:
        """The first part's record, and all of them under "parts"."""
        return {**self.parts[0].record, "parts": [dict(part.record) for part in self.parts]}

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """See `core.rows.Rows.batches`; the first part chooses the order."""
        for batch in self.parts[0].batches(size, seed=seed, epoch=epoch, skip=skip, rank=rank, world=world):
            yield Batch(_joined([batch.x, *(part.read(batch.row) for part in self.parts[1:])]), batch.row)

    def read(self, row: NDArray[np.int64]) -> Tensor:
        """See `core.rows.IndexedRows.read`."""
        return _joined([part.read(row) for part in self.parts])


def _indexed(part: Rows) -> IndexedRows:
    if part.n_rows is None or not isinstance(part, IndexedRows):
        raise InputError(f"{part!r} is a stream, whose rows cannot be found again; harvest it to put it side by side with others")
    return part


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """[m, D], in a dtype that holds those of all parts, on the first one's device."""
    widest = reduce(torch.promote_types, (part.dtype for part in parts))
    return torch.cat([part.to(parts[0].device, widest) for part in parts], dim=1)


def _check_tokens(parts: Sequence[IndexedRows]) -> None:
    known = [part.tokens for part in parts if part.tokens is not None]
    for other in known[1:]:
        first = known[0]
        if not (np.array_equal(first.document[first.rows], other.document[other.rows]) and _same_text(first, other)):
            raise MismatchError("rows side by side are of different tokens; harvest the same text with the same tokenizer and token policy")


def _same_text(one: Tokens, other: Tokens) -> bool:
    """Whether rows stand at the same places of the same texts, or, of tokens without text, are the same ids."""
    if not (one.documents and other.documents):
        return np.array_equal(one.ids[one.rows], other.ids[other.rows])
    texts = [[document.sha256 for document in tokens.documents] for tokens in (one, other)]
    return texts[0] == texts[1] and np.array_equal(one.span[one.rows], other.span[other.rows])
