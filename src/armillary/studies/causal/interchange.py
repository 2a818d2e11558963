"""Interchange interventions: a task's pairs are run with the activation of the base's run changed at one site and token.

A model is asked every different prompt once, and read once at all sites and positions that are looked at. What a change is made of, the
activations of base and source, is known before the model is run with it, so only the one token's activation is ever encoded.

Letters: P pairs, n different prompts, b pairs of a batch, D width of a site, R rank.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from armillary.core.edits import Interchange
from armillary.core.model import Edit, Model, Where
from armillary.core.pairs import Pairs, answer_key, can_read, distinct, lost_groups, runs, weights
from armillary.core.progress import progress
from armillary.core.prompted import BATCH_TOKENS, Prompted, activations_at, answered, by_length, only_at, prompt_key
from armillary.core.rows import TensorRows
from armillary.core.site import Site, Source
from armillary.core.statistics import Floats
from armillary.core.task import Pair, Prompt, Task
from armillary.core.tokens import Bools, Ints

#: A change of some runs: from the prompts of their bases [b] and of their sources [b], and where in each run, makes the edit.
Change = Callable[[Ints, Ints, Where], Edit]


@dataclass(frozen=True)
class Trials:
    """Pairs that are run on a model.

    Args:
        model: it.
        pairs: P.
        base, source: [P] numbers of their prompts.
        unit: [P] which pairs belong together by their base: those of one entity.
        batch_tokens: tokens per forward pass; speed and memory only.
    """

    model: Model
    pairs: tuple[Pair, ...]
    base: Ints
    source: Ints
    unit: Ints
    batch_tokens: int = BATCH_TOKENS

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def _runs(self) -> tuple[Prompted, Ints]:
        return runs(self.model, self.pairs)

    @cached_property
    def _places(self) -> dict[str, Ints]:
        return {}

    def place(self, position: str) -> Ints:
        """[runs] the token of each different run at a position."""
        if position not in self._places:
            self._places[position] = self._runs[0].at(position)
        return self._places[position]

    @cached_property
    def source_unit(self) -> Ints:
        """[P] which pairs belong together by their source; the same number is the same entity as in `unit`."""
        return np.array([unit_id(pair.source) for pair in self.pairs], np.int64)

    @cached_property
    def weight(self) -> Floats:
        """[P] share of each pair in the score."""
        return weights(self.pairs)

    def score(self, right: Bools) -> float:
        """The score of a variable: the mean over kinds of the share of pairs [P] that came out as expected; see `core.pairs.weights`."""
        return round(float(self.weight @ right), 12)  # so that equal scores are equal

    def take(self, which: Ints) -> Trials:
        """Some of the pairs."""
        chosen = tuple(self.pairs[i] for i in which)
        return Trials(self.model, chosen, self.base[which], self.source[which], self.unit[which], self.batch_tokens)

    def split(self, share: float, seed: int) -> Halves:
        """Pairs to learn from and pairs to choose by.

        Of all units about a share is held back to choose by, and one at least; of a single unit there is nothing to hold back, and both
        are all pairs. What is held back is neither base nor source of a pair that is learnt from, unless that would leave fewer than a
        quarter of the pairs of some kind.
        """
        units = np.unique(self.unit)
        if len(units) < 2:
            return Halves(self, self, "settings and position were chosen by the pairs that were learnt from: all are of one base entity")
        n = min(len(units) - 1, max(1, round(share * len(units))))
        held = np.random.default_rng(seed).permutation(units)[:n]
        left = np.isin(self.unit, held)
        own = ~left & ~np.isin(self.source_unit, held)
        is_enough = _keeps(np.array([pair.kind for pair in self.pairs]), ~left, own, 1 / 4)
        shared = "" if is_enough else "base entities held back to choose settings and position by are sources in pairs learnt from"
        return Halves(self.take(np.flatnonzero(own if is_enough else ~left)), self.take(np.flatnonzero(left)), shared)

    # ------------------------------------------------------------ running them

    def batches(self) -> list[Ints]:
        """[b] pairs of every forward pass, alike in length."""
        prompted, run = self._runs
        return list(by_length(prompted.tokens.lengths[run], self.batch_tokens))

    def logits(self, which: Ints, position: str, change: Change, *, grad: bool = False) -> tuple[Prompted, Tensor]:
        """Runs of some pairs [b] with their activations at a position changed, and the logits [b, T, V]."""
        prompted, run = self._runs
        some = prompted.take(run[which])
        edit = change(self.base[which], self.source[which], only_at(self.place(position)[run[which]]))
        return some, self.model.logits(some.tokens, edits=[edit], grad=grad)

    def right(self, position: str, change: Change) -> Bools:
        """[P] whether the model gives the expected answer when its activations at a position are changed."""
        found = np.zeros(len(self), bool)
        with torch.no_grad(), progress("interchange", total=len(self), unit="pairs") as bar:
            for which in self.batches():
                some, logits = self.logits(which, position, change)
                found[which] = some.right(logits).cpu().numpy()
                bar.advance(len(which))
        return found

    def loss(self, which: Ints, position: str, change: Change) -> Tensor:
        """[b] nats per token of the expected answers of some pairs; differentiable in what the change is made of."""
        with torch.enable_grad():
            some, logits = self.logits(which, position, change, grad=True)
            return some.loss(logits)


@dataclass(frozen=True)
class Halves:
    """Pairs of a training set.

    Args:
        learn_from: what features are chosen by.
        choose_by: what settings and positions are chosen by.
        shared: what the two have in common that they should not; "" for nothing.
    """

    learn_from: Trials
    choose_by: Trials
    shared: str = ""


def _keeps(kind: NDArray[np.str_], before: Bools, after: Bools, share: float) -> bool:
    """Whether of each kind [P] at least a share of some pairs is among others."""
    return all(int((after & (kind == one)).sum()) >= share * int((before & (kind == one)).sum()) for one in np.unique(kind))


class Bench:
    """A task on a model: the pairs whose two prompts the model answers as the causal model does, and the activations of these prompts.

    Pairs whose prompts the tokenizer does not keep apart from their answers are left out before any are drawn.

    Args:
        model: the model.
        task: the task.
        places: the sites and positions to read activations at.
        variables: which; all for ().
        max_pairs: pairs of each variable and split at most, drawn by `seed`, as many of each kind; None for all.
        seed: of the draw.
        batch_tokens: tokens per forward pass; speed and memory only.

    Raises:
        InputError: the tokenizer keeps no pair's prompts apart from their answers, or a prompt is longer than the model's context.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        places: Sequence[tuple[Site, str]],
        *,
        variables: Sequence[str] = (),
        max_pairs: int | None = None,
        seed: int = 0,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.model, self.task, self.batch_tokens = model, task, batch_tokens
        known = _by_variable(task, variables)
        read = set(map(id, itertools.compress(_all(known), can_read(model, _all(known)))))
        #: (variable, split) -> pairs whose prompts the tokenizer does not keep apart from their answers.
        self.left_out = {key: [pair for pair in pairs if id(pair) not in read] for key, pairs in known.items()}
        #: (variable, split) -> pairs that were drawn of the others.
        self.drawn = {key: draw([pair for pair in pairs if id(pair) in read], max_pairs, seed) for key, pairs in known.items()}
        self._known: dict[tuple[object, ...], bool] = {}
        self._ask([(prompt, prompt.answer) for pair in _all(self.drawn) for prompt in (pair.base, pair.source)])
        kept = {key: [pair for pair in pairs if self._can_do(pair)] for key, pairs in self.drawn.items()}
        prompts, index = distinct([p for pairs in kept.values() for pair in pairs for p in (pair.base, pair.source)], prompt_key)
        self.x = activations_at(model, prompts, places, batch_tokens=batch_tokens) if prompts else {}
        #: (variable, split) -> the pairs that are kept.
        self.trials = dict(zip(kept, self._trials(list(kept.values()), index.reshape(-1, 2)), strict=True))
        self._everything: dict[tuple[str, str, Site, str], Bools] = {}

    def _trials(self, kept: Sequence[Sequence[Pair]], prompts: Ints) -> list[Trials]:
        """Trials of lists of pairs, from the prompts [P, 2] of all of them."""
        ends = np.cumsum([0, *(len(pairs) for pairs in kept)])
        out = []
        for pairs, low, high in zip(kept, ends, ends[1:], strict=False):
            unit = np.array([unit_id(pair.base) for pair in pairs], np.int64)
            base, source = prompts[low:high].T
            out.append(Trials(self.model, tuple(pairs), base, source, unit, self.batch_tokens))
        return out

    @property
    def variables(self) -> list[str]:
        """The variables that are looked at."""
        return list(dict.fromkeys(name for name, _ in self.drawn))

    def kept(self, split: str, variable: str | None = None) -> Bools:
        """[P] whether the model can do each pair that was drawn of a split, and of a variable or of all."""
        keys = [key for key in self.drawn if key[1] == split and variable in (None, key[0])]
        return np.array([self._can_do(pair) for key in keys for pair in self.drawn[key]], bool)

    def kinds(self, variable: str, split: str = "test") -> tuple[str, ...]:
        """Kinds of the pairs that were drawn or left out, in the order they are met: of what the task asks."""
        key = (variable, split)
        return tuple(dict.fromkeys(pair.kind for pair in (*self.drawn[key], *self.left_out[key])))

    def why_not(self, variable: str, halves: Halves) -> str:
        """Why nothing can be said of a variable: a split has no pair that the model can do, or none that asks for a change, or for none."""
        reasons = [self._why_no_pair(variable, split) for split in ("train", "test")]
        reasons += [self._why_no_group(variable, split) for split in ("train", "test")]
        for told, part in (("to learn from", halves.learn_from), ("held back", halves.choose_by)):
            if lost := lost_groups(self.kinds(variable, "train"), _kinds(part)):
                reasons.append(f"of the training pairs of {variable!r} {told} the model can do none of kind {lost[0]!r}; use more pairs")
        return next((reason for reason in reasons if reason), "")

    def _why_no_pair(self, variable: str, split: str) -> str:
        drawn, kept, left = (len(of[variable, split]) for of in (self.drawn, self.trials, self.left_out))
        if not drawn and left:
            return f"the tokenizer keeps prompt and answer apart in none of {left} {split} pairs of {variable!r}"
        if not drawn:
            return f"the {split} has no pair of {variable!r}"
        return "" if kept else f"the model answers both prompts of none of {drawn} {split} pairs of {variable!r}"

    def _why_no_group(self, variable: str, split: str) -> str:
        """Of the pairs whose answer is to change, or is not to, none was left by the tokenizer or by the model."""
        drawn = [pair.kind for pair in self.drawn[variable, split]]
        if lost := lost_groups(self.kinds(variable, split), drawn):
            return f"the tokenizer keeps prompt and answer apart in none of the {lost[0]!r} pairs of {variable!r} in the {split}"
        if lost := lost_groups(drawn, _kinds(self.trials[variable, split])):
            return f"the model answers both prompts of none of the {lost[0]!r} pairs of {variable!r} in the {split}"
        return ""

    def nothing(self, variable: str, split: str = "test") -> Bools:
        """[P] whether the expected answer is what the model says without any change."""
        pairs = self.trials[variable, split].pairs
        self._ask([(pair.base, pair.expected) for pair in pairs])
        return np.array([self._known[pair.base.text, pair.expected] for pair in pairs], bool)

    def everything(self, variable: str, site: Site, position: str, split: str = "test") -> Bools:
        """[P] the same where the source's activation is put in whole."""
        key = (variable, split, site, position)
        if key not in self._everything:
            self._everything[key] = self.trials[variable, split].right(position, Whole(site, self.x[site, position]))
        return self._everything[key]

    def pairs(self, trials: Trials, site: Site, position: str) -> Pairs:
        """Trials as something that a method can be fitted to: what their sources have at a place is not read again."""
        rows = TensorRows(self.x[site, position][trials.source], source=Source(self.model.name, self.model.revision, site))
        return Pairs(self.model, site, position, trials.pairs, rows)

    def _can_do(self, pair: Pair) -> bool:
        return self._known[answer_key(pair.base)] and self._known[answer_key(pair.source)]

    def _ask(self, asked: Sequence[tuple[Prompt, str]]) -> None:
        """See whether the model gives these answers, which of each different prompt and answer is found out once."""
        new = {(prompt.text, answer): prompt for prompt, answer in asked if (prompt.text, answer) not in self._known}
        found = answered(self.model, list(new.values()), [answer for _, answer in new], batch_tokens=self.batch_tokens)
        self._known |= dict(zip(new, found.tolist(), strict=True))


