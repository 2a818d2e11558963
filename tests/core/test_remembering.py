"""Remembering: what a model says of a text does not change, and the text passes it once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.edits import Add
from armillary.core.model import Model
from armillary.core.remembering import Remembering
from armillary.core.site import Site
from counted_lm import Counted

STREAM, EARLY = Site("resid_post", 1), Site("mlp_out", 0)
TEXTS = ["Paris is a city.", "It is", "Paris is a city.", "The dog saw the cat and ran"]


@pytest.fixture(scope="module")
def lm() -> arm.LanguageModel:
    return arm.LanguageModel("arm-tiny")


def test_one_pass_gives_what_two_give(lm: arm.LanguageModel) -> None:
    tokens = lm.tokenize(TEXTS)
    values, logits = lm.read(tokens, [STREAM, "mlp_out.0"])
    assert torch.equal(logits, lm.logits(tokens)) and torch.equal(values[STREAM], lm.capture(tokens, [STREAM])[STREAM])
    assert set(values) == {STREAM, "mlp_out.0"}


def test_each_text_passes_once_whatever_is_asked_and_in_which_company(lm: arm.LanguageModel) -> None:
    counted: Any = Counted(lm)
    model = Remembering(counted, [STREAM])
    mask = torch.from_numpy(lm.tokenize(TEXTS).padded()[1])
    for _ in range(2):
        assert torch.allclose(model.logits(lm.tokenize(TEXTS))[mask], lm.logits(TEXTS)[mask], atol=1e-4)
        assert torch.allclose(
            model.capture(lm.tokenize(TEXTS), [STREAM])[STREAM][mask], lm.capture(TEXTS, [STREAM])[STREAM][mask], atol=1e-4
        )
        assert torch.equal(model.logits(TEXTS[1:2]), model.logits(lm.tokenize(TEXTS))[1:2, : len(lm.tokenize(TEXTS[1]))])
    assert set(counted.seen.values()) == {1} and len(counted.seen) == 3


def test_a_site_that_was_not_told_costs_one_more_pass_and_then_none(lm: arm.LanguageModel) -> None:
    counted: Any = Counted(lm)
    model = Remembering(counted)
    for _ in range(2):
        model.logits(TEXTS[:1])
        model.capture(TEXTS[:1], [EARLY])
    assert list(counted.seen.values()) == [2]
    model.capture(TEXTS[1:2], [EARLY])
    model.logits(TEXTS[1:2])
    assert list(counted.seen.values()) == [2, 1]


def test_edits_reach_the_model(lm: arm.LanguageModel) -> None:
    model = Remembering(lm)
    edit = Add(STREAM, torch.ones(lm.d_model))
    plain = model.logits(TEXTS[:1])
    assert torch.equal(model.logits(TEXTS[:1], edits=[edit]), lm.logits(TEXTS[:1], edits=[edit]))
    assert not torch.allclose(model.logits(TEXTS[:1], edits=[edit]), plain)
    assert torch.equal(model.capture(TEXTS[:1], [STREAM], edits=[edit])[STREAM], lm.capture(TEXTS[:1], [STREAM], edits=[edit])[STREAM])


def test_the_oldest_is_forgotten_beyond_the_limit(lm: arm.LanguageModel) -> None:
    counted: Any = Counted(lm)
    one = Remembering(lm)
    one.logits(TEXTS[:1])
    model = Remembering(counted, limit=one.n_bytes)
    model.logits(TEXTS[:1])
    assert model.n_bytes == one.n_bytes
    model.logits(TEXTS[1:2])
    assert 0 < model.n_bytes < one.n_bytes
    model.logits(TEXTS[:1])
    assert sorted(counted.seen.values()) == [1, 2]
    assert Remembering(lm, limit=0).logits(TEXTS).shape[0] == 4, "a batch larger than the limit is answered all the same"


def test_it_is_a_model(lm: arm.LanguageModel) -> None:
    model = Remembering(lm)
    assert isinstance(model, Model)
    assert (model.name, model.revision, model.n_layers, model.has_logits) == (lm.name, lm.revision, lm.n_layers, True)
    assert model.generate("It is", max_new_tokens=3) == lm.generate("It is", max_new_tokens=3)
    assert model.vocabulary() is lm.vocabulary() and torch.equal(model.readout(EARLY), lm.readout(EARLY))
    assert "1 texts" not in repr(model)
