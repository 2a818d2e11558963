"""Strength: how strong an edit has to be for a wanted effect on the next token's distribution, for any family of edits.

    KL(s) = mean over prompts of KL(p || p_s) at the last token          p_s: under the family's edit of strength s

Two edits can only be compared at equal effect, and s and -s rarely have the same: each sign is searched by itself. A row of strengths,
four to a decade, brackets a target; then every target of either sign puts a few guesses into its bracket, all of which, of all families
that are searched, go through the model together, one strength per sequence; none goes through it twice. KL need not rise with s, so the
first crossing is taken: from below, or from above where an edit of strength 0 has a larger effect already (a code set to 0). A target
beyond all that was seen is called unreachable, and one that the effect jumps over is called that.

Letters: P prompts, A strengths, T positions, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.model import Model, Where
from armillary.core.site import Site
from armillary.core.tokens import Tokens, concatenate
from armillary.errors import InputError
from armillary.studies.causal.edit_families import Asked, Family, edits_of, every, in_parts, key_of

#: KL that strengths are searched for, in nats: those of Shafran, Geiger and Geva 2025 (arXiv 2506.10920).
TARGETS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5)
#: Strengths of the first row, as multiples of the family's unit, or of its largest strength.
LEAST, MOST, PER_DECADE = 1e-3, 1e3, 4
#: More strengths of families that have a largest one: near it little may change much.
NEAR_MOST = (0.7, 0.8, 0.9)
#: Rounds of guesses at most, and how narrow a bracket is given up, as a share of its strength.
ROUNDS, NARROW = 24, 1e-6
#: Entries of the largest [A P, T, V] that is asked of the model.
ENTRIES = 1 << 25


# ---------------------------------------------------------------- the effect


class Effect:
    """KL at the last tokens of prompts as a function of an edit's strength; what was asked once is remembered.

    Args:
        model: with logits.
        tokens: the prompts.
        where: which tokens of some prompts are changed; see `positions`.
        sites: where edits will be, to be read in the same pass as the prompts' logits.
    """

    def __init__(self, model: Model, tokens: Tokens, where: Callable[[Tokens], Where | None] = every, sites: Sequence[Site] = ()) -> None:
        self.model, self.tokens, self.where = model, tokens, where
        self._known: dict[Hashable, float] = {}
        with torch.no_grad():
            values, logits = model.read(tokens, sites) if sites else ({}, model.logits(tokens))
        self.plain = self._log_p(logits, 1)  # [P, V]
        self._lengths = {site: self._length(x) for site, x in values.items()}
        self.widths = {site: x.shape[-1] for site, x in values.items()}

    def unit(self, family: Family) -> float:
        """The strength that moves activations by their mean length, or the family's largest."""
        if family.most is not None:
            return family.most
        site = family.make(0.0, None).writes
        if site not in self._lengths:
            with torch.no_grad():
                self._lengths[site] = self._length(self.model.capture(self.tokens, [site])[site])
        return self._lengths[site] / family.length

    def _length(self, x: Tensor) -> float:
        """Mean length of activations [P, T, D] of the prompts' tokens."""
        mask = torch.from_numpy(self.tokens.padded()[1]).to(x.device)
        return float(x[mask].float().norm(dim=1).mean())

    def __call__(self, family: Family, strengths: Sequence[float]) -> list[float]:
        """[A] mean KL over the prompts, in nats."""
        return self.of([(family, strength) for strength in strengths])

    def of(self, asked: Sequence[Asked]) -> list[float]:
        """[A] the same for strengths of several families."""
        new = {key_of(one): one for one in asked if key_of(one) not in self._known}
        most = ENTRIES // (self.tokens.n_sequences * int(self.tokens.lengths.max()) * self.plain.shape[1])
        with torch.no_grad():
            for part in in_parts(list(new.values()), max(1, most)):
                self._known |= zip(map(key_of, part), self._together(part), strict=True)
        return [self._known[key_of(one)] for one in asked]

    def _together(self, asked: Sequence[Asked]) -> list[float]:
        tokens = concatenate([self.tokens] * len(asked))
        logits = self.model.logits(tokens, edits=edits_of(asked, self.tokens.n_sequences, self.where(tokens)))
        changed = self._log_p(logits, len(asked)).reshape(len(asked), *self.plain.shape)  # [A, P, V]
        return [float(one) for one in (self.plain.exp() * (self.plain - changed)).sum(2).mean(1)]

    def _log_p(self, logits: Tensor, times: int) -> Tensor:
        """[B, V] at the last tokens of the prompts, which are there so many times."""
        last = torch.from_numpy(self.tokens.lengths - 1).repeat(times).to(logits.device)
        return F.log_softmax(logits[torch.arange(len(logits)), last].double(), dim=-1)


