"""Cause and isolate pairs are what they were made to be, and doing nothing and taking everything are as far from both."""

from __future__ import annotations

from collections import Counter

import pytest

from armillary.core.task import Pair, Task
from armillary.errors import InputError, UnknownNameError
from armillary.tasks import entities
from armillary.tasks.entities import Half, Template

PLACES = {f"City {i} ü": (f"Land {i % 5}", f"Continent {i % 3}", f"Language {i % 2}") for i in range(24)} | {
    "São Paulo": ("Brazil", "South America", "Portuguese"),
    "東京": ("Japan", "Asia", "Japanese"),
}
TABLES = {name: {city: row[i] for city, row in PLACES.items()} for i, name in enumerate(("country", "continent", "language"))}
TEMPLATES = [
    *(Template(f"{n} The {name} of {{entity}} is", name) for name in TABLES for n in range(4)),
    *(Template(f"{n} It rained in {{entity}}.") for n in range(4)),
    *(Template(f"Only {{entity}} has {n} rivers.", only="São Paulo") for n in range(4)),
]


def build(**options: object) -> Task:
    return entities.task(TABLES, *entities.split(TABLES, TEMPLATES, seed=1), **options)  # type: ignore[arg-type]


def answer(pair: Pair, *, entity: str) -> str:
    return f" {TABLES[pair.base.values['asked']][entity]}"


def test_pairs_expect_what_the_tables_say() -> None:
    task = build()
    model = entities.causal_model(TABLES)
    for pair in (*task.train, *task.test):
        base, source = pair.base.values["entity"], pair.source.values["entity"]
        is_cause = pair.variable == pair.base.values["asked"]
        assert pair.kind == ("cause" if is_cause else f"isolate:{pair.base.values['asked']}")
        assert pair.base.answer == answer(pair, entity=base)
        assert pair.expected == answer(pair, entity=source if is_cause else base)
        taken = {pair.variable: model.run({"entity": source, "asked": ""})[pair.variable]}
        assert model.run({"entity": base, "asked": pair.base.values["asked"]}, taken)["answer"] == pair.expected.strip()


def test_doing_nothing_and_taking_everything_get_half_each() -> None:
    task = build()
    for half in (task.train, task.test):
        for variable in task.variables:
            for policy in ("nothing", "everything"):
                right: dict[str, list[bool]] = {}
                for pair in half:
                    if pair.variable == variable:
                        entity = (pair.base if policy == "nothing" else pair.source).values["entity"]
                        right.setdefault(pair.kind, []).append(answer(pair, entity=entity) == pair.expected)
                shares = {kind: sum(found) / len(found) for kind, found in right.items()}
                isolate = [share for kind, share in shares.items() if kind != "cause"]
                assert (shares["cause"] + sum(isolate) / len(isolate)) / 2 == 0.5


def test_train_and_test_share_neither_entities_nor_templates() -> None:
    task = build()
    for kind in ("entity", "template"):
        train, test = ({prompt.groups[kind] for pair in half for prompt in (pair.base, pair.source)} for half in (task.train, task.test))
        assert train and test and not train & test


def test_sizes_kinds_and_seeds() -> None:
    task = build(n_train=43, n_test=20)
    for half, n in ((task.train, 43), (task.test, 20)):
        for variable in TABLES:
            counts = Counter(pair.kind for pair in half if pair.variable == variable)
            isolate = [count for kind, count in counts.items() if kind != "cause"]
            assert counts.total() == n and counts["cause"] == n - n // 2 and max(isolate) - min(isolate) <= 1
    assert build(seed=5) == build(seed=5) and build(seed=5).train != build(seed=6).train


def test_spans_are_the_entity() -> None:
    for pair in build().train:
        for prompt in (pair.base, pair.source):
            start, end = prompt.spans["entity"]
            assert prompt.text.encode()[start:end].decode() == prompt.values["entity"]


def test_sources_may_ask_nothing_and_some_are_about_one_entity() -> None:
    task = build(n_train=400)
    quiet = [pair.source for pair in task.train if not pair.source.values["asked"]]
    assert 0.15 < len(quiet) / len(task.train) < 0.35
    assert all(prompt.answer == "" for prompt in quiet)
    assert {prompt.values["entity"] for prompt in quiet if prompt.text.startswith("Only")} <= {"São Paulo"}
    assert all(pair.base.answer for pair in task.train)


