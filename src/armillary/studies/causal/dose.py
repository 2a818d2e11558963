"""Dose: how strong an edit has to be for a wanted effect on the next token's distribution.

    KL(alpha) = mean over prompts of KL(p || p_alpha) at the last token,  x + alpha * direction at every token of a site

Two directions can only be compared at equal effect, and alpha and -alpha rarely have the same: each sign is searched by itself. A row of
strengths, four to a decade, brackets a target; bisection of log alpha then finds it. KL need not rise with
alpha, so the first crossing is taken, and a target above all that was seen is called unreachable.

Letters: P prompts, A strengths, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from armillary.core.edits import Add
from armillary.core.model import Model
from armillary.core.site import Site
from armillary.core.tokens import Tokens
from armillary.errors import InputError

#: Strengths of the first row, as multiples of the site's mean length over the direction's own.
LEAST, MOST, PER_DECADE = 1e-3, 1e3, 4
#: Halvings at most.
HALVINGS = 40


@dataclass(frozen=True)
class Dose:
    """A strength that has a wanted effect.

    Args:
        target: KL that is wanted, in nats.
        sign: +1 along the direction, -1 against it.
        strength: alpha >= 0, in units of the direction's own length; None where the target is not met.
        achieved: KL at that strength; else the largest that was seen below the target.
        jump: the KL just above the target, where the effect jumps over it; else None.
    """

    target: float
    sign: int
    strength: float | None
    achieved: float
    jump: float | None = None

    def __str__(self) -> str:
        if self.jump is not None:
            return (
                f"KL {self.target:g} is passed over with sign {self.sign:+d}: the effect jumps from {self.achieved:.3g} to {self.jump:.3g}"
            )
        if self.strength is None:
            return f"KL {self.target:g} is unreachable with sign {self.sign:+d}: the largest seen is {self.achieved:.3g}"
        return f"KL {self.achieved:.3g} (wanted {self.target:g}) at {self.sign * self.strength:+.4g}"


def doses(
    model: Model,
    site: Site | str,
    direction: Tensor,
    prompts: Sequence[str],
    targets: Sequence[float],
    *,
    signs: Sequence[int] = (1, -1),
    tolerance: float = 0.02,
) -> list[Dose]:
    """The strengths at which adding a direction has the wanted effects.

    Args:
        model: a causal language model.
        site: where it is added, at every token.
        direction: [D], not 0.
        prompts: texts whose next token is looked at.
        targets: KL in nats, above 0.
        signs: which ways.
        tolerance: relative distance from a target that is near enough.

    Returns:
        one dose per sign and target, in that order.

    Raises:
        InputError: no prompt, a direction of length 0, a target or tolerance that is not above 0, or a sign that is neither 1 nor -1.
        CapabilityError: the model has no logits.
    """
    if not tolerance > 0 or any(sign not in (1, -1) for sign in signs):
        raise InputError(f"tolerance is above 0 and signs are 1 or -1, got {tolerance} and {list(signs)}")
    if not prompts or not targets or not all(0 < target < math.inf for target in targets):
        raise InputError(f"doses need at least one prompt and targets above 0, got {len(prompts)} prompts and {list(targets)}")
    if not float(direction.norm()) > 0:
        raise InputError("the direction has length 0, so no strength changes anything")
    effect = Effect(model, Site.parse(site), direction, model.tokenize(list(prompts)))
    return [dose for sign in signs for dose in _of_sign(effect, sign, targets, tolerance)]


class Effect:
    """KL as a function of strength.

    Args:
        model, site, direction: as of `doses`.
        tokens: the prompts.
    """

    def __init__(self, model: Model, site: Site, direction: Tensor, tokens: Tokens) -> None:
        self.model, self.site, self.direction, self.tokens = model, site, direction, tokens
        self.last = torch.from_numpy(tokens.lengths - 1)
        with torch.no_grad():
            x = model.capture(tokens, [site])[site]
            _, mask = tokens.padded()
            self.unit = float(x[torch.from_numpy(mask).to(x.device)].float().norm(dim=1).mean() / direction.norm())
            self.plain = self._log_p(model.logits(tokens))

    def _log_p(self, logits: Tensor) -> Tensor:
        """[P, V] at the last tokens."""
        return F.log_softmax(logits[torch.arange(len(logits)), self.last.to(logits.device)].double(), dim=-1)

    def __call__(self, strengths: Sequence[float]) -> list[float]:
        """[A] mean KL over the prompts."""
        with torch.no_grad():
            return [self._one(strength) for strength in strengths]

    def _one(self, strength: float) -> float:
        changed = self._log_p(self.model.logits(self.tokens, edits=[Add(self.site, self.direction, strength)]))
        kl = (self.plain.exp() * (self.plain - changed)).sum(1)
        return float(kl.mean())


def _of_sign(effect: Effect, sign: int, targets: Sequence[float], tolerance: float) -> list[Dose]:
    decades = round(math.log10(MOST / LEAST))
    grid = [effect.unit * LEAST * 10 ** (i / PER_DECADE) for i in range(decades * PER_DECADE + 1)]
    found = effect([sign * strength for strength in grid])
    row = list(zip(grid, found, strict=True))
    return [_search(effect, sign, target, row, tolerance) for target in targets]


def _search(effect: Effect, sign: int, target: float, row: Sequence[tuple[float, float]], tolerance: float) -> Dose:
    """Bisect between the first strength of the row whose effect is large enough and the one before it."""
    over = next((i for i, (_, kl) in enumerate(row) if kl >= target), None)
    if over is None:
        return Dose(target, sign, None, max(kl for _, kl in row))
    low, high = row[over - 1] if over else (0.0, 0.0), row[over]  # (strength, KL) on either side
    strength, kl = high
    for _ in range(HALVINGS):
        if abs(kl - target) <= tolerance * target:
            return Dose(target, sign, strength, kl)
        strength = (low[0] * high[0]) ** 0.5 if low[0] else high[0] / 2
        (kl,) = effect([sign * strength])
        low, high = ((strength, kl), high) if kl < target else (low, (strength, kl))
    return Dose(target, sign, None, low[1], high[1])
