"""Training resumes to the same bits, and its parts are functions of the step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from armillary.core.tokens import Document
from armillary.errors import MismatchError
from armillary.lm.reference import data, train
from armillary.lm.reference.recipes import RECIPES, Recipe
from armillary.lm.reference.tokenizer import BOS

TOY = Recipe(
    "toy", "llama", layers=1, width=16, heads=2, mlp_width=32, vocabulary=400, steps=4, context=24, rows=4, warmup=2,
    shares=(0.5, 0.25, 0.25),
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    real = [Document(f"def f{i}(x):\n    return x + {i}\n" * 20, str(i)) for i in range(10)]
    monkeypatch.setattr(data, "real_documents", lambda split: iter(real))
    monkeypatch.setattr(data, "TOKENIZER_DOCUMENTS", 100)
    monkeypatch.setattr(data, "BLOCK_DOCUMENTS", {"world": 60, "reading": 20})
    monkeypatch.setattr(data, "BLOCK_STEPS", 3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_killed_run_continues_to_the_same_bits(tmp_path: Path, architecture: str) -> None:
    recipe = dataclasses.replace(TOY, architecture=architecture, bare_rows=architecture == "gpt2")
    train.train(train.Run(recipe, tmp_path / "whole"))
    first = train.Run(recipe, tmp_path / "parts")
    for _ in range(2):
        first.advance()
    first.save()
    first.advance()  # lost with the process
    second = train.Run(recipe, tmp_path / "parts")
    assert second.step == 2
    train.train(second)
    whole, parts = (load_file(tmp_path / name / train.CHECKPOINT) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


def test_time_can_run_out_and_the_run_goes_on(tmp_path: Path) -> None:
    assert not train.train(train.Run(TOY, tmp_path), minutes=0)
    again = train.Run(TOY, tmp_path)
    assert again.step == 1 and train.train(again) and again.step == TOY.steps


def test_another_recipe_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    train.Run(TOY, tmp_path).save()
    with pytest.raises(MismatchError, match="width 16, not 32"):
        train.Run(dataclasses.replace(TOY, width=32), tmp_path)
    assert train.Run(dataclasses.replace(TOY, steps=9), tmp_path).step == 0


def test_the_loss_falls(tmp_path: Path) -> None:
    run = train.Run(dataclasses.replace(TOY, steps=40, learning_rate=1e-2), tmp_path)
    losses = [sum(run.advance().values()) for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize(("architecture", "first"), [("llama", [BOS]), ("gpt2", [])])
def test_the_export_opens_with_plain_transformers(tmp_path: Path, architecture: str, first: list[int]) -> None:
    run = train.Run(dataclasses.replace(TOY, architecture=architecture), tmp_path)
    run.export(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert next(model.parameters()).dtype == torch.bfloat16
    text = "def f(x): naïve ☃"
    ids = tokenizer(text)["input_ids"]
    assert ids[: len(first)] == first and tokenizer.decode(ids[len(first) :]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), TOY.vocabulary)


def test_batches_are_functions_of_the_step(tmp_path: Path) -> None:
    run = train.Run(TOY, tmp_path)
    batches = [run.rows.batch(step) for step in (0, 1, 4)]
    other = data.Rows(TOY, run.tokenizer)
    assert all(np.array_equal(other.batch(step), batch) for step, batch in zip((0, 1, 4), batches, strict=True))
    assert not np.array_equal(batches[0], batches[1])
    assert batches[0].shape == (4, TOY.context + 1) and (batches[0][:, 0] == BOS).all()


def test_bare_rows_start_without_bos(tmp_path: Path) -> None:
    run = train.Run(dataclasses.replace(TOY, bare_rows=True), tmp_path)
    starts = np.stack([run.rows.batch(step)[:, 0] for step in range(3)])
    assert (starts[:, ::2] == BOS).all() and (starts[:, 3] != BOS).all()


def test_the_mixture_fills_the_batch() -> None:
    assert data.mixture(RECIPES["arm-small"]) == (6, 7, 3)
    assert sum(data.mixture(dataclasses.replace(TOY, rows=7))) == 7


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    recipe = RECIPES["arm-small"]
    rates = [train.learning_rate(recipe, step) for step in (0, recipe.warmup, recipe.steps // 2, recipe.steps - 1)]
    assert rates[0] < rates[1] == rates[2] == recipe.learning_rate and rates[3] < recipe.learning_rate / 1000


def test_the_constant_part_does_not_depend_on_the_number_of_steps() -> None:
    longer = dataclasses.replace(RECIPES["arm-small"], steps=2 * RECIPES["arm-small"].steps)
    assert all(train.learning_rate(longer, s) == train.learning_rate(RECIPES["arm-small"], s) for s in (0, 100, 5000))


def test_the_command_line_changes_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.RECIPES, "toy", TOY)
    train.main(["toy", "--out", str(tmp_path), "--steps", "1", "--seed", "3", "--shares", "1", "0", "0"])
    assert (tmp_path / "model" / "config.json").exists()
