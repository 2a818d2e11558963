"""The examination: intervals, greedy answers, and cross-entropy over windows, on an untrained toy model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from armillary.errors import InputError
from armillary.lm import reference
from armillary.lm.reference import evaluate, train
from armillary.lm.reference.corpus import world_documents
from armillary.lm.reference.recipes import Recipe
from armillary.lm.reference.tokenizer import save_tokenizer, train_tokenizer
from armillary.lm.reference.world import Question, World

TOY = Recipe("toy", "llama", layers=1, width=16, heads=2, mlp_width=32, vocabulary=500, steps=1, context=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("toy")
    texts = [document.text for document in world_documents(0, 200)]
    tokenizer: Tokenizer = train_tokenizer(texts, TOY.vocabulary, prepend_bos=True)
    train.build(TOY).save_pretrained(made)
    save_tokenizer(tokenizer, made, context=TOY.context)
    return made


@pytest.fixture(scope="module")
def toy(folder: Path) -> evaluate.Examinee:
    return evaluate.Examinee(folder)


def test_wilson_intervals() -> None:
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    figure = evaluate.share("x", [True] * 81 + [False] * 182)
    assert (figure.low, figure.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert evaluate.share("x", [True] * 10).high == pytest.approx(1.0)


def test_nats_per_token_are_weighted_by_length() -> None:
    figure = evaluate.per_token("x", np.array([10.0, 1.0]), np.array([5.0, 5.0]))
    assert figure.value == pytest.approx(1.1) and figure.low == pytest.approx(0.2) and figure.high == pytest.approx(2.0)


def test_an_answer_is_right_when_greedy_decoding_says_it(toy: evaluate.Examinee) -> None:
    prompts = [q.prompt for q in World.default().questions("city.country", per_entity=1)][:5]
    said = [_greedy(toy, prompt, 3) for prompt in prompts]
    right = [Question(p, s, "", "", "") for p, s in zip(prompts, said, strict=True)]
    wrong = [dataclasses.replace(q, answer=" Paris is not it") for q in right]
    kept = [i for i, s in enumerate(said) if toy.tokenizer.decode(toy.ids(s)) == s and len(toy.ids(s)) == 3]
    answers = toy.answers([*right, *wrong])
    assert all(answers[i] for i in kept) and not any(answers[5:])


def _greedy(toy: evaluate.Examinee, prompt: str, n: int) -> str:
    ids = toy.tokenizer(prompt, return_tensors="pt")["input_ids"]
    for _ in range(n):
        ids = torch.cat([ids, toy.model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return str(toy.tokenizer.decode(ids[0, -n:]))


def test_short_documents_are_scored_in_one_window(toy: evaluate.Examinee) -> None:
    text = "The capital of France is Paris."
    ids = torch.tensor([toy.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(toy.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    assert toy.nats(text) == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.parametrize("words", [1, 8, 15, 16, 31, 32, 47, 63, 200])
def test_every_token_of_a_long_document_is_scored_once(toy: evaluate.Examinee, words: int) -> None:
    surprise = toy.nats("x " * words)
    assert len(surprise) == len(toy.ids("x " * words)) and (surprise > 0).all()


def test_a_whole_examination_has_every_figure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = list(world_documents(3, 6))
    monkeypatch.setattr(evaluate, "real_documents", lambda split: iter(some))
    monkeypatch.setattr(evaluate, "compare_manifest", lambda: "the standard library differs")
    monkeypatch.setattr(evaluate, "QUICK", evaluate.Examination(1, 8, 4, 6, with_ngram=True))
    evaluate.main([str(folder), "--quick", "--out", str(tmp_path / "e.json")])
    result = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    names = {"attributes/seen", "attributes/held_out", "colour choice/seen objects", "real", "real/5-gram minus model"}
    assert names <= set(result["figures"]) and set(result["attributes"]["seen"]) == set(World.default().attributes)
    assert all(f["low"] <= f["value"] <= f["high"] and f["n"] for f in result["figures"].values())
    assert "the standard library differs" in capsys.readouterr().out


def test_names_of_shipped_models() -> None:
    with pytest.raises(InputError, match="no shipped model is called 'arm-huge'"):
        reference.path("arm-huge")
