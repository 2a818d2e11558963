"""Pairs: interchange interventions at one place of a model, which a method learns from.

Letters: P pairs, B different runs (a base prompt with what is expected after it), D width of the site.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from armillary.core.model import Model
from armillary.core.prompted import BATCH_TOKENS, Prompted, activations_at, answered, kept_apart, prompt_key
from armillary.core.rows import Rows, TensorRows, width
from armillary.core.site import Site, Source
from armillary.core.statistics import Floats
from armillary.core.task import Pair, Prompt
from armillary.core.tokens import Bools, Ints
from armillary.errors import InputError, ShapeError

#: Kinds of pairs of a task about an entity's attributes: the answer changes, or it must not.
CAUSE, ISOLATE = "cause", "isolate"


@dataclass(frozen=True)
class Pairs:
    """Pairs, the place where base and source are exchanged, and what the sources have there.

    Args:
        model: the language model.
        site: what is exchanged.
        position: at which token; see `core.task.Task`.
        pairs: P of them.
        rows: [P, D] activation of each pair's source.
        n_left_out: how many more there were, whose prompts the tokenizer does not keep apart from their answers.
    """

    model: Model = field(repr=False)
    site: Site
    position: str
    pairs: tuple[Pair, ...] = field(repr=False)
    rows: Rows = field(repr=False)
    n_left_out: int = 0

    def __post_init__(self) -> None:
        if self.rows.n_rows != len(self.pairs):
            raise ShapeError(f"{len(self.pairs)} pairs need as many rows, got {self.rows.n_rows}")

    def __len__(self) -> int:
        return len(self.pairs)

    @staticmethod
    def of(
        model: Model,
        site: Site | str,
        position: str,
        pairs: Sequence[Pair],
        *,
        variable: str | None = None,
        kinds: Sequence[str] = (),
        only_right: bool = True,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Pairs:
        """Pairs of a task, such as `task.train`; each source is run once.

        Pairs whose prompts the tokenizer does not keep apart from their answers are left out and counted.

        Args:
            model: a causal language model.
            site: what is exchanged.
            position: at which token.
            pairs: the pairs.
            variable: only those of this variable.
            kinds: only those of these kinds; "isolate" stands for every "isolate:...". Learning from "cause" alone is what DAS does on
                RAVEL, from both what MDAS does.
            only_right: only those whose two prompts the model answers as the causal model does.
            batch_tokens: tokens per forward pass; speed and memory only.

        Raises:
            InputError: no pair is left, of pairs about entities none of the causes or of the isolations, a prompt does not fit the
                model's context, or one is to be answered with nothing.
            CapabilityError: the model has no logits.
        """
        place = Site.parse(site)
        chosen = [pair for pair in pairs if variable in (None, pair.variable) and (not kinds or _is_of(pair.kind, kinds))]
        if not chosen:
            raise InputError(f"none of {len(pairs)} pairs is of variable {variable!r} and kinds {list(kinds)}; there are {_kinds(pairs)}")
        apart = list(itertools.compress(chosen, can_read(model, chosen)))
        _refuse_lost(
            chosen, apart, f"the tokenizer of {model.name!r} keeps prompt and answer apart in {{}}; put the space at the answer's beginning"
        )
        kept = _answered_pairs(model, apart, batch_tokens) if only_right else apart
        _refuse_lost(apart, kept, f"{model.name!r} answers both prompts of {{}}; choose a task it can do, or other kinds")
        prompts, index = distinct([pair.source for pair in kept], prompt_key)
        x = activations_at(model, prompts, [(place, position)], batch_tokens=batch_tokens)[place, position][index]
        rows = TensorRows(x, source=Source(model.name, model.revision, place))
        return Pairs(model, place, position, tuple(kept), rows, len(chosen) - len(apart))

    # ------------------------------------------------------------ what is run

    @cached_property
    def _runs(self) -> tuple[Prompted, Ints]:
        return runs(self.model, self.pairs)

    @property
    def prompted(self) -> Prompted:
        """B different runs."""
        return self._runs[0]

    @property
    def run(self) -> Ints:
        """[P] the run of each pair."""
        return self._runs[1]

    @cached_property
    def place(self) -> Ints:
        """[B] the token of each run where base and source are exchanged."""
        return self.prompted.at(self.position)

    def identity(self) -> dict[str, Any]:
        """What tells these pairs from others, as plain JSON."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(json.dumps([pair.base.text, pair.source.text, pair.expected, pair.kind]).encode())
        place = {"site": str(self.site), "position": self.position, "model": self.model.revision}
        return {"pairs_sha256": digest.hexdigest(), **place}

    def record(self) -> dict[str, Any]:
        """Where a fit to them belongs: variables, position, site and model."""
        variables = list(dict.fromkeys(pair.variable for pair in self.pairs))
        at = {"position": self.position, "site": str(self.site), "model": self.model.name, "revision": self.model.revision}
        counts = {"n_pairs": len(self), "n_left_out": self.n_left_out}
        return {"variables": variables, **at, **counts, "width": width(self.rows.layout)}


# ---------------------------------------------------------------- pairs in general


