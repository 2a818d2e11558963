"""A task as one JSON file, so that people bring tasks of their own; `docs/tasks.md` describes it.

Prompts are listed once; pairs name them by their place in the list.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from armillary.core.artifact import refuse_existing, write_atomic
from armillary.core.task import LAST, Pair, Prompt, Task
from armillary.errors import InputError, MismatchError, unknown
from armillary.tasks.reading import Strict, checked, json_of

SCHEMA = "armillary.task/1"
_POSITION = re.compile(r"(?P<span>[^+]+)(\+\d+)?")


class _PromptRecord(Strict):
    text: str = Field(min_length=1)
    answer: str = ""
    values: dict[str, str] = Field(default_factory=dict)
    spans: dict[str, tuple[int, int] | str] = Field(default_factory=dict)
    groups: dict[str, str] = Field(default_factory=dict)


class _PairRecord(Strict):
    base: int = Field(ge=0)
    source: int = Field(ge=0)
    variable: str = Field(min_length=1)
    expected: str = Field(min_length=1)
    kind: str = Field(min_length=1)


class _TaskRecord(Strict):
    schema_: str = Field(alias="schema")
    name: str = Field(min_length=1)
    note: str = ""
    positions: list[str] = Field(default=[LAST], min_length=1)
    prompts: list[_PromptRecord]
    train: list[_PairRecord]
    test: list[_PairRecord] = Field(min_length=1)


def save(task: Task, path: str | os.PathLike[str]) -> Path:
    """Write a task; the file must not exist.

    Raises:
        OutputExistsError: it does.
    """
    target = Path(path)
    refuse_existing(target)
    write_atomic(target, (json.dumps(to_json(task), ensure_ascii=False, indent=1) + "\n").encode())
    return target


def load(path: str | os.PathLike[str]) -> Task:
    """Read a task.

    Raises:
        InputError: no such file, or a field that is missing, not known or wrong.
        MismatchError: a file of another schema.
        UnknownNameError: a position that is no span of the prompts.
    """
    return from_json(json_of(Path(path)), where=f"'{path}'")


def to_json(task: Task) -> dict[str, Any]:
    """A task as plain values."""
    prompts: dict[str, int] = {}
    halves = {half: [_pair_json(pair, prompts) for pair in getattr(task, half)] for half in ("train", "test")}
    head = {"schema": SCHEMA, "name": task.name, "note": task.note, "positions": list(task.positions)}
    return {**head, "prompts": [json.loads(prompt) for prompt in prompts], **halves}


def _pair_json(pair: Pair, prompts: dict[str, int]) -> dict[str, Any]:
    places = [prompts.setdefault(_prompt_json(prompt), len(prompts)) for prompt in (pair.base, pair.source)]
    return {"base": places[0], "source": places[1], "variable": pair.variable, "expected": pair.expected, "kind": pair.kind}


def _prompt_json(prompt: Prompt) -> str:
    spans = {name: list(span) for name, span in prompt.spans.items()}
    return json.dumps(
        {"text": prompt.text, "answer": prompt.answer, "values": dict(prompt.values), "spans": spans, "groups": dict(prompt.groups)}
    )


def from_json(value: object, *, where: str = "task") -> Task:
    """A task from plain values; errors as of `load`, naming the place after `where`."""
    found = value.get("schema") if isinstance(value, dict) else None
    if isinstance(found, str) and found != SCHEMA:
        raise MismatchError(f"{where} has the schema {found!r}; this version reads {SCHEMA!r}")
    record = checked(_TaskRecord, value, where)
    prompts = [_prompt(one, f"{where}, field prompts[{i}]") for i, one in enumerate(record.prompts)]
    train, test = (tuple(_pairs(getattr(record, half), prompts, f"{where}, field {half}")) for half in ("train", "test"))
    _check_positions(record.positions, (*train, *test), where)
    return Task(record.name, train, test, tuple(record.positions), record.note)


def _prompt(record: _PromptRecord, where: str) -> Prompt:
    spans = {name: _span(record.text, span, f"{where}.spans.{name}") for name, span in record.spans.items()}
    return Prompt(record.text, record.answer, record.values, spans, record.groups)


def _span(text: str, span: tuple[int, int] | str, where: str) -> tuple[int, int]:
    """Bytes [start, end), given as such or as the words that stand there."""
    data = text.encode()
    if isinstance(span, str):
        times = text.count(span) if span else 0
        if times != 1:
            raise InputError(f"{where}: {span!r} must stand in the text once, and does so {times} times; give its bytes")
        start = len(text[: text.index(span)].encode())
        return start, start + len(span.encode())
    start, end = span
    if not 0 <= start < end <= len(data):
        raise InputError(f"{where}: bytes [{start}, {end}) do not lie within the text's {len(data)} bytes")
    if any(at < len(data) and data[at] & 0xC0 == 0x80 for at in span):
        raise InputError(f"{where}: bytes [{start}, {end}) cut a character in two")
    return start, end


def _pairs(records: Iterable[_PairRecord], prompts: list[Prompt], where: str) -> Iterator[Pair]:
    for i, record in enumerate(records):
        for name in ("base", "source"):
            place = getattr(record, name)
            if place >= len(prompts):
                raise InputError(f"{where}[{i}].{name}: there is no prompt {place}; there are {len(prompts)}, counted from 0")
        base = prompts[record.base]
        if not base.answer:
            raise InputError(f"{where}[{i}].base: prompt {record.base} has no answer, so it can only be a source")
        yield Pair(base, prompts[record.source], record.variable, record.expected, record.kind)


def _check_positions(positions: Iterable[str], pairs: Iterable[Pair], where: str) -> None:
    prompts = [prompt for pair in pairs for prompt in (pair.base, pair.source)]
    for position in positions:
        match = _POSITION.fullmatch(position)
        if match is None:
            raise InputError(f"{where}, field positions: {position!r} must be a span's name, the same with '+1' or so, or {LAST!r}")
        name = match["span"]
        lacking = next((prompt for prompt in prompts if name != LAST and name not in prompt.spans), None)
        if lacking is not None:
            raise unknown(f"position of prompt {lacking.text[:60]!r} in {where}", position, [*lacking.spans, LAST])
