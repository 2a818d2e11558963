"""Facts about entities, told apart by attribute: does what holds one attribute of an entity hold that one alone?

    base    The language spoken in Paris is     (asks for the language)
    source  Tokyo is a city in the country of
    cause   taking the language from the source, the base should go on with Japanese
    isolate taking the country, it should still go on with French

Which of the two a pair is follows from how it was made and never from its tokens: `kind` is "cause", or "isolate:" and the attribute
that is asked for. In either the two entities differ in what is asked for. So doing nothing gets every isolate pair and no cause pair
right, and taking everything gets every cause pair and no isolate pair.

Source: RAVEL (Huang et al. 2024, arXiv 2402.17700).
"""

from __future__ import annotations

import keyword
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from armillary.core.task import LAST, CausalModel, Pair, Prompt, Task
from armillary.errors import InputError, unknown
from armillary.tasks.causal import Mechanism, interchanged
from armillary.tasks.sampling import distinct, halves
from armillary.tasks.wording import continuation, filled

CAUSE = "cause"
ISOLATE = "isolate:"
POSITIONS = ("entity", "entity+1", LAST)
#: Sources that ask nothing, where there are such templates.
NEUTRAL_SHARE = 0.25
#: {attribute: {entity: value}}; an entity may lack an attribute.
Tables = Mapping[str, Mapping[str, str]]
_TAKEN = ("entity", "asked", "answer")


@dataclass(frozen=True)
class Template:
    """A wording.

    Args:
        text: holds {entity} once and ends where the answer begins.
        asks: the attribute that follows, or None for a text that asks nothing (then it serves sources only).
        only: the one entity that it is about, or None for any; a template that asks is about any.
    """

    text: str
    asks: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Half:
    """What one side of a task is made of: train and test share neither."""

    entities: tuple[str, ...]
    templates: tuple[Template, ...]


def causal_model(tables: Tables) -> CausalModel:
    """Inputs `entity` and `asked`; each attribute follows from the entity, the answer is the one that is asked for."""
    names = tuple(tables)
    attributes = {name: Mechanism(("entity",), lambda entity, table=table: table.get(entity, "")) for name, table in tables.items()}
    answer = Mechanism(("asked", *names), lambda asked, *values: values[names.index(asked)] if asked else "")
    return CausalModel({**attributes, "answer": answer}, "answer")


def split(tables: Tables, templates: Sequence[Template], *, test_share: float = 0.3, seed: int = 0) -> tuple[Half, Half]:
    """(train, test): entities and, for each attribute, templates at random.

    Raises:
        InputError: too few entities, or fewer than two templates of an attribute.
    """
    entities = dict.fromkeys(name for table in tables.values() for name in table)
    names = halves("entities", entities, seed=f"{seed}/entities", test_share=test_share, least=2)
    sides: tuple[list[Template], list[Template]] = ([], [])
    for asks in dict.fromkeys(template.asks for template in templates):
        given = [template for template in templates if template.asks == asks]
        what = f"templates for {asks!r}" if asks else "templates that ask nothing"
        for side, found in zip(sides, halves(what, given, seed=f"{seed}/{asks}", test_share=test_share), strict=True):
            side.extend(found)
    return Half(names[0], tuple(sides[0])), Half(names[1], tuple(sides[1]))


