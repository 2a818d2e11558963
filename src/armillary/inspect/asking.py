"""Asking: what all judges of ours share. Answers that are kept on disk, a budget, and counts of what was asked and what failed."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, final, runtime_checkable

from armillary.core.progress import progress
from armillary.errors import InputError
from armillary.inspect.judge_cache import JudgeCache, Value, key_of

A = TypeVar("A")

#: Digits of log odds that are kept: what lies behind them depends on how prompts were batched.
DIGITS = 4
#: How a question for a text is called in a file of answers.
TEXT = "text"
#: Why an answer that broke off is missing.
CUT_OFF = "cut off before its end: allow more tokens"
#: Environment variable that holds the key of a judge behind a URL.
KEY_VARIABLE = "ARMILLARY_JUDGE_KEY"


class Asked(Protocol):
    """Who answers in words."""

    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        """A text per prompt; None where there is no answer."""
        ...


@runtime_checkable
class Judge(Asked, Protocol):
    """Who is asked."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def log_odds(self, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
        """log p(yes) - log p(no) as the answer to each prompt, nats; None where it failed, and for a judge that tells no probabilities."""
        ...


def in_words(judge: Asked, prompts: Sequence[str]) -> list[str | None]:
    """The answer to each prompt.

    Raises:
        InputError: the judge gave more or fewer answers than it was asked for.
    """
    return [None if one is None else str(one) for one in _one_each(judge.ask(prompts), prompts)]


def by_odds(judge: Judge, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
    """log p(yes) - log p(no) of each prompt, nats; what is not a number is None.

    Raises:
        InputError: the judge gave more or fewer answers than it was asked for.
    """
    found = _one_each(judge.log_odds(prompts, yes, no), prompts)
    return [None if one is None or math.isnan(one) else float(one) for one in found]


def _one_each(answers: list[A], prompts: Sequence[str]) -> list[A]:
    if len(answers) != len(prompts):
        raise InputError(f"the judge gave {len(answers)} answers to {len(prompts)} questions; it owes one each, None where it failed")
    return answers


@dataclass(frozen=True)
class Failed:
    """Why there is no answer.

    Args:
        reason: in a few words.
        was_asked: the question was put; one that was not costs nothing.
    """

    reason: str
    was_asked: bool = True


@dataclass
class Tally:
    """What a judge did so far.

    Args:
        calls: prompts it was asked.
        cached: prompts that were answered before.
        over_budget: prompts that were not asked, since the budget was spent.
        characters: of the prompts it was asked.
        failures: reasons why there was no answer, and how often.
    """

    calls: int = 0
    cached: int = 0
    over_budget: int = 0
    characters: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.failures.total()

    def describe(self) -> str:
        """In a sentence."""
        why = f" ({', '.join(f'{reason}: {n:,}' for reason, n in self.failures.most_common(3))})" if self.failures else ""
        spent = f"; {self.over_budget:,} not asked, as the budget was spent" if self.over_budget else ""
        return f"{self.calls:,} prompts asked, {self.cached:,} answered from the cache, {self.failed:,} failed{why}{spent}."


class Asking(ABC):
    """A judge that keeps answers, has a budget and counts. Subclasses say how some prompts are asked, in `answers` and `odds`.

    Args:
        name: of the judge.
        settings: all else that its answers depend on, as plain JSON; never a key.
        cache: a .jsonl file of answers, or None to keep none.
        max_calls, max_characters: the budget: prompts, and characters of prompts, that are asked at most; None for no limit.

    Raises:
        InputError: a budget below 0.
    """

    #: Whether it tells probabilities of answers.
    has_odds: bool = False

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        cache: str | os.PathLike[str] | None,
        max_calls: int | None,
        max_characters: int | None,
    ) -> None:
        for what, limit in (("max_calls", max_calls), ("max_characters", max_characters)):
            if limit is not None and limit < 0:
                raise InputError(f"{what} is a limit from 0 up, got {limit}; None sets no limit")
        self._name, self.settings = name, dict(settings)
        self.max_calls, self.max_characters, self.tally = max_calls, max_characters, Tally()
        self._cache = None if cache is None else JudgeCache(cache)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    @final
    def ask(self, prompts: Sequence[str]) -> list[str | None]:
        """See `Judge.ask`."""
        found = self._each(prompts, TEXT, self.answers)
        return [None if one is None else str(one) for one in found]

    @final
    def log_odds(self, prompts: Sequence[str], yes: str, no: str) -> list[float | None]:
        """See `Judge.log_odds`."""
        if not self.has_odds:
            return [None] * len(prompts)
        found = self._each(prompts, odds_question(yes, no), lambda some: self.odds(some, yes, no))
        return [None if one is None else float(one) for one in found]

    @final
    def keep(self, prompt: str, question: str, answer: Value | Failed) -> None:
        """Write an answer, but no failure, to the cache, if there is one; in any thread, for answers that come before it is their turn."""
        if self._cache is not None and not isinstance(answer, Failed):
            self._cache.put(self._key(prompt, question), prompt, question, answer)

    def _key(self, prompt: str, question: str) -> str:
        return key_of(judge=self.name, prompt=prompt, question=question, settings=self.settings)

    @abstractmethod
    def answers(self, prompts: Sequence[str]) -> Iterator[str | Failed]:
        """An answer, or a failure, for each prompt in turn."""

    @abstractmethod
    def odds(self, prompts: Sequence[str], yes: str, no: str) -> Iterator[float | Failed]:
        """Log odds, or a failure, for each prompt in turn."""

    def _each(self, prompts: Sequence[str], question: str, put: Callable[[Sequence[str]], Iterator[Value | Failed]]) -> list[Value | None]:
        """Ask what is not known yet, each prompt once."""
        once = list(dict.fromkeys(prompts))
        known = {prompt: None if self._cache is None else self._cache.get(self._key(prompt, question)) for prompt in once}
        self.tally.cached += sum(known[prompt] is not None for prompt in once)
        to_ask = self._within_budget([prompt for prompt in once if known[prompt] is None])
        with progress(f"asking {self.name}", total=len(to_ask), unit="prompts") as bar:
            for prompt, answer in zip(to_ask, put(to_ask), strict=True):
                if isinstance(answer, Failed):
                    self.tally.failures[answer.reason] += 1
                    self._charge(prompt, 0 if answer.was_asked else -1)
                else:
                    known[prompt] = answer
                    self.keep(prompt, question, answer)
                bar.advance()
        return [known[prompt] for prompt in prompts]

    def _within_budget(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, from the first on, that the budget allows."""
        allowed: list[str] = []
        for prompt in prompts:
            is_spent = self.max_calls is not None and self.tally.calls >= self.max_calls
            is_long = self.max_characters is not None and self.tally.characters + len(prompt) > self.max_characters
            if is_spent or is_long:
                break
            allowed.append(prompt)
            self._charge(prompt, 1)
        self.tally.over_budget += len(prompts) - len(allowed)
        return allowed

    def _charge(self, prompt: str, times: int) -> None:
        """Count a prompt as asked; -1 takes it back."""
        self.tally.calls += times
        self.tally.characters += times * len(prompt)


def odds_question(yes: str, no: str) -> str:
    """How log odds of two answers are called in a file of answers."""
    return f"odds of {yes!r} against {no!r}"
