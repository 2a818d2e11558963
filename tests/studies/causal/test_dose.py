"""Strengths that have a wanted effect, of each sign by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.edits import Add
from armillary.errors import CapabilityError, InputError
from armillary.studies.causal.dose import doses, doses_of
from armillary.studies.causal.edit_families import Family, adding
from armillary.studies.causal.strength import Effect, search
from support import TEXTS, ending_lm, tiny_lm

SITE = "mlp_act.1"
TARGETS = (0.025, 0.1, 0.5)


def direction(lm: arm.LanguageModel, seed: int = 0) -> torch.Tensor:
    return torch.randn(lm.width(SITE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma2"])
def test_targets_are_met_by_both_signs_or_said_to_be_unreachable(arch: str) -> None:
    """i-15."""
    lm = tiny_lm(arch)
    found = doses(lm, SITE, direction(lm), TEXTS[:2], TARGETS)
    assert sum(dose.strength is not None for dose in found) >= 2  # one target of each sign at least
    for dose in found:
        if dose.strength is not None:
            assert dose.achieved == pytest.approx(dose.target, rel=0.05)
        else:
            assert dose.achieved < dose.target


def test_the_strength_that_is_returned_has_that_effect() -> None:
    """By hand, from the logits."""
    lm = tiny_lm("llama")
    (dose,) = doses(lm, SITE, direction(lm), [TEXTS[0]], [0.1], signs=[-1])
    assert dose.strength is not None
    plain = torch.log_softmax(lm.logits(TEXTS[0])[0, -1].double(), 0)
    steered = torch.log_softmax(lm.logits(TEXTS[0], edits=[Add(SITE, direction(lm), -dose.strength)])[0, -1].double(), 0)
    assert float((plain.exp() * (plain - steered)).sum()) == pytest.approx(dose.achieved, rel=1e-4)


def test_signs_have_strengths_of_their_own_and_a_longer_direction_smaller_ones() -> None:
    lm = tiny_lm("gpt2")
    up, down = doses(lm, SITE, direction(lm), TEXTS[:2], [0.1])
    (longer,) = doses(lm, SITE, 10 * direction(lm), TEXTS[:2], [0.1], signs=[1])
    assert up.achieved != down.achieved and up.strength is not None and longer.strength is not None
    assert longer.strength == pytest.approx(up.strength / 10, rel=0.1)


def test_padding_does_not_matter() -> None:
    lm = tiny_lm("gpt2")
    family = adding(SITE, direction(lm))
    together = Effect(lm, lm.tokenize(TEXTS[:2]))(family, [1.0])[0]
    alone = [Effect(lm, lm.tokenize([text]))(family, [1.0])[0] for text in TEXTS[:2]]
    assert together == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_what_nothing_reaches_is_called_unreachable() -> None:
    lm = tiny_lm("gpt2")
    (dose,) = doses(lm, SITE, direction(lm), [TEXTS[0]], [1e4], signs=[1])
    assert dose.strength is None and dose.achieved < 1e4 and "unreachable" in str(dose)


def test_an_effect_that_jumps_over_a_target_is_not_called_too_weak() -> None:
    step = Family(lambda strength, where: None)  # type: ignore[arg-type, return-value]
    (found,) = search(lambda _, at: [5.0 if one > 0.7 else 0.01 * (one > 0) for one in at], step, [1.0], signs=[1])
    assert found.strength is None and (found.achieved, found.jump) == (0.01, 5.0)
    assert str(found) == "KL 1 is passed over with sign +1: the effect jumps from 0.01 to 5"


def test_bad_input_is_refused() -> None:
    lm = tiny_lm("gpt2")
    for options in ({"tolerance": 0.0}, {"signs": [2]}):
        with pytest.raises(InputError, match="tolerance is above 0 and signs are 1 or -1"):
            doses(lm, SITE, direction(lm), [TEXTS[0]], [0.1], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="targets above 0"):
        doses(lm, SITE, direction(lm), [TEXTS[0]], [float("nan")])
    with pytest.raises(InputError, match="at least one prompt and targets above 0"):
        doses(lm, SITE, direction(lm), [], [0.1])
    with pytest.raises(InputError, match="at least one prompt and targets above 0"):
        doses(lm, SITE, direction(lm), [TEXTS[0]], [0.0])
    with pytest.raises(InputError, match="length 0"):
        doses(lm, SITE, 0 * direction(lm), [TEXTS[0]], [0.1])
    with pytest.raises(CapabilityError):
        doses(tiny_lm("bert"), SITE, direction(tiny_lm("bert")), [TEXTS[0]], [0.1])


@pytest.mark.parametrize("position", [None, "all", "last"])
def test_prompts_are_gone_on_from_and_have_no_token_behind_them(position: Any) -> None:
    """A tokenizer that ends every text: the distribution after its end is not that of the next word."""
    plain, ending = tiny_lm("llama"), ending_lm("llama")
    family = adding(SITE, direction(plain))
    wanted, found = (doses_of(lm, family, TEXTS[:2], [0.1], position=position) for lm in (plain, ending))
    assert ending.tokenize(TEXTS[0]).ids[-1] == 0 and found == wanted and wanted[0].strength is not None
