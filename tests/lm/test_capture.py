"""Capture is bit-equal to the model's own forward, on every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.edits import Add
from armillary.errors import CapabilityError, InputError, ShapeError, TextError, UnknownNameError
from armillary.lm.model import LanguageModel
from support import ARCHITECTURES, LAYERS, NAMED, TEXTS, WIDTH, raw_outputs, tiny_lm, tiny_model, tiny_tokenizer

#: Where the down-projection, the attention output projection and the MLP lie, written out by hand from each architecture's source.
PLACES = {
    "gpt2": ("transformer.h.1.mlp.c_proj", "transformer.h.1.attn.c_proj", "transformer.h.1.mlp"),
    "llama": ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp"),
    "mistral": ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp"),
    "qwen2": ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp"),
    "gemma2": ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.post_feedforward_layernorm"),
    "gpt_neox": ("gpt_neox.layers.1.mlp.dense_4h_to_h", "gpt_neox.layers.1.attention.dense", "gpt_neox.layers.1.mlp"),
    "opt": ("model.decoder.layers.1.fc2", "model.decoder.layers.1.self_attn.out_proj", "model.decoder.layers.1.fc2"),
    "bert": ("encoder.layer.1.output.dense", "encoder.layer.1.attention.output.dense", "encoder.layer.1.output.dense"),
}


def plain(lm: LanguageModel, tokens: Any) -> dict[str, Any]:
    """The model's own arguments for these tokens."""
    ids, mask = (torch.from_numpy(part) for part in tokens.padded())
    return {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}


@pytest.mark.parametrize("arch", NAMED)
def test_residual_stream_is_bit_equal_to_output_hidden_states(arch: str) -> None:
    lm = tiny_lm(arch)
    tokens = lm.tokenize(TEXTS)
    with torch.no_grad():
        states = lm.module(**plain(lm, tokens), output_hidden_states=True).hidden_states
    found = lm.capture(tokens, [f"resid_pre.{i}" for i in range(LAYERS)] + [f"resid_post.{i}" for i in range(LAYERS - 1)])
    for i in range(LAYERS):
        assert torch.equal(found[f"resid_pre.{i}"], states[i])
        if i < LAYERS - 1:  # the last entry is after the final norm
            assert torch.equal(found[f"resid_post.{i}"], states[i + 1])


@pytest.mark.parametrize("arch", NAMED)
def test_inner_sites_are_bit_equal_to_plain_hooks(arch: str) -> None:
    lm = tiny_lm(arch)
    tokens = lm.tokenize(TEXTS)
    down, attention, mlp = PLACES[arch]
    found = lm.capture(tokens, ["mlp_act.1", "attn_z.1", "mlp_out.1"])
    with torch.no_grad():
        for path, site, which in ((down, "mlp_act.1", 0), (attention, "attn_z.1", 0), (mlp, "mlp_out.1", 1)):
            value = raw_outputs(lm.module, path, lambda: lm.module(**plain(lm, tokens)))[which]
            assert torch.equal(found[site], value.reshape(found[site].shape)), site


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "opt"])
def test_the_stream_is_the_sum_of_what_is_added(arch: str) -> None:
    lm = tiny_lm(arch)
    found = lm.capture(lm.tokenize(TEXTS), ["resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_out.1", "resid_post.1"])
    torch.testing.assert_close(found["resid_pre.1"] + found["attn_out.1"], found["resid_mid.1"])
    torch.testing.assert_close(found["resid_mid.1"] + found["mlp_out.1"], found["resid_post.1"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_captures(arch: str) -> None:
    lm = tiny_lm(arch)
    found = lm.capture(lm.tokenize("Lisbon"), ["embed", "resid_post.1", "attn_z.0", "mlp_act.2"])
    assert all(torch.isfinite(value).all() for value in found.values())
    assert found["resid_post.1"].shape[-1] == WIDTH
    assert lm.readout("mlp_act.2").shape == (found["mlp_act.2"].shape[-1], WIDTH)


def test_readout_carries_the_neurons_to_the_stream() -> None:
    for arch in ("gpt2", "llama", "opt"):
        lm = tiny_lm(arch)
        found = lm.capture(lm.tokenize(TEXTS), ["mlp_act.1", "mlp_out.1"])
        bias = getattr(lm.module.get_submodule(PLACES[arch][0]), "bias", None)
        out = found["mlp_act.1"] @ lm.readout("mlp_act.1") + (0 if bias is None else bias)
        torch.testing.assert_close(out, found["mlp_out.1"], rtol=1e-4, atol=1e-4)


def test_a_head_is_its_columns() -> None:
    lm = tiny_lm("llama")
    found = lm.capture(lm.tokenize(TEXTS), ["attn_z.1", "attn_z.1.h2"])
    width = found["attn_z.1"].shape[-1] // 4
    assert torch.equal(found["attn_z.1.h2"], found["attn_z.1"][..., 2 * width : 3 * width])
    assert torch.equal(lm.readout("attn_z.1.h2"), lm.readout("attn_z.1")[2 * width : 3 * width])


def test_the_pass_ends_after_the_last_site() -> None:
    lm = tiny_lm("llama")
    called = []
    for i, layer in enumerate(lm.module.model.layers):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    lm.capture(lm.tokenize("abc"), ["mlp_act.1"])
    assert called == [0]


def test_hooks_are_gone_afterwards_even_after_an_error() -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(RuntimeError):
        lm.logits(lm.tokenize("abc"), edits=[Add(arm.Site("resid_post", 0), torch.ones(3))])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.module.modules())


def test_padding_changes_nothing_that_matters() -> None:
    lm = tiny_lm("llama")
    alone = lm.capture("a", ["resid_post.2"])["resid_post.2"]
    together = lm.capture(["a", TEXTS[3]], ["resid_post.2"])["resid_post.2"]
    torch.testing.assert_close(together[:1, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)


def test_spellings_and_sites_are_the_keys_as_given() -> None:
    lm = tiny_lm("llama")
    keys = [arm.Site("mlp_act", 1), "blocks.1.mlp.hook_post", "model.layers.1.mlp.down_proj.input", "layers.1.mlp.down_proj.input"]
    found = lm.capture("abc", keys)
    assert list(found) == keys
    assert all(torch.equal(found[key], found[keys[0]]) for key in keys)
    assert {str(lm.source(key).site) for key in keys} == {"mlp_act.1"}


def test_capture_sees_its_edits() -> None:
    lm = tiny_lm("gpt2")
    site = arm.Site("resid_post", 1)
    before, after = (lm.capture("abc", [site], edits=edits)[site] for edits in ([], [Add(site, torch.ones(WIDTH))]))
    torch.testing.assert_close(after, before + 1)


def test_a_plain_module_is_read_by_path() -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 3))
    lm = LanguageModel(module)
    ids = [1, 2, 3]
    tokens = arm.Tokens.of_ids([ids])
    assert torch.equal(lm.capture(tokens, ["path:1"])["path:1"][0], module(torch.tensor(ids)))
    with pytest.raises(CapabilityError, match="without a tokenizer"):
        lm.tokenize("text")
    with pytest.raises(CapabilityError, match="no logits"):
        lm.logits(tokens)


