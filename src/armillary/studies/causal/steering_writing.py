"""What a model writes under edits, and what each text costs the model without them.

Every prompt is continued as often as is asked, and each text has a seed of its own: the texts of two edits meet the same random numbers,
and none depends on which other edits are tried, though strengths of several families are written together. Nothing is written, or read
again, twice.

Letters: P prompts, C continuations of each, n = P C texts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from armillary.core.model import Edit, Model
from armillary.core.prompted import beginnings
from armillary.core.site import Site
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints, Tokens, concatenate
from armillary.studies.causal.edit_families import Asked, Family, Position, edits_of, in_parts, key_of, positions
from armillary.studies.causal.proxies import distinct_pairs, losses
from armillary.studies.causal.strength import Dose, Effect, Search, search_together

#: Texts that are written together.
TOGETHER = 256


@dataclass(frozen=True)
class Sampled:
    """How texts are drawn.

    Args:
        n_continuations: C, of each prompt.
        n_tokens: of each text, at most.
        temperature, top_p, seed: as of `Model.generate`.
        position: which tokens are changed; see `edit_families.positions`.
    """

    n_continuations: int = 2
    n_tokens: int = 32
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0
    position: Position = "all"


@dataclass(frozen=True, eq=False)
class Texts:
    """What was written after every prompt; itself alone is equal to it, so that what is read of it can be kept.

    Args:
        text: [n] continuations, "" where the model ended at once.
        ids: [n] their tokens.
        loss: [n] mean nats per token under the model without edits; NaN where nothing was written.
        distinct: [n] different pairs of neighbouring tokens as a share of all; NaN for fewer than two tokens.
    """

    text: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    loss: Floats
    distinct: Floats


#: A family, and the signs with which its strengths are wanted.
Line = tuple[Family, tuple[int, ...]]


class Writer:
    """Writes, and remembers what it has written.

    Args:
        model: with logits.
        prompts: P texts.
        how: of the drawing.
        sites: where edits will be.

    Raises:
        InputError: a prompt is longer than the model's context.
        CapabilityError: the model has no logits, or no such site.
    """

    def __init__(self, model: Model, prompts: Sequence[str], how: Sampled, sites: Sequence[Site] = ()) -> None:
        self.model, self.prompts, self.how = model, tuple(prompts), how
        self.tokens = beginnings(model, [prompt for prompt in prompts for _ in range(how.n_continuations)])
        self.effect = Effect(model, beginnings(model, prompts), lambda tokens: positions(how.position, tokens), sites)
        self._written: dict[Hashable, Texts] = {}
        self._found: dict[Hashable, list[Dose]] = {}
        self._loss: dict[tuple[tuple[int, ...], int], float] = {}

    @property
    def prompt(self) -> Ints:
        """[n] which prompt each text goes on from."""
        return np.repeat(np.arange(len(self.prompts)), self.how.n_continuations)

    @property
    def by_turns(self) -> list[int]:
        """Places of the texts, one of every prompt, then another of every prompt, and so on."""
        return [int(i) for i in np.argsort(np.tile(np.arange(self.how.n_continuations), len(self.prompts)), kind="stable")]

    def doses(self, lines: Sequence[Line], targets: Sequence[float], *, tolerance: float) -> list[list[Dose]]:
        """Of each family, the strengths at which it has these effects after the prompts, sign by sign; searched together."""
        keys = [(family.key, tuple(targets), signs, tolerance) for family, signs in lines]
        new = {key: Search(*line, self.effect.unit(line[0])) for key, line in zip(keys, lines, strict=True) if key not in self._found}
        found = search_together(self.effect.of, list(new.values()), targets, tolerance=tolerance)
        self._found |= zip(new, found, strict=True)
        return [self._found[key] for key in keys]

    def plain(self) -> Texts:
        """Without an edit."""
        if None not in self._written:
            (self._written[None],) = self._write(self.tokens, (), 1)
        return self._written[None]

    def steered(self, asked: Sequence[Asked]) -> list[Texts]:
        """Under the edits of families and strengths, written together."""
        new = {key_of(one): one for one in asked if key_of(one) not in self._written}
        n = self.tokens.n_sequences
        for part in in_parts(list(new.values()), max(1, TOGETHER // n)):
            tokens = concatenate([self.tokens] * len(part))
            texts = self._write(tokens, edits_of(part, n, positions(self.how.position, tokens)), len(part))
            self._written |= zip(map(key_of, part), texts, strict=True)
        return [self._written[key_of(one)] for one in asked]

    def _write(self, tokens: Tokens, edits: Sequence[Edit], n: int) -> list[Texts]:
        """The texts of n strengths."""
        how, size = self.how, self.tokens.n_sequences
        seeds = np.random.SeedSequence(how.seed).generate_state(size, np.uint32).tolist() * n
        found = self.model.generate(
            tokens, max_new_tokens=how.n_tokens, edits=edits, temperature=how.temperature, top_p=how.top_p, seed=seeds
        )
        ids = [one.ids for one in found]
        loss, distinct = self._losses(tokens, ids), distinct_pairs(ids)
        parts = [slice(first, first + size) for first in range(0, len(found), size)]
        return [Texts(tuple(one.text for one in found[part]), tuple(ids[part]), loss[part], distinct[part]) for part in parts]

    def _losses(self, tokens: Tokens, ids: Sequence[Sequence[int]]) -> Floats:
        """[n] of texts, of which equal ones are read once."""
        prompts = [tokens.ids[tokens.starts[i] : tokens.starts[i + 1]].tolist() for i in range(len(ids))]
        keys = [((*prompt, *one), len(prompt)) for prompt, one in zip(prompts, ids, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._loss]
        found = losses(self.model, [whole for whole, _ in new], [first for _, first in new])
        self._loss |= zip(new, found.tolist(), strict=True)
        return np.array([self._loss[key] for key in keys])


#: What is steered along: the feature, away from it, a random direction, the difference of class means.
Way = Literal["feature", "against", "random", "diffmeans"]
WAYS: tuple[Way, ...] = ("feature", "against", "random", "diffmeans")


@dataclass(frozen=True)
class Point:
    """A strength and what was written at it.

    Args:
        dose: the strength, and the KL it was found for.
        texts: None where that KL cannot be had.
    """

    dose: Dose
    texts: Texts | None


def curves(writer: Writer, lines: Sequence[Line], targets: Sequence[float], *, tolerance: float) -> list[list[Point]]:
    """What is written along families, for each sign and KL; those of all families are searched and written together.

    Args:
        writer: of the texts.
        lines: the families, with their signs.
        targets: KL in nats.
        tolerance: as of `search`.
    """
    found = writer.doses(lines, targets, tolerance=tolerance)
    known = [(family, dose.signed) for (family, _), doses in zip(lines, found, strict=True) for dose in doses if dose.signed is not None]
    texts = iter(writer.steered(known))
    return [[Point(dose, None if dose.signed is None else next(texts)) for dose in doses] for doses in found]
