"""The world as frozen values: entities, their attributes, and questions whose answers are known.

`World.default()` reads `tables.py`. An attribute is named `domain.relation` ("country.capital"); `facts[attribute]` maps
each entity to its value. `World.questions` and `World.colour_questions` make the examinations of the shipped models.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from armillary.lm.reference import tables
from armillary.lm.reference import templates as wordings
from armillary.lm.reference.templates import Split

LETTERS = "ABCD"


@dataclass(frozen=True)
class Country:
    """One row of `tables.COUNTRIES`; the name carries its article ("the Netherlands")."""

    name: str
    capital: str
    currency: str
    continent: str
    language: str


@dataclass(frozen=True)
class City:
    """A city; continent and language are those of its country."""

    name: str
    country: str
    continent: str
    language: str


@dataclass(frozen=True)
class Company:
    """An invented company, what it makes, and the city of its head office."""

    name: str
    product: str
    city: str


@dataclass(frozen=True)
class Person:
    """An invented person."""

    name: str
    profession: str
    city: str
    employer: str


Entities = tuple[Country, ...] | tuple[City, ...] | tuple[Company, ...] | tuple[Person, ...]


@dataclass(frozen=True)
class Emotion:
    """An emotion word, the words near it, and situations that bring it about (after "because she")."""

    name: str
    neighbours: tuple[str, ...]
    situations: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A prompt whose right continuation is `answer`, which starts with its space.

    `template` is the wording before the entity was filled in; `choices` are the values it was drawn from; `is_question` is
    False where a statement is to be completed.
    """

    prompt: str
    answer: str
    attribute: str
    entity: str
    template: str
    choices: tuple[str, ...] = ()
    is_question: bool = True


def words(text: str) -> tuple[str, ...]:
    """The entries of a `;`-separated table."""
    return tuple(word.strip() for word in text.replace("\n", " ").split(";"))


def _rows(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.strip().splitlines()]


def _pairs(text: str) -> dict[str, str]:
    pairs = (entry.split("|") for entry in words(text))
    return {a: b for a, b in pairs}


def _countries() -> tuple[Country, ...]:
    return tuple(Country(*row) for row in _rows(tables.COUNTRIES))


def _cities(countries: tuple[Country, ...]) -> tuple[City, ...]:
    by_name = {country.name: country for country in countries}
    places = [(c.capital, c) for c in countries] + [(name, by_name[c]) for name, c in _rows(tables.OTHER_CITIES)]
    return tuple(City(name, c.name, c.continent, c.language) for name, c in places)


