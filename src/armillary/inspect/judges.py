"""Judges: who is asked what a feature stands for, and whether a label fits a text. A language model here, one behind a URL, or a file.

    judge = LocalJudge(lm)                          judge.ask(["Name a colour.\nAnswer:"])           ["red"]
    judge = UrlJudge("http://localhost:8000/v1", "model")      judge.log_odds(prompts, "yes", "no")  [2.3, None]
    judge = ReplayJudge("answers.jsonl")

What fails is None: missing, never a score of 0. Anything with these methods is a judge; ours also keep what was answered on disk, stop at
a budget and count what they did.

Letters: B prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from armillary.core.model import Model
from armillary.core.prompted import plain
from armillary.errors import CapabilityError, InputError
from armillary.inspect.answers import first_line, spoken, unbroken
from armillary.inspect.asking import CUT_OFF, DIGITS, KEY_VARIABLE, Asking, Failed, odds_question
from armillary.inspect.chat import Turn
from armillary.inspect.judge_cache import Value, records, sha256

# ---------------------------------------------------------------- a model here


@final
class LocalJudge(Asking):
    """A causal language model of this process. Probabilities are those of the two answers, which needs no obedience.

    A model whose tokenizer has a chat template is asked in a chat; of any other, which does not know when to end, an answer is its first
    line that is more than an introduction. One that breaks off, as its tokens are spent, is missing unless such a line is complete.

    Args:
        model: with logits.
        max_new_tokens: of an answer, the reasoning of models that reason included.
        batch_size: prompts that are run together; changes speed only.
        template: what stands around "{prompt}", instead of the tokenizer's chat template; "{prompt}" for nothing.
        cache, max_calls, max_characters: see `Asking`.

    Raises:
        CapabilityError: the model has no logits.
        InputError: a template without "{prompt}", or a chat template that cannot be filled in.
    """

    has_odds = True

    def __init__(
        self,
        model: Model,
        *,
        max_new_tokens: int = 40,
        batch_size: int = 8,
        template: str | None = None,
        cache: str | os.PathLike[str] | None = None,
        max_calls: int | None = None,
        max_characters: int | None = None,
    ) -> None:
        if not model.has_logits:
            raise CapabilityError(f"{model.name!r} has no next-token logits, so it cannot judge; use a causal model")
        turn = Turn.of(model, template)
        settings = {"model": model.name, "revision": model.revision, "max_new_tokens": max_new_tokens, "template": turn.template}
        settings |= {"chat": True} if turn.is_chat else {}
        super().__init__(f"local:{model.name}", settings, cache=cache, max_calls=max_calls, max_characters=max_characters)
        self.model, self.max_new_tokens, self.batch_size, self.turn = model, max_new_tokens, batch_size, turn

    def answers(self, prompts: Sequence[str]) -> Iterator[str | Failed]:
        for some in self._batches(prompts):
            yield from _or_one_by_one(some, self._write)

    def odds(self, prompts: Sequence[str], yes: str, no: str) -> Iterator[float | Failed]:
        for some in self._batches(prompts):
            yield from _or_one_by_one(some, lambda group: answer_odds(self.model, self.turn, group, yes, no))

    def _write(self, prompts: Sequence[str]) -> list[str | Failed]:
        tokens = self.turn.tokens(self.model, [self.turn.around(prompt) for prompt in prompts])
        written = self.model.generate(tokens, max_new_tokens=self.max_new_tokens)
        return [self._answer(one.text, is_cut=len(one.ids) >= self.max_new_tokens) for one in written]

    def _answer(self, written: str, is_cut: bool) -> str | Failed:
        whole = self.turn.reasoning + written
        words = spoken(whole)
        if words is None:
            return Failed(f"reasoning that did not end within {self.max_new_tokens} tokens")
        if words and is_cut:
            words = unbroken(whole)
        if not words:
            return Failed("nothing written" if words == "" else CUT_OFF)
        return first_line(words) if self.turn == Turn() else words

    def _batches(self, prompts: Sequence[str]) -> Iterator[Sequence[str]]:
        for start in range(0, len(prompts), self.batch_size):
            yield prompts[start : start + self.batch_size]


def _or_one_by_one(prompts: Sequence[str], run: Callable[[Sequence[str]], Sequence[Any]]) -> Iterator[Any]:
    """What `run` gives of prompts together; where the model refuses them (one is too long, say), of each by itself."""
    try:
        yield from run(prompts)
    except InputError:
        for prompt in prompts:
            try:
                yield from run([prompt])
            except InputError:
                yield Failed("the model cannot read the prompt, which may be longer than its context")


@torch.no_grad()
def answer_odds(model: Model, turn: Turn, prompts: Sequence[str], yes: str, no: str) -> list[float | Failed]:
    """[B] log p(yes) - log p(no) behind each prompt, nats; over all spellings of either, and all tokens in which these differ."""
    spelled = {answer: turn.spellings(answer) for answer in (yes, no)}
    sides = [turn.tokens(model, [turn.around(prompt) + one for prompt in prompts]) for one in (*spelled[yes], *spelled[no])]  # S
    ids = [[plain(side, i).tolist() for side in sides] for i in range(len(prompts))]  # B times S sequences
    is_one_token = all(len(one) == _n_shared(some) + 1 for some in ids for one in some)
    logits = [model.logits(sides[0])] * len(sides) if is_one_token else [model.logits(side) for side in sides]  # S times [B, T, V]
    found = [_odds([of[i] for of in logits], some, len(spelled[yes])) for i, some in enumerate(ids)]
    apart = f"the tokenizer does not keep {yes!r} and {no!r} apart"
    return [Failed(apart) if one is None else Failed("the model gives no number") if math.isnan(one) else one for one in found]


def _odds(logits: Sequence[Tensor], ids: Sequence[Sequence[int]], n_yes: int) -> float | None:
    """Log odds of the first `n_yes` of S sequences against the others, from logits [T, V] behind each; None if they are not told apart."""
    first = _n_shared(ids)
    if first == 0 or min(map(len, ids)) == first:
        return None
    log_p = torch.stack([_log_p(of, one, first) for of, one in zip(logits, ids, strict=True)])  # [S]
    return round(float(log_p[:n_yes].logsumexp(0) - log_p[n_yes:].logsumexp(0)), DIGITS)


def _log_p(logits: Tensor, ids: Sequence[int], first: int) -> Tensor:
    """Log probability of a sequence's tokens from `first` on, from its logits [T, V]."""
    log_p = logits[first - 1 : len(ids) - 1].double().log_softmax(-1)
    return log_p.gather(1, torch.tensor(ids[first:], device=log_p.device)[:, None]).sum()


