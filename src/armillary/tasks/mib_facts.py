"""MIB's form of RAVEL: cities with a continent, a country and a language (Mueller et al. 2025, arXiv 2504.13151).

    {"prompt": "Paris is in the country", "template": "%s is in the country", "entity": "Paris", "attribute": "Country",
     "Continent": "Europe", "Country": "France", "Language": "French",
     "attribute_counterfactual": {the same fields}, "wikipedia_counterfactual": {the same, "attribute": "wikipedia"}}

What a wikipedia text asks is nothing. Another template of the same entity is no source, and `prompt_template_counterfactual` is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from armillary.core.task import Pair, Prompt
from armillary.errors import InputError
from armillary.tasks import entities
from armillary.tasks.reading import Loose, checked
from armillary.tasks.wording import continuation

ATTRIBUTES = ("Continent", "Country", "Language")
NEUTRAL = "wikipedia"
POSITIONS = entities.POSITIONS


class _Fact(Loose):
    prompt: str = Field(min_length=1)
    entity: str = Field(min_length=1)
    attribute: str
    template: str | None = None
    Continent: str | None = None
    Country: str | None = None
    Language: str | None = None


def pairs(row: dict[str, Any], where: str) -> Iterator[Pair]:
    """A row's pairs, for all attributes; none where its two entities agree in what is asked for.

    Raises:
        InputError: a field that does not fit.
    """
    base = checked(_Fact, row, where)
    if base.attribute not in ATTRIBUTES:
        raise InputError(f"{where}, field attribute: should be one of {', '.join(ATTRIBUTES)}, got {base.attribute!r}")
    if not _value(base, base.attribute):
        raise InputError(f"{where}, field {base.attribute} is missing")
    sources = [name for name in ("attribute_counterfactual", "wikipedia_counterfactual") if row.get(name) is not None]
    if not sources:
        raise InputError(f"{where} has neither the field attribute_counterfactual nor wikipedia_counterfactual")
    for name in sources:
        source = checked(_Fact, row[name], f"{where}, field {name}")
        yield from _told_apart(base, source, _prompt(base, where), _prompt(source, f"{where}, field {name}"))


def _told_apart(base: _Fact, source: _Fact, written: Prompt, taken: Prompt) -> Iterator[Pair]:
    """Pairs of entities that differ in what is asked for: else an answer would not tell what was taken."""
    asked = base.attribute
    if not _value(source, asked) or _value(source, asked) == _value(base, asked):
        return
    for target in ATTRIBUTES:
        if target == asked:
            yield Pair(written, taken, target, continuation(written.text, _value(source, asked)), entities.CAUSE)
        elif _value(source, target):
            yield Pair(written, taken, target, written.answer, f"{entities.ISOLATE}{asked}")


def _value(fact: _Fact, attribute: str) -> str:
    return {"Continent": fact.Continent, "Country": fact.Country, "Language": fact.Language}[attribute] or ""


def _prompt(fact: _Fact, where: str) -> Prompt:
    if fact.attribute not in (*ATTRIBUTES, NEUTRAL):
        raise InputError(f"{where}, field attribute: should be one of {', '.join((*ATTRIBUTES, NEUTRAL))}, got {fact.attribute!r}")
    values = {name: value for name in ATTRIBUTES if (value := _value(fact, name))} | {"entity": fact.entity}
    answer = "" if fact.attribute == NEUTRAL else continuation(fact.prompt, _value(fact, fact.attribute))
    groups = {"entity": fact.entity} | ({"template": fact.template} if fact.template else {})
    return Prompt(fact.prompt, answer, values, {"entity": _entity(fact, where)}, groups)


def _entity(fact: _Fact, where: str) -> tuple[int, int]:
    """Bytes of the entity: where the template has it, or else where the prompt names it last (before that may stand examples)."""
    before, placed, after = (fact.template or "").partition("%s")
    start = len(before) if placed and f"{before}{fact.entity}{after}" == fact.prompt else fact.prompt.rfind(fact.entity)
    if start < 0:
        raise InputError(f"{where}, field prompt: the entity {fact.entity!r} does not stand in {fact.prompt!r}")
    return len(fact.prompt[:start].encode()), len(fact.prompt[: start + len(fact.entity)].encode())
