"""Unembedding runs the model's own tail, and nothing else of it."""

from __future__ import annotations

import pytest
import torch

from armillary.lm.model import LanguageModel
from support import ARCHITECTURES, TEXTS, VOCAB, WIDTH, tiny_lm

CAUSAL = [arch for arch in ARCHITECTURES if arch not in ("bert", "roberta", "distilbert")]


@pytest.mark.parametrize("arch", CAUSAL)
def test_the_last_state_unembeds_to_the_logits(arch: str) -> None:
    lm = tiny_lm(arch)
    tokens = lm.tokenize(TEXTS[3])
    last = lm.capture(tokens, ["resid_post.-1"])["resid_post.-1"]
    torch.testing.assert_close(lm.unembed(last), lm.logits(tokens), rtol=1e-5, atol=1e-5)


def test_caps_and_any_leading_shape_are_kept() -> None:
    lm = tiny_lm("gemma2", final_logit_softcapping=2.0)
    found = lm.unembed(100 * torch.randn(2, 3, 1, WIDTH))
    assert found.shape == (2, 3, 1, VOCAB)
    assert found.abs().max() <= 2.0
    assert lm.unembed(torch.zeros(WIDTH)).shape == (VOCAB,)
    assert lm.unembed(torch.zeros(0, WIDTH)).shape == (0, VOCAB)


@pytest.mark.parametrize("arch", ["gpt2", "bloom"])
def test_no_block_is_run_and_all_are_there_afterwards(arch: str) -> None:
    lm = tiny_lm(arch)
    before = lm.logits("abc")
    lm.unembed(torch.zeros(1, WIDTH))
    lm.sites.block(0).register_forward_pre_hook(lambda *_: None)
    attention = next(name for name, _ in lm.sites.block(0).named_children() if "att" in name)
    lm.sites.block(0).get_submodule(attention).register_forward_pre_hook(lambda *_: pytest.fail("attention was run"))
    assert lm.unembed(torch.zeros(1000, WIDTH)).shape == (1000, VOCAB)  # more than the context, and than one chunk
    lm.sites.block(0).get_submodule(attention)._forward_pre_hooks.clear()
    assert torch.equal(lm.logits("abc"), before)


def test_chunks_do_not_matter() -> None:
    lm = tiny_lm("llama")
    x = torch.randn(1030, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lm.unembed(x)[[0, 511, 512, 1029]], lm.unembed(x[[0, 511, 512, 1029]]), rtol=1e-5, atol=1e-5)


def test_fast_unembedding_agrees() -> None:
    slow = tiny_lm("gpt2")
    fast = LanguageModel(slow.module, slow.tokenizer, fast=True)
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast.unembed(x), slow.unembed(x), rtol=1e-5, atol=1e-5)
