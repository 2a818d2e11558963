"""Multiple choice with lettered options: which option is right (a pointer), and which letter it has.

    Question: The box is red. What color is the box?
    A. blue
    B. red
    Answer: B

Source: the MCQA task of Mueller et al. 2025 (MIB, arXiv 2504.13151), after Wiegreffe et al. 2025 (arXiv 2407.15018).
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from armillary.core.task import LAST, CausalModel, Prompt, Task
from armillary.errors import InputError
from armillary.tasks.causal import Mechanism, pairs_of
from armillary.tasks.sampling import Draw, halves, known, other
from armillary.tasks.wording import continuation, filled, require

#: What a source does otherwise than its base: the right option stands elsewhere; the options have other letters; both.
KINDS = ("position", "letters", "both")
VARIABLES = ("answer_pointer", "answer")
POSITIONS = ("symbol", "symbol+1", LAST)


@dataclass(frozen=True)
class Layout:
    """How a question is written.

    Args:
        question: holds {object} and {value}.
        option: holds {symbol} and {choice}; written once per option.
        closing: what stands before the answer.
    """

    question: str = "Question: The {object} is {value}. What color is the {object}?"
    option: str = "\n{symbol}. {choice}"
    closing: str = "\nAnswer:"

    def template(self, n_options: int) -> str:
        """The whole prompt, with {symbol0}, {choice0}, ... for the options.

        Raises:
            InputError: a place is missing.
        """
        require("the question", self.question, ("object", "value"))
        require("the option", self.option, ("symbol", "choice"))
        listed = [self.option.replace("{symbol}", f"{{symbol{i}}}").replace("{choice}", f"{{choice{i}}}") for i in range(n_options)]
        return "".join([self.question, *listed, self.closing])


def causal_model(n_options: int) -> CausalModel:
    """Inputs `object`, `value`, `choice0..`, `symbol0..`; the pointer is where the value stands, the answer its letter."""
    choices, symbols = _numbered("choice", n_options), _numbered("symbol", n_options)
    return CausalModel(
        {
            "answer_pointer": Mechanism(("value", *choices), lambda value, *choices: str(choices.index(value))),
            "answer": Mechanism(("answer_pointer", *symbols), lambda pointer, *symbols: symbols[int(pointer)]),
        },
        "answer",
    )


def _numbered(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}{i}" for i in range(n))


@dataclass(frozen=True)
class _Writer:
    """Makes prompts and pairs of one half."""

    rng: random.Random
    objects: Sequence[str]
    values: Sequence[str]
    letters: Sequence[str]
    n: int
    layout: Layout
    model: CausalModel

    def draw(self, kind: str) -> Draw:
        base = self._inputs()
        return self._prompt(base), self._prompt(self._source(base, kind))

    def _inputs(self) -> dict[str, str]:
        choices = self.rng.sample(self.values, self.n)
        symbols = self.rng.sample(self.letters, self.n)
        given = {"object": self.rng.choice(self.objects), "value": self.rng.choice(choices)}
        return given | options(choices, symbols)

    def _source(self, base: Mapping[str, str], kind: str) -> dict[str, str]:
        choices, symbols = ([base[name] for name in _numbered(what, self.n)] for what in ("choice", "symbol"))
        place = choices.index(base["value"])
        if kind != "letters":
            elsewhere = other(self.rng, range(self.n), place)
            choices[place], choices[elsewhere] = choices[elsewhere], choices[place]
            place = elsewhere
        if kind != "position":
            symbols = self._new_letters(symbols, place, self.model.run(base)["answer"])
        return {**base, **options(choices, symbols)}

    def _new_letters(self, old: list[str], place: int, answer: str) -> list[str]:
        """Other letters, none of the old ones where there are enough; the right option never gets the old answer's."""
        fresh = [letter for letter in self.letters if letter not in old]
        pool, symbols = fresh if len(fresh) >= self.n else self.letters, old
        while symbols == old or symbols[place] == answer:
            symbols = self.rng.sample(pool, self.n)
        return symbols

    def _prompt(self, inputs: Mapping[str, str]) -> Prompt:
        text, spans = filled(self.layout.template(self.n), inputs)
        values = self.model.run(inputs)
        symbol = spans[f"symbol{values['answer_pointer']}"][0]
        return Prompt(text, continuation(text, values["answer"]), values, {"symbol": symbol}, {"object": inputs["object"]})


def options(choices: Sequence[str], symbols: Sequence[str]) -> dict[str, str]:
    """The inputs that say what stands beside which letter."""
    return {f"choice{i}": choice for i, choice in enumerate(choices)} | {f"symbol{i}": symbol for i, symbol in enumerate(symbols)}


def task(
    objects: Sequence[str],
    values: Sequence[str],
    *,
    n_options: int = 4,
    letters: Sequence[str] = string.ascii_uppercase,
    layout: Layout = Layout(),
    kinds: Sequence[str] = KINDS,
    n_train: int = 150,
    n_test: int = 90,
    test_share: float = 0.3,
    seed: int = 0,
    name: str = "mcqa",
) -> Task:
    """Pairs for the variables `answer_pointer` and `answer`; train and test share no object.

    Args:
        objects: what is asked about.
        values: what the options are drawn from, such as colours.
        n_options: options of a question.
        letters: what marks them, drawn anew for every question.
        layout: how a question is written.
        kinds: how sources differ from bases, of `KINDS`.
        n_train, n_test: pairs per variable, spread evenly over kinds.
        test_share: of the objects.

    Raises:
        InputError: too few options, letters, values or objects, or a layout without a place for them.
        UnknownNameError: a kind that does not exist.
    """
    known("kind of counterfactual", kinds, KINDS)
    for what, given in (("letters", letters), ("values", values)):
        if not 2 <= n_options <= len(set(given)):
            raise InputError(f"n_options must lie between 2 and the number of different {what}, {len(set(given))}; got {n_options}")
    if n_options == len(set(letters)) == 2 and "both" in kinds:
        raise InputError(
            "of two letters and two options, new ones at a new place are the old answer; give more letters, or kinds without 'both'"
        )
    model = causal_model(n_options)
    sides = halves("objects", dict.fromkeys(objects), seed=f"{seed}/{name}/objects", test_share=test_share)
    made = []
    for side, n, part in zip(sides, (n_train, n_test), ("train", "test"), strict=True):
        rng = random.Random(f"{seed}/{name}/{part}")
        writer = _Writer(rng, side, list(dict.fromkeys(values)), list(dict.fromkeys(letters)), n_options, layout, model)
        made.append(pairs_of(f"{name}, {part}", model, writer.draw, n, variables=VARIABLES, kinds=kinds))
    return Task(name, made[0], made[1], POSITIONS, f"multiple choice with {n_options} options; train and test share no object")
