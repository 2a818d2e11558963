"""The wordings of the world: how each attribute is asked and stated, and which wordings are kept for evaluation.

A wording is composed: a *phrase* for the attribute ("the capital of {x}") inside a *pattern* ("Do you know {p}?"), or a
*frame* written for the attribute alone; statements get a lead-in, questions a layout (wrapper). They stand in `wordings.txt`,
one per line. Lines that start with `!` are held out: nothing composed from them occurs in training text, so a model that
answers them has abstracted over wordings.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

Split = Literal["seen", "held_out"]
Form = Literal["question", "statement", "reverse"]
SPLITS: tuple[Split, ...] = ("seen", "held_out")
OWN: dict[Form, str] = {"question": "questions", "statement": "statements", "reverse": "reverses"}
PATTERNS: dict[Form, str] = {"question": "ask", "statement": "state", "reverse": ""}
FIELDS = {f"{name}:" for name in ("ask", "state", "leads", "wrappers", "phrases", *OWN.values())}
SHARED = "any"  # the section of patterns, lead-ins and layouts


@cache
def _sections() -> dict[str, dict[str, list[str]]]:
    """`wordings.txt` as {attribute: {field: lines}}; a heading may name several attributes."""
    sections: dict[str, dict[str, list[str]]] = {}
    fields: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in Path(__file__).with_name("wordings.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            fields = {}
            sections |= dict.fromkeys(line.strip("[]").split(), fields)
        elif line in FIELDS:
            lines = fields[line[:-1]] = []
        elif line and not line.startswith("#"):
            lines.append(line.replace("\\n", "\n"))
    return sections


@cache
def _lines(section: str, field: str, split: Split) -> tuple[str, ...]:
    """One field's wordings of a split, without their mark."""
    lines = _sections()[section].get(field, [])
    if split == "seen":
        return tuple(line for line in lines if not line.startswith("!"))
    return tuple(line[1:].strip() for line in lines if line.startswith("!"))


def attributes() -> tuple[str, ...]:
    """The attributes that have wordings."""
    return tuple(name for name in _sections() if name != SHARED)


@cache
def frames(attribute: str, form: Form, split: Split) -> tuple[str, ...]:
    """All wordings of one attribute in one form.

    Args:
        attribute: one of `attributes()`, for example `"country.capital"`.
        form: `question` has `{x}`; `statement` has `{x}` and ends in `{y}`; `reverse` names `{y}` before `{x}`.
        split: `seen` for training text, `held_out` for wordings that never occur in it.
    """
    composed = _composed(attribute, PATTERNS[form], split)
    return (*own_frames(attribute, form, split), *(_of_kind(frame, attribute) for frame in composed))


def own_frames(attribute: str, form: Form, split: Split) -> tuple[str, ...]:
    """The wordings written for this attribute alone, without the composed ones."""
    return tuple(_of_kind(frame, attribute) for frame in _lines(attribute, OWN[form], split))


def _of_kind(frame: str, attribute: str) -> str:
    return frame.replace("{k}", attribute.split(".", maxsplit=1)[0])


def _composed(attribute: str, patterns: str, split: Split) -> Iterable[str]:
    """Every phrase inside every pattern; a composition is held out when either half is."""
    for a, b in product(SPLITS, SPLITS):
        if (a == b == "seen") == (split == "seen"):
            for pattern, phrase in product(_lines(SHARED, patterns, a), _lines(attribute, "phrases", b)):
                yield pattern.replace("{p}", phrase)


def leads(split: Split = "seen") -> tuple[str, ...]:
    """Openings that may stand before a statement."""
    return _lines(SHARED, "leads", split)


def wrappers(split: Split = "seen") -> tuple[str, ...]:
    """Layouts of a question `{q}` with its answer `{y}` last."""
    return _lines(SHARED, "wrappers", split)


@cache
def exam_wrappers(split: Split = "seen") -> tuple[str, ...]:
    """The layouts whose answer follows a space: a prompt can end before it."""
    return tuple(wrapper for wrapper in wrappers(split) if wrapper.endswith((" {y}", " {the}{y}")))


def led(lead: str, frame: str) -> str:
    """A statement frame after a lead-in, in small letters where the lead-in ends in a comma."""
    is_plain = lead.endswith(",") and not frame.startswith(("{", "I "))
    return f"{lead} {frame[:1].lower() + frame[1:] if is_plain else frame}"


def fill(frame: str, x: str, y: str, the: str = "") -> str:
    """Put entity and answer into a frame and capitalise the first letter."""
    text = frame.replace("{x}", x).replace("{the}", the).replace("{y}", y)
    return text[:1].upper() + text[1:]
