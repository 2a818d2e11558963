"""A task goes to JSON and comes back the same; whatever is wrong with a file is said with the field."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from armillary.core.task import Task
from armillary.errors import InputError, MismatchError, OutputExistsError, UnknownNameError
from armillary.tasks import entities, files, ioi, mcqa, recall
from armillary.tasks.entities import Half, Template

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
TINY: dict[str, Any] = {
    "schema": "armillary.task/1",
    "name": "colours",
    "positions": ["object", "object+1", "last"],
    "prompts": [
        {"text": "Die Tür ist", "answer": " rot", "spans": {"object": "Tür"}, "values": {"colour": "rot"}, "groups": {"object": "Tür"}},
        {"text": "Das Öl ist", "answer": " gelb", "spans": {"object": [4, 7]}},
        {"text": "Öl", "spans": {"object": [0, 3]}},
    ],
    "train": [],
    "test": [
        {"base": 0, "source": 1, "variable": "colour", "expected": " gelb", "kind": "cause"},
        {"base": 1, "source": 2, "variable": "colour", "expected": " gelb", "kind": "isolate:size"},
    ],
}


def made() -> list[Task]:
    things, colours = [f"thing {i} ü" for i in range(10)], ["red", "blue", "黄", "black", "white"]
    tables = {"colour": {thing: colours[i % 5] for i, thing in enumerate(things)}}
    halves = [Half(tuple(things[i::2]), (Template(f"{i} {{entity}} is", "colour"), Template(f"{i} a {{entity}}."))) for i in range(2)]
    small = {"n_train": 12, "n_test": 6}
    return [
        mcqa.task(things, colours, **small),
        ioi.task(**small),
        recall.task(things, colours, **small),
        entities.task(tables, *halves, **small, note="a note"),
    ]


@pytest.mark.parametrize("task", made(), ids=lambda task: task.name)
def test_a_task_comes_back_the_same(task: Task, tmp_path: Path) -> None:
    path = files.save(task, tmp_path / "task.json")
    assert files.load(path) == task
    assert files.from_json(json.loads(json.dumps(files.to_json(task)))) == task


def test_prompts_are_written_once_and_as_they_are_read(tmp_path: Path) -> None:
    task = mcqa.task([f"o{i}" for i in range(9)], ["red", "blue", "pink", "grey"], n_train=6, n_test=3)
    value = files.to_json(task)
    texts = [prompt["text"] for prompt in value["prompts"]]
    assert len(set(texts)) == len(texts) == len({prompt.text for pair in (*task.train, *task.test) for prompt in (pair.base, pair.source)})
    assert "黄" in files.save(files.from_json(made_of(note="黄")), tmp_path / "a.json").read_text(encoding="utf-8")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = files.save(files.from_json(TINY), tmp_path / "task.json")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError):
        files.save(made()[0], path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["task.json"]


def test_spans_are_bytes_or_words() -> None:
    task = files.from_json(TINY)
    first, second = task.test
    assert first.base.spans == {"object": (4, 8)} and first.base.text.encode()[4:8].decode() == "Tür"
    assert second.base.text.encode()[4:7].decode() == "Öl"
    assert (second.source.answer, second.kind, task.note, task.variables) == ("", "isolate:size", "", ("colour",))


def test_the_example_of_the_documentation_is_a_task() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    task = files.from_json(json.loads(example))
    assert task.train and task.test and task.positions == ("animal", "animal+1", "last")
    assert files.from_json(files.to_json(task)) == task


def made_of(**changes: Any) -> dict[str, Any]:
    """`TINY` with values put at places such as test__0__base; None takes them away."""
    value = copy.deepcopy(TINY)
    for where, new in changes.items():
        *path, last = [int(part) if part.isdigit() else part for part in where.split("__")]
        inner: Any = value
        for part in path:
            inner = inner[part]
        if new is None:
            del inner[last]
        else:
            inner[last] = new
    return value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, "field name is missing"),
        ({"test__0__base": None}, r"field test\[0\].base is missing"),
        ({"test__1__bse": 1}, r"field test\[1\].bse is not known"),
        ({"test__1__base": None, "test__1__bse": 1}, r"field test\[1\].bse is not known; base is missing there"),
        ({"test__0__base": "0"}, r"field test\[0\].base: should be a valid integer, got '0'"),
        ({"test__0__base": -1}, r"field test\[0\].base: should be greater than or equal to 0, got -1"),
        ({"test__0__source": 3}, r"field test\[0\].source: there is no prompt 3; there are 3, counted from 0"),
        ({"test__0__base": 2}, r"field test\[0\].base: prompt 2 has no answer, so it can only be a source"),
        ({"test__0__expected": ""}, r"field test\[0\].expected: String should have at least 1 character, got ''"),
        ({"test": []}, "field test: List should have at least 1 item"),
        ({"prompts__0__text": 3}, r"field prompts\[0\].text: should be a valid string, got 3"),
        ({"prompts__0__values__n": 3}, r"field prompts\[0\].values.n: should be a valid string, got 3"),
        ({"prompts__1__spans__object": [4, 40]}, r"prompts\[1\].spans.object: bytes \[4, 40\) do not lie within the text's 11 bytes"),
        ({"prompts__1__spans__object": [4, 4]}, r"bytes \[4, 4\) do not lie"),
        ({"prompts__1__spans__object": [5, 7]}, r"prompts\[1\].spans.object: bytes \[5, 7\) cut a character in two"),
        ({"prompts__1__spans__object": [4, 5]}, "cut a character in two"),
        ({"prompts__1__spans__object": "s"}, r"prompts\[1\].spans.object: 's' must stand in the text once, and does so 2 times"),
        ({"prompts__1__spans__object": ""}, "and does so 0 times"),
        ({"positions": ["object++"]}, r"field positions: 'object\+\+' must be a span's name"),
        ({"positions": []}, "field positions: List should have at least 1 item"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_its_field(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(made_of(**changes)), encoding="utf-8")
    with pytest.raises(InputError, match=rf"^'{re.escape(str(path))}', {'' if said.startswith('field') else '.*'}{said}"):
        files.load(path)


def test_positions_are_spans_of_all_prompts() -> None:
    with pytest.raises(UnknownNameError, match=r"position of prompt 'Die Tür ist' in task 'objet'. Did you mean 'object'\?"):
        files.from_json(made_of(positions=["last", "objet"]))


def test_another_schema_is_not_read() -> None:
    with pytest.raises(MismatchError, match=r"task has the schema 'armillary.task/2'; this version reads 'armillary.task/1'"):
        files.from_json(made_of(schema="armillary.task/2"))
    with pytest.raises(InputError, match="field schema is missing"):
        files.from_json(made_of(schema=None))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"schema": 1,\n "name"}', r"is not JSON: Expecting ':' delimiter \(line 2, column 8\)"),
        (b"", "is not JSON"),
        (b"[1]", r"field \(all of it\): should be an object, got \[1\]"),
        (b'"\xff"', r"is not UTF-8 \(byte 1\)"),
    ],
)
def test_files_that_are_none(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        files.load(path)
    with pytest.raises(InputError, match=r"'.*mien.json' does not exist; the nearest there is 'mine.json'"):
        files.load(tmp_path / "mien.json")
