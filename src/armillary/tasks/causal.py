"""What builders of tasks add to a causal model: mechanisms whose parents are named, and the pairs that follow from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from armillary.core.task import CausalModel, Pair, Prompt
from armillary.tasks.sampling import Draw, by_kind
from armillary.tasks.wording import continuation


@dataclass(frozen=True)
class Mechanism:
    """A mechanism for any number of parents: `CausalModel` finds their names in the signature.

    Args:
        parents: variables, whose values the rule is given in this order.
        rule: what follows from them.
    """

    parents: tuple[str, ...]
    rule: Callable[..., str]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in self.parents])

    def __call__(self, *values: str) -> str:
        return self.rule(*values)


def interchanged(model: CausalModel, base: Mapping[str, str], source: Mapping[str, str], variable: str) -> str:
    """The answer to the inputs `base` once a variable has the value that it has for the inputs `source`."""
    return model.run(base, {variable: model.run(source)[variable]})[model.answer]


def pairs_of(
    what: str, model: CausalModel, draw: Callable[[str], Draw], n: int, *, variables: Sequence[str], kinds: Sequence[str]
) -> tuple[Pair, ...]:
    """`n` draws of base and source, of each kind in turn, and from each a pair for every variable; the model says what is expected."""
    drawn = by_kind(what, kinds, n, draw)
    return tuple(pair for kind, (base, source) in drawn for pair in _pairs(model, variables, base, source, kind))


def _pairs(model: CausalModel, variables: Sequence[str], base: Prompt, source: Prompt, kind: str) -> Iterator[Pair]:
    inputs, others = _inputs(model, base), _inputs(model, source)
    for variable in variables:
        yield Pair(base, source, variable, continuation(base.text, interchanged(model, inputs, others, variable)), kind)


def _inputs(model: CausalModel, prompt: Prompt) -> dict[str, str]:
    return {name: value for name, value in prompt.values.items() if name not in model.mechanisms}