@dataclass(frozen=True)
class _Writer:
    """Makes prompts and pairs of one half."""

    what: str
    rng: random.Random
    tables: Tables
    half: Half
    model: CausalModel
    capitalise: bool

    @cached_property
    def by_value(self) -> dict[str, dict[str, list[str]]]:
        """{attribute: {value: entities}} of this half."""
        found: dict[str, dict[str, list[str]]] = {name: {} for name in self.tables}
        for name, table in self.tables.items():
            for entity in self.half.entities:
                if table.get(entity):
                    found[name].setdefault(table[entity], []).append(entity)
        return found

    @cached_property
    def asking(self) -> dict[str | None, list[Template]]:
        """{attribute or None: templates} of this half."""
        return {asks: [one for one in self.half.templates if one.asks == asks] for asks in (None, *self.tables)}

    def pairs(self, target: str, n: int) -> list[Pair]:
        """`n` pairs for one attribute: half cause, half isolate, the latter spread evenly over the other attributes."""
        others = [name for name in self.tables if name != target]
        n_isolate = n // 2 if others else 0
        made = self._drawn(target, target, n - n_isolate)
        for i, asked in enumerate(others):
            made += self._drawn(target, asked, len(range(i, n_isolate, len(others))))
        return made

    def _drawn(self, target: str, asked: str, n: int) -> list[Pair]:
        what = f"{self.what}: {target!r} is taken where {asked!r} is asked for"
        if n and len(self.by_value[asked]) < 2:
            raise InputError(f"{what}: the entities have {len(self.by_value[asked])} different values of {asked!r}, and two are needed")
        if n and not self.asking[asked]:
            raise InputError(f"{what}: no template asks for {asked!r}")
        return distinct(what, lambda: self._pair(target, asked), n, lambda pair: (pair.base.text, pair.source.text))

    def _pair(self, target: str, asked: str) -> Pair:
        base, source = self._two(asked, target)
        written = self._prompt(self.rng.choice(self.asking[asked]), base)
        taken = self._prompt(self._source_template(source), source)
        inputs = ({"entity": base, "asked": asked}, {"entity": source, "asked": asked})
        expected = continuation(written.text, interchanged(self.model, *inputs, target))
        return Pair(written, taken, target, expected, CAUSE if target == asked else f"{ISOLATE}{asked}")

    def _two(self, asked: str, target: str) -> tuple[str, str]:
        """Entities that differ in what is asked for; the value is drawn before the source, so that rare ones come as often as others."""
        groups = self.by_value[asked]
        base = self.rng.choice([entity for entities in groups.values() for entity in entities])
        value = self.rng.choice([value for value in groups if value != self.tables[asked][base]])
        sources = [entity for entity in groups[value] if self.tables[target].get(entity)] or groups[value]
        return base, self.rng.choice(sources)

    def _source_template(self, entity: str) -> Template:
        neutral = [template for template in self.asking[None] if template.only in (None, entity)]
        if neutral and self.rng.random() < NEUTRAL_SHARE:
            return self.rng.choice(neutral)
        asked = [name for name in self.tables if self.tables[name].get(entity) and self.asking[name]]
        return self.rng.choice(self.asking[self.rng.choice(asked)])

    def _prompt(self, template: Template, entity: str) -> Prompt:
        starts = self.capitalise and template.text.startswith("{entity}")
        text, spans = filled(template.text, {"entity": entity[:1].upper() + entity[1:] if starts else entity})
        values = self.model.run({"entity": entity, "asked": template.asks or ""})
        groups = {"entity": entity, "template": template.text}
        return Prompt(text, continuation(text, values["answer"]), values, {"entity": spans["entity"][-1]}, groups)


def task(
    tables: Tables,
    train: Half,
    test: Half,
    *,
    targets: Sequence[str] | None = None,
    n_train: int = 200,
    n_test: int = 100,
    capitalise: bool = False,
    seed: int = 0,
    name: str = "entities",
    note: str = "",
) -> Task:
    """Cause and isolate pairs for each attribute.

    Args:
        tables: {attribute: {entity: value}}; attributes are Python names, such as `birth_year`.
        train, test: entities and templates of each side; see `split`.
        targets: attributes that are taken; None for all.
        n_train, n_test: pairs per target, half of them cause and half isolate, spread evenly over the other attributes.
        capitalise: an entity at the start of a text gets a capital letter.

    Raises:
        InputError: sides that share an entity or a template, a template without its place, an attribute without templates or with one
            value only, fewer pairs than are asked for.
        UnknownNameError: an attribute that does not exist.
    """
    _check(tables, train, test, tuple(tables) if targets is None else targets)
    made = []
    for half, n, part in ((train, n_train, "train"), (test, n_test, "test")):
        writer = _Writer(f"task {name!r}, {part}", random.Random(f"{seed}/{name}/{part}"), tables, half, causal_model(tables), capitalise)
        made.append(tuple(pair for target in targets or tables for pair in writer.pairs(target, n)))
    return Task(name, made[0], made[1], POSITIONS, note or "attributes of entities; train and test share neither entities nor templates")


def _check(tables: Tables, train: Half, test: Half, targets: Sequence[str]) -> None:
    for name in tables:
        if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
            raise InputError(f"attribute {name!r} must be a name such as 'birth_year', none of {', '.join(_TAKEN)} and Python's own words")
    for target in targets:
        if target not in tables:
            raise unknown("attribute", target, tables)
    for template in (*train.templates, *test.templates):
        if template.text.count("{entity}") != 1:
            raise InputError(f"template {template.text!r} must hold {{entity}} once, and does so {template.text.count('{entity}')} times")
        if template.asks is not None and template.asks not in tables:
            raise unknown("attribute", template.asks, tables)
        if template.asks is not None and template.only is not None:
            raise InputError(
                f"template {template.text!r} asks for {template.asks!r}, so it must serve every entity and not {template.only!r} only"
            )
    _check_apart("entities", train.entities, test.entities)
    _check_apart("templates", [one.text for one in train.templates], [one.text for one in test.templates])


def _check_apart(what: str, train: Iterable[str], test: Iterable[str]) -> None:
    shared = sorted(set(train) & set(test))
    if shared:
        raise InputError(f"train and test share {len(shared)} {what}, such as {shared[0]!r}; give each to one side")
