"""Edits on the way: order, heads, what they read, gradients, threads, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import armillary as arm
from armillary.core.edits import Add, Affine
from armillary.core.model import At, Edit, Where
from armillary.errors import CapabilityError, InputError, ShapeError
from armillary.lm.model import LanguageModel
from support import TEXTS, VOCAB, WIDTH, tiny_lm


@dataclass(frozen=True)
class AddFrom(Edit):
    """Adds the value of another site."""

    site: arm.Site
    source: arm.Site
    where: Where | None = None
    admits: bool = True

    @property
    def reads(self) -> tuple[arm.Site, ...]:
        return (self.source,) if self.admits else ()

    def apply(self, x: Tensor, at: At) -> Tensor:
        return x + at.read(self.source)


@dataclass(frozen=True)
class Shift(Edit):
    """x + offset in x's own precision."""

    site: arm.Site
    offset: Tensor
    where: Where | None = None

    def apply(self, x: Tensor, at: At) -> Tensor:
        return x + self.offset


def test_edits_at_one_site_apply_in_their_order() -> None:
    lm, site = tiny_lm("llama"), arm.Site("resid_post", 1)
    one, double = Add(site, torch.ones(WIDTH)), Affine(site, 2 * torch.eye(WIDTH), torch.zeros(WIDTH))
    plain, added_first, doubled_first = (lm.capture("abc", [site], edits=edits)[site] for edits in ([], [one, double], [double, one]))
    torch.testing.assert_close(added_first, 2 * (plain + 1))
    torch.testing.assert_close(doubled_first, 2 * plain + 1)


def test_an_edit_of_a_head_leaves_the_others_bit_for_bit() -> None:
    lm = tiny_lm("gpt2")
    sites = ["attn_z.1", "attn_z.1.h2"]
    plain, edited = (lm.capture("abc", sites, edits=edits) for edits in ([], [Add(arm.Site("attn_z", 1, head=2), torch.ones(8))]))
    torch.testing.assert_close(edited["attn_z.1.h2"], plain["attn_z.1.h2"] + 1)
    others = [*range(16), *range(24, WIDTH)]
    assert torch.equal(edited["attn_z.1"][..., others], plain["attn_z.1"][..., others])
    assert lm.width("attn_z.1.h2") == 8


def test_an_edit_of_some_tokens_leaves_the_others_bit_for_bit() -> None:
    lm, site = tiny_lm("llama"), arm.Site("resid_mid", 1)
    tokens = lm.tokenize(TEXTS)
    second = Add(site, torch.ones(WIDTH), where=lambda at: at.position == 2)
    plain, edited = (lm.capture(tokens, [site], edits=edits)[site] for edits in ([], [second]))
    _, mask = tokens.padded()
    is_edited = torch.zeros(mask.shape, dtype=torch.bool)
    is_edited[:, 2] = torch.from_numpy(mask)[:, 2]  # padding is never edited
    assert torch.equal(edited[~is_edited], plain[~is_edited])
    torch.testing.assert_close(edited[is_edited], plain[is_edited] + 1)


def test_rows_say_which_token_of_the_tokens_it_is() -> None:
    lm = tiny_lm("gpt2")
    tokens = lm.tokenize(TEXTS)
    seen: list[At] = []

    def look(at: At) -> Tensor:
        seen.append(at)
        return at.where

    lm.capture(tokens, ["resid_post.0"], edits=[Add(arm.Site("resid_post", 0), torch.zeros(WIDTH), where=look)])
    at = seen[0]
    assert at.row[at.where].tolist() == list(range(len(tokens)))
    assert (at.row[~at.where] == -1).all()
    assert (tokens.position == at.position[at.where].numpy()).all()


def test_an_edit_reads_an_earlier_site_of_the_same_pass() -> None:
    lm, site, source = tiny_lm("llama"), arm.Site("mlp_out", 1), arm.Site("mlp_in", 1)
    tokens = lm.tokenize(TEXTS)
    plain, edited = (lm.capture(tokens, [site, source], edits=edits) for edits in ([], [AddFrom(site, source)]))
    where = torch.from_numpy(tokens.padded()[1])
    torch.testing.assert_close(edited[site][where], (plain[site] + plain[source])[where])
    alone = lm.capture(tokens, [site], edits=[AddFrom(site, arm.Site.parse("blocks.1.ln2.hook_out"))])
    assert torch.equal(alone[site], edited[site])


TOO_EARLY = AddFrom(arm.Site("mlp_in", 1), arm.Site("mlp_out", 1))
NOT_SAID = AddFrom(arm.Site("mlp_out", 1), arm.Site("mlp_in", 1), admits=False)


@pytest.mark.parametrize("edit", [TOO_EARLY, NOT_SAID])
def test_what_is_not_there_yet_cannot_be_read(edit: Edit) -> None:
    with pytest.raises(InputError, match="come earlier"):
        tiny_lm("llama").logits("abc", edits=[edit])


