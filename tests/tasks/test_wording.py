"""Spans are bytes of the text, whatever characters stand in it; answers follow with a space where one belongs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armillary.errors import InputError
from armillary.tasks.wording import continuation, filled, require

TEXTS = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(TEXTS, min_size=3, max_size=3), TEXTS, TEXTS)
def test_spans_are_where_the_words_stand(between: list[str], x: str, y: str) -> None:
    text, spans = filled(between[0] + "{x}" + between[1] + "{y}" + between[2] + "{x}", {"x": x, "y": y})
    data = text.encode()
    assert [data[start:end].decode() for start, end in spans["x"]] == [x, x]
    assert [data[start:end].decode() for start, end in spans["y"]] == [y]
    assert text == f"{between[0]}{x}{between[1]}{y}{between[2]}{x}"


def test_other_braces_stay_and_words_are_not_read_again() -> None:
    text, spans = filled('{"city": "{x}", {y}', {"x": "{y}", "y": "Rome"})
    assert text == '{"city": "{y}", Rome'
    assert spans == {"x": [(10, 13)], "y": [(16, 20)]}


def test_a_place_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"the question 'What\?' has no place for \{a\} and \{b\}"):
        require("the question", "What?", ("a", "b"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is", " Paris"),
        ("Answer:", " Paris"),
        ("Answer: ", "Paris"),
        ("Line\n", "Paris"),
        ('[{"city": "Rome", "lang": "', "Paris"),
        ('The city called "Rome"', " Paris"),
        ("country=", "Paris"),
        ("(", "Paris"),
        ("It's in Reims'", " Paris"),
        ("", "Paris"),
    ],
)
def test_answers_follow_texts(text: str, answer: str) -> None:
    assert continuation(text, "Paris") == answer
    assert continuation(text, "") == ""