# ---------------------------------------------------------------- the search


@dataclass(frozen=True)
class Dose:
    """A strength that has a wanted effect.

    Args:
        target: KL that is wanted, in nats.
        sign: +1 along the direction, -1 against it.
        strength: s >= 0, in units of the family (of a direction: its own length); None where the target is not met.
        achieved: KL at that strength; else the nearest that was seen on the side of the target where strength 0 is.
        jump: the KL just beyond the target, where the effect jumps over it; else None.
    """

    target: float
    sign: int
    strength: float | None
    achieved: float
    jump: float | None = None

    @property
    def signed(self) -> float | None:
        """The strength to give to the family, with its sign."""
        return None if self.strength is None else self.sign * self.strength

    def __str__(self) -> str:
        if self.jump is not None:
            return (
                f"KL {self.target:g} is passed over with sign {self.sign:+d}: the effect jumps from {self.achieved:.3g} to {self.jump:.3g}"
            )
        if self.strength is None and self.achieved > self.target:
            return (
                f"KL {self.target:g} is unreachable with sign {self.sign:+d}: it has an effect at strength 0 already, and the "
                f"smallest seen is {self.achieved:.3g}"
            )
        if self.strength is None:
            return f"KL {self.target:g} is unreachable with sign {self.sign:+d}: the largest seen is {self.achieved:.3g}"
        return f"KL {self.achieved:.3g} (wanted {self.target:g}) at {self.sign * self.strength:+.4g}"


def search(
    effect: Callable[[Family, Sequence[float]], list[float]],
    family: Family,
    targets: Sequence[float],
    *,
    unit: float = 1.0,
    signs: Sequence[int] = (1, -1),
    tolerance: float = 0.02,
) -> list[Dose]:
    """The strengths of a family that have the wanted effects.

    Args:
        effect: KL of strengths; see `Effect`.
        family: of edits.
        targets: KL in nats, above 0.
        unit: of the first row of strengths; see `Effect.unit`.
        signs: which ways; +1 alone for a family with a largest strength.
        tolerance: relative distance from a target that is near enough.

    Returns:
        one dose per sign and target, in that order.

    Raises:
        InputError: no target or one that is not above 0, a tolerance that is not, a sign that is neither 1 nor -1, or -1 for a family with
            a largest strength.
    """

    def of(asked: Sequence[Asked]) -> list[float]:
        return effect(family, [strength for _, strength in asked])

    return search_together(of, [Search(family, tuple(signs), unit)], targets, tolerance=tolerance)[0]


@dataclass(frozen=True)
class Search:
    """A family whose strengths are wanted.

    Args:
        family, signs, unit: as of `search`.
    """

    family: Family
    signs: tuple[int, ...]
    unit: float

    @property
    def row(self) -> list[float]:
        """Strengths to begin with, of either sign; 0 comes before them."""
        return first_row(self.unit, self.family.most is not None)

    @property
    def first(self) -> list[Asked]:
        """0, then the row with each sign."""
        return [(self.family, 0.0), *((self.family, sign * strength) for sign in self.signs for strength in self.row)]

    def hunts(self, values: Iterator[float], targets: Sequence[float], tolerance: float) -> list[_Hunt]:
        """One for each sign and target, given the KL of the first strengths."""
        zero, found = next(values), []
        for sign in self.signs:
            row = [(0.0, zero), *((strength, next(values)) for strength in self.row)]
            found += [_Hunt(sign, target, row, tolerance) for target in targets]
        return found


