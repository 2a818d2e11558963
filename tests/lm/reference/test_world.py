"""The tables are consistent, and questions are made as promised."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from armillary.lm.reference import tables, templates
from armillary.lm.reference.reading import context_questions
from armillary.lm.reference.world import LETTERS, World, multiple_choice, words

WORLD = World.default()


def test_every_capital_is_a_city_of_its_country() -> None:
    cities = {city.name: city for city in WORLD.cities}
    for country in WORLD.countries:
        city = cities[country.capital]
        assert (city.country, city.continent, city.language) == (country.name, country.continent, country.language)


def test_every_reference_between_tables_resolves() -> None:
    countries, cities = {c.name for c in WORLD.countries}, {c.name for c in WORLD.cities}
    companies, professions = {c.name for c in WORLD.companies}, set(words(tables.PROFESSIONS))
    assert {city.country for city in WORLD.cities} == countries
    assert {company.city for company in WORLD.companies} <= cities
    for person in (*WORLD.people, *WORLD.held_out_people):
        assert person.city in cities and person.employer in companies and person.profession in professions


@pytest.mark.parametrize("rows", [WORLD.countries, WORLD.cities, WORLD.companies, (*WORLD.people, *WORLD.held_out_people)])
def test_names_are_unique(rows: tuple[object, ...]) -> None:
    assert max(Counter(row.name for row in rows).values()) == 1  # type: ignore[attr-defined]


def test_the_world_is_as_large_as_the_card_says() -> None:
    sizes = [len(x) for x in (WORLD.countries, WORLD.cities, WORLD.people, WORLD.companies, WORLD.objects, WORLD.colours)]
    assert sizes == [76, 112, 64, 25, 85, 12]
    assert len(WORLD.attributes) == 23 and sum(map(len, WORLD.facts.values())) == 1166


@pytest.mark.parametrize("kind", ["day", "month", "season"])
def test_next_and_previous_are_inverse_on_a_ring(kind: str) -> None:
    after, before = WORLD.facts[f"{kind}.next"], WORLD.facts[f"{kind}.previous"]
    assert {after[x]: x for x in after} == before and len(after) == len(WORLD.sequences[kind])


def test_numbers_have_ends() -> None:
    assert "thirty" not in WORLD.facts["number.next"] and "one" not in WORLD.facts["number.previous"]
    assert WORLD.facts["number.next"]["nine"] == "ten"


def test_opposites_are_symmetric() -> None:
    opposite = WORLD.facts["word.opposite"]
    assert all(opposite[opposite[word]] == word for word in opposite)


def test_employer_profession_and_city_vary_independently() -> None:
    pairs = Counter((p.profession, p.employer) for p in WORLD.people)
    assert max(pairs.values()) == 1
    assert len({p.city for p in WORLD.people}) > 50


def test_held_out_people_and_objects_are_no_others() -> None:
    assert not {p.name for p in WORLD.held_out_people} & {p.name for p in WORLD.people}
    assert not set(WORLD.held_out_objects) & set(WORLD.objects)
    assert not {p.name for p in WORLD.held_out_people} & set(WORLD.facts["person.city"])


@pytest.mark.parametrize("split", templates.SPLITS)
@pytest.mark.parametrize("attribute", WORLD.attributes)
def test_prompts_name_the_entity_and_not_the_answer(attribute: str, split: templates.Split) -> None:
    for question in WORLD.questions(attribute, templates=split, per_entity=2):
        assert question.entity.lower() in question.prompt.lower()
        assert question.answer == f" {WORLD.facts[attribute][question.entity]}"
        assert not set("{}") & set(question.prompt) and not question.prompt.endswith(" ")


def test_questions_are_deterministic_and_differ_by_seed() -> None:
    asked = [[q.prompt for q in WORLD.questions("country.capital", seed=seed)] for seed in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]


def test_colour_questions_are_balanced_and_right() -> None:
    questions = list(WORLD.colour_questions(80, objects="held_out"))
    assert set(Counter(q.answer for q in questions).values()) == {20}
    for question in questions:
        colour = question.choices[LETTERS.index(question.answer.strip())]
        assert f"is {colour}." in question.prompt and question.entity in WORLD.held_out_objects


def test_the_standard_layout_of_a_multiple_choice_question() -> None:
    question = multiple_choice(random.Random(0), "cup", ("red", "blue", "green", "black"), "C")
    lines = question.prompt.splitlines()
    assert lines[0].startswith("Question: The cup is ") and lines[0].endswith("What colour is the cup?")
    assert [line[:3] for line in lines[1:5]] == ["A. ", "B. ", "C. ", "D. "] and lines[5] == "Answer:"
    assert question.answer == " C"


def test_reading_questions_tell_the_answer_first() -> None:
    person = WORLD.held_out_people[0]
    questions = list(context_questions(random.Random(0), person))
    assert [q.answer for q in questions] == [f" {person.profession}", f" {person.city}", f" {person.employer}"]
    assert all(q.answer.strip() in q.prompt for q in questions)
