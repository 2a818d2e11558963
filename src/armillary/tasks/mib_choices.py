"""MIB's questions with lettered options: coloured things and ARC (Mueller et al. 2025, arXiv 2504.13151).

    {"prompt": "...\\nA. red\\nB. blue\\nAnswer:", "choices": {"label": ["A", "B"], "text": ["red", "blue"]}, "answerKey": 1,
     "answerPosition_counterfactual": {prompt, choices, answerKey}, ...}

The answer key is the place of the right option, from 0. Every field that ends in "_counterfactual" is a source; labels may be numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from armillary.core.task import Pair, Prompt
from armillary.errors import InputError
from armillary.tasks import mcqa
from armillary.tasks.causal import interchanged
from armillary.tasks.reading import Loose, checked, counterfactuals
from armillary.tasks.wording import continuation

#: MIB's counterfactuals by our names; others are called as there.
KINDS = {
    "answerPosition_counterfactual": "position",
    "randomLetter_counterfactual": "letters",
    "answerPosition_randomLetter_counterfactual": "both",
}
POSITIONS = mcqa.POSITIONS


class _Choices(Loose):
    label: list[str | int] = Field(min_length=2)
    text: list[str] = Field(min_length=2)


class _Question(Loose):
    prompt: str = Field(min_length=1)
    choices: _Choices
    answerKey: int = Field(ge=0)


def pairs(row: dict[str, Any], where: str) -> Iterator[Pair]:
    """A row's pairs, for both variables.

    Raises:
        InputError: a field that does not fit.
    """
    base = _question(row, where)
    found = counterfactuals(row)
    if not found:
        raise InputError(f"{where} has none of the fields {', '.join(KINDS)}")
    for column, given in found.items():
        source = _question(given, f"{where}, field {column}")
        yield from _answered(base, source, KINDS.get(column, column.removesuffix("_counterfactual")), where)


def _answered(base: Prompt, source: Prompt, kind: str, where: str) -> Iterator[Pair]:
    n_options = sum(name.startswith("choice") for name in base.values)
    if n_options != sum(name.startswith("choice") for name in source.values):
        raise InputError(f"{where}: the question has {n_options} choices, its counterfactual of kind {kind!r} has another number")
    model = mcqa.causal_model(n_options)
    for variable in mcqa.VARIABLES:
        expected = interchanged(model, _without(base, model.mechanisms), _without(source, model.mechanisms), variable)
        yield Pair(base, source, variable, continuation(base.text, expected), kind)


def _without(prompt: Prompt, names: Iterable[str]) -> dict[str, str]:
    return {name: value for name, value in prompt.values.items() if name not in names}


def _question(row: object, where: str) -> Prompt:
    record = checked(_Question, row, where)
    labels, texts, place = [str(label) for label in record.choices.label], record.choices.text, record.answerKey
    if not len(set(labels)) == len(labels) == len(texts) == len(set(texts)):
        raise InputError(f"{where}, field choices: as many different labels as different texts are needed, got {labels} and {texts}")
    if place >= len(labels):
        raise InputError(f"{where}, field answerKey: there is no choice {place}; there are {len(labels)}, counted from 0")
    options = [_option(record.prompt, label, text, where) for label, text in zip(labels, texts, strict=True)]
    stem = record.prompt[: min(start for start, _ in options)].strip()
    values = mcqa.causal_model(len(labels)).run({"value": texts[place], **mcqa.options(texts, labels)})
    span = (len(record.prompt[: options[place][0]].encode()), len(record.prompt[: options[place][1]].encode()))
    return Prompt(record.prompt, continuation(record.prompt, labels[place]), values, {"symbol": span}, {"question": stem})


def _option(prompt: str, label: str, text: str, where: str) -> tuple[int, int]:
    """Characters [start, end) of a choice's label: where the choice's text follows it, since a letter may be a word of the question too."""
    found = [match.span(1) for match in re.finditer(rf"(?<!\w)({re.escape(label)})\W{{1,3}}{re.escape(text)}(?!\w)", prompt)]
    if len(found) != 1:
        raise InputError(
            f"{where}, field prompt: {label!r} with {text!r} must stand in it once, and does so {len(found)} times: {prompt!r}"
        )
    return found[0]
