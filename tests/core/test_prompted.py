"""An answer is right when all of it is what the model would write, whatever batch it is in."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import armillary as arm
from armillary.core.prompted import Prompted, activations_at, answered, by_length, take
from armillary.core.site import Site
from armillary.core.task import Prompt
from armillary.errors import InputError
from planted_lm import Stub, word_tokenizer
from support import TEXTS, tiny_lm

WORDS = ["new", "york", "jersey", "city", "is", "big", "a", "b"]
#: What the model says after each word.
NEXT = {"is": "new", "new": "york", "york": "city", "city": "big", "big": "a", "jersey": "city", "a": "b", "b": "a"}


class Chain(Stub):
    """Says one word after each word."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(table)
        self.head = nn.Linear(table.shape[1], len(table), bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(len(table)))

    def forward(self, ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.embed(ids)))


@cache
def chain() -> Any:
    from armillary.lm.model import LanguageModel

    table = torch.zeros(len(WORDS) + 1, len(WORDS) + 1)
    for word, after in NEXT.items():
        table[1 + WORDS.index(word), 1 + WORDS.index(after)] = 1.0
    return LanguageModel(Chain(table), word_tokenizer(WORDS))


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [(" new york", True), (" new york city", True), (" new jersey", False), (" york", False), (" jersey", False), (" new new york", False)],
)
def test_every_token_of_an_answer_counts_not_the_first_and_not_a_part(answer: str, is_right: bool) -> None:
    assert answered(chain(), [Prompt("b is", answer)], [answer]).tolist() == [is_right]


@pytest.mark.parametrize("batch_tokens", [1, 9, 16, 4096])
def test_answers_do_not_depend_on_the_batch(batch_tokens: int) -> None:
    prompts = [Prompt("a b " * (i % 5) + "is", " new york") for i in range(11)]
    answers = [" new york" if i % 3 else " new jersey" for i in range(11)]
    assert answered(chain(), prompts, answers, batch_tokens=batch_tokens).tolist() == [bool(i % 3) for i in range(11)]


def test_the_loss_is_nats_per_token_of_the_answer() -> None:
    given = Prompted.of(chain(), [Prompt("is", ""), Prompt("a b is", "")], [" new york", " jersey"])
    logits = chain().logits(given.tokens)
    n = len(WORDS) + 1
    hit, miss = np.log(np.e + n - 1) - 1, np.log(np.e + n - 1)
    np.testing.assert_allclose(given.loss(logits).numpy(), [hit, miss], rtol=1e-6)
    assert given.right(logits).tolist() == [True, False]


def test_answers_of_a_real_tokenizer_are_what_greedy_decoding_writes() -> None:
    lm = arm.LanguageModel("arm-tiny")
    written = lm.generate(["The capital of France is", "Paris lies in", "Water is"], max_new_tokens=4)
    prompts, answers = [Prompt(one.prompt, "") for one in written], [one.text for one in written]
    assert all(answers) and answered(lm, prompts, answers).all()
    assert not answered(lm, prompts, [" quickly" + answer for answer in answers]).any()


def test_answers_that_cannot_be_told_from_the_prompt_are_refused() -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(InputError, match="does not keep 'the c' apart from 'at'"):
        Prompted.of(lm, [Prompt("the c", "at")], ["at"])
    with pytest.raises(InputError, match="has no token"):
        Prompted.of(lm, [Prompt("the cat", "")], [""])
    assert answered(lm, [Prompt("the cat", "")], [""]).all(), "where nothing is asked nothing is wrong"


def test_activations_are_those_of_each_prompt_alone() -> None:
    lm = tiny_lm("gpt2")
    prompts = [Prompt(text, "", spans={"first": (0, 1)}) for text in TEXTS]
    places = [(Site("resid_post", 1), "last"), (Site("mlp_act", 0), "first"), (Site("resid_post", 1), "first")]
    found = activations_at(lm, prompts, places, batch_tokens=20)
    for i, prompt in enumerate(prompts):
        for site, position in places:
            x = lm.capture(prompt.text, [site])[site][0]
            torch.testing.assert_close(found[site, position][i], x[-1 if position == "last" else 1], rtol=0, atol=1e-5)


def test_sequences_are_taken_in_any_order_and_batched_by_length() -> None:
    tokens = tiny_lm("gpt2").tokenize(list(TEXTS))
    some = take(tokens, np.array([2, 0, 2]))
    assert [some.ids[a:b].tolist() for a, b in zip(some.starts, some.starts[1:], strict=False)] == [
        tokens.ids[tokens.starts[i] : tokens.starts[i + 1]].tolist() for i in (2, 0, 2)
    ]
    lengths = np.array([3, 9, 1, 9, 4, 2])
    for most in (1, 10, 18, 100):
        parts = list(by_length(lengths, most))
        assert sorted(np.concatenate(parts).tolist()) == list(range(6))
        assert all(len(part) == 1 or lengths[part].max() * len(part) <= most for part in parts)
