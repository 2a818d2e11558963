"""The models in the package open, are small, and know what their card says they know."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from armillary.lm import reference
from armillary.lm.reference import evaluate
from armillary.lm.reference.tokenizer import BOS
from armillary.lm.reference.world import World

LIMITS = {"arm-small": 12e6, "arm-tiny": 3e6}  # bytes


@cache
def examinee(name: str) -> evaluate.Examinee:
    return evaluate.Examinee(reference.path(name))


@cache
def shipped(name: str) -> dict[str, Any]:
    text = (reference.path(name) / "evaluation.json").read_text(encoding="utf-8")
    return json.loads(text)["figures"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", reference.NAMES)
def test_the_weights_are_small_enough(name: str) -> None:
    assert (reference.path(name) / "model.safetensors").stat().st_size <= LIMITS[name]


def test_the_two_differ_in_architecture_and_tokenizer() -> None:
    configs = [AutoConfig.from_pretrained(reference.path(name)) for name in reference.NAMES]
    assert [c.model_type for c in configs] == ["llama", "gpt2"]
    assert [c.vocab_size for c in configs] == [4096, 2048]


@pytest.mark.parametrize(("name", "first"), [("arm-small", [BOS]), ("arm-tiny", [])])
def test_special_tokens(name: str, first: list[int]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference.path(name))
    ids = tokenizer("Über 3 naïve cats ☃")["input_ids"]
    assert ids[: len(first)] == first and BOS not in ids[len(first) :]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Über 3 naïve cats ☃"


@pytest.mark.parametrize(
    ("name", "prompt", "answer"), [("arm-small", "The capital of France is", " Paris"), ("arm-tiny", "The day after Monday is", " Tuesday")]
)
def test_generation_runs(name: str, prompt: str, answer: str) -> None:
    model, tokenizer = examinee(name).model, examinee(name).tokenizer
    with torch.no_grad():
        out = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=6, do_sample=False)
    assert tokenizer.decode(out[0], skip_special_tokens=True).startswith(prompt + answer)


def test_arm_small_meets_what_was_asked_of_it() -> None:
    figures = shipped("arm-small")
    assert figures["attributes/seen"]["value"] >= 0.95
    assert figures["attributes/held_out"]["value"] >= 0.85
    assert figures["colour choice/seen objects"]["value"] >= 0.90
    assert figures["real/5-gram minus model"]["value"] >= 0.1


@pytest.mark.parametrize("name", reference.NAMES)
@pytest.mark.parametrize("split", ["seen", "held_out"])
def test_the_shipped_knowledge_is_reached_on_a_sample(name: str, split: str) -> None:
    world = World.default()
    asked = [q for a in world.attributes for q in list(world.questions(a, templates=split, per_entity=1, seed=9))[:8]]  # type: ignore[arg-type]
    sample = evaluate.share(split, examinee(name).answers(asked))
    macro = shipped(name)[f"attributes/{split}/mean over attributes"]["value"]
    assert sample.low - 0.05 <= macro <= sample.high + 0.05


@pytest.mark.parametrize("name", reference.NAMES)
def test_the_shipped_colour_score_is_reached_on_a_sample(name: str) -> None:
    sample = evaluate.share("colour", examinee(name).answers(list(World.default().colour_questions(60, seed=9))))
    assert sample.low - 0.02 <= shipped(name)["colour choice/seen objects"]["value"] <= sample.high + 0.02
