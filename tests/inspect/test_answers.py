"""What is read from answers of judges that reason, refuse, introduce, mark up or go on."""

from __future__ import annotations

import pytest

from armillary.inspect.answers import first_line, parse_label, parse_yes_no, spoken, unbroken, verdict

CITIES = "names of cities"


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("yes", "yes"),
        ("<think>\nno\n</think>\n\nyes", "yes"),
        ("<THINKING>no</THINKING>yes", "yes"),
        ("[THINK]no[/THINK]\nyes", "yes"),
        ("It may be.\n</think>\n\nyes", "yes"),
        ("<think>it says </think> somewhere", "somewhere"),
        ("<think>\nno, or", None),
        ("the closing </think> tag", "the closing </think> tag"),  # a label of models that reason
        ("tags such as <think>", "tags such as <think>"),
    ],
)
def test_reasoning_is_no_part_of_an_answer(answer: str, left: str | None) -> None:
    assert spoken(answer) == left


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>\nPhrase: beasts?\n</think>\n\n{CITIES}",
        f"Sure! Here is the phrase:\n\n{CITIES}",
        f"Here's a short phrase: {CITIES}",
        f"**Phrase:** {CITIES}.",
        f"They are all capitals.\nLabel: capitals\n\nBetter:\nLabel: {CITIES}",
        f"Looking at the excerpts, I find:\n- {CITIES}",
        f"```\n{CITIES}\n```",
        f"“{CITIES}.”",
        f"{CITIES}\nThey are in Europe:",
    ],
)
def test_a_label_is_found_in_what_stands_around_it(answer: str) -> None:
    assert parse_label(answer) == (CITIES, "")


@pytest.mark.parametrize(
    "label",
    [
        "apologies such as 'I'm sorry'", "\"I can't\" and other negations", 'words before ":"', "uses of `self`", '"a" and "b"',
        "unclear antecedents", "the word nothing", "colons:",
    ],
)  # fmt: skip
def test_a_label_may_be_about_what_else_would_be_none(label: str) -> None:
    assert parse_label(label) == (label, "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I’m sorry, but I can’t help with that.", "refused"), ("Sorry, but no.", "refused"),
        ("I can’t say.", "refused"), ("I won't label this.", "refused"), ("As a language model I cannot rate this.", "refused"),
        ("Unclear - they differ", "nothing in common"),
        ("Unclear: no pattern", "nothing in common"), ("They have nothing in common.", "nothing in common"),
        ("<think>\nThey are", "reasoning did not come to an end"), ("<think>\nhm\n</think>\n", "gave no label"),
        ("```\n```", "gave no label"), ("Here is the phrase:", "gave no label"), ("**Label:**", "gave no label"),
        ("Sure, here is the phrase:", "gave no label"), ("Phrase:\n\n", "gave no label"),
    ],
)  # fmt: skip
def test_what_says_that_there_is_no_label_is_none(answer: str, reason: str) -> None:
    text, why = parse_label(answer)
    assert text is None and reason in why


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("It speaks of Paris.\n\nYes.", True), ("**No**", False), ("Answer: yes", True), ("**Answer:** no", False),
        ("<think>\nyes\n</think>\n\nno", False), ("No\n\nThere is no city in it.", False), ("Yes!", True),
        ("yes\nno", None), ("Yes, as it speaks of Paris.", None), ("<think>\nyes", None), ("It says yes", None), ("Sorry.", None),
    ],
)  # fmt: skip
def test_a_verdict_has_a_line_to_itself(answer: str, said: bool | None) -> None:
    assert parse_yes_no(answer) is said


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("names of ci", None), ("cities", None), ("yes", "yes"), ("**No**", "**No**"), ("Answer: 2", "Answer: 2"), ("12", None),
        ("names of cities\n", "names of cities"),
        ("names of cities\nin Eu", "names of cities\nin Eu"),  # of a label the first line is read
        ("It speaks of Paris.\nYes", "It speaks of Paris."),
        ("yes\nNo", "yes"),
        ("Label: capitals\nBetter:\nLabel: names of ci", "Label: capitals\nBetter:"),
        ("Here is the phrase:\nnames of ci", None), ("I find:\nnames of ci", None), ("Phrase:\n", None), ("Answer:\nyes", "Answer:\nyes"),
        ("<think>\nhm\n</think>\nnames of ci", None), ("<think>\nhm", None), ("<think>\nhm\n</think>\nyes", "yes"), ("", None),
    ],
)  # fmt: skip
def test_of_an_answer_that_broke_off_complete_lines_are_read(answer: str, left: str | None) -> None:
    assert unbroken(answer) == left


def test_an_introduction_is_no_first_line_where_another_follows() -> None:
    assert first_line("Sure! Here is it:\n\n names\nmore") == "names" and first_line("Phrase:") == "Phrase:" and first_line("") == ""


def test_only_one_verdict_counts() -> None:
    digits = ("0", "1", "2")
    assert verdict("It reads well.\n2", digits) == verdict("2\nIt reads well.\n2.", digits) == "2"
    assert verdict("0\n1\n2", digits) is verdict("", digits) is verdict("2/2", digits) is verdict(None, digits) is None
