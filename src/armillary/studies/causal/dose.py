"""Dose: how strong an edit has to be for a wanted effect on the next token's distribution; see `strength` for how it is found.

doses       of a direction that is added at every token of a site
doses_of    of any family of edits, at the tokens that are chosen
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from armillary.core.model import Model
from armillary.core.prompted import beginnings
from armillary.core.site import Site
from armillary.errors import InputError
from armillary.studies.causal.edit_families import Family, Position, adding, every, positions
from armillary.studies.causal.strength import TARGETS, Dose, Effect, search

__all__ = ["Dose", "doses", "doses_of"]


def doses(
    model: Model,
    site: Site | str,
    direction: Tensor,
    prompts: Sequence[str],
    targets: Sequence[float] = TARGETS,
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
    return doses_of(model, adding(Site.parse(site), direction), prompts, targets, signs=signs, tolerance=tolerance, position=None)


def doses_of(
    model: Model,
    family: Family,
    prompts: Sequence[str],
    targets: Sequence[float] = TARGETS,
    *,
    signs: Sequence[int] = (1,),
    tolerance: float = 0.02,
    position: Position | None = "all",
) -> list[Dose]:
    """The strengths at which edits of a family, such as `moving(site, centroid)`, have the wanted effects.

    Args:
        model, prompts, targets, signs, tolerance: as of `doses`.
        family: of edits.
        position: which tokens are changed, see `edit_families.positions`; None for special tokens too.

    Raises:
        InputError, CapabilityError: as of `doses`; also sign -1 for edits with strengths from 0 to a largest one.
    """
    if not prompts:
        raise InputError(f"doses need at least one prompt and targets above 0, got 0 prompts and {list(targets)}")
    where = every if position is None else lambda tokens: positions(position, tokens)
    effect = Effect(model, beginnings(model, prompts), where)
    return search(effect, family, targets, unit=effect.unit(family), signs=signs, tolerance=tolerance)
