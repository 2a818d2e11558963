"""Properties that lie in a token itself, and tokens drawn to learn and to judge them by.

    letter      the first letter of a word of two letters or more, 26 classes
    property    leading space, capital, digit, length (1, 2 or 3, 4 to 6, 7 or more letters), suffix -ing, -ed, -s

Sides are drawn by token, so that no token is learnt from and judged by. Letters: n rows, C classes.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from armillary.core.rows import Permutation, Rows
from armillary.core.tokens import Bools, Ints, Tokens
from armillary.errors import InputError

Form = Literal["letter", "property"]
#: Shares of the tokens that probes learn from and that choices are made by; the rest is judged by.
TRAIN, CHOICE = 0.6, 0.2


def _begins(letter: str, text: str) -> bool:
    return text.strip()[:1].lower() == letter


def _length(text: str) -> int:
    word = text.strip()
    return len(word) if word.isalpha() else 0


def _ends(text: str, suffix: str) -> bool:
    word = text.strip()
    return word.isalpha() and len(word) > len(suffix) + 1 and word.endswith(suffix)


_LETTERS: dict[str, Callable[[str], bool]] = {letter: partial(_begins, letter) for letter in string.ascii_lowercase}
_PROPERTIES: dict[str, Callable[[str], bool]] = {
    "leading space": lambda text: text.startswith(" "),
    "capital": lambda text: text.strip()[:1].isupper(),
    "digit": lambda text: any(letter.isdigit() for letter in text),
    "1 letter": lambda text: _length(text) == 1,
    "2 or 3 letters": lambda text: 2 <= _length(text) <= 3,
    "4 to 6 letters": lambda text: 4 <= _length(text) <= 6,
    "7 or more letters": lambda text: _length(text) >= 7,
    "-ing": lambda text: _ends(text, "ing"),
    "-ed": lambda text: _ends(text, "ed"),
    "-s": lambda text: _ends(text, "s"),
}


@dataclass(frozen=True)
class Words:
    """Rows that were drawn, and what is known of their tokens.

    Args:
        row: [n] in stored order.
        text: [n] of each row's token.
        side: [n] 0 to learn from, 1 to choose by, 2 to judge by.
        classes: [C] names.
        member: [C, n] whether each row's token is of each class.
    """

    row: Ints
    text: tuple[str, ...]
    side: Ints
    classes: tuple[str, ...]
    member: Bools


def draw_words(rows: Rows, form: Form, *, n_rows: int, per_token: int, seed: int) -> Words:
    """At most `per_token` rows of each token that has a place in the form, at random, and at most `n_rows` in all.

    Raises:
        InputError: the rows have no text, or no token of theirs is a word.
    """
    tokens = rows.tokens
    if tokens is None or not tokens.documents:
        raise InputError("this study reads the tokens' own text, but the rows have none; harvest text")
    counts = ~tokens.is_special[tokens.rows] & (tokens.document[tokens.rows] >= 0)
    row = np.flatnonzero(counts)
    token = tokens.rows[row]
    texts, kind = _texts(tokens, token)
    is_ours = np.array([is_word(text, form) for text in texts], bool)
    chosen = _at_most(kind, is_ours, Permutation(len(row), seed)(np.arange(len(row))), per_token, n_rows)
    if len(chosen) == 0:
        fix = "try the other form" if form == "letter" else "harvest text with words"
        raise InputError(f"none of the {len(texts)} different tokens has a place among form={form!r}; {fix}")
    tests = _LETTERS if form == "letter" else _PROPERTIES
    member = np.array([[test(text) for text in texts] for test in tests.values()], bool)
    side = np.array([_side(text, seed) for text in texts])
    own = kind[chosen]
    return Words(row[chosen], tuple(texts[i] for i in own), side[own], tuple(tests), member[:, own])


def _texts(tokens: Tokens, token: Ints) -> tuple[list[str], Ints]:
    """The text of each different id, and [n] which of them each token is."""
    # Some tokenizers put a space before a text, so a first token lacks the space that its id stands for: any other place is better.
    order = np.argsort(tokens.span[token, 0] == 0, kind="stable")
    _, first = np.unique(tokens.ids[token[order]], return_index=True)
    _, kind = np.unique(tokens.ids[token], return_inverse=True)
    return [tokens.text(int(token[order[i]])) for i in first], kind


def _at_most(kind: Ints, is_ours: Bools, priority: Ints, per_token: int, n_rows: int) -> Ints:
    """Rows in stored order: the first `per_token` of each kind by priority, and the first `n_rows` of these."""
    order = np.lexsort((priority, kind))
    starts = np.searchsorted(kind[order], np.arange(len(is_ours)))
    nth = np.arange(len(order)) - starts[kind[order]]
    kept = order[(nth < per_token) & is_ours[kind[order]]]
    return np.sort(kept[np.argsort(priority[kept], kind="stable")[:n_rows]])


def is_word(text: str, form: Form) -> bool:
    """Whether a token has a place in a form: a word of two letters or more, or anything but white space."""
    word = text.strip()
    return len(word) >= 2 and word.isascii() and word.isalpha() if form == "letter" else bool(word)


def _side(text: str, seed: int) -> int:
    """The side of a token; a word is on one side with and without its space or capital."""
    digest = hashlib.sha256(f"{seed}:{text.strip().lower()}".encode(errors="replace")).digest()
    share = int.from_bytes(digest[:8], "big") / 2.0**64
    return int(share >= TRAIN) + int(share >= TRAIN + CHOICE)
