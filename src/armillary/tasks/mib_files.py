"""Data files of MIB's causal-variable track (Mueller et al. 2025, arXiv 2504.13151): multiple choice about colours, and RAVEL's cities.

A folder with one or more files per split, `train...`, `test...` and perhaps `validation...` or `val...`, each .jsonl or .parquet, as the
benchmark's data sets are published. Nothing is downloaded. Fields that are read, all others being left alone:

    multiple choice  prompt, choices.label[], choices.text[], answerKey (the place of the right choice, from 0), and the same again under
                     answerPosition_counterfactual, randomLetter_counterfactual, answerPosition_randomLetter_counterfactual
    RAVEL            prompt, entity, attribute (or "wikipedia" for a text that asks nothing), Continent, Country, Language, template, and
                     the same again under attribute_counterfactual and wikipedia_counterfactual

These names were worked out from public code that reads the data, not from the data themselves: what is read is checked, and a row that does
not fit is an error. Which splits share what is the benchmark's choice; the task's note counts what train and test have in common.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from armillary.core.task import Pair, Prompt, Task
from armillary.errors import InputError
from armillary.tasks import entities, mcqa
from armillary.tasks.causal import interchanged
from armillary.tasks.reading import Loose, checked, rows_of
from armillary.tasks.wording import continuation

ENDINGS = (".jsonl", ".parquet")
SPLITS = {"train": "train", "validation": "train", "val": "train", "test": "test"}
#: MIB's counterfactuals by our names.
LETTERED = {
    "position": "answerPosition_counterfactual",
    "letters": "randomLetter_counterfactual",
    "both": "answerPosition_randomLetter_counterfactual",
}
ATTRIBUTES = ("Continent", "Country", "Language")
NEUTRAL = "wikipedia"
#: Rows of a split that are kept, drawn evenly from all.
MAX_ROWS = 4000


class _Choices(Loose):
    label: list[str] = Field(min_length=2)
    text: list[str] = Field(min_length=2)


class _Question(Loose):
    prompt: str = Field(min_length=1)
    choices: _Choices
    answerKey: int = Field(ge=0)


class _Fact(Loose):
    prompt: str = Field(min_length=1)
    entity: str = Field(min_length=1)
    attribute: str
    template: str | None = None
    Continent: str | None = None
    Country: str | None = None
    Language: str | None = None


def load(folder: str | os.PathLike[str], *, n_train: int = 400, n_test: int = 200, seed: int = 0) -> Task:
    """A task from MIB's files.

    Args:
        folder: where the splits lie.
        n_train, n_test: pairs per variable and kind at most, drawn evenly. Rows of a validation split belong to train.

    Raises:
        InputError: no such folder or split, or a row that does not fit (file, line and field).
        CorruptFileError: a damaged parquet file.
        MissingExtraError: parquet without pyarrow.
    """
    place = Path(folder)
    files = splits(place)
    is_lettered = "choices" in _first_row(files["train"])
    made = []
    for side, n in (("train", n_train), ("test", n_test)):
        rows = _sample(chain.from_iterable(map(rows_of, files[side])), random.Random(f"{seed}/{place.name}/{side}"))
        pairs = [pair for where, row in rows for pair in (_lettered if is_lettered else _facts)(row, where)]
        made.append(_limited(pairs, n, random.Random(f"{seed}/{side}")))
    note = f"MIB, {'multiple choice' if is_lettered else 'RAVEL'}, its own splits; train and test have in common: {_shared(*made)}"
    return Task(place.name, made[0], made[1], mcqa.POSITIONS if is_lettered else entities.POSITIONS, note)


def splits(folder: Path) -> dict[str, list[Path]]:
    """{"train": files, "test": files} of a folder.

    Raises:
        InputError: a split has none.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; name the one with MIB's splits, such as train.jsonl and test.jsonl")
    files: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(folder.iterdir()):
        split = re.split(r"[-._]", path.name)[0]
        if split in SPLITS and path.suffix in ENDINGS:
            files[SPLITS[split]].append(path)
    for split, found in files.items():
        if not found:
            raise InputError(f"'{folder}' has no file of the split {split!r}, such as {split}.jsonl or {split}-00000-of-00001.parquet")
    return files


def _first_row(files: Sequence[Path]) -> dict[str, Any]:
    """A row to tell the kind of data by."""
    found = next((row for path in files for _, row in rows_of(path)), None)
    if found is None:
        raise InputError(f"'{files[0]}' has no rows")
    if "choices" not in found and not {"entity", "attribute"} <= found.keys():
        raise InputError(f"'{files[0]}' has neither 'choices' nor 'entity' and 'attribute'; it has {', '.join(found)}")
    return found