def _n_shared(sequences: Sequence[Sequence[int]]) -> int:
    """How many ids sequences begin with alike."""
    differ = (i for i, ids in enumerate(zip(*sequences, strict=False)) if len(set(ids)) > 1)
    return next(differ, min(map(len, sequences)))


# ---------------------------------------------------------------- a file


@final
class ReplayJudge(Asking):
    """Answers from a file: a cache that another judge filled, or one written by hand. A prompt that is not there fails.

    It tells probabilities where the file does.

    Args:
        path: JSON lines with "prompt" (or "prompt_sha256"), "answer" and, unless it is a text, "question".

    Raises:
        InputError: there is no such file, or no answer in it.
        CorruptFileError: a line is no answer.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(f"replay:{os.fspath(path)}", {}, cache=None, max_calls=None, max_characters=None)
        if not Path(path).is_file():
            raise InputError(f"no file of answers at '{path}'; name a .jsonl that a judge's cache was written to")
        self._known: dict[tuple[str, str], Value] = {}
        for record in records(Path(path)):
            asked = record["prompt_sha256"] if "prompt_sha256" in record else sha256(str(record.get("prompt", "")))
            self._known[str(record.get("question", "text")), str(asked)] = record["answer"]
        if not self._known:
            raise InputError(f"'{path}' holds no answer; each line is a JSON object with a prompt and an answer")
        self.has_odds = any(question != "text" for question, _ in self._known)

    def answers(self, prompts: Sequence[str]) -> Iterator[str | Failed]:
        for prompt in prompts:
            found = self._known.get(("text", sha256(prompt)))
            yield Failed("not in the file") if found is None else str(found)

    def odds(self, prompts: Sequence[str], yes: str, no: str) -> Iterator[float | Failed]:
        for prompt in prompts:
            found = self._known.get((odds_question(yes, no), sha256(prompt)))
            yield Failed("not in the file") if found is None or isinstance(found, str) else float(found)


# ---------------------------------------------------------------- by name


def judge_of(
    told: str,
    *,
    load: Callable[[str], Model] | None = None,
    model: str | None = None,
    key_variable: str = KEY_VARIABLE,
    max_tokens: int | None = None,
    logprobs: bool = False,
    cache: str | os.PathLike[str] | None = None,
    max_calls: int | None = None,
    max_characters: int | None = None,
) -> Asking | None:
    """The judge that a text names: "local:MODEL", an http(s) URL, "replay:FILE", or None for "none".

    Args:
        told: the text.
        load: opens a model by its name, for "local:".
        model: which of the models behind a URL.
        key_variable: environment variable that holds the URL's key.
        max_tokens: of an answer; None for what is enough for models that do not reason first.
        logprobs: see `UrlJudge`; models of this process tell probabilities unasked.
        cache, max_calls, max_characters: see `Asking`.

    Raises:
        InputError: another text, a URL without a model, or a local model where none can be opened.
    """
    kind, _, rest = told.partition(":")
    settings: dict[str, Any] = {"cache": cache, "max_calls": max_calls, "max_characters": max_characters}
    if told == "none":
        return None
    if kind in ("http", "https"):
        from armillary.inspect.url_judge import UrlJudge

        if not model:
            raise InputError(f"which model behind '{told}' is to judge? Name it (judge_model, or --judge-model on the command line)")
        settings |= {} if max_tokens is None else {"max_tokens": max_tokens}
        return UrlJudge(told, model, key_variable=key_variable, logprobs=logprobs, **settings)
    if kind == "replay" and rest:
        return ReplayJudge(rest)
    if kind == "local" and rest:
        if load is None:
            raise InputError(
                f"judge {told!r} cannot be opened here; pass judge=LocalJudge(model), or name it on the command line (--judge)"
            )
        settings |= {} if max_tokens is None else {"max_new_tokens": max_tokens}
        return LocalJudge(load(rest), **settings)
    raise InputError(f"unknown judge {told!r}; allowed: none, local:MODEL, replay:FILE, or a URL such as http://localhost:8000/v1")
