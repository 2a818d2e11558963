"""Core and exclusive neurons: the sets, the effects by hand, and a model in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.edits import Add
from armillary.core.nnls import NNLSEncoder
from armillary.core.selection import shuffle
from armillary.core.site import Source
from armillary.errors import InputError
from armillary.studies.causal import core_exclusive
from armillary.studies.causal.core_exclusive import Config, elsewhere, first_tokens, neuron_sets
from support import tiny_lm

SITE = arm.Site("mlp_act", 1)
WORDS = (" Lisbon", " Porto", " the")
PROMPTS = ("The capital is", "We went to")


def fit_of(atoms: torch.Tensor) -> arm.Decomposition:
    dictionary = Dictionary.of_directions(torch.nn.functional.normalize(atoms, dim=1))
    layout = ((Source("tiny", "0", SITE), atoms.shape[1]),)
    return arm.Decomposition(dictionary, NNLSEncoder(dictionary), layout, layout)


def planted(lm: arm.LanguageModel) -> arm.Decomposition:
    """Features whose exclusive neurons push their own word, and whose core pushes all words."""
    push = lm.readout(SITE) @ lm.module.get_output_embeddings().weight.detach()[first_tokens(lm, PROMPTS, WORDS)].T  # [D, S]
    push = push - (lm.readout(SITE) @ lm.module.get_output_embeddings().weight.detach().T).mean(1, keepdim=True)
    atoms = torch.zeros(3, len(push))
    for i in range(3):
        own = push[:, i] - push.mean(1)
        atoms[i, 10 * i : 10 * i + 10] = own[10 * i : 10 * i + 10]
        atoms[i, 30:50] = push.mean(1)[30:50]
    return fit_of(atoms)


def test_sets_of_neurons() -> None:
    atoms = torch.tensor([[1.0, 2, 0, 3, 0], [1, 0, -2, 3, 0], [1, 0, 0, 0, 5]])
    sets = neuron_sets(torch.arange(3), atoms, quorum=0.6)
    assert [row.nonzero().flatten().tolist() for row in sets] == [[1], [2], [4], [0, 3]]
    assert sets[1, 2] == -1
    torch.testing.assert_close(sets[3], torch.tensor([1.0, 0, 0, 2, 0]) / 5**0.5)
    assert neuron_sets(torch.arange(3), atoms, quorum=1.0)[3].nonzero().flatten().tolist() == [0]


def test_effects_are_those_of_an_edit_of_the_last_token() -> None:
    lm = tiny_lm("llama")
    fit = planted(lm)
    report = core_exclusive.run(arm.Subject(fit, model=lm), config=Config(features=(0, 1, 2), words=WORDS, prompts=PROMPTS, n_draws=10))
    sets, ids = neuron_sets(torch.arange(3), fit.dictionary.atoms, 0.8), first_tokens(lm, PROMPTS, WORDS)
    lengths = [lm.capture(prompt, [SITE])[SITE][0, -1].norm() for prompt in PROMPTS]
    length = float(torch.stack(lengths).mean())
    changes = []
    for prompt in PROMPTS:
        n = lm.tokenize(prompt).lengths[0]
        edit = Add(SITE, sets[1], length, lambda at, n=n: at.position == n - 1)  # type: ignore[misc]
        after, before = lm.logits(prompt, edits=[edit])[0, -1], lm.logits(prompt)[0, -1]
        changes.append((after - after.mean() - before + before.mean())[ids])
    wanted = torch.stack(changes).mean(0)
    table = report.tables["change of logits"]
    np.testing.assert_allclose([table[word.strip()][1] for word in WORDS], wanted, atol=2e-3)
    assert table["amplified"] == ["Lisbon exclusive", "Porto exclusive", "the exclusive", "core"] and table["neurons"] == [10, 10, 10, 20]


def test_planted_neurons_do_what_they_were_made_for_and_random_ones_do_not() -> None:
    lm = tiny_lm("llama")
    config = Config(features=(0, 1, 2), words=WORDS, prompts=PROMPTS, n_draws=30)
    report = core_exclusive.run(arm.Subject(planted(lm), model=lm), config=config)
    for name in ("selectivity", "core_lift"):
        estimate = report[name]
        assert estimate.p is not None and estimate.p < 0.05 and estimate.value > abs(estimate.null)
    shuffled = fit_of(shuffle(planted(lm).dictionary.atoms, 5))
    assert core_exclusive.run(arm.Subject(shuffled, model=lm), config=config)["selectivity"].p > 0.05


def test_features_without_neurons_in_common_have_no_core() -> None:
    lm = tiny_lm("llama")
    atoms = torch.zeros(2, lm.width(SITE))
    atoms[0, :3], atoms[1, 3:6] = 1, 1
    config = Config(features=(0, 1), words=WORDS[:2], prompts=PROMPTS, n_draws=10)
    report = core_exclusive.run(arm.Subject(fit_of(atoms), model=lm), config=config)
    assert report["core_lift"].value is None and report.warnings == ["no neurons in the set of 'core'"]


def test_random_sets_prefer_neurons_that_many_features_have() -> None:
    sets, popularity = torch.zeros(2, 50), torch.ones(50)
    sets[0, :5], sets[1, :8] = torch.arange(1.0, 6), -1
    popularity[7], popularity[20:] = 1e6, 0
    drawn = [elsewhere(sets, popularity, seed) for seed in range(20)]
    assert all((one[:, 7] != 0).all() and (one[:, 20:] == 0).all() for one in drawn)
    for one in drawn:
        assert torch.equal(one.sort(dim=1).values, sets.sort(dim=1).values)
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[3], elsewhere(sets, popularity, 3))


def test_bad_input_is_refused() -> None:
    lm = tiny_lm("llama")
    with pytest.raises(InputError, match="words that are not empty"):
        first_tokens(lm, PROMPTS, ("Lisbon", " "))
    with pytest.raises(InputError, match=r"does not keep 'We went to ' apart from|begin with other tokens after 'We went to '"):
        first_tokens(lm, ("The capital is", "We went to "), ("Lisbon", "Porto"))


def test_more_bad_input_is_refused() -> None:
    lm = tiny_lm("llama")
    subject = arm.Subject(planted(lm), model=lm)
    with pytest.raises(InputError, match="a word for each of at least two features"):
        core_exclusive.run(subject, config=Config(features=(0, 1), words=WORDS, prompts=PROMPTS))
    with pytest.raises(InputError, match="begin with the same token"):
        core_exclusive.run(subject, config=Config(features=(0, 1), words=(" Lisbon", " Lisbon"), prompts=PROMPTS))
    with pytest.raises(InputError, match="at least one prompt"):
        core_exclusive.run(subject, config=Config(features=(0, 1), words=WORDS[:2], prompts=()))
    dense = arm.Subject(fit_of(torch.ones(2, lm.width(SITE))), model=lm)
    with pytest.raises(InputError, match="they share all and none is exclusive"):
        core_exclusive.run(dense, config=Config(features=(0, 1), words=WORDS[:2], prompts=PROMPTS))
