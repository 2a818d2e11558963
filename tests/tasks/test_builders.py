"""What is expected of a pair is what follows from its texts alone, read and answered again here by other means."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable

import pytest

from armillary.core.task import Pair, Prompt, Task
from armillary.errors import InputError, UnknownNameError
from armillary.tasks import ioi, mcqa, recall
from armillary.tasks.causal import interchanged

THINGS = [f"thing{i}" for i in range(12)] + ["Äpfel", "数", "🙂 face"]
COLOURS = ("red", "blue", "grün", "黄", "black", "white", "pink")
PEOPLE = ("Zoë", "Åsa", "李雷", "Ben", "Carl", "Dora", "Eva", "Frank", "Gina", "Hans", "Iris", "Jack")
FRAMES = ("Then {A} and {B} went home. {C} gave it to", "{A} met {B}, and {C} wrote to", "{B} saw {A}. {C} called")

BUILDERS: dict[str, Callable[..., Task]] = {
    "mcqa": lambda **options: mcqa.task(THINGS, COLOURS, **options),
    "ioi": lambda **options: ioi.task(PEOPLE, FRAMES, **options),
    "recall": lambda **options: recall.task(THINGS, COLOURS, variables=recall.VARIABLES, **options),
}


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[..., Task]:
    return BUILDERS[request.param]


def prompts(pairs: tuple[Pair, ...]) -> list[Prompt]:
    return [prompt for pair in pairs for prompt in (pair.base, pair.source)]


def span(prompt: Prompt, name: str) -> str:
    start, end = prompt.spans[name]
    return prompt.text.encode()[start:end].decode()


# ---------------------------------------------------------------- all of them


def test_as_many_pairs_as_are_asked_for_evenly_over_kinds(build: Callable[..., Task]) -> None:
    task = build(n_train=25, n_test=11)
    for half, n in ((task.train, 25), (task.test, 11)):
        for variable in task.variables:
            counts = Counter(pair.kind for pair in half if pair.variable == variable)
            assert counts.total() == n and max(counts.values()) - min(counts.values()) <= 1
        assert len({(pair.base.text, pair.source.text, pair.variable) for pair in half}) == len(half)


def test_a_seed_makes_the_task_and_another_another(build: Callable[..., Task]) -> None:
    assert build(seed=3) == build(seed=3)
    assert build(seed=3).train != build(seed=4).train


def test_more_test_pairs_leave_the_train_pairs_alone(build: Callable[..., Task]) -> None:
    assert build(n_train=20, n_test=5).train == build(n_train=20, n_test=25).train


def test_train_and_test_share_no_group(build: Callable[..., Task]) -> None:
    task = build()
    groups = [{group for prompt in prompts(half) for group in prompt.groups.items()} for half in (task.train, task.test)]
    assert groups[0] and not groups[0] & groups[1]


def test_every_position_is_a_span_of_every_prompt(build: Callable[..., Task]) -> None:
    task = build()
    for prompt in prompts((*task.train, *task.test)):
        for position in task.positions:
            name = position.partition("+")[0]
            assert name == "last" or span(prompt, name)


def test_what_does_not_change_the_variable_leaves_the_answer(build: Callable[..., Task]) -> None:
    task = build()
    seen = set()
    for pair in (*task.train, *task.test):
        same = pair.base.values[pair.variable] == pair.source.values[pair.variable]
        seen.add((pair.kind, pair.variable, same))
        assert (pair.expected == pair.base.answer) == same
    # Of a kind and a variable it is always or never so: kinds say what changes.
    assert len({(kind, variable) for kind, variable, _ in seen}) == len(seen)
    assert {same for *_, same in seen} == {True, False}


def test_a_kind_that_does_not_exist_is_refused(build: Callable[..., Task]) -> None:
    with pytest.raises(UnknownNameError, match="kind of counterfactual 'bth'"):
        build(kinds=("bth",))
    with pytest.raises(InputError, match="at least one kind"):
        build(kinds=())


def test_a_share_must_leave_both_sides_something(build: Callable[..., Task]) -> None:
    with pytest.raises(InputError, match="test_share"):
        build(test_share=1.0)


# ---------------------------------------------------------------- multiple choice


def read_choice(text: str) -> tuple[int, list[str]]:
    """(Which option is right, the letters), from the text of a question."""
    colour = re.findall(r"^Question: The .* is (.*)\. What", text)[0]
    options = re.findall(r"^(\S+)\. (.*)$", text, re.MULTILINE)
    return [choice for _, choice in options].index(colour), [letter for letter, _ in options]


@pytest.mark.parametrize("letters", ["ABCD", "ABCDE", "ABCDEFGH"])
def test_choices_are_answered_as_their_text_says(letters: str) -> None:
    task = mcqa.task(THINGS, COLOURS, letters=letters)
    for pair in task.train:
        (place, symbols), (other, others) = read_choice(pair.base.text), read_choice(pair.source.text)
        assert (pair.base.answer, pair.source.answer) == (f" {symbols[place]}", f" {others[other]}")
        assert pair.expected == {"answer_pointer": f" {symbols[other]}", "answer": f" {others[other]}"}[pair.variable]
        assert (place == other, symbols == others) == {"position": (False, True), "letters": (True, False), "both": (False, False)}[
            pair.kind
        ]
        assert span(pair.base, "symbol") == symbols[place]
        assert pair.base.text.encode()[: pair.base.spans["symbol"][0]].decode().endswith("\n")


def test_new_letters_are_none_of_the_old_where_there_are_enough() -> None:
    for pair in mcqa.task(THINGS, COLOURS, kinds=("letters",)).train:
        assert not set(read_choice(pair.base.text)[1]) & set(read_choice(pair.source.text)[1])


def test_the_causal_model_of_choices_by_brute_force() -> None:
    model = mcqa.causal_model(3)
    for choices in itertools.permutations(("red", "blue", "pink")):
        for symbols in itertools.permutations("ABC"):
            for value in choices:
                inputs = {"value": value, **mcqa.options(choices, symbols)}
                place = choices.index(value)
                assert model.run(inputs)["answer"] == symbols[place]
                for i in range(3):
                    assert model.run(inputs, {"answer_pointer": str(i)})["answer"] == symbols[i]
                    assert model.run(inputs, {f"symbol{i}": "Z"})["answer"] == ("Z" if i == place else symbols[place])
                    source = {**inputs, "value": choices[i]}
                    assert interchanged(model, inputs, source, "answer_pointer") == symbols[i]


def test_a_layout_of_ones_own() -> None:
    layout = mcqa.Layout("{value} {object}?", " ({symbol}) {choice}", " =")
    (pair, *_) = mcqa.task(THINGS, COLOURS, n_options=2, layout=layout).train
    assert re.fullmatch(r"\w+ [^?]+\? \(\w\) \w+ \(\w\) \w+ =", pair.base.text)
    assert pair.base.answer == pair.base.values["answer"]  # after "=" without a space
    with pytest.raises(InputError, match=r"the option .* has no place for \{choice\}"):
        mcqa.task(THINGS, COLOURS, layout=mcqa.Layout(option="{symbol}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_options": 1}, "n_options must lie between 2 and the number of different letters, 26; got 1"),
        ({"n_options": 8}, "between 2 and the number of different values, 7; got 8"),
        ({"letters": "AAB"}, "different letters, 2; got 4"),
    ],
)
def test_options_that_cannot_be(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        mcqa.task(THINGS, COLOURS, **change)  # type: ignore[arg-type]


def test_too_few_objects_and_too_few_pairs() -> None:
    with pytest.raises(InputError, match="of two letters and two options"):
        mcqa.task(THINGS, COLOURS, n_options=2, letters="AB")
    with pytest.raises(InputError, match="1 objects; train and test share none"):
        mcqa.task(["box"], COLOURS)
    with pytest.raises(InputError, match=r"kind 'position': 100 different pairs were asked for and 8 found"):
        mcqa.task(["box", "cup"], COLOURS[:2], n_options=2, letters="AB", kinds=("position",), n_train=100)


# ---------------------------------------------------------------- indirect objects


def names_in(text: str) -> list[str]:
    return re.findall("|".join(map(re.escape, PEOPLE)), text)


def test_indirect_objects_are_the_name_that_is_said_once() -> None:
    task = ioi.task(PEOPLE, FRAMES)
    for pair in (*task.train, *task.test):
        roles = []
        for prompt in (pair.base, pair.source):
            said = Counter(names_in(prompt.text))
            (indirect,), (subject,) = ([name for name, n in said.items() if n == times] for times in (1, 2))
            assert prompt.answer == f" {indirect}"
            assert (span(prompt, "indirect_object"), span(prompt, "subject")) == (indirect, subject)
            assert prompt.spans["subject"] != prompt.spans["subject_again"] and span(prompt, "subject_again") == subject
            first = [prompt.values["A"], prompt.values["B"]]
            roles.append((first, first.index(indirect), indirect))
        (names, place, token), (_, other_place, other_token) = roles
        assert pair.expected == f" {names[other_place] if pair.variable == 'io_position' else other_token}"
        changes = {"subject": (True, True), "order": (True, False), "names": (False, True), "both": (True, True)}
        assert (place != other_place, token != other_token) == changes[pair.kind]


def test_the_causal_model_of_names_by_brute_force() -> None:
    model = ioi.causal_model()
    for first, second in itertools.permutations(("x", "y", "z"), 2):
        for again in (first, second):
            inputs = {"A": first, "B": second, "C": again}
            assert model.run(inputs)["io_token"] == ({first, second} - {again}).pop()
            assert [model.run(inputs, {"io_position": place})["io_token"] for place in "01"] == [first, second]


def test_names_of_train_are_not_names_of_test() -> None:
    task = ioi.task(PEOPLE, FRAMES)
    train, test = ({name for prompt in prompts(half) for name in names_in(prompt.text)} for half in (task.train, task.test))
    assert train and test and not train & test


def test_the_english_task_needs_nothing() -> None:
    task = ioi.task()
    assert all("{" not in prompt.text for prompt in prompts((*task.train, *task.test)))


def test_templates_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"has no place for \{C\}"):
        ioi.task(PEOPLE, ("{A} and {B}", "{A} {B} {C}"))
    with pytest.raises(InputError, match=r"has a place for \{place\}, and no places were given"):
        ioi.task(places=())
    with pytest.raises(InputError, match="3 names; train and test share none and need 4 each, so at least 8"):
        ioi.task(("a", "b", "c"), FRAMES)


# ---------------------------------------------------------------- recall


def test_recall_looks_up_what_its_text_says() -> None:
    task = recall.task(THINGS, COLOURS, variables=recall.VARIABLES)
    for pair in task.train:
        tables, asked = [], []
        for prompt in (pair.base, pair.source):
            told, _, question = prompt.text.rpartition(" So the ")
            tables.append(dict(re.findall(r"The (.*?) is (.*?)\.", told)))
            asked.append(question.removesuffix(" is"))
            assert prompt.answer == f" {tables[-1][asked[-1]]}"
            assert span(prompt, "asked") == span(prompt, "key") == asked[-1] and span(prompt, "value") == prompt.answer.strip()
            assert prompt.spans["asked"][0] > prompt.spans["value"][0] > prompt.spans["key"][0]
        base, source = tables
        place = list(source).index(asked[1])
        wanted = {"key": base[asked[1]], "position": list(base.values())[place], "value": source[asked[1]]}
        assert pair.expected == f" {wanted[pair.variable]}"
        same = (asked[0] == asked[1], base == source, list(base) == list(source))
        assert (
            same
            == {"asked": (False, True, True), "values": (True, False, True), "both": (False, False, True), "order": (True, True, False)}[
                pair.kind
            ]
        )


def test_the_causal_model_of_recall_by_brute_force() -> None:
    model = recall.causal_model(2)
    for keys in itertools.permutations(("a", "b")):
        for values in itertools.product(("x", "y"), repeat=2):
            for asked in keys:
                inputs = {"asked": asked, "key0": keys[0], "key1": keys[1], "value0": values[0], "value1": values[1]}
                assert model.run(inputs)["value"] == values[keys.index(asked)]
                assert [model.run(inputs, {"key": key})["value"] for key in keys] == list(values)
                assert [model.run(inputs, {"position": place})["value"] for place in "01"] == list(values)


def test_recall_that_cannot_be() -> None:
    with pytest.raises(InputError, match="n_pairs must be at least 2 and less than the number of different values, 7; got 7"):
        recall.task(THINGS, COLOURS, n_pairs=7)
    with pytest.raises(UnknownNameError, match="variable 'keys'"):
        recall.task(THINGS, COLOURS, variables=("keys",))
    with pytest.raises(InputError, match=r"the question .* has no place for \{asked\}"):
        recall.task(THINGS, COLOURS, layout=recall.Layout(question="?"))
