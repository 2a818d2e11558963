"""Tokens: layout, the way back to the text, and the alignment of two tokenizations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from armillary.core.tokens import Document, Tokens, concatenate
from armillary.errors import InputError, ShapeError


def cut(documents: Sequence[Document], pieces: Sequence[Sequence[str]], *, bos: bool = False) -> Tokens:
    """Tokens of documents that are cut into the given pieces, one sequence per document."""
    ids, starts, document, position, span, is_special = [], [0], [], [], [], []
    for number, parts in enumerate(pieces):
        end = 0
        for place, part in enumerate([""] * bos + list(parts)):
            start, end = end, end + len(part.encode())
            ids.append(len(part)), document.append(number if part else -1), position.append(place), span.append((start, end))
            is_special.append(not part)
        starts.append(len(ids))
    flags = np.array(is_special)
    return Tokens(np.array(ids), np.array(starts), np.array(document), np.array(position), np.array(span), flags, ~flags, documents, 99)


DOCUMENTS = [Document("the cat sat", "a"), Document("naïve 🙂!", "b")]
WORDS = cut(DOCUMENTS, [["the", " cat", " sat"], ["na", "ïve", " 🙂", "!"]], bos=True)
LETTERS = cut(DOCUMENTS, [list("the cat sat"), list("naïve 🙂!")])


def test_padding_and_the_way_back() -> None:
    ids, mask = WORDS.padded()
    assert ids.shape == mask.shape == (2, 5) and ids[0, 4] == 99 and not mask[0, 4] and mask.sum() == len(WORDS) == 9
    assert (ids[mask] == WORDS.ids).all()
    spans = WORDS.spread(WORDS.span, fill=-1)
    assert spans.shape == (2, 5, 2) and (spans[mask] == WORDS.span).all() and (spans[~mask] == -1).all()


def test_counts() -> None:
    assert (WORDS.n_sequences, WORDS.n_rows, len(WORDS)) == (2, 7, 9)
    assert WORDS.lengths.tolist() == [4, 5] and WORDS.rows.tolist() == [1, 2, 3, 5, 6, 7, 8]
    assert repr(WORDS) == "Tokens(9 tokens, 2 sequences, 2 documents, 7 rows)"


def test_sequences_keep_their_documents() -> None:
    second = WORDS.sequences(1, 2)
    assert second.n_sequences == 1 and second.starts.tolist() == [0, 5] and second.documents is WORDS.documents
    assert "".join(second.text(token) for token in range(5)) == "naïve 🙂!"
    assert [batch.n_sequences for batch in WORDS.batches(1)] == [1, 1]
    assert len(WORDS.sequences(1, 9)) == 5, "a stop beyond the end is the end"


def test_text_of_a_token() -> None:
    assert WORDS.text(0) == "" and WORDS.text(2) == " cat" and WORDS.text(6) == "ïve"
    bytes_of_smile = Tokens(
        *[np.array([0])] * 1, np.array([0, 1]), np.array([0]), np.array([0]), np.array([[7, 9]]), *[np.array([True])] * 2, DOCUMENTS[1:]
    )
    assert "\ufffd" in bytes_of_smile.text(0), "half a character shows the replacement mark"


def test_windows_stay_in_their_document() -> None:
    assert WORDS.window(1, 1, 1) == "the cat sat"
    assert WORDS.window(0, 5, 1) == "the cat"
    assert WORDS.window(3, 9, 0) == "na" and WORDS.window(6, 1, 9) == " 🙂!"
    assert WORDS.window_tokens(2, 1, 5) == [2, 3]


def test_windows_stay_in_their_sequence() -> None:
    halves = Tokens(
        np.arange(4), np.array([0, 2, 4]), np.zeros(4, int), np.array([0, 1, 0, 1]), np.array([[0, 1], [1, 2], [2, 3], [3, 4]]),
        np.zeros(4, bool), np.ones(4, bool), [Document("abcd")],
    )  # fmt: skip
    assert halves.window(1, 3, 3) == "ab" and halves.window(2, 3, 3) == "cd"


def test_alignment_pairs_tokens_that_end_at_the_same_byte() -> None:
    here, there, coverage = WORDS.align(LETTERS)
    assert coverage == 1.0 and here.tolist() == list(range(7))
    for mine, other in zip(here, there, strict=True):
        assert WORDS.span[WORDS.rows[mine], 1] == LETTERS.span[LETTERS.rows[other], 1]
        assert WORDS.document[WORDS.rows[mine]] == LETTERS.document[LETTERS.rows[other]]
    back, forth, share = LETTERS.align(WORDS)
    assert sorted(zip(forth, back, strict=True)) == sorted(zip(here, there, strict=True)) and share == pytest.approx(7 / 19)


def test_alignment_goes_by_the_text_not_by_the_number() -> None:
    swapped = cut(DOCUMENTS[::-1], [list("naïve 🙂!"), list("the cat sat")])
    here, there, coverage = WORDS.align(swapped)
    assert coverage == 1.0
    assert all(swapped.documents[swapped.document[swapped.rows[row]]].name == "a" for row in there[:3]) and here.tolist() == list(range(7))


def test_alignment_of_strangers_is_empty() -> None:
    stranger = cut([Document("other")], [["oth", "er"]])
    here, there, coverage = WORDS.align(stranger)
    assert len(here) == len(there) == 0 and coverage == 0.0


def test_concatenation_is_the_inverse_of_cutting() -> None:
    joined = concatenate([WORDS.sequences(0, 1), WORDS.sequences(1, 2)])
    for name in ("ids", "starts", "document", "position", "span", "is_special", "is_row"):
        assert (getattr(joined, name) == getattr(WORDS, name)).all(), name
    assert joined.documents is WORDS.documents and joined.pad_id == 99


def test_nothing_cannot_be_concatenated() -> None:
    with pytest.raises(InputError, match="at least one"):
        concatenate([])


def test_arrays_must_fit_together() -> None:
    one = np.zeros(1, int)
    with pytest.raises(ShapeError, match=r"Tokens\.span has 2 entries for 1 ids"):
        Tokens(one, np.array([0, 1]), one, one, np.zeros((2, 2), int), one > 0, one > 0)
    with pytest.raises(ShapeError, match="must end with the number of tokens, 1"):
        Tokens(one, np.array([0, 3]), one, one, np.zeros((1, 2), int), one > 0, one > 0)


def test_empty_tokens_are_allowed() -> None:
    none, flags = np.zeros(0, np.int64), np.zeros(0, bool)
    empty = Tokens(none, np.zeros(1, np.int64), none, none, np.zeros((0, 2), np.int64), flags, flags)
    assert empty.padded()[0].shape == (0, 0) and empty.n_rows == 0 and empty.align(WORDS)[2] == 0.0


def test_a_document_knows_its_bytes_and_hash() -> None:
    document = Document("ü", labels={"kind": "letter"})
    assert document.data == b"\xc3\xbc" and len(document.sha256) == 64 and document.sha256 != Document("u").sha256


def test_equal_texts_are_aligned_one_by_one() -> None:
    document = np.array([0, 0, 1, 1])
    span = np.array([[0, 1], [1, 2], [0, 1], [1, 2]])
    flags = np.zeros(4, bool)
    twice = Tokens(
        np.arange(4), np.array([0, 2, 4]), document, np.array([0, 1, 0, 1]), span, flags, ~flags, (Document("ab"), Document("ab"))
    )
    mine, theirs, share = twice.align(twice)
    assert mine.tolist() == theirs.tolist() == [0, 1, 2, 3] and share == 1.0
