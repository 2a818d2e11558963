"""Strengths of any family of edits: few forward passes, right effects, the tokens that are meant."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Add
from armillary.core.encoders import LinearEncoder
from armillary.core.site import Source
from armillary.core.tokens import concatenate
from armillary.errors import InputError
from armillary.studies.causal import strength
from armillary.studies.causal.dose import doses_of
from armillary.studies.causal.edit_families import Beside, Family, adding, clamping, edits_of, moving, positions
from armillary.studies.causal.strength import TARGETS, Effect, Search, first_row, search, search_together
from support import TEXTS, tiny_lm

SITE = "resid_post.1"
PROMPTS = TEXTS[:2]


def direction(lm: arm.LanguageModel, seed: int = 0) -> torch.Tensor:
    return torch.randn(lm.width(SITE), generator=torch.Generator().manual_seed(seed))


def counted(lm: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences of every forward pass for logits."""
    calls: list[int] = []
    run = lm.logits

    def logits(tokens: Any, **options: Any) -> torch.Tensor:
        calls.append(tokens.n_sequences)
        found: torch.Tensor = run(tokens, **options)
        return found

    monkeypatch.setattr(lm, "logits", logits)
    return calls


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_points_are_approached_to_the_wanted_effects(arch: str) -> None:
    lm = tiny_lm(arch)
    found = doses_of(lm, moving(SITE, 3 * direction(lm)), PROMPTS, TARGETS)
    assert sum(dose.strength is not None for dose in found) >= 4
    for dose in found:
        if dose.strength is None:
            assert dose.achieved < dose.target
        else:
            assert dose.achieved == pytest.approx(dose.target, rel=0.05) and 0 < dose.strength <= 1


def test_a_search_takes_few_passes_and_they_are_of_many_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")
    calls = counted(lm, monkeypatch)
    found = doses_of(lm, adding(SITE, direction(lm)), PROMPTS, TARGETS, signs=(1, -1))
    n_tried = sum(calls[1:]) / len(PROMPTS)
    assert len(found) == 2 * len(TARGETS)
    assert len(calls) <= 10 and n_tried > 8 * len(calls)  # one pass without an edit


def test_strengths_that_go_together_have_the_effects_they_have_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")
    family, tried = adding(SITE, direction(lm)), [0.5, -1.0, 2.0, 8.0]
    effect = Effect(lm, lm.tokenize(PROMPTS))
    together = effect(family, tried)
    monkeypatch.setattr(strength, "ENTRIES", 1)
    assert Effect(lm, lm.tokenize(PROMPTS))(family, tried) == pytest.approx(together, rel=1e-4, abs=1e-9)
    calls = counted(lm, monkeypatch)
    apart = Family(family.make, family.length, is_batched=False)
    monkeypatch.setattr(strength, "ENTRIES", 1 << 25)
    assert effect(apart, tried) == pytest.approx(together, rel=1e-4, abs=1e-9)
    assert calls == [len(PROMPTS)] * 4


def families(lm: arm.LanguageModel) -> list[Family]:
    """Of two kinds, at two sites."""
    return [adding(SITE, direction(lm)), moving(SITE, direction(lm, 1)), adding("mlp_act.0", torch.ones(lm.width("mlp_act.0")))]


