"""Pairs whose prompts a tokenizer joins with their answers are left out and counted, not the end of a task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import armillary as arm
from armillary.core.pairs import Pairs, can_read
from armillary.core.prompted import kept_apart
from armillary.core.task import Pair, Prompt
from armillary.errors import InputError
from planted_lm import STREAM, planted_lm

LM, TASK = planted_lm(rotated=False).lm, planted_lm(rotated=False).task
COLOURS = [pair for pair in TASK.train if pair.variable == "colour"]


def joined(pair: Pair, what: str = "expected") -> Pair:
    """The same pair with an answer that the tokenizer reads as the end of the prompt's last word."""
    if what == "expected":
        return replace(pair, expected=pair.expected.strip())
    prompt: Prompt = getattr(pair, what)
    return replace(pair, **{what: replace(prompt, answer=prompt.answer.strip())})


def test_an_answer_is_kept_apart_where_it_only_adds_tokens() -> None:
    prompt = Prompt("e1 colour", " red")
    assert kept_apart(LM, [prompt] * 4, [" red", "red", "", " red red"]).tolist() == [True, False, True, True]


@pytest.mark.parametrize("what", ["expected", "base", "source"])
def test_pairs_whose_answer_is_joined_to_the_prompt_are_left_out_and_counted(what: str) -> None:
    some = [joined(pair, what) if i % 5 == 0 else pair for i, pair in enumerate(COLOURS)]
    wanted = [pair for i, pair in enumerate(COLOURS) if i % 5]
    assert can_read(LM, some).tolist() == [i % 5 != 0 for i in range(len(some))]
    for only_right in (True, False):
        found = Pairs.of(LM, STREAM, "entity", some, only_right=only_right)
        assert list(found.pairs) == wanted and found.n_left_out == len(some) - len(wanted) > 0
        assert found.record()["n_left_out"] == found.n_left_out and found.record()["n_pairs"] == len(wanted)
    assert arm.DAS(n_epochs=1).fit(found).provenance["n_left_out"] == found.n_left_out


def test_of_a_task_that_is_read_whole_nothing_is_left_out() -> None:
    assert Pairs.of(LM, STREAM, "entity", COLOURS).n_left_out == 0
    assert can_read(LM, COLOURS).all() and can_read(LM, []).tolist() == []


def test_a_task_of_which_nothing_is_left_is_an_error_that_says_why() -> None:
    some = [joined(pair) for pair in COLOURS]
    with pytest.raises(
        InputError, match=rf"does not keep prompt and answer apart in any of {len(some)} pairs.*put the space at the answer"
    ):
        Pairs.of(LM, STREAM, "entity", some)


def test_what_the_tokenizer_leaves_of_a_task_must_still_ask_what_it_asked() -> None:
    """Without causes, doing nothing would be perfect."""
    some = [joined(pair) if pair.kind == "cause" else pair for pair in COLOURS]
    n = sum(pair.kind == "cause" for pair in some)
    for only_right in (True, False):
        with pytest.raises(
            InputError, match=rf"the tokenizer of .* keeps prompt and answer apart in none of {n} 'cause' pairs; put the space"
        ):
            Pairs.of(LM, STREAM, "entity", some, only_right=only_right)


def test_each_text_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    tokenize = type(LM).tokenize
    monkeypatch.setattr(type(LM), "tokenize", lambda self, texts: (seen.extend(texts), tokenize(self, texts))[1])
    can_read(LM, COLOURS)
    asked = {(p.text, a) for pair in COLOURS for p, a in ((pair.base, pair.base.answer), (pair.source, pair.source.answer))}
    asked |= {(pair.base.text, pair.expected) for pair in COLOURS}
    assert len(seen) == 2 * len(asked) < 4 * len(COLOURS) + np.int64(1)