def _sample(rows: Iterable[tuple[str, dict[str, Any]]], rng: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """At most `MAX_ROWS` rows in their order, each as likely as any other (Vitter 1985, algorithm R)."""
    kept: dict[int, tuple[int, tuple[str, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        place = number if number < MAX_ROWS else rng.randrange(number + 1)
        if place < MAX_ROWS:
            kept[place] = (number, row)
    return [row for _, row in sorted(kept.values(), key=lambda found: found[0])]


def _limited(pairs: Sequence[Pair], n: int, rng: random.Random) -> tuple[Pair, ...]:
    """At most `n` pairs of each variable and kind."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.variable, pair.kind), []).append(pair)
    return tuple(pair for found in groups.values() for pair in (found if len(found) <= n else rng.sample(found, n)))


def _shared(train: Iterable[Pair], test: Iterable[Pair]) -> str:
    sides = [{group for pair in pairs for prompt in (pair.base, pair.source) for group in prompt.groups.items()} for pairs in (train, test)]
    kinds = dict.fromkeys(kind for side in sides for kind, _ in sorted(side))
    both = sides[0] & sides[1]
    return ", ".join(f"{sum(of == kind for of, _ in both)} of {sum(of == kind for of, _ in sides[1])} {kind}" for kind in kinds)


# ---------------------------------------------------------------- multiple choice


def _lettered(row: dict[str, Any], where: str) -> Iterator[Pair]:
    base = _question(row, where)
    columns = {kind: column for kind, column in LETTERED.items() if row.get(column) is not None}
    if not columns:
        raise InputError(f"{where} has none of the fields {', '.join(LETTERED.values())}")
    for kind, column in columns.items():
        source = _question(row[column], f"{where}, field {column}")
        yield from _answered(base, source, kind, where)


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
    labels, texts, place = record.choices.label, record.choices.text, record.answerKey
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


# ---------------------------------------------------------------- RAVEL


def _facts(row: dict[str, Any], where: str) -> Iterator[Pair]:
    base = checked(_Fact, row, where)
    if base.attribute not in ATTRIBUTES:
        raise InputError(f"{where}, field attribute: should be one of {', '.join(ATTRIBUTES)}, got {base.attribute!r}")
    if not _value(base, base.attribute):
        raise InputError(f"{where}, field {base.attribute} is missing")
    sources = [name for name in ("attribute_counterfactual", "wikipedia_counterfactual") if row.get(name) is not None]
    if not sources:
        raise InputError(f"{where} has neither the field attribute_counterfactual nor wikipedia_counterfactual")
    for name in sources:
        source = checked(_Fact, row[name], f"{where}, field {name}")
        yield from _told_apart(base, source, _prompt(base, where), _prompt(source, f"{where}, field {name}"))


def _told_apart(base: _Fact, source: _Fact, written: Prompt, taken: Prompt) -> Iterator[Pair]:
    """Pairs of entities that differ in what is asked for: else an answer would not tell what was taken."""
    asked = base.attribute
    if not _value(source, asked) or _value(source, asked) == _value(base, asked):
        return
    for target in ATTRIBUTES:
        if target == asked:
            yield Pair(written, taken, target, continuation(written.text, _value(source, asked)), entities.CAUSE)
        elif _value(source, target):
            yield Pair(written, taken, target, written.answer, f"{entities.ISOLATE}{asked}")


def _value(fact: _Fact, attribute: str) -> str:
    return {"Continent": fact.Continent, "Country": fact.Country, "Language": fact.Language}[attribute] or ""


def _prompt(fact: _Fact, where: str) -> Prompt:
    if fact.attribute not in (*ATTRIBUTES, NEUTRAL):
        raise InputError(f"{where}, field attribute: should be one of {', '.join((*ATTRIBUTES, NEUTRAL))}, got {fact.attribute!r}")
    values = {name: value for name in ATTRIBUTES if (value := _value(fact, name))} | {"entity": fact.entity}
    answer = "" if fact.attribute == NEUTRAL else continuation(fact.prompt, _value(fact, fact.attribute))
    groups = {"entity": fact.entity} | ({"template": fact.template} if fact.template else {})
    return Prompt(fact.prompt, answer, values, {"entity": _entity(fact, where)}, groups)


def _entity(fact: _Fact, where: str) -> tuple[int, int]:
    """Bytes of the entity: where the template has it, or else where the prompt names it last (before that may stand examples)."""
    before, placed, after = (fact.template or "").partition("%s")
    start = len(before) if placed and f"{before}{fact.entity}{after}" == fact.prompt else fact.prompt.rfind(fact.entity)
    if start < 0:
        raise InputError(f"{where}, field prompt: the entity {fact.entity!r} does not stand in {fact.prompt!r}")
    return len(fact.prompt[:start].encode()), len(fact.prompt[: start + len(fact.entity)].encode())
