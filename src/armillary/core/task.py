"""Task: prompts whose answers follow from named variables, and pairs of them for interchange interventions.

A causal model computes variables from one another and at last an answer. After a part of the language model's activations was given the
value it has for another prompt, the language model should say what the causal model says when one variable was given the value it has
there (Geiger et al. 2021, arXiv 2106.02997; Mueller et al. 2025, MIB, arXiv 2504.13151).

Letters: B prompts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from armillary.core.tokens import Ints, Tokens
from armillary.errors import InputError, unknown

#: The position of a prompt's last token.
LAST = "last"
_POSITION = re.compile(r"(?P<span>[^+]+)(\+(?P<step>[0-9]+))?")


@dataclass(frozen=True)
class CausalModel:
    """Variables that follow from one another.

    Args:
        mechanisms: for each variable a function of others, which its parameters are named after; what has no mechanism is an input.
        answer: the variable that is the answer.
    """

    mechanisms: Mapping[str, Callable[..., str]]
    answer: str

    def run(self, inputs: Mapping[str, str], do: Mapping[str, str] | None = None) -> dict[str, str]:
        """Values of all variables, from inputs and from what some variables are set to.

        Raises:
            InputError: an input is missing, or variables follow from one another in a circle.
            UnknownNameError: a variable that is set does not exist.
        """
        for name in do or {}:
            if name not in self.mechanisms and name not in inputs:
                raise unknown("variable", name, [*self.mechanisms, *inputs])
        values = {**inputs, **(do or {})}
        for name in self.mechanisms:
            self._find(name, values, ())
        return values

    def _find(self, name: str, values: dict[str, str], above: tuple[str, ...]) -> str:
        if name not in values:
            if name not in self.mechanisms:
                raise InputError(f"input {name!r} is missing; got {sorted(values)}")
            if name in above:
                raise InputError(f"variables follow from one another in a circle: {' -> '.join((*above, name))}")
            rule = self.mechanisms[name]
            values[name] = rule(*(self._find(parent, values, (*above, name)) for parent in inspect.signature(rule).parameters))
        return values[name]


@dataclass(frozen=True)
class Prompt:
    """A text with an answer.

    Args:
        text: what the language model reads.
        answer: how it should go on, a leading space included where there is one.
        values: of the causal model's variables.
        spans: bytes [start, end) of the UTF-8 text that have a name, such as "entity".
        groups: what train and test must not have in common, such as {"entity": "Paris", "template": "3"}.
    """

    text: str
    answer: str
    values: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """An interchange intervention and what should come of it.

    Args:
        base: the prompt that is read.
        source: the prompt whose activations are taken from.
        variable: what is taken.
        expected: how `base` should go on then.
        kind: what the pair tests, such as "cause" (the answer changes) or "isolate" (it must not), or how base and source differ.
    """

    base: Prompt
    source: Prompt
    variable: str
    expected: str
    kind: str


@dataclass(frozen=True)
class Task:
    """Pairs to learn from and pairs to be judged by.

    Args:
        name: of the task.
        train, test: pairs, which share no group of the kinds they are split by.
        positions: where variables may be looked for: a span's name (its last token), the same with "+1" (the token after), or "last".
        note: where the pairs come from, in a line.
    """

    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    positions: tuple[str, ...] = (LAST,)
    note: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """What is taken in the pairs, in the order they are met."""
        return tuple(dict.fromkeys(pair.variable for pair in (*self.train, *self.test)))


def tokens_at(tokens: Tokens, prompts: Sequence[Prompt], position: str) -> Ints:
    """[B] index in its sequence of each prompt's token at a position; `tokens` has one sequence per prompt, which may go on after it.

    Raises:
        InputError: a position that is not written so, a prompt without such a span, or a span without a token.
    """
    match = _POSITION.fullmatch(position)
    if match is None:
        raise InputError(f"position {position!r} must be a span's name, the same with '+1' or so, or {LAST!r}")
    name, step = match["span"], int(match["step"] or 0)
    return np.array([_token_at(tokens, i, prompt, name, step) for i, prompt in enumerate(prompts)], dtype=np.int64)


def _token_at(tokens: Tokens, i: int, prompt: Prompt, name: str, step: int) -> int:
    first, end = int(tokens.starts[i]), int(tokens.starts[i + 1])
    span, is_special = tokens.span[first:end], tokens.is_special[first:end]
    n_bytes = len(prompt.text.encode())
    if name != LAST and name not in prompt.spans:
        raise InputError(f"prompt {prompt.text!r} has no span {name!r}; it has {sorted(prompt.spans)} and {LAST!r}")
    low, high = (0, n_bytes) if name == LAST else prompt.spans[name]
    inside = np.flatnonzero((span[:, 0] < high) & (span[:, 1] > low) & (span[:, 0] < n_bytes) & ~is_special)
    if len(inside) == 0 or inside[-1] + step >= end - first:
        raise InputError(f"no token of {prompt.text!r} is at {name!r}{f'+{step}' if step else ''}")
    return int(inside[-1]) + step
