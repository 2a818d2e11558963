"""From texts to Tokens: one sequence per text, with the bytes of every token.

Letters: n tokens, B texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from armillary.core.model import Texts
from armillary.core.tokens import Document, Ints, Tokens
from armillary.errors import CapabilityError, InputError, TextError


def as_documents(texts: Texts) -> list[Document]:
    """Documents from a text, texts or documents.

    Raises:
        TextError: a text is empty, or holds something that UTF-8 cannot (a lone surrogate).
    """
    given: Iterable[str | Document] = [texts] if isinstance(texts, str | Document) else texts
    documents = [one if isinstance(one, Document) else Document(one) for one in given]
    for i, document in enumerate(documents):
        if not document.text:
            raise TextError(f"text {i}{f' ({document.name})' if document.name else ''} is empty; leave it out or write something in it")
        try:
            document.data  # noqa: B018 (encodes)
        except UnicodeEncodeError as error:
            raise TextError(f"text {i} cannot be written as UTF-8 at character {error.start} ({error.reason}); clean it first") from None
    return documents


def tokenize(tokenizer: Any, documents: Sequence[Document], pad_id: int) -> Tokens:
    """One sequence per document, the tokenizer's own special tokens included.

    Raises:
        CapabilityError: the tokenizer cannot say which characters a token covers.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CapabilityError(
            f"{type(tokenizer).__name__} does not tell which characters a token covers; "
            "load the fast tokenizer (use_fast=True) or convert it"
        )
    if not documents:
        return Tokens.of_ids([], pad_id)
    texts = [document.text for document in documents]
    found = tokenizer(texts, add_special_tokens=True, truncation=False, return_offsets_mapping=True,
                      return_special_tokens_mask=True, return_attention_mask=False, verbose=False)  # fmt: skip
    ids = [np.asarray(one, np.int64) for one in found["input_ids"]]
    special = [np.asarray(one, bool) for one in found["special_tokens_mask"]]
    spans = [
        byte_spans(document, np.asarray(offsets, np.int64).reshape(-1, 2), is_special, tokenizer.convert_ids_to_tokens(list(one)))
        for document, offsets, is_special, one in zip(documents, found["offset_mapping"], special, ids, strict=True)
    ]
    return _laid_out(documents, ids, special, spans, pad_id)


def refuse_unreadable(tokens: Tokens, name: str, context: int | None, n_ids: int | None) -> None:
    """Raise `InputError` for tokens that a model cannot read.

    Args:
        tokens: them.
        name: of the model.
        context: positions it reads at most; None where that is not known.
        n_ids: ids it has embeddings for; None where that is not known.
    """
    if tokens.n_sequences == 0 or int(tokens.lengths.min()) == 0:
        raise InputError(f"{tokens!r} has no sequence, or an empty one; give every text at least one token")
    longest = int(tokens.lengths.max(initial=0))
    if context is not None and longest > context:
        raise InputError(
            f"sequence {int(tokens.lengths.argmax())} has {longest} tokens, {name} reads at most {context}; "
            "nothing is cut off unasked: split the text (harvest does) or shorten it"
        )
    if int(tokens.ids.min()) < 0:
        raise InputError(f"token id {tokens.ids.min()} is negative; ids begin at 0")
    largest = int(tokens.ids.max(initial=0))
    if n_ids is not None and largest >= n_ids:
        raise InputError(f"token id {largest} is outside the {n_ids} ids of {name}; tokenize the text with this model's tokenizer")


def _laid_out(documents: Sequence[Document], ids: list[Ints], special: list[NDArray[np.bool_]], spans: list[Ints], pad_id: int) -> Tokens:
    """Sequences end to end; special tokens belong to no document."""
    lengths = [len(one) for one in ids]
    is_special = np.concatenate([np.zeros(0, bool), *special])
    number = np.repeat(np.arange(len(ids)), lengths)
    return Tokens(
        ids=np.concatenate([np.zeros(0, np.int64), *ids]),
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        document=np.where(is_special, -1, number),
        position=np.concatenate([np.zeros(0, np.int64), *(np.arange(n) for n in lengths)]),
        span=np.concatenate([np.zeros((0, 2), np.int64), *spans]),
        is_special=is_special,
        is_row=np.ones(len(number), bool),
        documents=documents,
        pad_id=pad_id,
    )


def byte_spans(document: Document, offsets: Ints, is_special: NDArray[np.bool_], tokens: Sequence[str]) -> Ints:
    """[n, 2] bytes of each token, tiling the text: what lies between two tokens belongs to the second; (0, 0) for special tokens.

    Args:
        document: the text.
        offsets: [n, 2] characters each token covers, as the tokenizer says.
        is_special: [n].
        tokens: [n] the tokens' own spelling.
    """
    spans = np.zeros((len(offsets), 2), np.int64)
    text = ~is_special
    exact = _exact_ends(document.data, [token for token, keep in zip(tokens, text, strict=True) if keep])
    end = np.maximum.accumulate(_byte_of_character(document.text)[offsets[text, 1]]) if exact is None else exact
    begin = np.concatenate([np.zeros(1, np.int64), end])[: len(end)]
    spans[text] = np.stack([begin, end], axis=1)
    return spans


def _exact_ends(data: bytes, tokens: list[str]) -> Ints | None:
    """[n] byte at which each token ends, from the tokens' own bytes; None where these are not the text's.

    Offsets are in characters, so the pieces of a character that was split all claim the whole of it; their bytes tell them apart. They
    are known for byte-level tokenizers, which write one letter per byte, and for SentencePiece, which writes split bytes as "<0xE2>".
    """
    for read in (_byte_level, _sentence_piece):
        pieces = [read(token) for token in tokens]
        if any(piece is None for piece in pieces):
            continue
        whole = b"".join(piece for piece in pieces if piece is not None)
        n_prefix = len(whole) - len(data)  # some put a space in front of the text
        if n_prefix in (0, 1) and whole == b" " * n_prefix + data:
            ends: Ints = np.cumsum([len(piece) for piece in pieces if piece is not None], dtype=np.int64)
            return np.maximum(ends - n_prefix, 0)
    return None


@lru_cache(maxsize=1 << 18)
def _byte_level(token: str) -> bytes | None:
    letters = _byte_letters()
    return bytes(letters[letter] for letter in token) if all(letter in letters for letter in token) else None


@cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _sentence_piece(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _byte_of_character(text: str) -> Ints:
    """[characters + 1] the byte at which each character begins, and the end."""
    point = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    width = 1 + (point >= 0x80) + (point >= 0x800) + (point >= 0x10000)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(width)]).astype(np.int64)


def spellings(tokenizer: Any, n_ids: int) -> list[str]:
    """The text of every token id; ids the tokenizer does not know are "<id>"."""
    known = min(n_ids, len(tokenizer))
    tokens = tokenizer.convert_ids_to_tokens(list(range(known)))
    plain = tokenizer.batch_decode([[i] for i in range(known)], clean_up_tokenization_spaces=False)
    out = [_spelling(token, text) for token, text in zip(tokens, plain, strict=True)]
    return [*out, *(f"<{i}>" for i in range(known, n_ids))]


def _spelling(token: str | None, text: str) -> str:
    """SentencePiece marks a leading space by U+2581, which decoding a lone token drops."""
    return token.replace("▁", " ") if token is not None and token.startswith("▁") else text