def _by_variable(task: Task, variables: Sequence[str]) -> dict[tuple[str, str], list[Pair]]:
    """(variable, split) -> pairs, of some variables or, for (), of all."""
    names, splits = [name for name in task.variables if not variables or name in variables], {"train": task.train, "test": task.test}
    return {(name, split): [pair for pair in pairs if pair.variable == name] for name in names for split, pairs in splits.items()}


def _all(pairs: Mapping[tuple[str, str], list[Pair]]) -> list[Pair]:
    return [pair for some in pairs.values() for pair in some]


def _kinds(trials: Trials) -> list[str]:
    return [pair.kind for pair in trials.pairs]


def unit_of(prompt: Prompt) -> str:
    """What a prompt is about: its entity, else all its groups but the template, else its text."""
    groups: Mapping[str, str] = prompt.groups
    if "entity" in groups:
        return groups["entity"]
    return " / ".join(f"{key} {groups[key]}" for key in sorted(groups) if key != "template") or prompt.text


def unit_id(prompt: Prompt) -> int:
    """A number that stands for `unit_of`, the same in every run, so that whatever is measured of it can be paired."""
    return int.from_bytes(hashlib.sha256(unit_of(prompt).encode()).digest()[:6], "big")


def draw(pairs: Sequence[Pair], most: int | None, seed: int) -> list[Pair]:
    """At most so many pairs, as many of each kind as can be, in their order."""
    if most is None or len(pairs) <= most:
        return list(pairs)
    rank: Counter[str] = Counter()
    order = np.random.default_rng(seed).permutation(len(pairs))
    key = np.zeros(len(pairs), np.int64)
    for i in order:
        key[i] = rank[pairs[i].kind]
        rank[pairs[i].kind] += 1
    chosen = sorted(order[np.argsort(key[order], kind="stable")][:most])
    return [pairs[i] for i in chosen]


# ---------------------------------------------------------------- changes


@dataclass(frozen=True)
class Whole:
    """The source's activation in place of the base's: the most that can be exchanged.

    Args:
        site: where.
        x: [n, D] activations of the prompts.
    """

    site: Site
    x: Tensor

    def __call__(self, base: Ints, source: Ints, where: Where) -> Edit:
        return Interchange(self.site, self.x[torch.from_numpy(source)][:, None], where=where)


@dataclass(frozen=True)
class Within:
    """The source's part in a subspace.

    Args:
        site: where.
        x: [n, D] activations of the prompts.
        basis: [R, D] orthonormal rows.
    """

    site: Site
    x: Tensor
    basis: Tensor

    def __call__(self, base: Ints, source: Ints, where: Where) -> Edit:
        return Interchange(self.site, self.x[torch.from_numpy(source)][:, None], basis=self.basis, where=where)
