"""Indirect object identification: two names are said, one of them again, and the other is to follow.

    When Mary and John went to the store, John gave a drink to -> Mary

The position of the indirect object is which of the first two names it is; its token is the name itself.

Source: Wang et al. 2023 (arXiv 2211.00593); the variables are those of Mueller et al. 2025 (MIB, arXiv 2504.13151).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from armillary.core.task import LAST, CausalModel, Prompt, Task
from armillary.errors import InputError
from armillary.tasks.causal import pairs_of
from armillary.tasks.sampling import Draw, halves, known
from armillary.tasks.wording import continuation, filled, require

#: What a source does otherwise than its base: the other name is said again; the first two change places; two new names; new names
#: that have changed places.
KINDS = ("subject", "order", "names", "both")
VARIABLES = ("io_position", "io_token")
POSITIONS = ("subject", "subject_again", "subject_again+1", "indirect_object", LAST)
NAMES = (
    "Alice", "Amy", "Anna", "Ben", "Bob", "Carl", "Chris", "Dan", "David", "Emma", "Eric", "Frank", "George", "Helen", "Henry", "Jack",
    "James", "Jane", "John", "Kate", "Kevin", "Laura", "Lisa", "Mark", "Mary", "Mike", "Paul", "Peter", "Rose", "Sam", "Sarah", "Tom",
)  # fmt: skip
PLACES = ("garden", "hospital", "house", "library", "market", "office", "park", "school", "station", "store")
OBJECTS = ("basket", "book", "bottle", "computer", "drink", "key", "letter", "ring", "snack", "ticket")
TEMPLATES = (
    "When {A} and {B} went to the {place}, {C} gave a {object} to",
    "Then, {A} and {B} went to the {place}. {C} gave a {object} to",
    "After {A} and {B} went to the {place}, {C} gave a {object} to",
    "{A} and {B} were working at the {place}. {C} decided to give a {object} to",
    "Then, {A} and {B} had a long talk at the {place}. Afterwards {C} handed a {object} to",
    "While {A} and {B} were at the {place}, {C} offered a {object} to",
    "{A} and {B} met at the {place}, and {C} brought a {object} for",
    "At the {place}, {A} sat beside {B}. Later {C} passed a {object} to",
)


def causal_model() -> CausalModel:
    """Inputs `A`, `B` (the first names) and `C` (the one said again); the position is 0 or 1, the token a name."""
    return CausalModel(
        {
            "io_position": lambda A, C: str(int(C == A)),
            "io_token": lambda io_position, A, B: (A, B)[int(io_position)],
        },
        "io_token",
    )


@dataclass(frozen=True)
class _Writer:
    """Makes prompts and pairs of one half."""

    rng: random.Random
    names: Sequence[str]
    templates: Sequence[str]
    places: Sequence[str]
    objects: Sequence[str]
    model: CausalModel

    def draw(self, kind: str) -> Draw:
        template = self.rng.choice(self.templates)
        words = {"place": self._one(self.places), "object": self._one(self.objects)}
        first, second, *new = self.rng.sample(self.names, 4)
        base = {"A": first, "B": second, "C": self.rng.choice((first, second))}
        return self._prompt(template, base | words), self._prompt(template, _source(base, kind, new) | words)

    def _one(self, words: Sequence[str]) -> str:
        return self.rng.choice(words) if words else ""

    def _prompt(self, template: str, inputs: Mapping[str, str]) -> Prompt:
        text, spans = filled(template, inputs)
        values = self.model.run(inputs)
        subject, indirect = ("A", "B") if inputs["C"] == inputs["A"] else ("B", "A")
        found = {"subject": spans[subject][0], "subject_again": spans["C"][-1], "indirect_object": spans[indirect][0]}
        groups = {"names": ", ".join(sorted((inputs["A"], inputs["B"]))), "template": template}
        return Prompt(text, continuation(text, values["io_token"]), values, found, groups)


def _source(base: Mapping[str, str], kind: str, new: Sequence[str]) -> dict[str, str]:
    is_first = base["C"] == base["A"]
    first, second = new if kind in ("names", "both") else (base["A"], base["B"])
    if kind == "subject":
        return {"A": first, "B": second, "C": second if is_first else first}
    subject = first if is_first else second
    return {"A": first, "B": second, "C": subject} if kind == "names" else {"A": second, "B": first, "C": subject}


def task(
    names: Sequence[str] = NAMES,
    templates: Sequence[str] = TEMPLATES,
    *,
    places: Sequence[str] = PLACES,
    objects: Sequence[str] = OBJECTS,
    kinds: Sequence[str] = KINDS,
    n_train: int = 160,
    n_test: int = 80,
    test_share: float = 0.3,
    seed: int = 0,
    name: str = "ioi",
) -> Task:
    """Pairs for the variables `io_position` and `io_token`; train and test share neither names nor templates.

    Args:
        names: at least eight, four for each half.
        templates: at least two; they hold {A}, {B} and {C}, and may hold {place} and {object}.
        kinds: how sources differ from bases, of `KINDS`.
        n_train, n_test: pairs per variable, spread evenly over kinds.
        test_share: of the names and of the templates.

    Raises:
        InputError: too few names or templates, or a template without a place for a name.
        UnknownNameError: a kind that does not exist.
    """
    known("kind of counterfactual", kinds, KINDS)
    for template in templates:
        require("template", template, ("A", "B", "C"))
        _check_words(template, {"place": places, "object": objects})
    people = halves("names", dict.fromkeys(names), seed=f"{seed}/{name}/names", test_share=test_share, least=4)
    frames = halves("templates", dict.fromkeys(templates), seed=f"{seed}/{name}/templates", test_share=test_share)
    made = []
    for side, n, part in ((0, n_train, "train"), (1, n_test, "test")):
        rng = random.Random(f"{seed}/{name}/{part}")
        writer = _Writer(rng, people[side], frames[side], places, objects, causal_model())
        made.append(pairs_of(f"{name}, {part}", writer.model, writer.draw, n, variables=VARIABLES, kinds=kinds))
    return Task(name, made[0], made[1], POSITIONS, "which of two names is not said again; train and test share neither names nor templates")


def _check_words(template: str, words: Mapping[str, Sequence[str]]) -> None:
    for place, given in words.items():
        if f"{{{place}}}" in template and not given:
            raise InputError(f"template {template!r} has a place for {{{place}}}, and no {place}s were given")
