"""Writers of world documents: one function per kind of text, all driven by a `random.Random` and nothing else.

Each returns (text, domain). Facts, questions, lists, dialogues, stories and multiple-choice questions say the same truths in
different company, so that a model must learn what was said and not how.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from armillary.lm.reference import tables, templates
from armillary.lm.reference.world import (
    World,
    article,
    question_text,
    words,
)

Writer = Callable[[random.Random, World], tuple[str, str]]

# how often a domain is written about: roughly by its number of facts
DOMAIN_WEIGHTS = {
    "country": 10, "city": 10, "person": 8, "company": 3, "day": 3, "month": 3, "season": 2, "number": 4,
    "word": 6, "noun": 4, "verb": 4,
}  # fmt: skip

FIRST_NAMES = words(tables.FIRST_NAMES)


def _topic(rng: random.Random, world: World) -> str:
    return rng.choices(list(DOMAIN_WEIGHTS), list(DOMAIN_WEIGHTS.values()))[0]


def fact(rng: random.Random, world: World, domain: str) -> tuple[str, str, str]:
    """A random (attribute, entity, value) of one domain."""
    attribute = rng.choice(world.attributes_of(domain))
    entity = rng.choice(list(world.facts[attribute]))
    return attribute, entity, world.facts[attribute][entity]


def sentence(rng: random.Random, attribute: str, entity: str, value: str) -> str:
    """A statement in a seen wording, one time in five with the answer first."""
    form: templates.Form = "reverse" if rng.random() < 0.2 else "statement"
    frame = rng.choice(templates.frames(attribute, form, "seen"))
    if rng.random() < 0.25:
        frame = templates.led(rng.choice(templates.leads()), frame)
    return templates.fill(frame, entity, value, article(attribute)) + "."


def asked(rng: random.Random, attribute: str, entity: str) -> str:
    """A question in a seen wording, without its answer."""
    return templates.fill(rng.choice(templates.frames(attribute, "question", "seen")), entity, "")


def write_facts(rng: random.Random, world: World) -> tuple[str, str]:
    """Several statements about one domain, either mixed or all about one entity."""
    domain = _topic(rng, world)
    facts = [fact(rng, world, domain) for _ in range(rng.randint(3, 8))]
    if rng.random() < 0.5:
        entity = facts[0][1]
        known = [a for a in world.attributes_of(domain) if entity in world.facts[a]]
        facts = [(a, entity, world.facts[a][entity]) for a in rng.choices(known, k=len(facts))]
    separator = rng.choice((" ", " ", "\n", "\n- "))
    return separator.join(sentence(rng, *fact) for fact in facts), domain


def write_questions(rng: random.Random, world: World) -> tuple[str, str]:
    """A few questions with their answers, mostly in one layout."""
    domain = _topic(rng, world)
    layout, same = rng.choice(templates.wrappers()), rng.random() < 0.5
    parts = []
    for _ in range(rng.randint(2, 7)):
        attribute, entity, value = fact(rng, world, domain if rng.random() < 0.7 else _topic(rng, world))
        text = layout.replace("{q}", asked(rng, attribute, entity)) if same else question_text(rng, attribute, "seen")
        parts.append(templates.fill(text, entity, value, article(attribute)) + rng.choice((".", "")))
    return rng.choice(("\n", "\n", "\n\n")).join(parts), domain


def write_list(rng: random.Random, world: World) -> tuple[str, str]:
    """A table of one attribute, or a sequence said in order."""
    if rng.random() < 0.3:
        return _recital(rng, world)
    attribute = rng.choice(world.attributes)
    domain, relation = attribute.split(".")
    entities = rng.sample(list(world.facts[attribute]), min(len(world.facts[attribute]), rng.randint(4, 14)))
    mark = rng.choice((" - ", ": ", " -> ", ", ", " = "))
    bullet = rng.choice(("", "", "- ", "* "))
    lines = [f"{bullet}{entity}{mark}{world.facts[attribute][entity]}" for entity in entities]
    title = rng.choice((f"{domain} and {relation}:", f"The {relation} of each {domain}:", f"List: {domain}, {relation}"))
    return "\n".join([title[:1].upper() + title[1:], *lines]), domain


def _recital(rng: random.Random, world: World) -> tuple[str, str]:
    name = rng.choice(list(world.sequences))
    words = world.sequences[name]
    start, length = rng.randrange(len(words)), rng.randint(4, 14)
    if name == "number":  # numbers do not go round
        start = min(start, len(words) - 4)
        length = min(length, len(words) - start)
    said = [words[(start + i) % len(words)] for i in range(length)]
    if rng.random() < 0.25:
        said, opening = said[::-1], f"The {name}s backwards: "
    else:
        opening = rng.choice((f"The {name}s in order: ", "In order: ", f"Count the {name}s: ", ""))
    return opening + rng.choice((", ", " ", "\n")).join(said), name


def write_dialogue(rng: random.Random, world: World) -> tuple[str, str]:
    """Two people who ask each other things."""
    domain, (one, two) = _topic(rng, world), rng.sample(FIRST_NAMES, 2)
    turn = _script if rng.random() < 0.5 else _speech
    greeting = rng.choice(("Good morning", "Hello", "Good evening", "Hi", "Nice to see you"))
    lines = [turn(one, f"{greeting}, {two}."), turn(two, f"{greeting}, {one}. {_how(rng)}")]
    for _ in range(rng.randint(1, 4)):
        attribute, entity, value = fact(rng, world, domain)
        lines.append(turn(one, asked(rng, attribute, entity)))
        lines.append(turn(two, _reply(rng, attribute, entity, value)))
        if rng.random() < 0.4:
            one, two = two, one
    lines.append(turn(one, rng.choice(("Thank you.", "Thanks a lot.", "I did not know that.", "Goodbye!", "I see."))))
    return rng.choice(("\n", "\n", " ")).join(lines), domain


def _script(name: str, words: str) -> str:
    return f"{name}: {words}"


def _speech(name: str, words: str) -> str:
    verb = "asked" if words.endswith("?") else "said"
    return f'{name} {verb}, "{words}"'


def _how(rng: random.Random) -> str:
    return rng.choice(("How are you?", "I am well.", "What a fine day.", "I have a question for you.", "It is cold today."))


def _reply(rng: random.Random, attribute: str, entity: str, value: str) -> str:
    if rng.random() < 0.5:
        return rng.choice(("", "That is easy. ", "Yes. ", "I think I know. ", "Of course. ")) + sentence(rng, attribute, entity, value)
    the = article(attribute)
    frame = rng.choice(("{y}.", "{the}{y}.", "It is {the}{y}.", "The answer is {the}{y}.", "That is {the}{y}.", "{the}{y}, I think."))
    return templates.fill(frame, entity, value, the)


def write_story(rng: random.Random, world: World) -> tuple[str, str]:
    """A small story about a person of the tables, a feeling, and true things on the way."""
    person = rng.choice(world.people)
    city = next(c for c in world.cities if c.name == person.city)
    company = next(c for c in world.companies if c.name == person.employer)
    weather = rng.choice(("cold", "warm", "rainy", "bright", "windy", "quiet"))
    pool = [
        sentence(rng, "person.profession", person.name, person.profession),
        sentence(rng, "person.city", person.name, person.city),
        sentence(rng, "person.employer", person.name, person.employer),
        sentence(rng, "city.country", city.name, city.country),
        sentence(rng, "city.language", city.name, city.language),
        sentence(rng, "company.product", company.name, company.product),
        _feeling(rng, world, person.name),
        f"The streets of {person.city} were {weather} that day.",
        f"There was a {rng.choice(world.objects)} on the table, and it was {rng.choice(world.colours)}.",
    ]
    middle = rng.sample(pool, rng.randint(3, 6))
    return " ".join([_opening(rng, world, person.name), *middle, _ending(rng, person.name)]), "person"


def _opening(rng: random.Random, world: World, name: str) -> str:
    day, month, season = (rng.choice(world.sequences[k]) for k in ("day", "month", "season"))
    return rng.choice((
        f"On a {day} in {month}, {name} woke up early.",
        f"It was {season}, and {name} was on the way home.",
        f"One {day} {name} went to the market.",
        f"Last {season} {name} wrote a long letter.",
        f"Once upon a time in {month} there was someone called {name}.",
        f"{name} looked out of the window on a {day} morning.",
    ))  # fmt: skip


def _ending(rng: random.Random, name: str) -> str:
    return rng.choice((
        f"In the evening {name} went to bed.",
        "And that was the end of the day.",
        f"After that {name} walked home slowly.",
        "It was a day to remember.",
        f"{name} smiled and closed the door.",
    ))  # fmt: skip


def _feeling(rng: random.Random, world: World, name: str) -> str:
    emotion = rng.choice(world.emotions)
    word = emotion.name if rng.random() < 0.6 else rng.choice(emotion.neighbours)
    situation, they = rng.choice(emotion.situations), rng.choice(("he", "she"))
    return rng.choice((
        f"{name} felt {word} because {they} {situation}.",
        f"{name} was {word}, for {they} {situation}.",
        f"Because {they} {situation}, {name} felt {word}.",
        f"{name} {situation} and was {word}.",
    ))  # fmt: skip


def write_emotions(rng: random.Random, world: World) -> tuple[str, str]:
    """Feelings with their reasons, and emotion words beside their neighbours."""
    parts = [_feeling(rng, world, rng.choice(FIRST_NAMES)) for _ in range(rng.randint(1, 4))]
    for emotion in rng.sample(world.emotions, 2):
        near = rng.sample(emotion.neighbours, 2)
        parts.append(rng.choice((
            f"To be {near[0]} is to be {emotion.name}.",
            f"Words close to {emotion.name} are {near[0]} and {near[1]}.",
            f"Someone who is {emotion.name} is also {near[0]} or {near[1]}.",
            f"How do you feel when you are {near[0]}? You feel {emotion.name}.",
        )))  # fmt: skip
    rng.shuffle(parts)
    return " ".join(parts), "emotion"