def runs(model: Model, pairs: Sequence[Pair]) -> tuple[Prompted, Ints]:
    """What has to be run to see whether pairs come out as expected, each once, and which [P] of them is whose."""
    first, index = distinct(pairs, lambda pair: (*prompt_key(pair.base), pair.expected))
    return Prompted.of(model, [pair.base for pair in first], [pair.expected for pair in first]), index


def can_do(model: Model, pairs: Sequence[Pair], *, batch_tokens: int = BATCH_TOKENS) -> Bools:
    """[P] whether the model gives the answers of both prompts of each pair; each different prompt is run once."""
    prompts, index = distinct([prompt for pair in pairs for prompt in (pair.base, pair.source)], answer_key)
    right = answered(model, prompts, [prompt.answer for prompt in prompts], batch_tokens=batch_tokens)
    return np.asarray(right[index].reshape(-1, 2).all(1), bool)


def can_read(model: Model, pairs: Sequence[Pair]) -> Bools:
    """[P] whether the tokenizer keeps both prompts of a pair apart from their answers, and the base from what is expected of it.

    Raises:
        InputError: there are pairs, and it does so with none of them.
    """
    said = [one for p in pairs for one in ((p.base, p.base.answer), (p.source, p.source.answer), (p.base, p.expected))]
    asked, index = distinct(said, lambda one: (one[0].text, one[1]))
    is_apart = kept_apart(model, [prompt for prompt, _ in asked], [answer for _, answer in asked])[index].reshape(-1, 3).all(1)
    if len(pairs) and not is_apart.any():
        raise InputError(
            f"the tokenizer of {model.name!r} does not keep prompt and answer apart in any of {len(pairs)} pairs, such as that of "
            f"{pairs[0].base.text!r} and {pairs[0].expected!r}; put the space at the answer's beginning"
        )
    return np.asarray(is_apart, bool)


def _refuse_lost(before: Sequence[Pair], after: Sequence[Pair], told: str) -> None:
    """Raise `InputError` where none is left of the pairs whose answer is to change, or of those whose answer is not."""
    if lost := lost_groups([pair.kind for pair in before], [pair.kind for pair in after]):
        raise InputError(told.format(f"none of {sum(_is_of(pair.kind, lost) for pair in before)} {lost[0]!r} pairs"))


def _answered_pairs(model: Model, pairs: Sequence[Pair], batch_tokens: int) -> list[Pair]:
    """The pairs the model can do."""
    kept = list(itertools.compress(pairs, can_do(model, pairs, batch_tokens=batch_tokens)))
    if not kept:
        raise InputError(f"{model.name!r} answers both prompts of none of {len(pairs)} pairs; choose a task it can do")
    return kept


def answer_key(prompt: Prompt) -> tuple[Hashable, ...]:
    """Equal for prompts that read the same and are to be answered alike."""
    return prompt.text, prompt.answer


def distinct(things: Sequence[Any], key: Any) -> tuple[list[Any], Ints]:
    """The first of all things with the same key, in the order they are met, and which [n] of them each thing is like."""
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(key(thing), len(number)) for thing in things], np.int64)
    firsts = np.unique(index, return_index=True)[1]
    return [things[i] for i in firsts], index


def weights(pairs: Sequence[Pair]) -> Floats:
    """[P] share of each pair in the score of its variable; they add up to 1.

    With kinds "cause" and "isolate...", half is of the cause and half of the others, each kind of these alike (RAVEL's disentangle score:
    Huang et al. 2024, arXiv 2402.17700); else all kinds count alike (MIB, arXiv 2504.13151). Kinds without a pair are not known here: see
    `lost_groups`.
    """
    n_of = Counter(pair.kind for pair in pairs)
    share = kind_shares(list(n_of))
    return np.array([share[pair.kind] / n_of[pair.kind] for pair in pairs], np.float64)


def kind_shares(kinds: Sequence[str]) -> dict[str, float]:
    """How much each kind of pair counts in a score."""
    isolating = [kind for kind in kinds if _is_of(kind, (ISOLATE,))]
    others = [kind for kind in kinds if kind not in isolating]
    half = 0.5 if isolating and others else 1.0
    return {kind: half / len(isolating if kind in isolating else others) for kind in kinds}


def is_about_entities(kinds: Sequence[str]) -> bool:
    """Whether pairs of these kinds ask both that one answer changes and that others do not."""
    return CAUSE in kinds and any(_is_of(kind, (ISOLATE,)) for kind in kinds)


def lost_groups(drawn: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Of pairs about entities, which of "cause" and "isolate" was among the kinds that were drawn and is not among those that are kept:
    a score of what is left would be perfect for doing nothing, or for exchanging everything."""
    return [group for group in (CAUSE, ISOLATE) if is_about_entities(drawn) and not any(_is_of(kind, (group,)) for kind in kept)]


def _is_of(kind: str, kinds: Sequence[str]) -> bool:
    return kind in kinds or kind.partition(":")[0] in kinds


def _kinds(pairs: Sequence[Pair]) -> str:
    return ", ".join(sorted({f"{pair.variable} ({pair.kind})" for pair in pairs})) or "no pairs"