@pytest.mark.parametrize(
    ("site", "kind", "says"),
    [
        ("mlp_act.9", InputError, "3 layers"),
        ("resid_mid.1", CapabilityError, "side by side"),
        ("path:gpt_neox.layers.1.mpl", UnknownNameError, "gpt_neox.layers.1.mlp"),
        ("attn_z.1.h9", InputError, "4 heads"),
        ("mlp_akt.1", UnknownNameError, "mlp_act.1"),
    ],
)
def test_a_wrong_site_is_told_apart(site: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        tiny_lm("gpt_neox").capture("abc", [site])


def test_nothing_is_cut_off() -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(InputError, match="reads at most 64"):
        lm.capture("word " * 100, ["resid_post.0"])


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(TextError, match="text 1 is empty"):
        tiny_lm("gpt2").tokenize(["a", ""])


def test_an_encoder_has_no_logits() -> None:
    lm = tiny_lm("bert")
    assert not lm.has_logits
    for call in (lambda: lm.logits("abc"), lambda: lm.generate("abc"), lambda: lm.unembed(torch.zeros(WIDTH))):
        with pytest.raises(CapabilityError, match="no logits"):
            call()


@pytest.mark.parametrize("arch", [arch for arch in NAMED if arch != "bert"])
def test_unembedding_the_last_state_gives_the_logits(arch: str) -> None:
    lm = tiny_lm(arch)
    tokens = lm.tokenize("Lisbon is in Portugal")
    last = lm.capture(tokens, ["resid_post.-1"])["resid_post.-1"]
    torch.testing.assert_close(lm.unembed(last), lm.logits(tokens), rtol=1e-5, atol=1e-5)
    with pytest.raises(ShapeError, match="width 32"):
        lm.unembed(torch.zeros(7))


def test_the_twin_is_another_draw_of_the_same_model() -> None:
    lm = tiny_lm("llama")
    twin, same, other = lm.randomized(0), lm.randomized(0), lm.randomized(1)
    assert twin.revision == same.revision != other.revision != lm.revision
    assert twin.logits("abc").shape == lm.logits("abc").shape


def test_the_revision_is_the_weights() -> None:
    lm, same = tiny_lm("gpt2"), tiny_lm("gpt2")
    assert lm.revision == same.revision
    with torch.no_grad():
        same.module.transformer.h[0].mlp.c_proj.bias[0] += 1e-3
    assert LanguageModel(same.module).revision != lm.revision


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "gpt_neox"])
def test_fast_kernels_agree_and_leave_the_model_alone(arch: str) -> None:
    slow = tiny_lm(arch)
    fast = LanguageModel(slow.module, slow.tokenizer, fast=True)
    tokens = slow.tokenize(TEXTS)
    a, b = (lm.capture(tokens, ["resid_post.2", "mlp_act.1"]) for lm in (slow, fast))
    for site in a:
        assert (a[site] - b[site]).abs().max() <= 1e-5 * a[site].abs().max()
    assert torch.equal(slow.capture(tokens, ["resid_post.2"])["resid_post.2"], a["resid_post.2"])
    assert "fast" in repr(fast)


