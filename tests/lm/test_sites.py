"""Where sites lie: laws that hold on every architecture, whatever its modules are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import armillary as arm
from armillary.core.edits import Add
from armillary.errors import CapabilityError, UnknownNameError
from armillary.lm.model import LanguageModel
from armillary.lm.sites import block_spots, find_blocks
from support import ARCHITECTURES, LAYERS, TEXTS, WIDTH, raw_outputs, tiny_lm, tiny_tokenizer

PARALLEL = ("gpt_neox", "phi", "gptj", "falcon")
POST_NORM = ("bert", "roberta", "distilbert", "opt_post_norm")
PRE_NORM = tuple(arch for arch in ARCHITECTURES if arch not in (*PARALLEL, *POST_NORM))
#: The norms in front of attention and MLP of block 1, from each architecture's source.
NORMS = {
    "gpt2": ("transformer.h.1.ln_1", "transformer.h.1.ln_2"),
    "llama": ("model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm"),
    "gemma2": ("model.layers.1.input_layernorm", "model.layers.1.pre_feedforward_layernorm"),
    "gpt_neox": ("gpt_neox.layers.1.input_layernorm", "gpt_neox.layers.1.post_attention_layernorm"),
    "opt": ("model.decoder.layers.1.self_attn_layer_norm", "model.decoder.layers.1.final_layer_norm"),
    "phi": ("model.layers.1.input_layernorm", "model.layers.1.input_layernorm"),
    "gptj": ("transformer.h.1.ln_1", "transformer.h.1.ln_1"),
    "bloom": ("transformer.h.1.input_layernorm", "transformer.h.1.post_attention_layernorm"),
    "mpt": ("transformer.blocks.1.norm_1", "transformer.blocks.1.norm_2"),
}


def nudge(site: str, size: float = 1.0) -> Add:
    """An edit with a direction that depends on the width alone."""
    return Add(arm.Site.parse(site), size * torch.linspace(-1, 2, WIDTH))


@pytest.mark.parametrize("arch", NORMS)
def test_branch_inputs_are_the_norms_outputs(arch: str) -> None:
    lm = tiny_lm(arch)
    tokens = lm.tokenize(TEXTS[0])
    found = lm.capture(tokens, ["attn_in.1", "mlp_in.1"])
    for site, path in zip(found, NORMS[arch], strict=True):
        with torch.no_grad():
            value = raw_outputs(lm.module, path, lambda: lm.module(torch.from_numpy(tokens.ids[None]), use_cache=False))[1]
        assert torch.equal(found[site], value.reshape(found[site].shape)), site


@pytest.mark.parametrize("arch", POST_NORM)
def test_a_post_norm_block_reads_the_stream_itself(arch: str) -> None:
    found = tiny_lm(arch).capture(TEXTS[0], ["resid_pre.1", "attn_in.1", "resid_mid.1", "mlp_in.1"])
    assert torch.equal(found["resid_pre.1"], found["attn_in.1"])
    assert torch.equal(found["resid_mid.1"], found["mlp_in.1"])


@pytest.mark.parametrize("arch", PARALLEL)
def test_a_parallel_block_adds_both_to_what_it_read(arch: str) -> None:
    lm = tiny_lm(arch)
    found = lm.capture(TEXTS[0], ["resid_pre.1", "attn_out.1", "mlp_out.1", "resid_post.1"])
    torch.testing.assert_close(found["resid_pre.1"] + found["attn_out.1"] + found["mlp_out.1"], found["resid_post.1"])
    with pytest.raises(CapabilityError, match="nothing between them"):
        lm.capture(TEXTS[0], ["resid_mid.1"])


@pytest.mark.parametrize("arch", PARALLEL)
def test_an_edit_of_one_branch_leaves_the_other_even_behind_a_shared_norm(arch: str) -> None:
    lm = tiny_lm(arch)
    sites = ["attn_out.1", "mlp_out.1"]
    plain, attn, mlp = (lm.capture(TEXTS[0], sites, edits=edits) for edits in ([], [nudge("attn_in.1")], [nudge("mlp_in.1")]))
    assert torch.equal(plain["mlp_out.1"], attn["mlp_out.1"])
    assert not torch.equal(plain["attn_out.1"], attn["attn_out.1"])
    assert torch.equal(plain["attn_out.1"], mlp["attn_out.1"])
    assert not torch.equal(plain["mlp_out.1"], mlp["mlp_out.1"])


@pytest.mark.parametrize("arch", PRE_NORM)
def test_an_edit_between_attention_and_mlp_reaches_both_the_mlp_and_the_stream(arch: str) -> None:
    lm = tiny_lm(arch)
    sites = ["resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_in.1", "mlp_out.1", "resid_post.1"]
    plain, edited = (lm.capture(TEXTS, sites, edits=edits) for edits in ([], [nudge("resid_mid.1", 3.0)]))
    assert torch.equal(plain["attn_out.1"], edited["attn_out.1"])
    assert torch.equal(plain["resid_pre.1"], edited["resid_pre.1"])
    torch.testing.assert_close(plain["resid_pre.1"] + plain["attn_out.1"], plain["resid_mid.1"])
    assert not torch.equal(plain["mlp_in.1"], edited["mlp_in.1"])
    for found in (plain, edited):
        torch.testing.assert_close(found["resid_mid.1"] + found["mlp_out.1"], found["resid_post.1"])


@pytest.mark.parametrize("arch", POST_NORM)
def test_an_edit_between_the_branches_of_a_post_norm_block_reaches_both(arch: str) -> None:
    lm = tiny_lm(arch)
    norm = {"opt_post_norm": "final_layer_norm", "distilbert": "output_layer_norm"}.get(arch, "output.LayerNorm")
    found = lm.capture(TEXTS[0], ["resid_mid.1", "mlp_in.1", "mlp_out.1", "resid_post.1"], edits=[nudge("resid_mid.1", 3.0)])
    assert torch.equal(found["resid_mid.1"], found["mlp_in.1"])
    with torch.no_grad():
        after: Tensor = lm.sites.block(1).get_submodule(norm)(found["resid_mid.1"] + found["mlp_out.1"])
    torch.testing.assert_close(after, found["resid_post.1"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_edit_changes_what_comes_after_it_and_nothing_before(arch: str) -> None:
    lm = tiny_lm(arch)
    kinds = ["resid_pre", *block_spots(lm.sites.block(1), lm.config)]
    plain = lm.capture(TEXTS[0], ["resid_pre.1", "resid_post.1", "resid_post.2"])
    for kind in dict.fromkeys(kinds):
        width = lm.width(f"{kind}.1")
        edit = Add(arm.Site(kind, 1), torch.linspace(-2, 3, width))
        found = lm.capture(TEXTS[0], list(plain), edits=[edit])
        assert (found["resid_post.2"] - plain["resid_post.2"]).abs().max() > 1e-3, kind
        if kind != "resid_pre":
            assert torch.equal(found["resid_pre.1"], plain["resid_pre.1"]), kind


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch not in ("gemma2", "gemma3")])  # there a norm follows
def test_the_readout_of_a_site_is_what_its_branch_adds(arch: str) -> None:
    lm = tiny_lm(arch)
    for inner, outer in (("attn_z.1", "attn_out.1"), ("mlp_act.1", "mlp_out.1")):
        a, b = (lm.capture(text, [inner, outer]) for text in ("Lisbon", "Portug"))
        n = min(a[inner].shape[1], b[inner].shape[1])
        torch.testing.assert_close(  # a difference, so that no bias matters
            (a[inner][:, :n] - b[inner][:, :n]) @ lm.readout(inner), a[outer][:, :n] - b[outer][:, :n], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("arch", ["gemma2", "gemma3"])
@pytest.mark.parametrize("inner, outer", [("attn_z.1", "attn_out.1"), ("mlp_act.1", "mlp_out.1")])
def test_the_gain_of_a_norm_behind_the_map_is_part_of_the_readout(arch: str, inner: str, outer: str) -> None:
    lm = tiny_lm(arch)
    found = lm.capture("Lisbon is the capital", [inner, outer])
    cosine = torch.cosine_similarity(found[inner] @ lm.readout(inner), found[outer], dim=-1)
    assert cosine.min() > 1 - 1e-5


def test_the_embedding_is_the_table_and_the_first_block_reads_more() -> None:
    lm = tiny_lm("gpt2")
    tokens = lm.tokenize(TEXTS[0])
    found = lm.capture(tokens, ["embed", "resid_pre.0"])
    assert torch.equal(found["embed"][0], lm.module.transformer.wte.weight[torch.from_numpy(tokens.ids)])
    assert not torch.equal(found["embed"], found["resid_pre.0"])
    assert tiny_lm("opt_post_norm").width("embed") == 16


@pytest.mark.parametrize(
    ("arch", "path", "site"),
    [
        ("llama", "model.layers.1", "resid_post.1"),
        ("llama", "layers.1.output", "resid_post.1"),
        ("llama", "model.layers.1.input", "resid_pre.1"),
        ("llama", "layers.1.self_attn.o_proj.input", "attn_z.1"),
        ("llama", "layers.1.post_attention_layernorm.input", "resid_mid.1"),
        ("llama", "layers.1.mlp.act_fn", "path:model.layers.1.mlp.act_fn.output"),
        ("gemma2", "layers.1.post_feedforward_layernorm", "mlp_out.1"),
        ("gemma2", "layers.1.mlp", "path:model.layers.1.mlp.output"),
        ("gpt2", "h.2.mlp.c_proj.input", "mlp_act.2"),
        ("gpt2", "transformer.wte.output", "embed"),
        ("bert", "encoder.layer.0", "resid_post.0"),
        ("mpt", "blocks.1", "resid_post.1"),
    ],
)
def test_a_module_path_that_is_a_named_site_gets_its_name(arch: str, path: str, site: str) -> None:
    lm = tiny_lm(arch)
    assert str(lm.source(path).site) == site
    assert torch.equal(lm.capture("abc", [path])[path], lm.capture("abc", [site])[site])


def test_an_unknown_path_has_the_nearest_modules() -> None:
    with pytest.raises(UnknownNameError, match=r"model\.layers\.1\.mlp"):
        tiny_lm("llama").capture("abc", ["model.layers.1.mpl"])


def test_a_mixture_of_experts_has_no_neurons_but_the_rest() -> None:
    import transformers

    from support import _LLAMA

    torch.manual_seed(0)
    config = transformers.MixtralConfig(**_LLAMA, num_local_experts=2, num_experts_per_tok=1)
    lm = LanguageModel(transformers.MixtralForCausalLM(config), tiny_tokenizer())
    found = lm.capture("abc", ["resid_mid.1", "mlp_out.1", "resid_post.1"])
    torch.testing.assert_close(found["resid_mid.1"] + found["mlp_out.1"], found["resid_post.1"])
    with pytest.raises(CapabilityError, match=r"mlp_act\.1.*path:model\.layers\.1"):
        lm.capture("abc", ["mlp_act.1"])
    with pytest.raises(CapabilityError, match="no single linear map"):
        lm.readout("mlp_in.1")


def test_a_model_that_normalises_only_what_it_adds() -> None:
    import transformers

    from support import _LLAMA

    torch.manual_seed(0)
    lm = LanguageModel(transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**_LLAMA)), tiny_tokenizer())
    found = lm.capture("abc", ["resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_out.1", "resid_post.1"], edits=[nudge("resid_mid.1")])
    torch.testing.assert_close(found["resid_mid.1"] + found["mlp_out.1"], found["resid_post.1"])
    assert torch.allclose(found["resid_pre.1"] + found["attn_out.1"] + torch.linspace(-1, 2, WIDTH), found["resid_mid.1"], atol=1e-6)


class _Block(nn.Module):
    """A block as people write it themselves."""

    def __init__(self, attention: str = "attn") -> None:
        super().__init__()
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.add_module(attention, nn.Linear(WIDTH, WIDTH))
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 8), "c_proj": nn.Linear(8, WIDTH)})
        self._attention = attention

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.get_submodule(self._attention)(x)
        hidden: Tensor = self.mlp["c_proj"](torch.relu(self.mlp["c_fc"](self.ln_2(x))))
        return x + hidden


class _Plain(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, WIDTH)
        self.h = nn.ModuleList(blocks)

    def forward(self, ids: Tensor) -> Tensor:
        x: Any = self.wte(ids)
        for block in self.h:
            x = block(x)
        return x  # type: ignore[no-any-return]


def test_a_module_nobody_knows_works_by_its_names() -> None:
    torch.manual_seed(0)
    lm = LanguageModel(_Plain(_Block(), _Block()))
    found = lm.capture(arm.Tokens.of_ids([[3, 1, 4]]), ["embed", "resid_mid.1", "mlp_act.1", "mlp_out.1", "resid_post.-1"])
    assert lm.n_layers == 2
    assert lm.d_model == WIDTH
    assert lm.vocab_size == len(lm.vocabulary()) == 50
    assert found["mlp_act.1"].shape == (1, 3, 8)
    torch.testing.assert_close(found["resid_mid.1"] + found["mlp_out.1"], found["resid_post.-1"])


def test_what_was_not_found_is_said_with_the_modules_there_are() -> None:
    lm = LanguageModel(_Plain(_Block("mixer")))
    with pytest.raises(CapabilityError, match=r"attn_z\.0.*mixer.*path:h\.0"):
        lm.capture(arm.Tokens.of_ids([[1]]), ["attn_z.0"])
    with pytest.raises(CapabilityError, match=r"no list of blocks.*0, 1.*path:"):
        LanguageModel(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))).capture(arm.Tokens.of_ids([[1]]), ["resid_post.0"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_list_of_blocks_is_found_with_and_without_a_config(arch: str) -> None:
    module = tiny_lm(arch).module
    assert find_blocks(module, module.config) == find_blocks(module)
    assert len(module.get_submodule(find_blocks(module))) == LAYERS
