"""MIB's rows become pairs whose answers are read again from their prompts; rows that do not fit are named by file, line and field."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from armillary.errors import CorruptFileError, InputError
from armillary.tasks import mib_files

COLOURS = ["red", "blue", "black", "white", "pink", "grün"]
LAND = {"Paris": ("Europe", "France", "French"), "Lyon": ("Europe", "France", "French"), "Tokyo": ("Asia", "Japan", "Japanese"),
        "Zürich": ("Europe", "Switzerland", "German"), "Lagos": ("Africa", "Nigeria", "English")}  # fmt: skip
ASKS = {"Continent": "Rome is in Europe. %s is in the continent", "Country": "%s lies in the country", "Language": "In %s they speak"}


def question(noun: str, choices: list[str], letters: list[str], place: int) -> dict[str, Any]:
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    prompt = f"A {noun} is {choices[place]}. What color is a {noun}?\n{listed}\nAnswer:"
    return {"prompt": prompt, "choices": {"label": letters, "text": choices}, "answerKey": place, "dataset": "unread"}


def lettered(i: int) -> dict[str, Any]:
    rng = random.Random(i)
    noun, choices = f"thing{i}", rng.sample(COLOURS, 4)
    swapped = [choices[1], choices[0], *choices[2:]]
    return {
        **question(noun, choices, ["A", "B", "C", "D"], 0),
        "answerPosition_counterfactual": question(noun, swapped, ["A", "B", "C", "D"], 1),
        "randomLetter_counterfactual": question(noun, choices, ["W", "A", "T", "Q"], 0),
        "answerPosition_randomLetter_counterfactual": question(noun, swapped, ["W", "A", "T", "Q"], 1),
        "noun_counterfactual": None,
    }


def fact(city: str, attribute: str) -> dict[str, Any]:
    template = ASKS.get(attribute, "Yesterday %s was")
    return {
        "prompt": template % city,
        "template": template,
        "entity": city,
        "attribute": attribute,
        **dict(zip(ASKS, LAND[city], strict=True)),
    }


def facts() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            **fact(city, attribute),
            "attribute_counterfactual": fact(rng.choice(list(LAND)), rng.choice(list(ASKS))),
            "wikipedia_counterfactual": fact(rng.choice(list(LAND)), "wikipedia"),
        }
        for city in LAND
        for attribute in ASKS
    ]


def write(folder: Path, *, parquet: bool = False, **sides: list[dict[str, Any]]) -> Path:
    for side, rows in sides.items():
        if parquet:
            pq.write_table(pyarrow.Table.from_pylist(rows), folder / f"{side}-00000-of-00001.parquet")
        else:
            (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize("parquet", [False, True])
def test_multiple_choice(parquet: bool, tmp_path: Path) -> None:
    rows = [lettered(i) for i in range(12)]
    write(tmp_path, parquet=parquet, train=rows[:6], validation=rows[6:9], test=rows[8:])
    task = mib_files.load(tmp_path)
    assert len(task.train) == 9 * 3 * 2 and len(task.test) == 4 * 3 * 2
    assert task.variables == ("answer_pointer", "answer") and task.positions == ("symbol", "symbol+1", "last")
    assert task.note.endswith("train and test have in common: 1 of 4 question")
    for pair in (*task.train, *task.test):
        read = []
        for prompt in (pair.base, pair.source):
            colour = re.findall(r" is (\w+)\.", prompt.text)[0]
            options = re.findall(r"^(\w)\. (\w+)$", prompt.text, re.MULTILINE)
            (place,) = (i for i, (_, choice) in enumerate(options) if choice == colour)
            read.append((place, [letter for letter, _ in options]))
            start, end = prompt.spans["symbol"]
            assert prompt.text.encode()[start:end].decode() == options[place][0] and prompt.text.encode()[start - 1 : start] == b"\n"
            assert prompt.answer == f" {options[place][0]}"
        (_, letters), (other, others) = read
        assert pair.expected == f" {letters[other] if pair.variable == 'answer_pointer' else others[other]}"
    assert {pair.kind for pair in task.train} == {"position", "letters", "both"}


@pytest.mark.parametrize("parquet", [False, True])
def test_ravel(parquet: bool, tmp_path: Path) -> None:
    task = mib_files.load(write(tmp_path, parquet=parquet, train=facts(), val=facts()[:3], test=facts()))
    for pair in task.train:
        base, source = pair.base.values["entity"], pair.source.values["entity"]
        asked = next(name for name, template in ASKS.items() if pair.base.text == template % base)
        place = list(ASKS).index(asked)
        assert LAND[base][place] != LAND[source][place]
        assert pair.base.answer == f" {LAND[base][place]}"
        assert pair.kind == ("cause" if asked == pair.variable else f"isolate:{asked}")
        assert pair.expected == f" {LAND[source if asked == pair.variable else base][place]}"
        for prompt in (pair.base, pair.source):
            start, end = prompt.spans["entity"]
            assert prompt.text.encode()[start:end].decode() == prompt.values["entity"]
    assert any(pair.source.answer == "" for pair in task.train)
    assert {pair.kind for pair in task.train} == {"cause", *(f"isolate:{name}" for name in ASKS)}


def test_any_counterfactual_is_a_source_and_labels_may_be_numbers(tmp_path: Path) -> None:
    """The form of the published data: the labels of `symbol_counterfactual` are numbers."""
    row = lettered(0)
    kept = {name: value for name, value in row.items() if not name.endswith("_counterfactual")}
    numbered = question("thing0", kept["choices"]["text"], ["1", "2", "3", "4"], 0)
    numbered["choices"] = {"label": [1, 2, 3, 4], "text": kept["choices"]["text"]}
    task = mib_files.load(write(tmp_path, train=[kept | {"symbol_counterfactual": numbered}], test=[row]))
    pointer, answer = task.train
    assert (pointer.variable, pointer.kind, pointer.source.answer, pointer.expected) == ("answer_pointer", "symbol", " 1", " A")
    assert (answer.variable, answer.expected) == ("answer", " 1")


def sentence(first: str, second: str, again: str) -> dict[str, Any]:
    names = [first, second]
    right = 1 if again == first else 0
    return {"prompt": f"At Marylebone {first} met {second}; {again} gave a ring to", "choices": names[::-1], "answerKey": 1 - right}


def names_row() -> dict[str, Any]:
    return {
        **sentence("Mary", "Zoë", "Mary"),
        "template": "At Marylebone {name_A} met {name_B}; {name_C} gave a {object} to",
        "metadata": {"indirect_object": "Zoë", "subject": "Mary"},
        "s2_io_flip_counterfactual": sentence("Mary", "Zoë", "Zoë"),
        "random_names_counterfactual": sentence("Ann", "Bob", "Ann"),
        "abc_counterfactual": {"prompt": "At Marylebone Ann met Bob; Carl gave a ring to", "choices": ["Ann", "Bob"], "answerKey": 0},
    }


@pytest.mark.parametrize("parquet", [False, True])
def test_indirect_objects(parquet: bool, tmp_path: Path) -> None:
    task = mib_files.load(write(tmp_path, parquet=parquet, train=[names_row()], test=[names_row()]))
    assert task.positions == ("subject", "subject_again", "subject_again+1", "indirect_object", "last") and "indirect objects" in task.note
    expected = {(pair.kind, pair.variable): pair.expected for pair in task.train}
    assert expected == {
        ("s2_io_flip", "io_position"): " Mary", ("s2_io_flip", "io_token"): " Mary",
        ("random_names", "io_position"): " Zoë", ("random_names", "io_token"): " Bob",
    }  # fmt: skip
    base = task.train[0].base
    data = base.text.encode()
    assert base.answer == " Zoë" and base.groups["names"] == "Mary, Zoë"
    spans = {name: (data[low:high].decode(), low) for name, (low, high) in base.spans.items()}
    assert spans == {"subject": ("Mary", 14), "subject_again": ("Mary", 29), "indirect_object": ("Zoë", 23)}


def added(a: int, b: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"1 plus 2 is 3. {a} plus {b} is", "operand1": a, "operand2": b, "label": str(a + b), **more}


def test_sums_carry_what_the_source_carries(tmp_path: Path) -> None:
    counted = added(40, 2) | {"label": 42}
    row = added(17, 25, operator="+", template="", ones_carry_counterfactual=counted, random_counterfactual=added(8, 9))
    task = mib_files.load(write(tmp_path, train=[row], test=[row]))
    assert task.variables == ("ones_carry",) and task.positions == ("operand1", "operand2", "last")
    assert {pair.kind: pair.expected for pair in task.train} == {"ones_carry": " 32", "random": " 42"}
    base = task.train[0].base
    assert base.answer == " 42" and [base.text[slice(*base.spans[name])] for name in ("operand1", "operand2")] == ["17", "25"]
    small = mib_files.load(write(tmp_path, train=[added(1, 2, x_counterfactual=counted)], test=[row])).train[0].base
    assert small.spans["operand1"] == (15, 16), "the last of two places: before it stand examples"
    again = added(17, 25, x_counterfactual=counted) | {"prompt": "17 + 30 = 47\n17 + 25 ="}
    spans = mib_files.load(write(tmp_path, train=[again], test=[row])).train[0].base.spans
    assert spans == {"operand1": (13, 15), "operand2": (18, 20)}, "an example may begin with the same number"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (added(1, 2, label="4"), "line 1: only right sums are read, got 1 [+] 2 = 4"),
        (added(1, 2, operator="-"), "line 1: only right sums are read, got 1 - 2 = 3"),
        (added(1, 2, operand1="1"), "field operand1: should be a valid integer, got '1'"),
        (added(1, 2, prompt="2 and 1"), "field prompt: 1 and then 2 must stand in it"),
        (names_row() | {"answerKey": 2}, "line 1, field answerKey: there is no choice 2; there are 2, from 0"),
        (names_row() | {"answerKey": 1}, "none of 1 train rows gives a pair"),
        (added(1, 2), "none of 1 train rows gives a pair"),
    ],
)
def test_malformed_names_and_sums(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        mib_files.load(write(tmp_path, train=[row], test=[names_row()]))


def test_entities_are_where_the_template_has_them(tmp_path: Path) -> None:
    rows = facts()
    rows[0] |= {"template": "%s is near Paris, they say", "prompt": "Paris is near Paris, they say"}
    task = mib_files.load(write(tmp_path, train=rows, test=rows))
    assert {pair.base.spans["entity"] for pair in task.train if "near" in pair.base.text} <= {(0, 5)}
    for row in rows:
        del row["template"]
    task = mib_files.load(write(tmp_path, train=rows, test=rows))
    assert {pair.base.spans["entity"] for pair in task.train if "near" in pair.base.text} <= {(14, 19)}


def test_limits_are_drawn_by_seed_and_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, train=[lettered(i) for i in range(30)], test=[lettered(99)])
    drawn = [mib_files.load(tmp_path, n_train=5, seed=seed).train for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 5 * 6
    monkeypatch.setattr(mib_files, "MAX_ROWS", 10)
    counts = [0] * 30
    for seed in range(60):
        for number in {int(re.findall(r"thing(\d+)", pair.base.text)[0]) for pair in mib_files.load(tmp_path, seed=seed).train}:
            counts[number] += 1
    assert sum(counts) == 600 and min(counts) > 6 and max(counts) < 36  # 20 expected, standard deviation 3.7


def broken(row: dict[str, Any], where: str, new: Any) -> dict[str, Any]:
    value = copy.deepcopy(row)
    *path, last = where.split("/")
    inner: Any = value
    for part in path:
        inner = inner[part]
    if new is None:
        inner.pop(last)
    else:
        inner[last] = new
    return value


@pytest.mark.parametrize(
    ("where", "new", "said"),
    [
        ("answerKey", 4, "line 3, field answerKey: there is no choice 4; there are 4, counted from 0"),
        ("answerKey", "1", "line 3, field answerKey: should be a valid integer, got '1'"),
        ("answerKey", None, "line 3, field answerKey is missing"),
        ("choices", None, "line 3, field choices is missing"),
        ("choices/label", ["A", "A", "C", "D"], "line 3, field choices: as many different labels as different texts"),
        ("choices/text", ["red", "blue"], "line 3, field choices: as many different labels as different texts"),
        ("prompt", "A box is red.", "line 3, field prompt: 'A' with '.*' must stand in it once, and does so 0 times"),
        (
            "randomLetter_counterfactual/prompt",
            "",
            "line 3, field randomLetter_counterfactual, field prompt: String should have at least 1",
        ),
        ("randomLetter_counterfactual", [], r"field randomLetter_counterfactual, field \(all of it\): should be an object"),
    ],
)
def test_malformed_questions(where: str, new: Any, said: str, tmp_path: Path) -> None:
    rows = [lettered(0), lettered(1), broken(lettered(2), where, new)]
    with pytest.raises(InputError, match=rf"train.jsonl', {said}" if said.startswith("line") else said):
        mib_files.load(write(tmp_path, train=rows, test=[lettered(3)]))


@pytest.mark.parametrize(
    ("where", "new", "said"),
    [
        ("entity", "Oslo", "line 1, field prompt: the entity 'Oslo' does not stand in"),
        ("attribute", "Mayor", "line 1, field attribute: should be one of Continent, Country, Language, got 'Mayor'"),
        ("attribute", "wikipedia", "line 1, field attribute: should be one of Continent, Country, Language, got 'wikipedia'"),
        ("Continent", None, "line 1, field Continent is missing"),
        (
            "attribute_counterfactual/attribute",
            "x",
            "field attribute_counterfactual, field attribute: should be one of .*, wikipedia, got 'x'",
        ),
    ],
)
def test_malformed_facts(where: str, new: Any, said: str, tmp_path: Path) -> None:
    rows = facts()
    with pytest.raises(InputError, match=said):
        mib_files.load(write(tmp_path, train=[broken(rows[0], where, new)], test=rows))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        mib_files.load(tmp_path / "none")
    write(tmp_path, train=[lettered(0)])
    with pytest.raises(InputError, match=r"has no file of the split 'test', such as test\.jsonl"):
        mib_files.load(tmp_path)
    write(tmp_path, test=[])
    with pytest.raises(InputError, match="has neither 'choices' nor 'entity' and 'attribute'; it has text"):
        mib_files.load(write(tmp_path, train=[{"text": "a"}]))
    with pytest.raises(InputError, match=r"train\.jsonl' has no rows"):
        mib_files.load(write(tmp_path, train=[]))
    (tmp_path / "train.jsonl").write_text(json.dumps(lettered(0)) + "\n\n{\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train\.jsonl', line 3 is not JSON"):
        mib_files.load(tmp_path)
    (tmp_path / "train.jsonl").write_text("[]\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1 must be a JSON object"):
        mib_files.load(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(CorruptFileError, match=r"train\.parquet' is not a whole parquet file"):
        mib_files.load(tmp_path)