def test_rare_values_are_taken_as_often_as_common_ones() -> None:
    table = {f"c{i}": "common" if i < 40 else f"rare{i % 2}" for i in range(44)}
    half = Half(tuple(table), tuple(Template(f"{n} {{entity}} is", "kind") for n in range(40)))
    other = Half(("d0", "d1"), (Template("{entity}", "kind"),))
    task = entities.task({"kind": {**table, "d0": "x", "d1": "y"}}, half, other, n_train=300, n_test=2)
    counts = Counter(pair.expected.strip() for pair in task.train)
    assert min(counts["rare0"], counts["rare1"]) > 100 and {pair.kind for pair in task.train} == {"cause"}


def test_entities_at_the_start_get_a_capital_where_asked() -> None:
    tables = {"capital": {"the Netherlands": "Amsterdam", "élan": "Nowhere", "a": "A", "b": "B"}}
    halves = [
        Half(("the Netherlands", "élan"), (Template("{entity} has the capital", "capital"),)),
        Half(("a", "b"), (Template("In {entity}", "capital"),)),
    ]
    task = entities.task(tables, *halves, capitalise=True, n_train=2, n_test=2)
    assert {prompt.base.text for prompt in task.train} == {"The Netherlands has the capital", "Élan has the capital"}
    assert {prompt.base.text for prompt in task.test} == {"In a", "In b"}
    for pair in task.train:
        start, end = pair.base.spans["entity"]
        assert pair.base.text.encode()[start:end].decode().lower() == pair.base.values["entity"].lower()


def test_facts_that_are_missing_are_never_asked_for() -> None:
    tables = {name: {city: value for city, value in table.items() if len(name + city) % 3} for name, table in TABLES.items()}
    task = entities.task(tables, *entities.split(tables, TEMPLATES, seed=2), n_train=100, n_test=40)
    for pair in (*task.train, *task.test):
        assert pair.base.values["entity"] in tables[pair.base.values["asked"]] and pair.expected.strip()


HALVES = entities.split(TABLES, TEMPLATES, seed=1)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (HALVES[0], Half(HALVES[0].entities[:2], HALVES[1].templates), "train and test share 2 entities, such as"),
        (HALVES[0], Half(HALVES[1].entities, HALVES[0].templates[:3]), "train and test share 3 templates, such as"),
        (Half(HALVES[0].entities, (Template("It is", "country"),)), HALVES[1], r"must hold \{entity\} once, and does so 0 times"),
        (Half(HALVES[0].entities, (Template("{entity}, {entity}", "country"),)), HALVES[1], "does so 2 times"),
        (Half(HALVES[0].entities, (Template("{entity} is", "mayor"),)), HALVES[1], "unknown attribute 'mayor'"),
        (Half(HALVES[0].entities, (Template("{entity} is", "country", "東京"),)), HALVES[1], "must serve every entity and not '東京' only"),
        (Half(HALVES[0].entities, (Template("{entity} is", "country"),)), HALVES[1], "no template asks for 'continent'"),
        (Half(("東京",), HALVES[0].templates), HALVES[1], "entities have 1 different values of 'country', and two are needed"),
    ],
)
def test_sides_that_cannot_be(train: Half, test: Half, said: str) -> None:
    if "東京" in train.entities[:1]:
        test = Half(tuple(name for name in test.entities if name != "東京"), test.templates)
    with pytest.raises(InputError, match=said):
        entities.task(TABLES, train, test)


def test_attributes_are_names_and_exist() -> None:
    with pytest.raises(UnknownNameError, match="attribute 'contry'"):
        build(targets=("contry",))
    for name in ("birth year", "class", "asked"):
        with pytest.raises(InputError, match=f"attribute '{name}' must be a name such as 'birth_year'"):
            entities.task({name: TABLES["country"]}, *HALVES)


def test_more_pairs_than_there_are() -> None:
    halves = [
        Half(("東京", "São Paulo"), (Template("a {entity}", "country"),)),
        Half(("City 1 ü", "City 2 ü"), (Template("b {entity}", "country"),)),
    ]
    with pytest.raises(InputError, match="'country' is taken where 'country' is asked for: 3 different pairs were asked for and 2 found"):
        entities.task({"country": TABLES["country"]}, *halves, n_train=3, n_test=2)
    with pytest.raises(InputError, match="1 templates for 'country'"):
        entities.split(TABLES, [Template("{entity}", "country")])
