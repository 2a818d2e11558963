"""Causal models run in any order, and positions of prompts are found whatever the tokenizer adds."""

from __future__ import annotations

import pytest

import armillary as arm
from armillary.core.task import CausalModel, Pair, Prompt, Task, tokens_at
from armillary.errors import InputError, UnknownNameError

MECHANISMS = {"answer": lambda pointer, a, b: (a, b)[int(pointer)], "pointer": lambda colour, first: str(int(first != colour))}
CHOICE = CausalModel(MECHANISMS, "answer")
INPUTS = {"colour": "red", "first": "blue", "a": "A", "b": "B"}


def test_variables_follow_from_inputs_and_from_what_is_set() -> None:
    assert CHOICE.run(INPUTS)["answer"] == "B"
    assert CHOICE.run(INPUTS, {"pointer": "0"})["answer"] == "A"
    assert CHOICE.run(INPUTS, {"first": "red"})["pointer"] == "0"
    assert CHOICE.run(INPUTS, {"answer": "C"})["pointer"] == "1"


def test_what_is_missing_circular_or_unknown_is_refused() -> None:
    with pytest.raises(InputError, match="input 'first' is missing"):
        CHOICE.run({"colour": "red", "a": "A", "b": "B"})
    with pytest.raises(UnknownNameError, match="pointer"):
        CHOICE.run(INPUTS, {"pointr": "0"})
    with pytest.raises(InputError, match="in a circle: a -> b -> a"):
        CausalModel({"a": lambda b: b, "b": lambda a: a}, "a").run({})


@pytest.mark.parametrize("name", ["arm-small", "arm-tiny"])
def test_positions_are_those_of_the_prompt_and_not_of_what_follows(name: str) -> None:
    lm = arm.LanguageModel(name)
    text = "The city of Paris lies in"
    start = text.index("Paris")
    prompt = Prompt(text, " France", spans={"entity": (start, start + 5)})
    for tokens in (lm.tokenize([text, text]), lm.tokenize([text + " France", text + " France, they say"])):
        for where, end in (("entity", "Paris"), ("last", " in")):
            found = [tokens.text(int(tokens.starts[i] + at)) for i, at in enumerate(tokens_at(tokens, [prompt] * 2, where))]
            assert found[0] == found[1] and end.endswith(found[0].strip())
    entity, after = (tokens_at(tokens, [prompt] * 2, where) for where in ("entity", "entity+1"))
    assert (after == entity + 1).all()
    with pytest.raises(InputError, match="no span 'object'"):
        tokens_at(tokens, [prompt] * 2, "object")
    for wrong in ("entity+one", "entity+", "entity+1+1", "entity+-1", ""):
        with pytest.raises(InputError, match="must be a span's name, the same with"):
            tokens_at(tokens, [prompt] * 2, wrong)


def test_a_task_tells_its_variables_in_order() -> None:
    one = Prompt("a", "b")
    assert Task("t", (Pair(one, one, "y", "b", "cause"),), (Pair(one, one, "x", "b", "cause"),)).variables == ("y", "x")
