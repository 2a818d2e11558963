"""Generation: our loop equals the model's own, whatever the padding and the cache."""

from __future__ import annotations

import pytest
import torch
from support import NAMED, WIDTH, tiny_lm

import armillary as arm
from armillary.core.edits import Add, Interchange
from armillary.core.model import At
from armillary.errors import InputError

PROMPTS = ["The cat", "Lisbon is in Portugal, and"]
CAUSAL = [arch for arch in NAMED if arch != "bert"]
SITE = arm.Site("resid_post", 1)


@pytest.mark.parametrize("arch", CAUSAL)
def test_greedy_generation_is_the_models_own(arch: str) -> None:
    lm = tiny_lm(arch)
    ids = torch.from_numpy(lm.tokenize(PROMPTS[1]).padded()[0])
    own = lm.module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert list(lm.generate(PROMPTS[1], max_new_tokens=6)[0].ids) == [i for i in own.tolist() if i not in (0, 1)]


@pytest.mark.parametrize("arch", CAUSAL)
def test_a_batch_equals_its_prompts_alone_with_edits(arch: str) -> None:
    lm = tiny_lm(arch)
    edit = Add(SITE, torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)), strength=3.0)
    together = lm.generate(PROMPTS, max_new_tokens=6, edits=[edit])
    alone = [lm.generate(prompt, max_new_tokens=6, edits=[edit])[0] for prompt in PROMPTS]
    assert [one.ids for one in together] == [one.ids for one in alone]


@pytest.mark.parametrize("arch", CAUSAL)
def test_the_cache_changes_nothing_with_edits_on(arch: str) -> None:
    lm = tiny_lm(arch)
    edit = Add(SITE, 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)))
    cached, full = (lm.generate(PROMPTS, max_new_tokens=8, edits=[edit], use_cache=cache) for cache in (True, False))
    assert [one.ids for one in cached] == [one.ids for one in full]


@pytest.mark.parametrize("arch", CAUSAL)
def test_edits_change_logits(arch: str) -> None:
    lm = tiny_lm(arch)
    tokens = lm.tokenize(PROMPTS)
    _, mask = tokens.padded()
    gap = (lm.logits(tokens, edits=[Add(SITE, torch.randn(WIDTH))]) - lm.logits(tokens)).abs().amax(-1)
    assert (gap[torch.from_numpy(mask)] > 1e-3).all()


def test_an_edit_sees_where_it_is() -> None:
    lm = tiny_lm("llama")
    seen: list[At] = []

    def look(at: At) -> torch.Tensor:
        seen.append(at)
        return at.where

    lm.generate(PROMPTS, max_new_tokens=3, edits=[Add(SITE, torch.zeros(WIDTH), where=look)])
    tokens = lm.tokenize(PROMPTS)
    first = seen[0]
    assert first.where.sum(1).tolist() == tokens.lengths.tolist()
    assert not first.generated.any()
    assert first.row[0][first.where[0]].tolist() == list(range(int(tokens.lengths[0])))
    assert first.position[1][first.where[1]].tolist() == list(range(int(tokens.lengths[1])))
    assert all(at.generated.all() and (at.row == -1).all() for at in seen[1:])
    assert [at.position[0, 0].item() for at in seen[1:]] == [int(tokens.lengths[0]), int(tokens.lengths[0]) + 1]


def test_edits_of_generated_tokens_only_leave_the_first_token() -> None:
    lm = tiny_lm("gpt2")
    free = lm.generate(PROMPTS[0], max_new_tokens=6)[0].ids
    edited = lm.generate(PROMPTS[0], max_new_tokens=6, edits=[Add(SITE, 50 * torch.ones(WIDTH).cumsum(0), where=lambda at: at.generated)])[0].ids
    assert edited[0] == free[0]
    assert edited != free


def test_interchange_of_everything_makes_the_base_the_source() -> None:
    lm = tiny_lm("llama")
    base, source = (lm.tokenize(text) for text in ("The cat sat", "The mat sat"))
    value = lm.capture(source, [SITE])[SITE]
    torch.testing.assert_close(lm.logits(base, edits=[Interchange(SITE, value)]), lm.logits(source))


def test_sampling_is_seeded_and_limited() -> None:
    lm = tiny_lm("gpt2")
    draws = [lm.generate(PROMPTS[0], max_new_tokens=8, temperature=2.0, seed=seed)[0].ids for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    nearly_greedy = lm.generate(PROMPTS[0], max_new_tokens=8, temperature=1.0, top_p=1e-6)[0].ids
    assert nearly_greedy == lm.generate(PROMPTS[0], max_new_tokens=8)[0].ids


def test_what_does_not_fit_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="reads at most 64"):
        tiny_lm("gpt2").generate("abc", max_new_tokens=100)
    with pytest.raises(InputError, match="temperature"):
        tiny_lm("gpt2").generate("abc", temperature=-1.0)