def _people(names: str, cities: tuple[City, ...], companies: tuple[Company, ...], start: int) -> tuple[Person, ...]:
    """Fixed lives by arithmetic: strides prime to the table lengths, so attributes vary independently."""
    professions = words(tables.PROFESSIONS)
    return tuple(
        Person(
            name,
            professions[(5 * i + i // len(professions)) % len(professions)],
            cities[(17 * i + 3) % len(cities)].name,
            companies[(7 * i + i // len(companies)) % len(companies)].name,
        )
        for i, name in enumerate(words(names), start)
    )


def _emotion(block: str) -> Emotion:
    heading, situations = block.split("\n", maxsplit=1)
    name, near = heading.split("|")
    return Emotion(name, tuple(near.split(", ")), words(situations))


def _neighbours(names: tuple[str, ...], step: int, *, ring: bool) -> dict[str, str]:
    """Each name with the one `step` places on; the ends of a sequence that is no ring have none."""
    ends = range(len(names)) if ring else range(max(0, -step), len(names) - max(0, step))
    return {names[i]: names[(i + step) % len(names)] for i in ends}


@dataclass(frozen=True)
class World:
    """All tables, with access by domain, attribute and entity.

    `facts` maps an attribute to {entity: value}; entities of evaluation only are in `held_out_people` and
    `held_out_objects` and occur in no fact.
    """

    countries: tuple[Country, ...]
    cities: tuple[City, ...]
    companies: tuple[Company, ...]
    people: tuple[Person, ...]
    held_out_people: tuple[Person, ...]
    emotions: tuple[Emotion, ...]
    sequences: Mapping[str, tuple[str, ...]]
    colours: tuple[str, ...]
    objects: tuple[str, ...]
    held_out_objects: tuple[str, ...]
    facts: Mapping[str, Mapping[str, str]]

    @staticmethod
    @cache
    def default() -> World:
        """The world that the shipped models were trained on."""
        countries, companies = _countries(), tuple(Company(*row) for row in _rows(tables.COMPANIES))
        cities = _cities(countries)
        people = _people(tables.PEOPLE, cities, companies, 0)
        sequences = {name: words(getattr(tables, f"{name.upper()}S")) for name in ("day", "month", "season", "number")}
        named: dict[str, Entities] = {"country": countries, "city": cities, "company": companies, "person": people}
        return World(
            countries, cities, companies, people,
            _people(tables.HELD_OUT_PEOPLE, cities, companies, len(people)),
            tuple(map(_emotion, tables.EMOTIONS.strip().split("\n\n"))), sequences,
            words(tables.COLOURS), words(tables.OBJECTS), words(tables.HELD_OUT_OBJECTS),
            {**_entity_facts(named), **_sequence_facts(sequences), **_word_facts()},
        )  # fmt: skip

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of all attributes, for example `country.capital`."""
        return tuple(self.facts)

    def attributes_of(self, domain: str) -> tuple[str, ...]:
        """The attributes of one domain (`city`, `person`, `day`, ...)."""
        return tuple(name for name in self.facts if name.split(".")[0] == domain)

    @property
    def domains(self) -> tuple[str, ...]:
        """The kinds of entity, in table order."""
        return tuple(dict.fromkeys(name.split(".")[0] for name in self.facts))

    def values(self, attribute: str) -> tuple[str, ...]:
        """The distinct values an attribute takes."""
        return tuple(dict.fromkeys(self.facts[attribute].values()))

    def questions(self, attribute: str, *, templates: Split = "seen", per_entity: int = 3, seed: int = 0) -> Iterator[Question]:
        """Prompts that ask for `attribute` of every entity, `per_entity` times in random wordings.

        Half are questions in a layout, half are statements to be completed. `templates="held_out"` takes wordings
        that occur nowhere in training text (inside layouts and after lead-ins that do).
        """
        for place, entity in enumerate(self.facts[attribute]):
            rng = random.Random(f"{seed}/{attribute}/{entity}/{templates}")
            for i in range(per_entity):
                asked = (place + i) % 2 == 0
                template = question_text(rng, attribute, templates) if asked else statement_text(rng, attribute, templates)
                yield self._prompt(template, attribute, entity, asked=asked)

    def sentences(self, attribute: str, *, templates: Split = "held_out", per_frame: int = 6, seed: int = 0) -> Iterator[Question]:
        """Prompts in wordings written for this attribute alone: harder than composed ones, which share their parts."""
        rng = random.Random(f"{seed}/{attribute}/sentences/{templates}")
        for frame in wordings.own_frames(attribute, "question", templates):
            for entity in rng.choices(list(self.facts[attribute]), k=per_frame):
                yield self._prompt(in_layout(rng, frame), attribute, entity, asked=True)
        for frame in wordings.own_frames(attribute, "statement", templates):
            for entity in rng.choices(list(self.facts[attribute]), k=per_frame):
                yield self._prompt(frame, attribute, entity, asked=False)

    def _prompt(self, template: str, attribute: str, entity: str, *, asked: bool) -> Question:
        text = wordings.fill(template, entity, "{y}", article(attribute))
        prompt, _, _ = text.partition(" {y}")
        return Question(prompt, f" {self.facts[attribute][entity]}", attribute, entity, template, self.values(attribute), asked)

    def colour_questions(self, n: int, *, objects: Split = "seen", seed: int = 0) -> Iterator[Question]:
        """Multiple-choice questions whose answer, a letter, stands in the text: `n` of them, letters balanced."""
        nouns = self.objects if objects == "seen" else self.held_out_objects
        rng = random.Random(f"{seed}/colour/{objects}")
        for i in range(n):
            noun = rng.choice(nouns)
            yield multiple_choice(rng, noun, self.colours, LETTERS[i % 4])


def multiple_choice(rng: random.Random, noun: str, colours: tuple[str, ...], letter: str) -> Question:
    """One question in the standard layout, answered by `letter`."""
    options = rng.sample(colours, 4)
    colour = options[LETTERS.index(letter)]
    stem = f"Question: The {noun} is {colour}. What colour is the {noun}?"
    listed = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=True))
    return Question(f"{stem}\n{listed}\nAnswer:", f" {letter}", "object.colour", noun, "standard", tuple(options))


def article(attribute: str) -> str:
    """What stands between a verb and the value: currencies take "the"."""
    return "the " if attribute == "country.currency" else ""


def statement_text(rng: random.Random, attribute: str, split: Split) -> str:
    """A statement frame with `{x}` and a final `{y}`, half the time after a lead-in."""
    frame = rng.choice(wordings.frames(attribute, "statement", split))
    return frame if rng.random() < 0.5 else wordings.led(rng.choice(wordings.leads()), frame)


def question_text(rng: random.Random, attribute: str, split: Split) -> str:
    """A question frame in a layout that ends in a space and `{y}`, so that the prompt ends before the space."""
    return in_layout(rng, rng.choice(wordings.frames(attribute, "question", split)))


def in_layout(rng: random.Random, question: str) -> str:
    """A question in a random layout that ends in a space and `{y}`."""
    return rng.choice(wordings.exam_wrappers()).replace("{q}", question[:1].upper() + question[1:])


def _entity_facts(named: Mapping[str, Entities]) -> dict[str, dict[str, str]]:
    relations = {
        "country": ("capital", "currency", "continent", "language"),
        "city": ("country", "continent", "language"),
        "company": ("product", "city"),
        "person": ("profession", "city", "employer"),
    }
    return {
        f"{domain}.{relation}": {row.name: getattr(row, relation) for row in named[domain]}
        for domain, names in relations.items()
        for relation in names
    }


def _sequence_facts(sequences: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    return {
        f"{name}.{relation}": _neighbours(words, step, ring=name != "number")
        for name, words in sequences.items()
        for relation, step in (("next", 1), ("previous", -1))
    }


def _word_facts() -> dict[str, dict[str, str]]:
    pairs = _pairs(tables.OPPOSITES)
    opposites = {**pairs, **{b: a for a, b in pairs.items()}}
    return {"word.opposite": opposites, "noun.plural": _pairs(tables.PLURALS), "verb.past": _pairs(tables.PASTS)}