@pytest.mark.parametrize("position", ["all", "last", "generated"])
def test_families_that_go_together_have_the_effects_they_have_alone(position: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where prompts begin with special tokens, which are not changed, and are of different lengths."""
    lm = tiny_lm("llama")
    tokens = lm.tokenize(PROMPTS)
    asked = [(family, one) for family in families(lm) for one in (0.9, 0.4, 0.0)]
    alone = [Effect(lm, tokens, lambda some: positions(position, some))(family, [one])[0] for family, one in asked]
    effect = Effect(lm, tokens, lambda some: positions(position, some))
    calls = counted(lm, monkeypatch)
    assert effect.of(asked) == pytest.approx(alone, rel=1e-4, abs=1e-9) and len({round(one, 6) for one in alone}) == 7
    assert calls == [len(asked) * len(PROMPTS)]


def test_no_effect_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")
    (one, other, _), effect = families(lm), Effect(lm, lm.tokenize(PROMPTS))
    calls = counted(lm, monkeypatch)
    first = effect.of([(one, 0.5), (other, 0.5), (one, 0.5)])
    assert first[0] == first[2] != first[1] and calls == [2 * len(PROMPTS)]
    assert effect(one, [0.5, 0.25])[0] == first[0] and calls == [2 * len(PROMPTS), len(PROMPTS)]


def test_families_that_are_searched_together_find_what_each_finds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama")
    tokens, signs = lm.tokenize(PROMPTS), ((1, -1), (1,), (-1,))
    some = list(zip(families(lm), signs, strict=True))
    effect = Effect(lm, tokens)
    calls = counted(lm, monkeypatch)
    found = search_together(effect.of, [Search(family, sign, effect.unit(family)) for family, sign in some], TARGETS, tolerance=0.02)
    n_together = len(calls)
    assert [[dose.sign for dose in doses] for doses in found] == [[sign for sign in one for _ in TARGETS] for one in signs]
    for (family, sign), doses in zip(some, found, strict=True):
        alone = search(Effect(lm, tokens), family, TARGETS, unit=effect.unit(family), signs=sign)
        assert [dose.strength for dose in alone] == pytest.approx([dose.strength for dose in doses], rel=1e-3)
    assert n_together < (len(calls) - n_together - len(some)) / 2


@pytest.mark.parametrize("family", ["adding", "moving"])
def test_strength_0_leaves_logits_bit_for_bit(family: str) -> None:
    lm = tiny_lm("gemma2")
    made = {"adding": adding, "moving": moving}[family](SITE, direction(lm))
    tokens = lm.tokenize(TEXTS)
    plain = lm.logits(tokens)
    for value in (0.0, torch.zeros(len(TEXTS))):
        assert torch.equal(lm.logits(tokens, edits=[made.make(value, None)]), plain)
    assert Effect(lm, tokens)(made, [0.0, 1.0])[0] == 0


def test_strength_0_leaves_logits_bit_for_bit_beside_other_strengths() -> None:
    lm = tiny_lm("gemma2")
    tokens, asked = lm.tokenize(TEXTS), [(family, one) for family in families(lm) for one in (0.0, 1.0)]
    whole = concatenate([tokens] * len(asked))
    found, plain = lm.logits(whole, edits=edits_of(asked, len(TEXTS), None)), lm.logits(whole)
    same = [torch.equal(*(x[i * len(TEXTS) : (i + 1) * len(TEXTS)] for x in (found, plain))) for i in range(len(asked))]
    assert same == [True, False] * 3


def test_each_part_finds_itself_among_its_own_sequences() -> None:
    """As where tokens are chosen by their number in all of the text."""
    lm = tiny_lm("llama")
    tokens, width = lm.tokenize(PROMPTS * 2), lm.width(SITE)
    last = int(tokens.starts[-1]) - 1
    parts = tuple(
        (some, Add(SITE, torch.ones(width), one, lambda at: at.row == last))
        for some, one in ((slice(0, 2), 1.0), (slice(2, 3), 2.0), (slice(3, 4), 3.0))
    )
    before, after = (lm.capture(tokens, [SITE], edits=edits)[SITE] for edits in ((), (Beside(SITE, parts),)))
    row, place = (after - before).abs().sum(-1).nonzero().T.tolist()
    assert (row, place) == ([3], [int(tokens.lengths[3]) - 1])
    torch.testing.assert_close((after - before)[3, place[0]], torch.full((width,), 3.0))


def test_any_edit_with_a_strength_per_sequence_is_batched() -> None:
    """As a move from one region to another, given as a family of one's own."""
    lm = tiny_lm("llama")
    x = torch.randn(400, lm.width(SITE), generator=torch.Generator().manual_seed(0))
    fit = arm.MFA(n_regions=2, rank=1).fit(x, seed=0)
    family = Family(lambda one, where: arm.mfa.transport(fit, 0, 1, one, site=SITE, where=where), most=1.0)
    apart, tried = Family(family.make, most=1.0, is_batched=False), [0.1, 0.6, 1.0]
    effect = Effect(lm, lm.tokenize(PROMPTS))
    assert effect(family, tried) == pytest.approx(effect(apart, tried), rel=1e-4) and len(set(effect(family, tried))) == 3


def test_at_the_point_itself_nothing_is_left_of_the_prompt() -> None:
    lm = tiny_lm("llama")
    one, other = (lm.tokenize([text]) for text in ("Lisbon is", "We sat on"))
    n = min(len(one), len(other))
    cut = [arm.core.tokens.Tokens.of_ids([tokens.ids[:n].tolist()]) for tokens in (one, other)]
    edit = moving(SITE, direction(lm)).make(1.0, None)
    changed = [lm.logits(tokens, edits=[edit]) for tokens in cut]
    torch.testing.assert_close(*changed, rtol=0, atol=1e-5)
    assert not torch.allclose(lm.logits(cut[0]), lm.logits(cut[1]), atol=1e-3)


def test_a_code_can_be_clamped_to_an_effect() -> None:
    lm = tiny_lm("llama")
    d = lm.width(SITE)
    atoms = torch.nn.functional.normalize(torch.randn(3, d, generator=torch.Generator().manual_seed(1)), dim=1)
    layout = ((Source("tiny", lm.revision, arm.Site.parse(SITE)), d),)
    fit = arm.Decomposition(Dictionary.of_directions(atoms), LinearEncoder(atoms, torch.zeros(d)), layout, layout)
    family = clamping(fit, 1, SITE)
    effect = Effect(lm, lm.tokenize(PROMPTS))
    assert effect(family, [0.0])[0] > 0  # taking the code out is a change already
    (dose,) = doses_of(lm, family, PROMPTS, [0.3])
    assert dose.strength is not None and effect(family, [dose.strength])[0] == pytest.approx(dose.achieved, rel=0.2)
    assert dose.achieved == pytest.approx(0.3, rel=0.05)


def test_only_the_tokens_that_are_meant_are_changed() -> None:
    lm = tiny_lm("gpt2")
    tokens = lm.tokenize(PROMPTS)
    edit = {name: adding(SITE, direction(lm)).make(2.0, positions(name, tokens)) for name in ("all", "last", "generated")}  # type: ignore[arg-type]
    before = lm.capture(tokens, [SITE])[SITE]
    for name, one in edit.items():
        changed = (lm.capture(tokens, [SITE], edits=[one])[SITE] != before).any(-1)
        if name == "all":
            wanted = torch.from_numpy(tokens.spread(~tokens.is_special, fill=False))
        else:
            wanted = torch.arange(changed.shape[1]) == torch.from_numpy(tokens.lengths - 1)[:, None]
        assert torch.equal(changed, wanted)
    assert bool(tokens.is_special.any())


def test_what_is_generated_is_changed_only_where_it_is_meant_with_and_without_a_cache() -> None:
    """Written under an edit of the last token alone, the second token comes from another text than under one of all that is generated."""
    lm = tiny_lm("gpt2")
    tokens = lm.tokenize(PROMPTS)
    family = adding(SITE, direction(lm))
    seen: dict[str, list[int]] = {}
    for name in ("last", "generated"):
        where = positions(name, tokens)  # type: ignore[arg-type]
        counts: list[int] = []

        def counting(at: Any, where: Any = where, counts: list[int] = counts) -> torch.Tensor:
            found: torch.Tensor = where(at)
            counts.append(int((found & at.where).sum()))
            return found

        lm.generate(tokens, max_new_tokens=3, edits=[family.make(2.0, counting)], temperature=1.0)
        seen[name] = counts
        apart = lm.generate(tokens, max_new_tokens=3, edits=[family.make(2.0, where)], temperature=1.0, use_cache=False)
        assert apart == lm.generate(tokens, max_new_tokens=3, edits=[family.make(2.0, where)], temperature=1.0)
    assert seen == {"last": [2, 0, 0], "generated": [2, 2, 2]}


def test_the_search_of_a_known_curve_is_right_and_takes_few_rounds() -> None:
    rounds: list[int] = []

    def effect(_: Family, at: Any) -> list[float]:
        rounds.append(len(at))
        return [0.3 * abs(one) ** 1.7 / (1 + abs(one)) * (1 if one > 0 else 2) for one in at]

    found = search(effect, Family(lambda s, where: None), [0.01, 0.1, 1.0], signs=(1, -1), tolerance=1e-3)  # type: ignore[arg-type, return-value]
    for dose in found:
        assert dose.signed is not None and effect(None, [dose.signed])[0] == pytest.approx(dose.target, rel=1e-3)  # type: ignore[arg-type]
    assert len(rounds) - len(found) <= 5
    assert found[0].strength != found[3].strength


def test_the_first_of_several_crossings_is_taken_and_infinities_are_no_effects() -> None:
    def effect(_: Family, at: Any) -> list[float]:
        return [math.nan if one > 50 else math.sin(one) ** 2 for one in at]

    (dose,) = search(effect, Family(lambda s, where: None), [0.5], signs=[1])  # type: ignore[arg-type, return-value]
    assert dose.strength == pytest.approx(math.pi / 4, rel=0.03)
    (never,) = search(effect, Family(lambda s, where: None), [2.0], signs=[1])  # type: ignore[arg-type, return-value]
    assert never.strength is None and 0 < never.achieved <= 1


def test_rows_of_strengths() -> None:
    free, bounded = first_row(2.0, False), first_row(1.0, True)
    assert free[0] == pytest.approx(2e-3) and free[-1] == pytest.approx(2e3) and len(free) == 25
    assert bounded[-1] == 1.0 and {0.7, 0.8, 0.9} <= set(bounded) and bounded == sorted(bounded)


def test_bad_input_is_refused() -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(InputError, match="strengths from 0 to 1, and no sign -1"):
        doses_of(lm, moving(SITE, direction(lm)), PROMPTS, [0.1], signs=(1, -1))
    with pytest.raises(InputError, match="length 0"):
        adding(SITE, torch.zeros(4))
    with pytest.raises(InputError, match="at least one prompt"):
        doses_of(lm, adding(SITE, direction(lm)), [], [0.1])


def searched(kl: Any, targets: tuple[float, ...]) -> list[Any]:
    family = Family(lambda strength, where: None)  # type: ignore[arg-type, return-value]
    return search(lambda _, at: [kl(one) for one in at], family, targets, signs=(1,))


def test_an_effect_at_strength_0_already_is_brought_down_to_the_target() -> None:
    """As of a code set to s, whose own value is 2: setting it to 0 has an effect, too."""
    few, many = searched(lambda s: 0.1 * (s - 2) ** 2, (0.2, 0.6))
    assert few.strength == pytest.approx(2 - math.sqrt(2), rel=0.05) and few.achieved == pytest.approx(0.2, rel=0.02)
    assert many.strength == pytest.approx(2 + math.sqrt(6), rel=0.05)  # more than at 0, so from below


def test_an_effect_that_never_falls_to_the_target_is_not_called_too_weak() -> None:
    (found,) = searched(lambda s: 0.5 + s, (0.2,))
    assert (found.strength, found.jump, found.achieved) == (None, None, 0.5)
    assert "effect at strength 0 already, and the smallest seen is 0.5" in str(found)
    (jumped,) = searched(lambda s: 0.5 if s < 0.7 else 0.01, (0.2,))
    assert (jumped.achieved, jumped.jump) == (0.5, 0.01) and "jumps from 0.5 to 0.01" in str(jumped)
