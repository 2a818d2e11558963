"""Tokens: what a model was given, flat, with the way back to the text.

Letters: n tokens, B sequences, T positions of the longest sequence, N rows (the tokens that count).

A token knows its document, its position in the sequence that the model saw, and its bytes in the document, so windows of text and
the alignment of two tokenizations need no tokenizer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armillary.errors import InputError, ShapeError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Document:
    """One text with where it came from.

    Args:
        text: the whole text.
        name: a file name, an id, or "".
        labels: what is known of it, such as {"kind": "dialogue"}; studies group by these.
    """

    text: str
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def data(self) -> bytes:
        """The text's UTF-8 bytes, which spans point into."""
        return self.text.encode()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Tokens:
    """Token sequences laid end to end.

    Args:
        ids: [n] int64 token ids.
        starts: [B + 1] int64; sequence b is tokens starts[b] to starts[b + 1].
        document: [n] int64 index into `documents`; -1 for a token of no document (a separator or a BOS).
        position: [n] int64 index in the sequence, the one the model's position embedding sees.
        span: [n, 2] int64 byte range in the document's UTF-8 text; (0, 0) for a special token.
        is_special: [n] bool, tokens the tokenizer added.
        is_row: [n] bool, tokens that count as rows of activations.
        documents: the texts themselves.
        pad_id: the id that fills up shorter sequences in `padded`.
    """

    ids: Ints
    starts: Ints
    document: Ints
    position: Ints
    span: Ints
    is_special: Bools
    is_row: Bools
    documents: Sequence[Document] = ()
    pad_id: int = 0

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name in ("document", "position", "span", "is_special", "is_row"):
            if len(getattr(self, name)) != n:
                raise ShapeError(f"Tokens.{name} has {len(getattr(self, name))} entries for {n} ids")
        if len(self.starts) == 0 or int(self.starts[-1]) != n:
            raise ShapeError(f"Tokens.starts must end with the number of tokens, {n}")

    @staticmethod
    def of_ids(sequences: Sequence[Sequence[int]], pad_id: int = 0) -> Tokens:
        """Tokens without text, from lists of ids."""
        lengths = [len(sequence) for sequence in sequences]
        n = sum(lengths)
        return Tokens(
            ids=np.array([i for sequence in sequences for i in sequence], np.int64),
            starts=np.cumsum([0, *lengths]).astype(np.int64),
            document=np.full(n, -1, np.int64),
            position=np.concatenate([np.zeros(0, np.int64), *(np.arange(length) for length in lengths)]),
            span=np.zeros((n, 2), np.int64),
            is_special=np.zeros(n, bool),
            is_row=np.ones(n, bool),
            pad_id=pad_id,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Tokens({len(self):,} tokens, {self.n_sequences:,} sequences, {len(self.documents):,} documents, {self.n_rows:,} rows)"

    @property
    def n_sequences(self) -> int:
        return len(self.starts) - 1

    @property
    def n_rows(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> Ints:
        """[N] token index of every row, in stored order."""
        return np.flatnonzero(self.is_row).astype(np.int64)

    @cached_property
    def lengths(self) -> Ints:
        """[B] tokens per sequence."""
        return np.diff(self.starts)

    @cached_property
    def sha256(self) -> str:
        """Equal for the same sequences, with the same rows, of as many documents cut alike, whatever object they are in."""
        digest = hashlib.sha256()
        for part in (self.ids, self.starts, self.document, self.is_special, self.is_row):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def padded(self) -> tuple[Ints, Bools]:
        """Ids [B, T] filled with `pad_id` on the right, and the mask [B, T] of real tokens."""
        mask = np.arange(int(self.lengths.max(initial=0)))[None, :] < self.lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self.ids
        return ids, mask

    def spread(self, values: NDArray[Any], fill: Any = 0) -> NDArray[Any]:
        """Per-token values [n, ...] laid out as [B, T, ...] like `padded`, with `fill` in the padding."""
        _, mask = self.padded()
        out = np.full((*mask.shape, *values.shape[1:]), fill, dtype=values.dtype)
        out[mask] = values
        return out

    def sequences(self, start: int, stop: int) -> Tokens:
        """Sequences `start` to `stop` as Tokens of their own (documents stay shared and keep their index)."""
        low, high = int(self.starts[start]), int(self.starts[min(stop, self.n_sequences)])
        return Tokens(
            ids=self.ids[low:high],
            starts=self.starts[start : stop + 1] - low,
            document=self.document[low:high],
            position=self.position[low:high],
            span=self.span[low:high],
            is_special=self.is_special[low:high],
            is_row=self.is_row[low:high],
            documents=self.documents,
            pad_id=self.pad_id,
        )

    def batches(self, n_sequences: int) -> Iterator[Tokens]:
        """Consecutive groups of at most `n_sequences` sequences."""
        for start in range(0, self.n_sequences, n_sequences):
            yield self.sequences(start, start + n_sequences)

    def text(self, token: int) -> str:
        """The token's own text; "" for a special token. A token that splits a character shows the replacement mark."""
        document = int(self.document[token])
        if document < 0:
            return ""
        low, high = self.span[token]
        return self.documents[document].data[low:high].decode(errors="replace")

    def window(self, row: int, left: int, right: int) -> str:
        """The text from `left` tokens before to `right` tokens after row `row`, within its document and sequence."""
        return "".join(self.text(token) for token in self.window_tokens(row, left, right))

    def window_tokens(self, row: int, left: int, right: int) -> list[int]:
        """Token indices around row `row`: at most `left` before and `right` after, in the same document and sequence."""
        token = int(self.rows[row])
        sequence = int(np.searchsorted(self.starts, token, side="right")) - 1
        low = max(token - left, int(self.starts[sequence]))
        high = min(token + right + 1, int(self.starts[sequence + 1]))
        return [t for t in range(low, high) if self.document[t] == self.document[token]]

    def align(self, other: Tokens) -> tuple[Ints, Ints, float]:
        """Match rows of two tokenizations of the same documents by where a token ends.

        A causal model's vector at a token has read the text up to the token's last byte, so rows are paired when they end at the same
        byte of the same document (found by the text's sha256).

        Returns:
            rows of self [m], rows of other [m], and the share of self's rows that found a partner.
        """
        mine, theirs = self._ends(), other._ends()
        index = {sha: i for i, sha in enumerate(sorted({*mine, *theirs}))}
        keys = [_end_keys(ends, index) for ends in (mine, theirs)]
        _, here, there = np.intersect1d(keys[0][0], keys[1][0], return_indices=True)
        rows = np.stack([keys[0][1][here], keys[1][1][there]])
        rows = rows[:, np.argsort(rows[0], kind="stable")]
        return rows[0], rows[1], rows.shape[1] / max(1, self.n_rows)

    def _ends(self) -> dict[str, tuple[Ints, Ints]]:
        """Per document text (and which of several equal texts it is): the rows and the byte after each row's last one."""
        token = self.rows
        document, end = self.document[token], self.span[token, 1]
        order = np.argsort(document, kind="stable")
        found: dict[str, tuple[Ints, Ints]] = {}
        n_equal: Counter[str] = Counter()
        for rows in np.split(order, np.flatnonzero(np.diff(document[order])) + 1):
            if len(rows) and document[rows[0]] >= 0:
                sha = self.documents[int(document[rows[0]])].sha256
                found[f"{sha}/{n_equal[sha]}"] = (rows, end[rows])
                n_equal[sha] += 1
        return found


def _end_keys(ends: dict[str, tuple[Ints, Ints]], index: dict[str, int]) -> tuple[Ints, Ints]:
    """One integer per row that is equal exactly when document and end byte are (bytes below 2^40)."""
    keys = [np.int64(index[sha]) * (1 << 40) + end for sha, (_, end) in ends.items()]
    rows = [rows for rows, _ in ends.values()]
    if not keys:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(keys), np.concatenate(rows)


def concatenate(parts: Sequence[Tokens], documents: Sequence[Document] | None = None) -> Tokens:
    """Lay several Tokens end to end.

    Args:
        parts: at least one; they must share `documents` unless these are given, then every part's document indices point into them.
    """
    if not parts:
        raise InputError("concatenate needs at least one Tokens, got none")
    shared = parts[0].documents if documents is None else documents
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "document", "position", "span", "is_special", "is_row")
    }
    return Tokens(**arrays, starts=np.concatenate([*starts, offsets[-1:]]), documents=shared, pad_id=parts[0].pad_id)
