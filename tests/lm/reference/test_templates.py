"""Wordings: enough of them, well formed, and the held-out ones kept out of all training text."""

from __future__ import annotations

import re

import pytest

from armillary.lm.reference import templates
from armillary.lm.reference.corpus import world_documents
from armillary.lm.reference.world import World

NAME = r"[\w' -]{2,30}?"  # any entity or value


def test_every_attribute_has_wordings() -> None:
    assert set(templates.attributes()) == set(World.default().attributes)


@pytest.mark.parametrize("attribute", World.default().attributes)
def test_wordings_are_many_and_well_formed(attribute: str) -> None:
    questions, statements = (templates.frames(attribute, form, "seen") for form in ("question", "statement"))
    assert len(questions) * len(templates.wrappers()) > 1000
    assert len(statements) * len(templates.leads()) > 500
    assert all("{x}" in frame and "{y}" not in frame for frame in questions)
    assert all("{x}" in frame and frame.endswith("{y}") for frame in statements)
    assert all("{x}" in frame and "{y}" in frame for frame in templates.frames(attribute, "reverse", "seen"))


@pytest.mark.parametrize("attribute", World.default().attributes)
def test_splits_do_not_meet(attribute: str) -> None:
    for form in ("question", "statement", "reverse"):
        seen, held_out = (set(templates.frames(attribute, form, split)) for split in templates.SPLITS)
        assert held_out and not seen & held_out


@pytest.mark.slow
def test_held_out_wordings_never_occur_in_training_text() -> None:
    text = "\n".join(document.text.lower() for document in world_documents(11, 4000))
    assert _pattern("Which city is the capital of {x}?").search(text)  # the search finds what is there
    for attribute in World.default().attributes:
        for form in ("question", "statement", "reverse"):
            for frame in templates.frames(attribute, form, "held_out"):
                found = _pattern(frame).search(text)
                assert found is None, f"{frame!r} of {attribute} occurs as {found and found.group(0)!r}"


def _pattern(frame: str) -> re.Pattern[str]:
    escaped = re.escape(frame.lower()).replace(re.escape("{the}"), "(the )?")
    return re.compile(escaped.replace(re.escape("{x}"), NAME).replace(re.escape("{y}"), NAME))


def test_held_out_layouts_and_openings_never_occur_in_training_text() -> None:
    text = "\n".join(document.text for document in world_documents(12, 2000))
    openings = [wrapper.split("{q}")[0] for wrapper in templates.wrappers("held_out")] + list(templates.leads("held_out"))
    assert openings and not [opening for opening in openings if opening in text]


@pytest.mark.parametrize(
    ("lead", "frame", "expected"),
    [
        ("In fact,", "Remember that {x}", "In fact, remember that {x}"),
        ("In fact,", "I know {x}", "In fact, I know {x}"),
        ("In fact,", "{x} is", "In fact, {x} is"),
        ("Remember:", "In {x}", "Remember: In {x}"),
    ],
)
def test_a_lead_in_lowers_the_next_word_after_a_comma(lead: str, frame: str, expected: str) -> None:
    assert templates.led(lead, frame) == expected


def test_fill_capitalises_and_keeps_the_rest() -> None:
    assert templates.fill("the money of {x} is {the}{y}", "Japan", "yen", "the ") == "The money of Japan is the yen"
