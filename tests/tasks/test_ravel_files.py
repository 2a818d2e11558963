"""RAVEL's folder is read as its files stand; what does not fit is named with file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from armillary.core.task import Task
from armillary.errors import InputError, UnknownNameError
from armillary.tasks import ravel_files

CITIES = [f"City{i}" for i in range(20)] + ["Zürich", "São Paulo"]
TEMPLATES = {
    "Country": ["%s is a city in the country of", "Q: Which country is %s in? A:", '{"city": "%s", "country": "', "%s lies in", "In %s of"],
    "Country of Birth": ["100%% sure: %s was born in", "%s's place:", "Of %s, they say:", "Born, %s:"],
    "Latitude": ["%s has the latitude", "North of %s:"],  # all of them of "val"
    "Other": ["The streets of %s"],
}


def split_of(i: int) -> str:
    return ("train", "test")[i % 2]


def content() -> dict[str, Any]:
    facts = {city: {"Country": f"Land{i % 4}", "Country of Birth": f"Home{i % 3}", "Latitude": str(i)} for i, city in enumerate(CITIES)}
    texts = {text: "val" if name == "Latitude" else split_of(i) for name, found in TEMPLATES.items() for i, text in enumerate(found)}
    return {
        "ravel_city_entity_attributes": facts,
        "ravel_city_attribute_to_prompts": TEMPLATES,
        "ravel_city_entity_to_split": {city: split_of(i) if i < 18 else "val" for i, city in enumerate(CITIES)} | {"Zürich": "train"},
        "ravel_city_prompt_to_split": texts,
        "wikipedia_city_entity_prompts": {
            "Long ago %s was small.": {"split": "train", "entity": None},
            "City0, that is %s, grew": {"split": "train", "entity": "City0"},
            "City1, that is %s, grew": {"split": "train", "entity": "City1"},  # which is of the other half
            "No place": {"split": "train", "entity": "City2"},
            "%s and %s": {"split": "test", "entity": None},
            "They saw %s": {"split": "test", "entity": None, "more": 1},
        },
    }


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def texts(task: Task, half: str) -> set[str]:
    return {prompt.groups["template"] for pair in getattr(task, half) for prompt in (pair.base, pair.source)}


def test_halves_are_ravels_own(tmp_path: Path) -> None:
    task = ravel_files.load(write(tmp_path, content()), n_train=80, n_test=40)
    assert task.variables == ("Country", "Country_of_Birth") and task.name == "city" and len(task.train) == 160
    names = content()["ravel_city_entity_to_split"]
    for half in ("train", "test"):
        for pair in getattr(task, half):
            for prompt in (pair.base, pair.source):
                assert names[prompt.values["entity"]] == half
                start, end = prompt.spans["entity"]
                assert prompt.text.encode()[start:end].decode() == prompt.values["entity"]
    assert not texts(task, "train") & texts(task, "test")
    assert {"Long ago {entity} was small.", "City0, that is {entity}, grew", "The streets of {entity}"} < texts(task, "train")
    assert {"They saw {entity}"} == {text for text in texts(task, "test") if "saw" in text or "grew" in text or " and " in text}
    assert "Zürich" in {prompt.values["entity"] for pair in task.train for prompt in (pair.base, pair.source)}


def test_answers_follow_quotes_without_a_space_and_doubled_signs_are_one(tmp_path: Path) -> None:
    task = ravel_files.load(write(tmp_path, content()), n_train=80)
    bases = {pair.base.groups["template"]: pair for pair in task.train}
    quoted, plain = bases['{"city": "{entity}", "country": "'], bases["{entity} is a city in the country of"]
    assert quoted.base.answer.startswith("Land") and quoted.expected.startswith("Land") and plain.base.answer.startswith(" Land")
    assert bases["100% sure: {entity} was born in"].base.answer.startswith(" Home")
    assert "%" not in quoted.base.text


def test_attributes_are_chosen_in_ravels_words_and_wikipedia_may_be_absent(tmp_path: Path) -> None:
    files = content()
    del files["wikipedia_city_entity_prompts"]
    write(tmp_path, files)
    assert ravel_files.load(tmp_path, attributes=["Country"], n_train=40, n_test=20).variables == ("Country",)
    with pytest.raises(UnknownNameError, match="attribute of city 'Contry'"):
        ravel_files.load(tmp_path, attributes=["Contry"])
    with pytest.raises(UnknownNameError, match="Latitude"):  # no templates of train and of test
        ravel_files.load(tmp_path, attributes=["Latitude"])


def test_a_folder_of_several_types_asks_which(tmp_path: Path) -> None:
    write(tmp_path, content())
    write(tmp_path, {name.replace("city", "physical_object"): value for name, value in content().items()})
    assert ravel_files.kinds(tmp_path) == ["city", "physical_object"]
    with pytest.raises(InputError, match="several types of entity: city, physical_object; name one of their files"):
        ravel_files.load(tmp_path)
    with pytest.raises(UnknownNameError, match=r"'citty'\. Did you mean 'city'"):
        ravel_files.load(tmp_path, "citty")
    assert ravel_files.load(tmp_path, "physical_object").name == "physical_object"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "ravel_city_entity_attributes",
            {"Rome": {"Country": 3}},
            r"ravel_city_entity_attributes.json', field Rome.Country: should be a valid string",
        ),
        ("ravel_city_entity_attributes", [], r"field \(all of it\): should be an object"),
        ("ravel_city_attribute_to_prompts", {"Country": "%s"}, "field Country: should be a valid array"),
        ("ravel_city_attribute_to_prompts", {"Mayor": ["%s"]}, "templates of city ask for 'Mayor', which no entity has"),
        (
            "ravel_city_attribute_to_prompts",
            {"Latitude": TEMPLATES["Latitude"]},
            "no attribute of city has templates both in 'train' and",
        ),
        ("ravel_city_entity_to_split", {"Atlantis": "train"}, "ravel_city_entity_to_split.json names 'Atlantis', which has no attributes"),
        ("ravel_city_prompt_to_split", {"%s lies in": 1}, "field %s lies in: should be a valid string"),
        ("wikipedia_city_entity_prompts", {"%s": {"entity": None}}, r"wikipedia_city_entity_prompts.json', field %s.split is missing"),
    ],
)
def test_malformed_files(name: str, value: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        ravel_files.load(write(tmp_path, content() | {name: value}))


def test_missing_files_and_templates_without_their_place(tmp_path: Path) -> None:
    write(tmp_path, content())
    (tmp_path / "ravel_city_prompt_to_split.json").unlink()
    with pytest.raises(InputError, match=r"ravel_city_prompt_to_split.json' does not exist; the nearest there is"):
        ravel_files.load(tmp_path)
    files = content()
    files["ravel_city_attribute_to_prompts"] = {**TEMPLATES, "Country": [*TEMPLATES["Country"], "no place"]}
    files["ravel_city_prompt_to_split"]["no place"] = "train"
    with pytest.raises(InputError, match=r"template 'no place' of ravel_city_attribute_to_prompts\.json must hold %s once"):
        ravel_files.load(write(tmp_path, files))
    with pytest.raises(InputError, match="no folder"):
        ravel_files.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no file such as ravel_city_entity_attributes\.json"):
        ravel_files.load(tmp_path / "empty")
