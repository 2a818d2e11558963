"""Generation: our loop equals the model's own, whatever the padding and the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.edits import Add, Interchange
from armillary.core.model import At
from armillary.core.tokens import Tokens
from armillary.errors import InputError
from armillary.lm import generation
from armillary.lm.generation import Sampling
from armillary.lm.model import LanguageModel
from support import ARCHITECTURES, NAMED, WIDTH, tiny_lm, tiny_model, tiny_tokenizer

PROMPTS = ["The cat", "Lisbon is in Portugal, and"]
CAUSAL = [arch for arch in NAMED if arch != "bert"]
OTHERS = [arch for arch in ARCHITECTURES if arch not in (*NAMED, "roberta", "distilbert")]
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
    edited = lm.generate(PROMPTS[0], max_new_tokens=6, edits=[Add(SITE, 50 * torch.ones(WIDTH).cumsum(0), where=lambda at: at.generated)])[
        0
    ].ids
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


def test_a_prompt_with_a_seed_of_its_own_is_continued_alike_whatever_is_beside_it() -> None:
    lm = tiny_lm("llama")
    texts, seeds = ["the cat", "a dog sat", "the mat"], [3, 9, 4]
    together = lm.generate(texts, max_new_tokens=6, temperature=1.0, seed=seeds)
    alone = [lm.generate(text, max_new_tokens=6, temperature=1.0, seed=[seed])[0] for text, seed in zip(texts, seeds, strict=True)]
    assert [one.ids for one in together] == [one.ids for one in alone]
    again = lm.generate(["the cat"] * 4, max_new_tokens=6, temperature=1.0, seed=[1, 2, 1, 3])
    assert again[0].ids == again[2].ids != again[1].ids
    with pytest.raises(InputError, match="one for each of 3 sequences, got 2"):
        lm.generate(texts, seed=[1, 2])


def test_draws_with_seeds_of_their_own_follow_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.0, 0.2]).log().expand(4000, 4)
    sampling = Sampling(1.0, seed=tuple(range(4000)))
    share = torch.bincount(sampling.draw(logits, sampling.generators(4000)), minlength=4) / 4000
    assert (share - torch.tensor([0.5, 0.3, 0.0, 0.2])).abs().max() < 0.03 and share[2] == 0


def test_what_does_not_fit_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="reads at most 64"):
        tiny_lm("gpt2").generate("abc", max_new_tokens=100)
    with pytest.raises(InputError, match="temperature"):
        tiny_lm("gpt2").generate("abc", temperature=-1.0)


@pytest.mark.parametrize("arch", OTHERS)
def test_further_architectures_agree_with_themselves(arch: str) -> None:
    """Among them models without position ids, whose attention is biased by distance."""
    lm = tiny_lm(arch)
    edit = Add(SITE, 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)))
    together, full = (lm.generate(PROMPTS, max_new_tokens=5, edits=[edit], use_cache=cache) for cache in (True, False))
    alone = [lm.generate(prompt, max_new_tokens=5, edits=[edit])[0] for prompt in PROMPTS]
    assert [one.ids for one in together] == [one.ids for one in full] == [one.ids for one in alone]


def test_tokens_are_prompts_too() -> None:
    lm = tiny_lm("llama")
    from_text, from_tokens = lm.generate(PROMPTS, max_new_tokens=4), lm.generate(lm.tokenize(PROMPTS), max_new_tokens=4)
    assert from_text == from_tokens
    assert [one.prompt for one in from_text] == PROMPTS
    bare = LanguageModel(lm.module)
    tokens = lm.tokenize(PROMPTS)
    assert [one.ids for one in bare.generate(tokens, max_new_tokens=4)] == [one.ids for one in from_text]
    assert lm.generate([]) == []


def test_prompt_and_text_are_the_whole_even_where_a_lone_word_loses_its_space() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        *((f"▁{letter}", -1.0) for letter in "abcdefghij"),
        *((letter, -2.0) for letter in "▁abcdefghij"),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<s>", pad_token="<s>")
    lm = LanguageModel(tiny_model("llama"), fast)
    favour = torch.zeros(300).index_fill(0, torch.tensor([3]), 1e6)
    one = lm.generate("a", max_new_tokens=2, edits=[Add(arm.Site.parse("path:lm_head.output"), favour)])[0]
    assert one.ids == (3, 3)  # "▁b"
    assert one.prompt + one.text == "a b b"


def test_a_continuation_ends_before_the_end_of_text() -> None:
    model = tiny_model("gpt2")
    lm = LanguageModel(model, tiny_tokenizer())
    ids = lm.generate(PROMPTS, max_new_tokens=8)
    stop = ids[0].ids[3]
    model.generation_config.eos_token_id = [stop]
    ended = lm.generate(PROMPTS, max_new_tokens=8)
    assert ended[0].ids == ids[0].ids[: ids[0].ids.index(stop)]
    assert ended[1].ids == (ids[1].ids[: ids[1].ids.index(stop)] if stop in ids[1].ids else ids[1].ids)


def test_a_recurrent_model_without_keys_generates() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    lm = LanguageModel(MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)).eval())
    tokens = Tokens.of_ids([[1, 2, 3]])
    with_cache, without = (lm.generate(tokens, max_new_tokens=4, use_cache=use)[0].ids for use in (True, False))
    assert with_cache == without and len(with_cache) == 4


@pytest.mark.parametrize(
    ("settings", "words"), [({"max_new_tokens": 0}, "at least 1, got 0"), ({"temperature": float("nan")}, "temperature")]
)
def test_settings_that_make_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny_lm("gpt2").generate("a", **settings)


@pytest.mark.parametrize("top_p", [0.5, 0.9, 1.0])
def test_looking_at_the_likeliest_first_draws_what_sorting_all_draws(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 3000, generator=generator) * torch.linspace(0.5, 8, 64)[:, None]  # from flat rows to peaked ones
    sampling = Sampling(1.0, top_p, tuple(range(64)))
    found = []
    for first in (generation.FIRST, 3000):
        monkeypatch.setattr(generation, "FIRST", first)
        parts = [slice(0, 64)] if first == 3000 else [slice(0, 40), slice(40, 64)]
        drawn = [sampling.draw(logits[part], sampling.generators(64)[part]) for part in parts]
        found.append(torch.cat(drawn).tolist())
    assert found[0] == found[1] and len(set(found[0])) > 20


def test_a_draw_does_not_depend_on_flat_rows_beside_it() -> None:
    """Logits of half precision have many ties, which sorting a row and looking at its likeliest tokens order differently."""
    logits = (torch.randn(200, 3000, generator=torch.Generator().manual_seed(0)) * 4).round() / 2
    logits[::7] *= 0.01  # whose likeliest tokens hold too little
    sampling = Sampling(1.0, 0.9, tuple(range(200)))
    together = sampling.draw(logits, sampling.generators(200))
    alone = [Sampling(1.0, 0.9, (i,)).draw(row[None], Sampling(1.0, 0.9, (i,)).generators(1)) for i, row in enumerate(logits)]
    assert together.tolist() == torch.cat(alone).tolist()