def test_a_captured_value_is_not_the_models_own_tensor() -> None:
    """Falcon adds to its MLP's output in place, and an edit between attention and MLP is made in place."""
    for arch, sites in (("falcon", ["mlp_out.1"]), ("gpt2", ["attn_out.1", "resid_pre.1"])):
        lm = tiny_lm(arch)
        few, all_of_it = lm.capture("abc", sites), lm.capture("abc", [*sites, "resid_post.2"])
        assert all(torch.equal(few[site], all_of_it[site]) for site in sites)


@pytest.mark.parametrize("site", ["resid_post.0", "resid_mid.1", "attn_z.1", "mlp_act.2", "mlp_in.1"])
@pytest.mark.parametrize("arch", ["gpt2", "opt", "gpt_neox_serial"])  # whose norms are computed in float64
def test_gradients_are_those_of_finite_differences(arch: str, site: str) -> None:
    lm = tiny_lm(arch)
    lm = LanguageModel(lm.module.double(), lm.tokenizer)
    tokens, where = lm.tokenize("The cat"), arm.Site.parse(site)
    weight = torch.randn(VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(direction: Tensor) -> Tensor:
        return lm.logits(tokens, edits=[Shift(where, direction)], grad=True)[0, -1].double() @ weight

    direction = torch.zeros(lm.width(where), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(direction), direction)
    probe = torch.randn(len(direction), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    numeric = (loss(step * probe) - loss(-step * probe)) / (2 * step)
    torch.testing.assert_close(gradient @ probe, numeric.detach(), rtol=1e-5, atol=1e-5)


def test_no_gradient_is_left_in_the_weights() -> None:
    lm = tiny_lm("llama")
    direction = torch.zeros(WIDTH, requires_grad=True)
    lm.logits("abc", edits=[Add(arm.Site("resid_mid", 0), direction)], grad=True).sum().backward()  # type: ignore[no-untyped-call]
    assert direction.grad is not None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in lm.module.parameters())
    assert not lm.logits("abc").requires_grad


def test_captured_values_can_be_trained_on() -> None:
    found = tiny_lm("llama").capture("abc", ["resid_post.0"])["resid_post.0"]
    weight = torch.ones(WIDTH, requires_grad=True)
    (found @ weight).sum().backward()  # an inference tensor would refuse
    assert weight.grad is not None


def test_threads_do_not_see_each_others_edits() -> None:
    lm, site = tiny_lm("gpt2"), arm.Site("resid_post", 0)
    lm = LanguageModel(lm.module, lm.tokenizer, fast=True)
    plain, edited = lm.logits("abc"), lm.logits("abc", edits=[Add(site, torch.ones(WIDTH).cumsum(0))])

    def job(i: int) -> bool:
        edits = [Add(site, torch.ones(WIDTH).cumsum(0))] if i % 2 else []
        return torch.equal(lm.logits("abc", edits=edits), edited if i % 2 else plain)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(job, range(40)))


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("path:model.rotary_emb.output", ShapeError, "not one vector per token"),
        ("path:lm_head.output", None, ""),
        ("path:model.output", None, ""),
        ("path:model.embed_tokens.input", ShapeError, "not one vector per token"),
    ],
)
def test_a_path_must_give_a_vector_per_token(path: str, kind: type[Exception] | None, says: str) -> None:
    lm = tiny_lm("llama")
    if kind is None:
        assert lm.capture("abc", [path])[path].ndim == 3
    else:
        with pytest.raises(kind, match=says):
            lm.capture(["abc", "a"], [path])


def test_a_module_that_is_never_called_is_said_to_be_so() -> None:
    lm = tiny_lm("llama")
    lm.module.model.idle = torch.nn.Linear(2, 2)
    with pytest.raises(CapabilityError, match="was not reached"):
        lm.capture("abc", ["path:model.idle"])


def test_heads_laid_out_apart_are_put_side_by_side() -> None:
    lm = tiny_lm("qwen3")
    found = lm.capture("abc", ["path:model.layers.1.self_attn.q_norm.output"])
    assert next(iter(found.values())).shape[-1] == WIDTH


def test_ids_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(InputError, match=r"token id 300 is outside the 300 ids"):
        tiny_lm("gpt2").capture(arm.Tokens.of_ids([[1, 300]]), ["resid_post.0"])


def test_an_edit_of_a_models_own_output_reaches_the_head() -> None:
    lm = tiny_lm("llama")
    tokens = lm.tokenize("abc")
    edit = Add(arm.Site.parse("path:model.output"), torch.ones(WIDTH))
    with torch.no_grad():
        expected = lm.logits(tokens) + lm.module.lm_head(torch.ones(WIDTH))
    torch.testing.assert_close(lm.logits(tokens, edits=[edit]), expected, rtol=1e-4, atol=1e-4)


def test_an_edit_outside_the_kept_sites_still_counts() -> None:
    """Capture runs the model without its head, unless an edit or a site lies there."""
    lm = tiny_lm("llama")
    head: Callable[..., Tensor] = lambda *edits: lm.capture("abc", ["path:lm_head.output"], edits=edits)["path:lm_head.output"]  # noqa: E731
    assert torch.equal(head(), lm.logits("abc"))
    assert not torch.equal(head(), head(Add(arm.Site("resid_post", 2), torch.ones(WIDTH).cumsum(0))))
