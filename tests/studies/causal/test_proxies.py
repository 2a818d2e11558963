"""Numbers of steered text without a judge: by hand, and for a direction whose tokens are known (i-15)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import armillary as arm
from armillary.core.edits import Add
from armillary.errors import CapabilityError, InputError
from armillary.studies.causal.core_exclusive import plain_ids
from armillary.studies.causal.proxies import measured, own_tokens, proxies
from support import tiny_lm

PROMPTS = ("The capital is", "We went to")


def test_the_numbers_are_those_worked_out_by_hand() -> None:
    lm = tiny_lm("llama")
    text = " the the the the"
    ids = plain_ids(lm, PROMPTS[0] + text)
    n = len(plain_ids(lm, PROMPTS[0]))
    log_p = lm.logits(PROMPTS[0] + text)[0].double().log_softmax(-1)
    loss = -np.mean([float(log_p[i - 1, ids[i]]) for i in range(n, len(ids))])
    found = measured(lm, PROMPTS[:1], [text], torch.tensor([ids[n]]))
    assert found.loss[0] == pytest.approx(loss, rel=1e-5) and found.own[0] == 1
    pairs = list(zip(ids[n:], ids[n + 1 :], strict=False))
    assert found.distinct[0] == len(set(pairs)) / len(pairs) < 1


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma2"])
def test_steering_along_a_direction_writes_its_own_tokens(arch: str) -> None:
    """Captured, mapped to the residual stream, brought to a dose, written, and measured."""
    lm = tiny_lm(arch)
    site = arm.Site("resid_post", lm.n_layers - 1)
    direction = lm.module.get_output_embeddings().weight.detach()[40].clone()
    own = own_tokens(lm, site, direction, 5)
    assert 40 in own.tolist()
    (dose,) = arm.doses(lm, site, direction, PROMPTS, [1.0], signs=[1])
    assert dose.strength is not None and dose.achieved == pytest.approx(1.0, rel=0.05)
    settings = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    plain = [one.text for one in lm.generate(list(PROMPTS), **settings)]  # type: ignore[arg-type]
    steered = [one.text for one in lm.generate(list(PROMPTS), edits=[Add(site, direction, 4 * dose.strength)], **settings)]  # type: ignore[arg-type]
    found = proxies(lm, PROMPTS, steered, plain, own)
    assert found["own"].value > found["own"].null
    assert all(one.low <= one.value <= one.high for one in found.values()) and found["loss"].value > 0
    same = proxies(lm, PROMPTS, plain, plain, own)
    assert all(one.value == pytest.approx(one.null) for one in same.values())


def test_own_tokens_of_neurons_go_through_the_down_projection() -> None:
    lm = tiny_lm("llama")
    neuron = torch.nn.functional.one_hot(torch.tensor(3), lm.width("mlp_act.1")).float()
    wanted = lm.unembed(neuron @ lm.readout(arm.Site("mlp_act", 1))).topk(7).indices
    assert torch.equal(own_tokens(lm, "mlp_act.1", neuron, 7), wanted)


def test_bad_input_is_refused() -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(InputError, match="each prompt needs a continuation of each kind, got 2, 1 and 2"):
        proxies(lm, PROMPTS, ["a"], ["b", "c"], torch.tensor([1]))
    with pytest.raises(InputError, match="nothing was written after 'We went to'"):
        proxies(lm, PROMPTS, ["a", ""], ["b", "c"], torch.tensor([1]))


@pytest.mark.parametrize("site", ["mlp_in.1", "attn_in.1", "path:model.norm"])
def test_sites_that_are_only_read_promote_no_tokens(site: str) -> None:
    lm = tiny_lm("llama")
    with pytest.raises(CapabilityError, match=r"promotes? no tokens"):
        own_tokens(lm, site, torch.ones(lm.d_model))


def test_what_no_direction_promotes_is_no_directions_own() -> None:
    """The final norm's bias alone makes one token likely, whatever is added."""
    lm = tiny_lm("gpt2")
    head, norm = lm.module.get_output_embeddings().weight, lm.module.transformer.ln_f
    assert isinstance(norm, nn.LayerNorm)
    with torch.no_grad():
        norm.bias.copy_(100 * head[7] / head[7].norm())
    direction = -head[7].detach()
    assert 7 in lm.unembed(direction).topk(5).indices and 7 not in own_tokens(lm, "resid_post.1", direction, 5)


def test_a_continuation_that_changes_its_prompt_is_refused() -> None:
    lm = tiny_lm("llama")
    assert plain_ids(lm, "th") != plain_ids(lm, "the")[: len(plain_ids(lm, "th"))]
    with pytest.raises(InputError, match="does not keep 'th' apart from 'e cat'"):
        measured(lm, ["th"], ["e cat"], torch.tensor([1]))


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_missing_say_what_they_would_be() -> None:
    lm, own = tiny_lm("llama"), torch.tensor([1])
    found = proxies(lm, PROMPTS[:1], [" the the"], ["a"], own)
    assert found["distinct"].value is not None and found["distinct"].null is None
    missing = proxies(lm, PROMPTS[:1], ["a"], ["a"], own)["distinct"]
    assert missing.value is None and missing.better == "higher"
