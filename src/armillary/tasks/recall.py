"""Recall in context: pairs of key and value are said, a key is asked for, its value is to follow.

    The box is red. The cup is blue. So the cup is -> blue

The key is what is asked; the position is where it stood (a binding by order, Feng and Steinhardt 2024, arXiv 2310.17191); the value is
what it was bound to.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from armillary.core.task import LAST, CausalModel, Prompt, Task
from armillary.errors import InputError
from armillary.tasks.causal import Mechanism, pairs_of
from armillary.tasks.sampling import Draw, halves, known, other
from armillary.tasks.wording import continuation, filled, require

#: What a source does otherwise than its base: another key is asked for; the keys have other values; both; the pairs change places.
KINDS = ("asked", "values", "both", "order")
VARIABLES = ("key", "position", "value")
POSITIONS = ("asked", "key", "value", LAST)


@dataclass(frozen=True)
class Layout:
    """How pairs are said and one is asked for.

    Args:
        item: holds {key} and {value}; written once per pair.
        between: what stands between pairs.
        question: holds {asked}; the answer follows it.
        opening: what stands first.
    """

    item: str = "The {key} is {value}."
    between: str = " "
    question: str = " So the {asked} is"
    opening: str = ""

    def template(self, n_pairs: int) -> str:
        """The whole prompt, with {key0}, {value0}, ... for the pairs.

        Raises:
            InputError: a place is missing.
        """
        require("the item", self.item, ("key", "value"))
        require("the question", self.question, ("asked",))
        items = [self.item.replace("{key}", f"{{key{i}}}").replace("{value}", f"{{value{i}}}") for i in range(n_pairs)]
        return f"{self.opening}{self.between.join(items)}{self.question}"


def causal_model(n_pairs: int) -> CausalModel:
    """Inputs `asked`, `key0..`, `value0..`; a key is looked up by where it stands, and its value is the answer."""
    keys, values = (tuple(f"{what}{i}" for i in range(n_pairs)) for what in ("key", "value"))
    return CausalModel(
        {
            "key": Mechanism(("asked",), str),
            "position": Mechanism(("key", *keys), lambda key, *keys: str(keys.index(key))),
            "value": Mechanism(("position", *values), lambda position, *values: values[int(position)]),
        },
        "value",
    )


@dataclass(frozen=True)
class _Writer:
    """Makes prompts and pairs of one half."""

    rng: random.Random
    keys: Sequence[str]
    values: Sequence[str]
    n: int
    layout: Layout
    model: CausalModel

    def draw(self, kind: str) -> Draw:
        keys, values = self.rng.sample(self.keys, self.n), self.rng.sample(self.values, self.n)
        place = self.rng.randrange(self.n)
        return self._prompt(keys, values, place), self._source(keys, values, place, kind)

    def _source(self, keys: list[str], values: list[str], place: int, kind: str) -> Prompt:
        if kind == "order":
            elsewhere = other(self.rng, range(self.n), place)
            return self._prompt(_swapped(keys, place, elsewhere), _swapped(values, place, elsewhere), elsewhere)
        asked = place if kind == "values" else other(self.rng, range(self.n), place)
        said = values if kind == "asked" else self._new_values(values, asked)
        return self._prompt(keys, said, asked)

    def _new_values(self, old: list[str], asked: int) -> list[str]:
        """Other values, of which the one that is asked for is no old one."""
        new = self.rng.choice([value for value in self.values if value not in old])
        others = self.rng.sample([value for value in self.values if value != new], self.n - 1)
        return [*others[:asked], new, *others[asked:]]

    def _prompt(self, keys: Sequence[str], values: Sequence[str], place: int) -> Prompt:
        pairs = {f"key{i}": key for i, key in enumerate(keys)} | {f"value{i}": value for i, value in enumerate(values)}
        inputs = {"asked": keys[place], **pairs}
        text, spans = filled(self.layout.template(self.n), inputs)
        found = {"asked": spans["asked"][-1], "key": spans[f"key{place}"][0], "value": spans[f"value{place}"][0]}
        values_of = self.model.run(inputs)
        return Prompt(text, continuation(text, values_of["value"]), values_of, found, {"key": keys[place]})


def _swapped(items: Sequence[str], i: int, j: int) -> list[str]:
    exchanged = {i: items[j], j: items[i]}
    return [exchanged.get(place, item) for place, item in enumerate(items)]


def task(
    keys: Sequence[str],
    values: Sequence[str],
    *,
    n_pairs: int = 3,
    layout: Layout = Layout(),
    variables: Sequence[str] = ("key", "value"),
    kinds: Sequence[str] = KINDS,
    n_train: int = 160,
    n_test: int = 80,
    test_share: float = 0.3,
    seed: int = 0,
    name: str = "recall",
) -> Task:
    """Pairs for the variables `key`, `value` and, if asked for, `position`; train and test share no key.

    Args:
        keys, values: single words or several; a prompt says `n_pairs` of each.
        layout: how they are said.
        variables: what is taken, of `VARIABLES`.
        kinds: how sources differ from bases, of `KINDS`.
        n_train, n_test: pairs per variable, spread evenly over kinds.
        test_share: of the keys.

    Raises:
        InputError: too few keys or values, or a layout without a place for them.
        UnknownNameError: a variable or kind that does not exist.
    """
    known("kind of counterfactual", kinds, KINDS)
    known("variable", variables, VARIABLES)
    words = list(dict.fromkeys(values))
    if not 2 <= n_pairs < len(words):
        raise InputError(f"n_pairs must be at least 2 and less than the number of different values, {len(words)}; got {n_pairs}")
    model = causal_model(n_pairs)
    sides = halves("keys", dict.fromkeys(keys), seed=f"{seed}/{name}/keys", test_share=test_share, least=n_pairs)
    made = []
    for side, n, part in zip(sides, (n_train, n_test), ("train", "test"), strict=True):
        writer = _Writer(random.Random(f"{seed}/{name}/{part}"), side, words, n_pairs, layout, model)
        made.append(pairs_of(f"{name}, {part}", model, writer.draw, n, variables=variables, kinds=kinds))
    return Task(name, made[0], made[1], POSITIONS, f"recall of one of {n_pairs} pairs of key and value; train and test share no key")
