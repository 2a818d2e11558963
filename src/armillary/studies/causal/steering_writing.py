"""What a model writes under edits, and what each text costs the model without them.

Every prompt is continued as often as is asked, and each text has a seed of its own: the texts of two edits meet the same random numbers,
and none depends on which other edits are tried, though several strengths are written together. Nothing is written twice.

Letters: P prompts, C continuations of each, n = P C texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from armillary.core.model import Edit, Model
from armillary.core.prompted import beginnings
from armillary.core.statistics import Floats
from armillary.core.tokens import Ints, Tokens, concatenate
from armillary.studies.causal.edit_families import Family, Position, positions
from armillary.studies.causal.proxies import distinct_pairs, losses
from armillary.studies.causal.strength import Dose, Effect, search

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


@dataclass(frozen=True)
class Texts:
    """What was written after every prompt.

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


class Writer:
    """Writes, and remembers what it has written.

    Args:
        model: with logits.
        prompts: P texts.
        how: of the drawing.
    """

    def __init__(self, model: Model, prompts: Sequence[str], how: Sampled) -> None:
        self.model, self.prompts, self.how = model, tuple(prompts), how
        self._texts = [prompt for prompt in prompts for _ in range(how.n_continuations)]
        self.tokens = beginnings(model, self._texts)
        self.effect = Effect(model, beginnings(model, prompts), lambda tokens: positions(how.position, tokens))
        self._written: dict[tuple[str, float], Texts] = {}
        self._found: dict[tuple[str, tuple[float, ...], tuple[int, ...]], list[Dose]] = {}

    @property
    def prompt(self) -> Ints:
        """[n] which prompt each text goes on from."""
        return np.repeat(np.arange(len(self.prompts)), self.how.n_continuations)

    @property
    def by_turns(self) -> list[int]:
        """Places of the texts, one of every prompt, then another of every prompt, and so on."""
        return [int(i) for i in np.argsort(np.tile(np.arange(self.how.n_continuations), len(self.prompts)), kind="stable")]

    def doses(self, family: Family, targets: Sequence[float], *, signs: Sequence[int], tolerance: float) -> list[Dose]:
        """The strengths at which a family has these effects after the prompts."""
        key = (family.name, tuple(targets), tuple(signs))
        if key not in self._found:
            unit = self.effect.unit(family)
            self._found[key] = search(self.effect, family, targets, unit=unit, signs=signs, tolerance=tolerance)
        return self._found[key]

    def plain(self) -> Texts:
        """Without an edit."""
        if ("", 0.0) not in self._written:
            (self._written["", 0.0],) = self._write(self.tokens, (), 1)
        return self._written["", 0.0]

    def steered(self, family: Family, strengths: Sequence[float]) -> list[Texts]:
        """Under the family's edits of these strengths."""
        missing = [strength for strength in dict.fromkeys(strengths) if (family.name, strength) not in self._written]
        together = max(1, TOGETHER // self.tokens.n_sequences) if family.is_batched else 1
        for first in range(0, len(missing), together):
            some = missing[first : first + together]
            tokens = concatenate([self.tokens] * len(some))
            strength = torch.tensor(some).repeat_interleave(self.tokens.n_sequences) if family.is_batched else some[0]
            edit = family.make(strength, positions(self.how.position, tokens))
            for one, texts in zip(some, self._write(tokens, (edit,), len(some)), strict=True):
                self._written[family.name, one] = texts
        return [self._written[family.name, strength] for strength in strengths]

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
        prompts = [tokens.ids[tokens.starts[i] : tokens.starts[i + 1]].tolist() for i in range(len(ids))]
        whole = [[*prompt, *one] for prompt, one in zip(prompts, ids, strict=True)]
        return losses(self.model, whole, [len(prompt) for prompt in prompts])


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


def curve(writer: Writer, family: Family, targets: Sequence[float], *, sign: int, signs: Sequence[int], tolerance: float) -> list[Point]:
    """What is written along a family, for each KL.

    Args:
        writer: of the texts.
        family: of edits.
        targets: KL in nats.
        sign: which way, one of `signs`.
        signs: ways that are looked for together.
        tolerance: as of `search`.
    """
    found = writer.doses(family, targets, signs=signs, tolerance=tolerance)
    mine = [dose for dose in found if dose.sign == sign]
    known = [dose.signed for dose in mine if dose.signed is not None]
    texts = dict(zip(known, writer.steered(family, known), strict=True))
    return [Point(dose, None if dose.signed is None else texts[dose.signed]) for dose in mine]
