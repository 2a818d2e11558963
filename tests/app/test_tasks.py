"""Tasks by name are made of the world, in wordings the shipped model knows; anything else is a path, or a name that is nearly right."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from armillary.app.tasks import TASKS, load_task
from armillary.core.task import Prompt, Task, tokens_at
from armillary.errors import InputError, UnknownNameError
from armillary.lm import reference
from armillary.lm.model import LanguageModel
from armillary.lm.reference.evaluate import Examinee
from armillary.lm.reference.templates import SPLITS, Split, frames
from armillary.lm.reference.world import Question, World, article
from armillary.tasks import files

FACTS = ("city", "country", "person")


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: load_task(name) for name in TASKS}


def prompts(task: Task, half: str) -> list[Prompt]:
    found = {prompt.text: prompt for pair in getattr(task, half) for prompt in (pair.base, pair.source)}
    return list(found.values())


@pytest.mark.parametrize("name", TASKS)
def test_names_make_tasks_of_a_seed(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    assert task.name == name and task.train and task.test and task.note
    assert task == load_task(name, 0) and task.train != load_task(name, 1).train
    assert TASKS[name].description and "\n" not in TASKS[name].description


@pytest.mark.parametrize("name", TASKS)
def test_train_and_test_share_no_group(name: str, tasks: dict[str, Task]) -> None:
    groups = [{group for prompt in prompts(tasks[name], half) for group in prompt.groups.items()} for half in ("train", "test")]
    assert groups[0] and not groups[0] & groups[1]


@cache
def wordings(attribute: str, split: Split) -> set[str]:
    """The world's wordings of an attribute as they stand in templates, in small letters."""
    found = (*frames(attribute, "question", split), *frames(attribute, "statement", split))
    return {frame.replace("{the}", article(attribute)).partition(" {y}")[0].replace("{x}", "{entity}").lower() for frame in found}


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_the_worlds_and_wordings_are_split_as_it_splits_them(name: str, tasks: dict[str, Task]) -> None:
    world = World.default()
    for half, split in zip(("train", "test"), SPLITS, strict=True):
        for prompt in prompts(tasks[name], half):
            asked = prompt.values["asked"]
            if asked:
                attribute = f"{name}.{asked}"
                assert prompt.answer == f" {world.facts[attribute][prompt.values['entity']]}"
                assert any(frame in prompt.groups["template"].lower() for frame in wordings(attribute, split))
            else:
                assert prompt.answer == ""


@pytest.mark.parametrize("model", reference.NAMES)
def test_every_position_is_a_token_of_both_models(model: str, tasks: dict[str, Task]) -> None:
    lm = LanguageModel(model)
    for task in tasks.values():
        some = prompts(task, "test")[:20]
        tokens = lm.tokenize([prompt.text for prompt in some])
        for position in task.positions:
            assert len(tokens_at(tokens, some, position)) == len(some)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "ioi-english"])
def test_the_shipped_model_can_do_it(name: str, tasks: dict[str, Task]) -> None:
    asked = [Question(prompt.text, prompt.answer, "", "", "") for prompt in prompts(tasks[name], "test") if prompt.answer][:48]
    right = Examinee(reference.path("arm-small")).answers(asked)
    assert sum(right) / len(right) > 0.6


def test_paths_are_read_whatever_they_are(tmp_path: Path, tasks: dict[str, Task]) -> None:
    own = files.save(tasks["recall"], tmp_path / "recall.json")
    assert load_task(str(own)) == tasks["recall"]
    ravel, mib = tmp_path / "ravel", tmp_path / "mib"
    for folder in (ravel, mib):
        folder.mkdir()
    write_ravel(ravel)
    assert load_task(str(ravel)).name == load_task(str(ravel / "ravel_city_prompt_to_split.json")).name == "city"
    for side in ("train", "test"):
        choices = {"label": ["A", "B"], "text": ["red", "blue"]}
        question = {"prompt": f"{side} is red.\nA. red\nB. blue\nAnswer:", "choices": choices, "answerKey": 0}
        (mib / f"{side}.jsonl").write_text(json.dumps(question | {"randomLetter_counterfactual": question}))
    assert load_task(str(mib)).variables == ("answer_pointer", "answer")


def write_ravel(folder: Path) -> None:
    cities = [f"City{i}" for i in range(200)]
    templates = [f"{i}. %s lies in" for i in range(8)]
    side = ("train", "test")
    content = {
        "entity_attributes": {city: {"Country": f"Land{i % 7}"} for i, city in enumerate(cities)},
        "attribute_to_prompts": {"Country": templates},
        "entity_to_split": {city: side[i % 2] for i, city in enumerate(cities)},
        "prompt_to_split": {template: side[i % 2] for i, template in enumerate(templates)},
    }
    for name, value in content.items():
        (folder / f"ravel_city_{name}.json").write_text(json.dumps(value))


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'ctiy'\. Did you mean 'city'"):
        load_task("ctiy")
    with pytest.raises(InputError, match=r"'mine\.json' does not exist; name a task file, a folder with .* or one of mcqa, city"):
        load_task("mine.json")
    with pytest.raises(InputError, match=r"has no file of the split 'train', such as train\.jsonl"):
        load_task(str(tmp_path))
