"""MIB's sums (Mueller et al. 2025, arXiv 2504.13151): does the ones' column carry into the tens?

    {"prompt": "The sum of 17 and 25 is", "operand1": 17, "operand2": 25, "operator": "+", "label": "42", "template": "...",
     "ones_carry_counterfactual": {prompt, operand1, operand2, label}, ...}

The small models that ship with the package cannot add; larger ones can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from armillary.core.task import LAST, CausalModel, Pair, Prompt
from armillary.errors import InputError
from armillary.tasks.causal import interchanged
from armillary.tasks.reading import Loose, checked, counterfactuals
from armillary.tasks.wording import Span, continuation

POSITIONS = ("operand1", "operand2", LAST)
VARIABLE = "ones_carry"


class _Sum(Loose):
    prompt: str = Field(min_length=1)
    operand1: int = Field(ge=0)
    operand2: int = Field(ge=0)
    label: str | int
    operator: str = "+"


def causal_model() -> CausalModel:
    """Inputs `operand1` and `operand2`; the carry of the ones, and the sum that has it."""
    return CausalModel(
        {
            VARIABLE: lambda operand1, operand2: str(int(int(operand1) % 10 + int(operand2) % 10 >= 10)),
            "sum": lambda operand1, operand2, ones_carry: str(_sum(int(operand1), int(operand2), int(ones_carry))),
        },
        "sum",
    )


def _sum(a: int, b: int, carry: int) -> int:
    return 10 * (a // 10 + b // 10 + carry) + (a + b) % 10


def pairs(row: dict[str, Any], where: str) -> Iterator[Pair]:
    """A row's pairs, for the carry.

    Raises:
        InputError: a field that does not fit.
    """
    base, model = _prompt(row, where), causal_model()
    for column, given in counterfactuals(row).items():
        source = _prompt(given, f"{where}, field {column}")
        expected = interchanged(model, _inputs(base), _inputs(source), VARIABLE)
        yield Pair(base, source, VARIABLE, continuation(base.text, expected), column.removesuffix("_counterfactual"))


def _inputs(prompt: Prompt) -> dict[str, str]:
    return {name: prompt.values[name] for name in ("operand1", "operand2")}


def _prompt(row: object, where: str) -> Prompt:
    record = checked(_Sum, row, where)
    if record.operator != "+" or str(record.label).strip() != str(record.operand1 + record.operand2):
        told = f"{record.operand1} {record.operator} {record.operand2} = {str(record.label).strip()}"
        raise InputError(f"{where}: only right sums are read, got {told}")
    values = causal_model().run({"operand1": str(record.operand1), "operand2": str(record.operand2)})
    spans = _spans(record, where)
    return Prompt(
        record.prompt, continuation(record.prompt, values["sum"]), values, spans, {"sum": f"{record.operand1} + {record.operand2}"}
    )


def _spans(record: _Sum, where: str) -> dict[str, Span]:
    """Bytes of the operands, which stand in their order."""
    numbers = rf".*(?<!\d)({record.operand1})(?!\d).*?(?<!\d)({record.operand2})(?!\d)"  # the last place: before it may stand examples
    found = re.match(numbers, record.prompt, re.DOTALL)
    if found is None:
        raise InputError(f"{where}, field prompt: {record.operand1} and then {record.operand2} must stand in it: {record.prompt!r}")
    places = {"operand1": found.span(1), "operand2": found.span(2)}
    return {name: (len(record.prompt[:low].encode()), len(record.prompt[:high].encode())) for name, (low, high) in places.items()}