def search_together(
    effect: Callable[[Sequence[Asked]], list[float]], searches: Sequence[Search], targets: Sequence[float], *, tolerance: float
) -> list[list[Dose]]:
    """The strengths of several families, as `search` finds those of one: none depends on which others are beside it.

    Args:
        effect: KL of strengths of any of the families; see `Effect.of`.
        searches: the families.
        targets, tolerance: as of `search`.

    Raises:
        InputError: as `search`.
    """
    for one in searches:
        _check(targets, one.signs, tolerance, one.family)
    values = iter(effect([asked for one in searches for asked in one.first]))
    hunts = [one.hunts(values, targets, tolerance) for one in searches]
    for _ in range(ROUNDS):
        tried = [(one.family, hunt, hunt.guesses()) for one, some in zip(searches, hunts, strict=True) for hunt in some if hunt.is_open]
        if not tried:
            break
        values = iter(effect([(family, hunt.sign * strength) for family, hunt, guesses in tried for strength in guesses]))
        for _, hunt, guesses in tried:
            hunt.take([(strength, next(values)) for strength in guesses])
    return [[hunt.dose() for hunt in some] for some in hunts]


def first_row(unit: float, is_bounded: bool) -> list[float]:
    """Strengths to begin with, rising: up to the unit where that is the largest there is, else far beyond it."""
    decades = round(math.log10((1.0 if is_bounded else MOST) / LEAST))
    row = [LEAST * 10 ** (i / PER_DECADE) for i in range(decades * PER_DECADE + 1)]
    return [unit * share for share in sorted({*row, *(NEAR_MOST if is_bounded else ())})]


def _check(targets: Sequence[float], signs: Sequence[int], tolerance: float, family: Family) -> None:
    if not tolerance > 0 or any(sign not in (1, -1) for sign in signs):
        raise InputError(f"tolerance is above 0 and signs are 1 or -1, got {tolerance} and {list(signs)}")
    if not targets or not all(0 < target < math.inf for target in targets):
        raise InputError(f"doses need at least one prompt and targets above 0, got {list(targets)}")
    if family.most is not None and -1 in signs:
        raise InputError(f"this edit has strengths from 0 to {family.most:g}, and no sign -1; ask for sign 1")


#: A strength and its KL.
_Seen = tuple[float, float]


class _Hunt:
    """The search for one target with one sign.

    Args:
        sign, target, tolerance: as of `search`.
        row: strengths, rising from 0, with their KL.
    """

    def __init__(self, sign: int, target: float, row: Sequence[_Seen], tolerance: float) -> None:
        self.sign, self.target, self.tolerance = sign, target, tolerance
        self.low: _Seen = (0.0, 0.0)
        self.high: _Seen | None = None
        self.is_above = row[0][1] > target
        known = [kl for _, kl in row if math.isfinite(kl)]
        self.nearest = (min if self.is_above else max)(known, default=0.0)
        self.hit: _Seen | None = None
        self._narrow(row)

    @property
    def is_open(self) -> bool:
        """Whether guesses are worth while: the target lies between two strengths that still differ."""
        return self.hit is None and self.high is not None and self.high[0] - self.low[0] > NARROW * self.high[0]

    def guesses(self) -> list[float]:
        """Strengths inside the bracket: where a power law puts the target, close to that on either side, and the middle."""
        assert self.high is not None
        (low, below), (high, above) = self.low, self.high
        if low == 0:
            return [high / 64, high / 8, high / 2]
        share = math.log(self.target / below) / math.log(above / below) if 0 < min(below, above) < max(below, above) < math.inf else 0.5
        shares = {0.5, *(min(max(share + step, 0.02), 0.98) for step in (-0.05, 0.0, 0.05))}
        return [low * (high / low) ** one for one in sorted(shares)]

    def take(self, found: Sequence[_Seen]) -> None:
        """Learn the KL of guesses."""
        assert self.high is not None
        self._narrow([*found, self.high])

    def _narrow(self, row: Sequence[_Seen]) -> None:
        """Close the bracket around the first strength of the row whose effect is across the target, or end at one that is near enough."""
        for strength, kl in row:
            if abs(kl - self.target) <= self.tolerance * self.target:
                self.hit = (strength, kl)
                return
            if (kl <= self.target) if self.is_above else (kl >= self.target):
                self.high = (strength, kl)
                return
            if math.isfinite(kl):
                self.low = (strength, kl)

    def dose(self) -> Dose:
        if self.hit is not None:
            return Dose(self.target, self.sign, *self.hit)
        if self.high is None:
            return Dose(self.target, self.sign, None, self.nearest)
        return Dose(self.target, self.sign, None, self.low[1], self.high[1])
