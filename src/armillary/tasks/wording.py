"""Words put into templates, with the bytes where they came to stand; and whether an answer starts with a space."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from armillary.errors import InputError

#: Bytes [start, end) of a UTF-8 text.
Span = tuple[int, int]
Spans = dict[str, list[Span]]
#: After these a word stands without a space.
_OPENING = "([{/="
_QUOTES = "\"'`"


def filled(template: str, words: Mapping[str, str]) -> tuple[str, Spans]:
    """A template with each `{name}` replaced by its word, and the byte spans of each name from left to right.

    Braces around anything else stay as they are, so templates may hold JSON.
    """
    text, spans, done = "", dict[str, list[Span]](), 0
    for found in re.finditer("|".join(re.escape(f"{{{name}}}") for name in words), template):
        text += template[done : found.start()]
        name, start = found.group()[1:-1], len(text.encode())
        text += words[name]
        spans.setdefault(name, []).append((start, len(text.encode())))
        done = found.end()
    return text + template[done:], spans


def require(what: str, template: str, names: Iterable[str]) -> None:
    """Stop when a template lacks one of the places it needs.

    Raises:
        InputError: which place is missing.
    """
    missing = [f"{{{name}}}" for name in names if f"{{{name}}}" not in template]
    if missing:
        raise InputError(f"{what} {template!r} has no place for {' and '.join(missing)}")


def continuation(text: str, answer: str) -> str:
    """An answer as it follows a text: after a space, but for a text that ends in one, in an opened quote or an opened bracket."""
    return answer if _is_open(text) or not answer else f" {answer}"


def _is_open(text: str) -> bool:
    last, before = text[-1:], text[-2:-1]
    if last in _QUOTES:  # a quote opens where no word stands before it
        return before == "" or before.isspace() or before in _OPENING or before in ":,"
    return last == "" or last.isspace() or last in _OPENING
