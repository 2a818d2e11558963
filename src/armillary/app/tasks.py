"""Tasks by name, made from the world that the shipped models were trained on, or from files.

The wordings are those of the training text, so that arm-small can do the tasks; `docs/tasks.md` has how well. Facts are asked for in seen
wordings on the train side and in wordings held out of all training text on the test side.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from armillary.core.task import Task
from armillary.errors import InputError, unknown
from armillary.lm.reference import tables, world
from armillary.lm.reference.templates import SPLITS, Split
from armillary.lm.reference.world import World
from armillary.tasks import entities, files, ioi, mcqa, mib_files, ravel_files, recall
from armillary.tasks.entities import Half, Template
from armillary.tasks.sampling import halves

#: Wordings of each attribute on either side.
N_TEMPLATES = 12
_RAVEL_FILE = re.compile(r"(?:ravel|wikipedia)_(.+?)_(?:entity|attribute|prompt)_\w+\.json")


@dataclass(frozen=True)
class Named:
    """A task that has a name.

    Args:
        description: what it asks, in a line.
        make: the task of a seed.
    """

    description: str
    make: Callable[[int], Task]


def load_task(name_or_path: str, seed: int = 0) -> Task:
    """A task by its name in `TASKS`, from a file in our JSON form, or from a folder with RAVEL's or MIB's files.

    Of a folder with several of RAVEL's types of entity one is chosen by naming one of its files.

    Raises:
        UnknownNameError: neither a name nor a path that exists.
        InputError: files that do not fit.
    """
    if name_or_path in TASKS:
        return TASKS[name_or_path].make(seed)
    path = Path(name_or_path)
    if path.is_dir():
        return ravel_files.load(path, seed=seed) if ravel_files.kinds(path) else mib_files.load(path, seed=seed)
    if path.is_file():
        match = _RAVEL_FILE.fullmatch(path.name)
        return ravel_files.load(path.parent, match[1], seed=seed) if match else files.load(path)
    if path.name != name_or_path or path.suffix:
        known = ", ".join(TASKS)
        raise InputError(f"'{name_or_path}' does not exist; name a task file, a folder with RAVEL's or MIB's files, or one of {known}")
    raise unknown("task", name_or_path, TASKS)


def _mcqa(seed: int) -> Task:
    known = World.default()
    layout = mcqa.Layout(question="Question: The {object} is {value}. What colour is the {object}?")
    return mcqa.task(known.objects, known.colours, letters=world.LETTERS, layout=layout, seed=seed)


def _recall(seed: int) -> Task:
    known = World.default()
    return recall.task(known.objects, known.colours, seed=seed)


#: The nearest to indirect objects in the training text: a list of names that is said again from some name on.
TOLD_AGAIN = (
    "First: {A}, {B}, {A}, {B}, {A}\nThen: {C},",
    "First: {A}, {B}, {A}, {B}, {A}, {B}\nThen: {C},",
)


def _ioi(seed: int) -> Task:
    return ioi.task(world.words(tables.FIRST_NAMES), TOLD_AGAIN, places=(), objects=(), seed=seed)


def _ioi_english(seed: int) -> Task:
    return ioi.task(seed=seed, name="ioi-english")


@dataclass(frozen=True)
class Facts:
    """Facts of one domain of the world.

    Args:
        domain: such as "city".
        relations: its attributes.
        neutral: wordings that ask nothing, for sources of the train and of the test side.
    """

    domain: str
    relations: Sequence[str]
    neutral: Mapping[Split, Sequence[str]]

    def __call__(self, seed: int) -> Task:
        found = {name: World.default().facts[f"{self.domain}.{name}"] for name in self.relations}
        names = halves("entities", found[self.relations[0]], seed=f"{seed}/{self.domain}", test_share=0.3, least=2)
        train, test = (Half(side, self._templates(split, seed)) for side, split in zip(names, SPLITS, strict=True))
        note = f"{', '.join(self.relations)} of each {self.domain} of the world; test entities and test wordings are in no train pair"
        return entities.task(found, train, test, capitalise=True, seed=seed, name=self.domain, note=note)

    def _templates(self, split: Split, seed: int) -> tuple[Template, ...]:
        rng = random.Random(f"{seed}/{self.domain}/{split}/templates")
        asking = [template for name in self.relations for template in _asking(rng, f"{self.domain}.{name}", name, split)]
        return (*asking, *map(Template, self.neutral[split]))


def _asking(rng: random.Random, attribute: str, name: str, split: Split) -> list[Template]:
    """Different wordings, by turns a question in a layout and a statement to be completed."""
    found: dict[str, None] = {}
    while len(found) < N_TEMPLATES:
        word = world.question_text if len(found) % 2 == 0 else world.statement_text
        frame, _, _ = word(rng, attribute, split).replace("{the}", world.article(attribute)).partition(" {y}")
        found[frame[:1].upper() + frame[1:] if not frame.startswith("{") else frame] = None
    return [Template(frame.replace("{x}", "{entity}"), name) for frame in found]


_CITY = Facts(
    "city",
    ("country", "continent", "language"),
    {
        "seen": ("The streets of {entity} were quiet that day.", "Last summer the letter came from {entity} by train."),
        "held_out": ("On Monday there was snow in {entity} again.", "They walked home through {entity} slowly."),
    },
)
_COUNTRY = Facts(
    "country",
    ("capital", "currency", "continent", "language"),
    {
        "seen": ("Last summer the letter came from {entity} by train.", "It was cold in {entity} that day."),
        "held_out": ("On Monday there was snow in {entity} again.", "They walked home through {entity} slowly."),
    },
)
_PERSON = Facts(
    "person",
    ("profession", "city", "employer"),
    {
        "seen": ("On a Monday in March, {entity} woke up early.", "In the evening {entity} went to bed."),
        "held_out": ("Last autumn {entity} wrote a long letter.", "One Friday {entity} went to the market."),
    },
)

TASKS: Mapping[str, Named] = {
    "mcqa": Named("multiple choice about colours: which option is right, and which letter it has", _mcqa),
    "city": Named("country, continent and language of cities, told apart as in RAVEL", _CITY),
    "country": Named("capital, currency, continent and language of countries, told apart as in RAVEL", _COUNTRY),
    "person": Named("profession, city and employer of people, told apart as in RAVEL", _PERSON),
    "ioi": Named("which of two names follows the other, in a wording of the shipped models' text", _ioi),
    "ioi-english": Named("indirect objects in plain English, for larger models: the shipped ones cannot do it", _ioi_english),
    "recall": Named("three things have colours, and one of them is asked for", _recall),
}