def test_gradients_reach_what_an_edit_holds() -> None:
    lm = tiny_lm("llama")
    direction = torch.zeros(WIDTH, requires_grad=True)
    lm.logits("abc", edits=[Add(arm.Site("resid_post", 0), direction)], grad=True).sum().backward()
    assert direction.grad is not None
    assert direction.grad.abs().sum() > 0


def test_the_dtype_is_kept() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    assert LanguageModel(model, tiny_tokenizer()).capture("abc", ["mlp_act.0"])["mlp_act.0"].dtype == torch.bfloat16


def test_a_branch_that_the_block_scales_is_what_is_added() -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    lm = LanguageModel(GraniteForCausalLM(GraniteConfig(vocab_size=50, residual_multiplier=0.22, **sizes)).eval())
    tokens = arm.Tokens.of_ids([[1, 2, 3, 4]])
    found = lm.capture(tokens, ["resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_out.1", "resid_post.1"])
    torch.testing.assert_close(found["resid_pre.1"] + found["attn_out.1"], found["resid_mid.1"])
    torch.testing.assert_close(found["resid_mid.1"] + found["mlp_out.1"], found["resid_post.1"])
    push = torch.ones(32)
    added = [lm.logits(tokens, edits=[Add(site, push)]) for site in ("mlp_out.1", "resid_post.1")]
    torch.testing.assert_close(added[0], added[1], rtol=1e-4, atol=1e-4)


def test_a_post_norm_block_under_other_names() -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=50, n_embd=32, n_layer=2, n_head=4)).eval()
    tokens, lm = arm.Tokens.of_ids([[1, 2, 3, 4]]), LanguageModel(model)
    found = lm.capture(tokens, ["resid_mid.1", "path:transformer.h.1.ln_1.output"])
    assert torch.equal(found["resid_mid.1"], found["path:transformer.h.1.ln_1.output"])
    last = lm.capture(tokens, ["resid_post.1"])["resid_post.1"]
    torch.testing.assert_close(lm.unembed(last), lm.logits(tokens))


def test_a_model_with_both_halves_is_refused() -> None:
    from transformers import BartConfig, BartModel

    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    bart = BartModel(BartConfig(vocab_size=50, d_model=16, encoder_attention_heads=2, decoder_attention_heads=2, **sizes))
    with pytest.raises(CapabilityError, match="pass one half"):
        LanguageModel(bart)
    assert LanguageModel(bart.encoder).capture(arm.Tokens.of_ids([[1, 2]]), ["resid_post.0"])["resid_post.0"].shape == (1, 2, 16)


def test_padding_outside_the_vocabulary_is_no_trouble() -> None:
    lm = tiny_lm("gpt2")
    alone = lm.capture(TEXTS[0], ["resid_post.1"])["resid_post.1"][0]
    lm.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    together = lm.capture(TEXTS, ["resid_post.1"])["resid_post.1"][0, : len(alone)]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert len(lm.generate(list(TEXTS), max_new_tokens=2)) == len(TEXTS)


@pytest.mark.parametrize(("ids", "words"), [([[-1, 2]], "negative"), ([[]], "empty"), ([], "no sequence"), ([[5, 10**6]], "outside")])
def test_ids_that_cannot_be_read_are_refused(ids: list[list[int]], words: str) -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(InputError, match=words):
        lm.logits(arm.Tokens.of_ids(ids))
    if ids:
        with pytest.raises(InputError, match=words):
            lm.generate(arm.Tokens.of_ids(ids))


def test_a_plain_module_may_have_settings_of_its_own() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = {"width": 8}
            self.table = torch.nn.Embedding(10, 8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.table(ids)

    lm = LanguageModel(Plain())
    assert lm.capture(arm.Tokens.of_ids([[1, 2]]), ["embed"])["embed"].shape == (1, 2, 8)
    with pytest.raises(CapabilityError, match="no Hugging Face model"):
        lm.randomized()


def test_fast_follows_weights_that_are_changed_in_place() -> None:
    model = tiny_model("gpt2")
    fast, plain_lm = LanguageModel(model, fast=True), LanguageModel(model)
    tokens = arm.Tokens.of_ids([[1, 2, 3]])
    fast.logits(tokens)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(3)
    torch.testing.assert_close(fast.logits(tokens), plain_lm.logits(tokens), rtol=1e-4, atol=1e-5)
