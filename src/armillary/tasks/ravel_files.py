"""RAVEL's own data folder: entities, attributes, templates and their splits, as the benchmark's archive holds them.

Five files per type of entity, here for `city`:

    ravel_city_entity_attributes.json      {entity: {attribute: value}}
    ravel_city_attribute_to_prompts.json   {attribute: [template with one %s]}; "Other" asks nothing
    ravel_city_entity_to_split.json        {entity: "train" | "val" | "test"}
    ravel_city_prompt_to_split.json        {template: "train" | "val" | "test"}
    wikipedia_city_entity_prompts.json     {text with %s: {"split": ..., "entity": name or null}}; may be absent

The first four are described by, and the fifth was worked out from the code that reads it in, the repository of Huang et al. 2024
(arXiv 2402.17700). Whether an answer follows a template after a space is not recorded there: here it does, but for templates that end
in a space, an opened quote or an opened bracket.

RAVEL's train half here is its entities and templates of "train", the test half those of "test"; "val" is left alone. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from armillary.core.task import Task
from armillary.errors import InputError, unknown
from armillary.tasks import entities
from armillary.tasks.entities import Half, Template
from armillary.tasks.reading import Loose, checked, json_of

_ENTITIES = re.compile(r"ravel_(.+)_entity_attributes\.json")
#: The attribute of templates that ask nothing.
OTHER = "Other"


class _Wikipedia(Loose):
    split: str
    entity: str | None = None


_TABLE = TypeAdapter(dict[str, dict[str, str | None]])
_TEMPLATES = TypeAdapter(dict[str, list[str]])
_SPLIT = TypeAdapter(dict[str, str])
_WIKIPEDIA = TypeAdapter(dict[str, _Wikipedia])


def kinds(folder: str | os.PathLike[str]) -> list[str]:
    """The types of entity that a folder has files of."""
    return sorted(match[1] for path in Path(folder).iterdir() if (match := _ENTITIES.fullmatch(path.name)))


@dataclass(frozen=True)
class _Folder:
    """One type of entity in a folder."""

    path: Path
    kind: str

    def read(self, name: str, shape: TypeAdapter[Any]) -> Any:
        path = self.path / f"{name.format(self.kind)}.json"
        return checked(shape, json_of(path), f"'{path}'")

    def has(self, name: str) -> bool:
        return (self.path / f"{name.format(self.kind)}.json").is_file()


def load(
    folder: str | os.PathLike[str],
    kind: str | None = None,
    *,
    attributes: Sequence[str] | None = None,
    n_train: int = 400,
    n_test: int = 200,
    seed: int = 0,
) -> Task:
    """Cause and isolate pairs of one type of entity; train and test share neither entities nor templates.

    Args:
        folder: where the files lie.
        kind: the type of entity, such as "city"; None for the one there is.
        attributes: which, in RAVEL's words; None for all that have templates on both sides. In the task a space in their names is "_".
        n_train, n_test: pairs per attribute.

    Raises:
        InputError: a file that is missing or malformed (file and field), or several types of entity.
        UnknownNameError: a type or an attribute that does not exist.
    """
    place = Path(folder)
    of = _Folder(place, _the_kind(place, kind))
    facts = of.read("ravel_{}_entity_attributes", _TABLE)
    sides = _halves(of, facts)
    wanted = _attributes(of, facts, sides, attributes)
    tables = {_name(name): {entity: found[name] for entity, found in facts.items() if found.get(name)} for name in wanted}
    train, test = (Half(side.entities, tuple(one for one in side.templates if one.asks in (None, *tables))) for side in sides)
    note = f"RAVEL, {of.kind}: {', '.join(wanted)} of {len(facts)} entities; its own train and test halves of entities and of templates"
    return entities.task(tables, train, test, n_train=n_train, n_test=n_test, seed=seed, name=of.kind, note=note)


def _the_kind(folder: Path, kind: str | None) -> str:
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; name the one with RAVEL's files (ravel_city_entity_attributes.json and others)")
    known = kinds(folder)
    if not known:
        raise InputError(f"'{folder}' has no file such as ravel_city_entity_attributes.json; name RAVEL's data folder")
    if kind is not None and kind not in known:
        raise unknown(f"type of entity in '{folder}'", kind, known)
    if kind is None and len(known) > 1:
        raise InputError(f"'{folder}' has several types of entity: {', '.join(known)}; name one of their files")
    return kind or known[0]


def _attributes(of: _Folder, facts: Mapping[str, Mapping[str, Any]], sides: Sequence[Half], wanted: Sequence[str] | None) -> list[str]:
    """Attributes, in RAVEL's words, that are asked for on both sides."""
    asked = set.intersection(*({template.asks for template in side.templates} for side in sides))
    known = [name for name in dict.fromkeys(name for found in facts.values() for name in found) if _name(name) in asked]
    for name in wanted or ():
        if name not in known:
            raise unknown(f"attribute of {of.kind}", name, known)
    if not known:
        raise InputError(f"'{of.path}': no attribute of {of.kind} has templates both in 'train' and in 'test'")
    return list(wanted or known)


def _halves(of: _Folder, facts: Mapping[str, Mapping[str, Any]]) -> list[Half]:
    names, texts = of.read("ravel_{}_entity_to_split", _SPLIT), of.read("ravel_{}_prompt_to_split", _SPLIT)
    asking = of.read("ravel_{}_attribute_to_prompts", _TEMPLATES)
    quiet = of.read("wikipedia_{}_entity_prompts", _WIKIPEDIA) if of.has("wikipedia_{}_entity_prompts") else {}
    _check(of, facts, names, asking)
    made = []
    for side in ("train", "test"):
        members = {entity: None for entity, found in names.items() if found == side}
        templates = [_template(of, text, name) for name, found in asking.items() for text in found if texts.get(text) == side]
        templates += [
            Template(_placed(text), only=one.entity) for text, one in quiet.items() if one.split == side and _serves(text, one, members)
        ]
        made.append(Half(tuple(members), tuple(dict.fromkeys(templates))))
    return made


def _check(of: _Folder, facts: Mapping[str, Mapping[str, Any]], names: Iterable[str], asking: Iterable[str]) -> None:
    attributes = {name for found in facts.values() for name in found}
    for name in asking:
        if name not in (*attributes, OTHER):
            raise InputError(f"'{of.path}': templates of {of.kind} ask for {name!r}, which no entity has; they have {sorted(attributes)}")
    for entity in names:
        if entity not in facts:
            raise InputError(f"'{of.path}': ravel_{of.kind}_entity_to_split.json names {entity!r}, which has no attributes")


def _template(of: _Folder, text: str, attribute: str) -> Template:
    if text.count("%s") != 1:
        raise InputError(f"'{of.path}': template {text!r} of ravel_{of.kind}_attribute_to_prompts.json must hold %s once")
    return Template(_placed(text), None if attribute == OTHER else _name(attribute))


def _serves(text: str, one: _Wikipedia, members: Collection[str]) -> bool:
    """Whether a text holds its entity once, and an entity of this half: the archive has others too."""
    return text.count("%s") == 1 and (one.entity is None or one.entity in members)


def _placed(text: str) -> str:
    return text.replace("%s", "{entity}").replace("%%", "%")


def _name(attribute: str) -> str:
    return re.sub(r"\W+", "_", attribute)
