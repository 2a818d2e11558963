"""MIB's indirect objects (Mueller et al. 2025, arXiv 2504.13151): of two names one is said again, and the other is to follow.

    {"prompt": "... Mary and John ... John gave ... to", "choices": ["Mary", "John"], "answerKey": 0, "template": "...",
     "s2_io_flip_counterfactual": {prompt, choices, answerKey}, ...}

Where the names stand is read from the prompts. Sources in which no name is said twice ("abc") have no answer, and no pair is made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from armillary.core.task import Pair, Prompt
from armillary.errors import InputError
from armillary.tasks import ioi
from armillary.tasks.causal import interchanged
from armillary.tasks.reading import Loose, checked, counterfactuals
from armillary.tasks.wording import Span, continuation

POSITIONS = ioi.POSITIONS


class _Sentence(Loose):
    prompt: str = Field(min_length=1)
    choices: list[str] = Field(min_length=2)
    answerKey: int = Field(ge=0)


def pairs(row: dict[str, Any], where: str) -> Iterator[Pair]:
    """A row's pairs, for the place and the name of the indirect object.

    Raises:
        InputError: a field that does not fit.
    """
    template = str(row.get("template") or "")
    base = _prompt(row, where, template)
    if base is None:
        return
    model = ioi.causal_model()
    for column, given in counterfactuals(row).items():
        source = _prompt(given, f"{where}, field {column}", template)
        if source is not None:
            for variable in ioi.VARIABLES:
                expected = interchanged(model, _inputs(base), _inputs(source), variable)
                yield Pair(base, source, variable, continuation(base.text, expected), column.removesuffix("_counterfactual"))


def _inputs(prompt: Prompt) -> dict[str, str]:
    return {name: prompt.values[name] for name in ("A", "B", "C")}


def _prompt(row: object, where: str, template: str) -> Prompt | None:
    """A sentence, or None where it is not one of two names of which one is said twice."""
    record = checked(_Sentence, row, where)
    if record.answerKey >= len(record.choices):
        raise InputError(f"{where}, field answerKey: there is no choice {record.answerKey}; there are {len(record.choices)}, from 0")
    said = [(at, name) for name in dict.fromkeys(record.choices) for at in _places(record.prompt, name)]
    said.sort()
    if len(said) != 3 or len({name for _, name in said[:2]}) != 2:
        return None
    values = ioi.causal_model().run(dict(zip("ABC", (name for _, name in said), strict=True)))
    if values["io_token"] != record.choices[record.answerKey]:
        return None
    subject, indirect = (0, 1) if values["C"] == values["A"] else (1, 0)
    spans = {"subject": said[subject][0], "subject_again": said[2][0], "indirect_object": said[indirect][0]}
    groups = {"names": ", ".join(sorted((values["A"], values["B"])))} | ({"template": template} if template else {})
    return Prompt(record.prompt, continuation(record.prompt, values["io_token"]), values, spans, groups)


def _places(text: str, name: str) -> list[Span]:
    """Bytes of a name wherever it stands as a word."""
    found = re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    return [(len(text[: one.start()].encode()), len(text[: one.end()].encode())) for one in found]
