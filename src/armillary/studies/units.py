"""RowUnits: which unit of the bootstrap a row belongs to, and whether it counts.

Tokens of a document are not independent, so intervals resample documents. Their number is capped: with more than `MAX_UNITS`, whole
documents share a unit (document modulo MAX_UNITS), which keeps memory flat and the intervals right. Rows without text, or of fewer than
`FEWEST_DOCUMENTS` documents, are cut into blocks of `BLOCK` consecutive rows instead.

Letters: N rows, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from armillary.core.rows import Rows
from armillary.core.tokens import Bools, Ints, Tokens

MAX_UNITS = 1024
BLOCK = 256
FEWEST_DOCUMENTS = 8


@dataclass(frozen=True)
class RowUnits:
    """The units of some rows.

    Args:
        tokens: the rows' tokens, or None.
        n_rows: N, or None for a stream of unknown length.
        max_rows: rows from this index on do not count; None for no limit.
    """

    tokens: Tokens | None
    n_rows: int | None
    max_rows: int | None = None

    @staticmethod
    def of(rows: Rows, max_rows: int | None = None) -> RowUnits:
        return RowUnits(rows.tokens, rows.n_rows, max_rows)

    @property
    def kind(self) -> str:
        """What a unit is: "document" or "block"."""
        is_text = self.tokens is not None and len(self.tokens.documents) >= FEWEST_DOCUMENTS
        return "document" if is_text else "block"

    @property
    def size(self) -> int:
        """U, the number of units there can be."""
        if self.tokens is not None and self.kind == "document":
            return min(len(self.tokens.documents), MAX_UNITS)
        return MAX_UNITS if self.n_rows is None else max(1, min(-(-self.n_rows // BLOCK), MAX_UNITS))

    def unit(self, row: Ints) -> Ints:
        """[n] unit of each row; tokens of no document go with the last one."""
        if self.tokens is not None and self.kind == "document":
            return self.tokens.document[self.tokens.rows[row]] % self.size
        return (row // BLOCK) % self.size

    def counts(self, row: Ints) -> Bools:
        """[n] whether each row counts: not special, and below `max_rows`."""
        within = np.ones(len(row), bool) if self.max_rows is None else row < self.max_rows
        return within if self.tokens is None else within & ~self.tokens.is_special[self.tokens.rows[row]]

    def note(self) -> str:
        """How intervals were made, in a sentence."""
        if self.kind == "block":
            return f"Intervals: 95 %, bootstrap over blocks of {BLOCK} consecutive rows (no text, or too few documents)."
        assert self.tokens is not None
        shared = f", in {MAX_UNITS} groups of whole documents" if len(self.tokens.documents) > MAX_UNITS else ""
        return f"Intervals: 95 %, bootstrap over {len(self.tokens.documents):,} documents{shared}."
