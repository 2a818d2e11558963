"""Packing: documents become windows that fit the model's context, and windows become blocks that are captured together.

Letters: n tokens, B windows, T positions, N rows, D width.

Everything here is a function of the texts and the settings alone, so a run that starts again at a block's end makes the same blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.site import Site, Source
from armillary.core.store.manifest import Cursor
from armillary.core.texts import add_to_fingerprint
from armillary.core.tokens import Document, Tokens, concatenate
from armillary.errors import InputError, MismatchError

_OTHER = "use another --out, or the same texts"
#: Texts are given to the tokenizer in groups of about so many characters.
TOKENIZED_TOGETHER = 1 << 18


class Harvested(Protocol):
    """What harvesting asks of a model; `LanguageModel` has it."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def context(self) -> int | None: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def tokenize(self, texts: Sequence[Document]) -> Tokens: ...
    def capture(self, tokens: Tokens, sites: Sequence[Site]) -> Mapping[Any, Tensor]: ...
    def source(self, site: Site) -> Source: ...
    def width(self, site: Site) -> int: ...
    def vocabulary(self) -> list[str]: ...


@dataclass(frozen=True)
class Packing:
    """How texts become windows, rows and blocks.

    Args:
        context: tokens of a window at most, with the special tokens that the tokenizer puts around every text.
        stride: tokens by which the next window of a long document starts later. Below `context`, windows overlap; a token that an
            earlier window held is context only, so every token is a row at most once.
        exclude_special: leave out tokens the tokenizer added.
        exclude_first: leave out the first so many positions of every window.
        batch_tokens: tokens of one forward pass at most, padding included.
        shard_rows: rows of a block at most (a single window may have more).
        n_tokens: stop after so many rows; None for all.

    Raises:
        InputError: the numbers do not fit together.
    """

    context: int
    stride: int
    exclude_special: bool = True
    exclude_first: int = 0
    batch_tokens: int = 4096
    shard_rows: int = 1 << 14
    n_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("context", "stride", "batch_tokens", "shard_rows", "n_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.stride > self.context:
            raise InputError(f"stride must be at most the context, {self.context}, got {self.stride}; leave it out for no overlap")
        if not 0 <= self.exclude_first < self.context:
            raise InputError(f"exclude_first must be from 0 to {self.context - 1} (context - 1), got {self.exclude_first}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Start:
    """Where reading begins: the beginning, or the end of what an earlier run has finished.

    Args:
        next: the first window that is wanted.
        n_documents: documents that began before it.
        n_rows: rows that lie before it.
        text_sha256: the running fingerprint of those documents.
    """

    next: Cursor = field(default_factory=Cursor)
    n_documents: int = 0
    n_rows: int = 0
    text_sha256: str = ""


@dataclass(frozen=True)
class Block:
    """Windows that are captured together and make one shard.

    Args:
        tokens: the windows in document order; `document` counts from the first text of the run.
        documents: the texts that begin here.
        n_rows_before, n_documents_before: rows that lie, and documents that began, before it.
        next: the first window after it.
        text_sha256: running fingerprint of all texts that began up to its end.
    """

    tokens: Tokens
    documents: tuple[Document, ...]
    n_rows_before: int
    n_documents_before: int
    next: Cursor
    text_sha256: str

    def name_of(self, number: int) -> str:
        """A text's number, and its name if it begins here."""
        here = number - self.n_documents_before
        name = self.documents[here].name if here >= 0 else ""
        return f"{number} ({name})" if name else str(number)


def windows(tokens: Tokens, number: int, packing: Packing) -> Tokens:
    """The windows of one document, each with the special tokens that stood around the whole.

    Args:
        tokens: one sequence.
        number: what `document` becomes.

    Raises:
        InputError: the context has no room beside the special tokens and the overlap.
    """
    left, right = _special_ends(tokens)
    n, overlap = len(tokens), packing.context - packing.stride
    room = packing.context - left - right
    if room - overlap < 1:
        raise InputError(f"context {packing.context}, stride {packing.stride}: no room beside {left + right} special tokens; raise either")
    starts = range(left, max(left + 1, n - right - overlap), room - overlap)
    picks = [np.r_[0:left, start : min(start + room, n - right), n - right : n] for start in starts] if n else []
    places = [np.arange(len(pick)) for pick in picks]
    seen = [(k > 0) & (place >= left) & (place < left + overlap) for k, place in enumerate(places)]
    return _gather(tokens, picks, seen, number, packing)


def _special_ends(tokens: Tokens) -> tuple[int, int]:
    """How many tokens the tokenizer put before and after the text. A special token spelled out in the text has a span and is not one."""
    is_added = tokens.is_special & (tokens.span == 0).all(axis=1)
    if is_added.all():
        return len(tokens), 0
    return int(is_added.argmin()), int(is_added[::-1].argmin())


def _gather(tokens: Tokens, picks: list[NDArray[np.int64]], seen: list[NDArray[np.bool_]], number: int, packing: Packing) -> Tokens:
    """Windows from token indices; a token counts as a row unless it was `seen` in the window before or is excluded."""
    pick = np.concatenate([*picks, np.zeros(0, np.int64)])
    position = np.concatenate([*(np.arange(len(one)) for one in picks), np.zeros(0, np.int64)])
    is_row = ~np.concatenate([*seen, np.zeros(0, bool)]) & (position >= packing.exclude_first)
    if packing.exclude_special:
        is_row &= ~tokens.is_special[pick]
    document = np.where(tokens.document[pick] < 0, -1, number)
    starts = np.cumsum([0, *map(len, picks)])
    return Tokens(tokens.ids[pick], starts, document, position, tokens.span[pick], tokens.is_special[pick], is_row, (), tokens.pad_id)


def read_blocks(lm: Harvested, documents: Iterable[Document], packing: Packing, start: Start = Start()) -> Iterator[Block]:
    """All blocks after `start`, in order. The documents are read from the first, to check that they are the same ones.

    Raises:
        MismatchError: the documents before `start` are not those of the earlier run.
    """
    filling, number = _Filling(packing, start), start.next.document - 1
    if filling.is_over:
        return
    for number, document, fingerprint, tokens in _tokenized(lm, _numbered(documents, start)):
        cut = windows(tokens, number, packing)
        first = start.next.window if number == start.next.document else 0
        for window in range(first, cut.n_sequences):
            piece = cut.sequences(window, window + 1)
            if filling.has_no_room(piece):
                yield filling.empty(Cursor(document=number, window=window))
            if window == 0:
                filling.begin(document, fingerprint)
            filling.add(piece)
            if filling.is_over:
                yield filling.empty(Cursor(document=number, window=window + 1))
                return
        if cut.n_sequences == 0:
            filling.begin(document, fingerprint)
    if filling.documents or filling.pieces:
        yield filling.empty(Cursor(document=number + 1))


class _Filling:
    """The block that is being filled."""

    def __init__(self, packing: Packing, start: Start) -> None:
        self.packing, self.before, self.fingerprint = packing, start, start.text_sha256
        self.left = packing.n_tokens if packing.n_tokens is None else packing.n_tokens - start.n_rows
        self.pieces: list[Tokens] = []
        self.documents: list[Document] = []
        self.n_rows = 0

    @property
    def is_over(self) -> bool:
        """Whether `n_tokens` rows are reached."""
        return self.left is not None and self.left <= 0

    def has_no_room(self, piece: Tokens) -> bool:
        return self.n_rows > 0 and self.n_rows + piece.n_rows > self.packing.shard_rows

    def begin(self, document: Document, fingerprint: str) -> None:
        self.documents.append(document)
        self.fingerprint = fingerprint

    def add(self, piece: Tokens) -> None:
        """Take a window in, without the rows beyond `n_tokens`, and not at all where it has none."""
        if self.left is not None:
            piece = replace(piece, is_row=piece.is_row & (np.cumsum(piece.is_row) <= self.left))
            self.left -= piece.n_rows
        if piece.n_rows:
            self.pieces.append(piece)
            self.n_rows += piece.n_rows

    def empty(self, next_window: Cursor) -> Block:
        """The block so far; a new one begins."""
        tokens, before = concatenate(self.pieces or [_no_tokens()]), self.before
        block = Block(tokens, tuple(self.documents), before.n_rows, before.n_documents, next_window, self.fingerprint)
        self.before = Start(next_window, before.n_documents + len(self.documents), before.n_rows + self.n_rows, self.fingerprint)
        self.pieces, self.documents, self.n_rows = [], [], 0
        return block


def _no_tokens() -> Tokens:
    none, no_flags = np.zeros(0, np.int64), np.zeros(0, bool)
    return Tokens(none, np.zeros(1, np.int64), none, none, np.zeros((0, 2), np.int64), no_flags, no_flags)


def _numbered(documents: Iterable[Document], start: Start) -> Iterator[tuple[int, Document, str]]:
    """(number, document, running fingerprint) from the first document that is wanted, having checked those before."""
    fingerprint, number = "", -1
    for number, document in enumerate(documents):
        fingerprint = add_to_fingerprint(fingerprint, document)
        if number + 1 == start.n_documents and fingerprint != start.text_sha256:
            raise MismatchError(f"the first {start.n_documents:,} texts are not those that were harvested; {_OTHER}")
        if number >= start.next.document:
            yield number, document, fingerprint
    if number + 1 < start.n_documents:
        raise MismatchError(f"there are {number + 1:,} texts, but {start.n_documents:,} were harvested; {_OTHER}")


def check_same_texts(documents: Iterable[Document], start: Start, *, is_cut: bool) -> None:
    """Raise `MismatchError` unless the texts are those of a finished run.

    Args:
        is_cut: the run stopped at `n_tokens`, so that more texts may follow.
    """
    for number, _, _ in _numbered(documents, start):
        if number >= start.n_documents and not is_cut:
            raise MismatchError(f"there are more than the {start.n_documents:,} texts that were harvested; {_OTHER}")
        if number + 1 >= start.n_documents and is_cut:
            return


def _tokenized(lm: Harvested, numbered: Iterable[tuple[int, Document, str]]) -> Iterator[tuple[int, Document, str, Tokens]]:
    for group in _groups(numbered):
        tokens = lm.tokenize([document for _, document, _ in group])
        for place, (number, document, fingerprint) in enumerate(group):
            yield number, document, fingerprint, tokens.sequences(place, place + 1)


def _groups(numbered: Iterable[tuple[int, Document, str]]) -> Iterator[list[tuple[int, Document, str]]]:
    group: list[tuple[int, Document, str]] = []
    size = 0
    for item in numbered:
        group.append(item)
        size += len(item[1].text)
        if size >= TOKENIZED_TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group
