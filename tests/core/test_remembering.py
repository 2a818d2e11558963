"""Remembering: each question is asked once of each text, and the model is otherwise itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.edits import Add
from armillary.core.model import Model
from armillary.core.prompted import activations_at, answered
from armillary.core.remembering import Remembering, remembered
from armillary.core.site import Site
from armillary.core.task import Prompt
from armillary.errors import InputError
from counted_lm import Counted

STREAM, EARLY = Site("resid_post", 1), Site("mlp_out", 0)
PROMPTS = [Prompt("Paris is a", " b"), Prompt("It", " c"), Prompt("Paris is a", " b"), Prompt("The dog saw the", " d")]


@pytest.fixture(scope="module")
def lm() -> arm.LanguageModel:
    return arm.LanguageModel("arm-tiny")


def test_one_pass_gives_what_two_give(lm: arm.LanguageModel) -> None:
    tokens = lm.tokenize([prompt.text for prompt in PROMPTS])
    values, logits = lm.read(tokens, [STREAM, "mlp_out.0"])
    assert torch.equal(logits, lm.logits(tokens)) and torch.equal(values[STREAM], lm.capture(tokens, [STREAM])[STREAM])
    assert set(values) == {STREAM, "mlp_out.0"}


def test_values_go_to_their_keys_and_only_new_ones_are_found() -> None:
    asked: list[list[int]] = []

    def find(places: list[int]) -> list[str]:
        asked.append(places)
        return [f"value {i}" for i in places]

    model: Any = Remembering(None)  # type: ignore[arg-type]
    assert remembered(model, "what", ["b", "a", "b", "c"], find) == ["value 0", "value 1", "value 0", "value 3"]
    assert remembered(model, "what", ["d", "a", "d"], find) == ["value 0", "value 1", "value 0"]
    assert remembered(model, "else", ["a"], find) == ["value 0"]
    assert remembered(model, "what", [], find) == []
    assert asked == [[0, 1, 3], [0], [0]]


def test_a_model_without_memory_is_asked_for_equal_keys_once() -> None:
    model: Any = object()
    for _ in range(2):
        assert remembered(model, "what", ["b", "b"], lambda places: [len(places)]) == [1, 1]


def test_what_fails_is_not_remembered() -> None:
    model: Any = Remembering(None)  # type: ignore[arg-type]

    def fail(places: list[int]) -> list[int]:
        raise InputError("no")

    with pytest.raises(InputError):
        remembered(model, "what", ["a"], fail)
    assert remembered(model, "what", ["a"], lambda places: [7]) == [7]


def test_prompts_are_answered_and_read_once(lm: arm.LanguageModel) -> None:
    counted: Any = Counted(lm)
    model, places = Remembering(counted), [(STREAM, "last"), (EARLY, "last")]
    for _ in range(2):
        right = answered(model, PROMPTS, [prompt.answer for prompt in PROMPTS])
        found = activations_at(model, PROMPTS, places)
        assert activations_at(model, PROMPTS[::-1], places[:1])[places[0]].equal(found[places[0]].flip(0))
    assert set(counted.seen.values()) == {1} and len(counted.seen) == 6
    assert right.tolist() == answered(lm, PROMPTS, [prompt.answer for prompt in PROMPTS]).tolist()
    for place, x in activations_at(lm, PROMPTS, places).items():
        assert torch.allclose(found[place], x, atol=1e-4)


def test_it_is_otherwise_the_model(lm: arm.LanguageModel) -> None:
    model = Remembering(lm)
    assert isinstance(model, Model)
    assert (model.name, model.revision, model.n_layers, model.has_logits) == (lm.name, lm.revision, lm.n_layers, True)
    assert model.generate("It is", max_new_tokens=3) == lm.generate("It is", max_new_tokens=3)
    assert model.vocabulary() is lm.vocabulary() and torch.equal(model.readout(EARLY), lm.readout(EARLY))
    edit, tokens = Add(STREAM, torch.ones(lm.d_model)), lm.tokenize("It is")
    assert torch.equal(model.logits(tokens, edits=[edit]), lm.logits(tokens, edits=[edit]))
    assert torch.equal(model.capture(tokens, [STREAM], edits=[edit])[STREAM], lm.capture(tokens, [STREAM], edits=[edit])[STREAM])
    assert torch.equal(model.read(tokens, [STREAM])[1], lm.logits(tokens))
