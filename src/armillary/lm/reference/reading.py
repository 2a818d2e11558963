"""Writers of documents that answer themselves: what is asked stands in the text before the question.

Multiple-choice questions about colours, people who exist in one document only, and the exercises that lead there: words said
twice, colours asked without letters, letters looked up many times. They teach a model to look back, not to know.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from armillary.lm.reference import tables, templates
from armillary.lm.reference.world import LETTERS, Person, Question, World, multiple_choice, words
from armillary.lm.reference.writers import FIRST_NAMES, asked, fact, sentence

MARKS = "ABCDEF"
LAST_NAMES = words(tables.LAST_NAMES)
# (before the question, before an option, before the answer); the first six are the standard layout of the examination
LAYOUTS = (("Question: ", "{}. ", "Answer:"),) * 6 + (
    ("Q: ", "{}. ", "A:"),
    ("Question: ", "{}) ", "Answer:"),
    ("", "({}) ", "Answer:"),
    ("Choose the right answer. ", "{}. ", "The answer is"),
)


def write_context(rng: random.Random, world: World) -> tuple[str, str]:
    """A person who exists in this document only, and questions that it answers."""
    name = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
    person = Person(
        name,
        rng.choice(world.values("person.profession")),
        rng.choice(world.cities).name,
        rng.choice(world.companies).name,
    )
    return context_text(rng, person, 3), "person"


def context_text(rng: random.Random, person: Person, n: int) -> str:
    """Three facts in random order and wording, then `n` questions with answers in one layout."""
    known, told, layout = _told(rng, person)
    answers = [templates.fill(layout.replace("{q}", asked(rng, a, person.name)), person.name, known[a]) for a in rng.sample(list(known), n)]
    return "\n".join([told, *answers])


def context_questions(rng: random.Random, person: Person) -> Iterator[Question]:
    """The same as an examination: for each attribute, what was told and one question about it."""
    for attribute in ("person.profession", "person.city", "person.employer"):
        known, told, layout = _told(rng, person)
        prompt = f"{told}\n{layout.replace('{q}', asked(rng, attribute, person.name)).removesuffix(' {y}')}"
        yield Question(prompt, f" {known[attribute]}", attribute, person.name, layout)


def _told(rng: random.Random, person: Person) -> tuple[dict[str, str], str, str]:
    """(What is known of a person, three sentences that say it, a layout for questions.)"""
    known = {f"person.{name}": getattr(person, name) for name in ("profession", "city", "employer")}
    order = rng.sample(list(known), 3)
    told = " ".join(sentence(rng, a, person.name, known[a]) for a in order)
    return known, told, rng.choice(templates.wrappers()[:4])


def write_multiple_choice(rng: random.Random, world: World) -> tuple[str, str]:
    """Three to six multiple-choice questions, mostly about colours and in the standard layout."""
    layout = rng.choice(LAYOUTS)
    facts = rng.random() < 0.2
    make = _fact_choice if facts else _colour_choice
    return "\n\n".join(make(rng, world, layout) for _ in range(rng.randint(3, 5))), "choice" if facts else "colour"


def _colour_choice(rng: random.Random, world: World, layout: tuple[str, str, str]) -> str:
    noun = rng.choice(world.objects)
    question = multiple_choice(rng, noun, world.colours, rng.choice(LETTERS))
    if layout == LAYOUTS[0]:
        return question.prompt + question.answer
    stem = question.prompt.split("\n")[0].removeprefix("Question: ")
    return _laid_out(layout, stem, question.choices, question.answer)


def _fact_choice(rng: random.Random, world: World, layout: tuple[str, str, str]) -> str:
    attribute, entity, value = fact(rng, world, rng.choice(("country", "city", "person", "company")))
    others = [v for v in world.values(attribute) if v != value]
    options, letter = rng.sample(others, 3), rng.choice(LETTERS)
    options.insert(LETTERS.index(letter), value)
    return _laid_out(layout, asked(rng, attribute, entity), tuple(options), f" {letter}")


def _laid_out(layout: tuple[str, str, str], stem: str, options: tuple[str, ...], answer: str) -> str:
    opening, mark, closing = layout
    listed = "\n".join(mark.format(letter) + option for letter, option in zip(LETTERS, options, strict=True))
    return f"{opening}{stem}\n{listed}\n{closing}{answer}"


def write_repeat(rng: random.Random, world: World) -> tuple[str, str]:
    """Random words, said two or three times in the same order."""
    known = (*world.objects, *world.colours, *FIRST_NAMES, *world.sequences["number"])
    said = rng.choice((", ", " ", "\n", "; ")).join(rng.sample(known, rng.randint(4, 20)))
    opening, between = rng.choice((("Say it again: ", "\n"), ("Repeat after me: ", ". "), ("", "\n\n"), ("First: ", "\nThen: ")))
    return opening + between.join([said] * rng.randint(2, 3)), "repeat"


def write_colours(rng: random.Random, world: World) -> tuple[str, str]:
    """Colours of one to four things, and which has which, in words or by letter."""
    exercises = (_by_word, _by_letter, _every_letter, _every_letter, _every_letter, _every_letter)
    return "\n\n".join(rng.choice(exercises)(rng, world) for _ in range(rng.randint(3, 6))), "colour"


def _by_word(rng: random.Random, world: World) -> str:
    n = rng.randint(1, 4)
    pairs = list(zip(rng.sample(world.objects, n), rng.sample(world.colours, n), strict=True))
    noun, colour = rng.choice(pairs)
    told = " ".join(f"The {thing} is {shade}." for thing, shade in pairs)
    return rng.choice((
        f"Question: {told} What colour is the {noun}?\nAnswer: {colour}",
        f"{told} What colour is the {noun}? {colour}",
        f"{told} Which of them is {colour}? The {noun}.",
        f"{told} So the {noun} is {colour}.",
    ))  # fmt: skip


def _by_letter(rng: random.Random, world: World) -> str:
    options, letter = rng.sample(world.colours, 4), rng.choice(LETTERS)
    listed = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=True))
    colour = options[LETTERS.index(letter)]
    return rng.choice((
        f"{listed}\nWhich letter is {colour}?\nAnswer: {letter}",
        f"Question: Which letter is {colour}?\n{listed}\nAnswer: {letter}",
        f"{listed}\nWhich colour is {letter}?\nAnswer: {colour}",
    ))  # fmt: skip


def _every_letter(rng: random.Random, world: World) -> str:
    """Two to six options, then letters looked up in any order, with repetition: as many look-backs as fit."""
    n = rng.randint(2, len(MARKS))
    options = list(zip(MARKS, rng.sample(world.colours if rng.random() < 0.7 else world.objects, n), strict=False))
    mark, between = rng.choice((("{}. {}", "\n"), ("{}. {}", "\n"), ("{} {}", "\n"), ("{} {}", ", "), ("{}) {}", "\n")))
    link, separator = rng.choice(
        ((" {} {}", ","), (" {} {}", "."), ("\n {}: {}", ""), (" {} is {}", "."), ("\nWhich letter is {}? {}", ""))
    )
    asked = rng.choices(options, k=rng.randint(4, 10))
    listed = between.join(mark.format(letter, option) for letter, option in options)
    return f"{listed}\n{separator.join(link.format(option, letter) for letter, option in asked)}"
