"""Logit effects on a model whose unembedding is known."""

from __future__ import annotations

import pytest
import torch

from armillary.core.dictionary import Dictionary
from armillary.core.encoders import NearestEncoder
from armillary.core.rows import TensorRows
from armillary.errors import CapabilityError, InputError
from armillary.inspect import logit_effects
from armillary.inspect.logits import feature_directions
from toys import LETTERS, RESID, ToyLM, fit_of, random_sae, toy_rows, toy_texts

MODEL = ToyLM()
TOKENS = MODEL.tokenize(toy_texts(10))


def test_tokens_are_those_of_the_unembedding() -> None:
    fit = random_sae(toy_rows(MODEL, TOKENS, RESID))
    names = ["<s>", *LETTERS]
    for effect, feature in zip(logit_effects(MODEL, fit, [3, 0], k=2), (3, 0), strict=True):
        direction = torch.nn.functional.normalize(fit.dictionary.atoms[feature], dim=0)
        logits = direction @ MODEL.unembedding
        order = logits.argsort(descending=True)
        assert effect.feature == feature
        assert [one.id for one in effect.promoted] == order[:2].tolist()
        assert [one.id for one in effect.suppressed] == order.flip(0)[:2].tolist()
        assert effect.promoted[0].token == names[int(order[0])]
        assert effect.promoted[0].logit == pytest.approx(float(logits.max()))


def test_neurons_are_read_through_the_down_projection() -> None:
    fit = random_sae(toy_rows(MODEL, TOKENS, "mlp_act.0"))
    direction = torch.nn.functional.normalize(fit.dictionary.atoms[1], dim=0) @ MODEL.down
    assert logit_effects(MODEL, fit, [1], k=1)[0].promoted[0].logit == pytest.approx(float((direction @ MODEL.unembedding).max()))


def test_the_null_tells_a_planted_token_from_a_random_direction() -> None:
    rows = toy_rows(MODEL, TOKENS, RESID)
    model = ToyLM()
    model.unembedding = torch.randn(6, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    model.unembedding[:, 7] = torch.tensor([0, 0, 3.0, 0, 0, 0])
    model.vocabulary = lambda: [str(i) for i in range(400)]  # type: ignore[method-assign]
    atoms = torch.zeros(1, 6).double()
    atoms[0, 2] = 5
    planted = fit_of(Dictionary.of_directions(atoms), random_sae(rows).encoder, rows)
    effect = logit_effects(model, planted, [0], n_random=50)[0]
    assert effect.promoted[0].token == "7"
    assert effect.promoted[0].logit == pytest.approx(3.0)  # per unit of length, whatever the atom's own
    assert effect.z_promoted > 2
    null = logit_effects(model, random_sae(rows, n_atoms=40), range(40), n_random=50)
    z = torch.tensor([one.z_promoted for one in null])
    assert abs(float(z.mean())) < 0.5
    assert float(z.std()) < 2


def test_constant_logits_are_no_effect() -> None:
    fit = random_sae(toy_rows(MODEL, TOKENS, RESID))
    biased = ToyLM()
    biased.unembed = lambda direction: direction.double() @ biased.unembedding + torch.arange(12.0)  # type: ignore[method-assign]
    seen, expected = ([one.logit for one in logit_effects(model, fit, [2])[0].promoted] for model in (biased, MODEL))
    assert seen == pytest.approx(expected)


def test_a_region_is_told_from_the_other_regions() -> None:
    centroids = torch.tensor([[100.0, 1, 0], [100, -1, 0], [100, 0, 0]]).double()
    directions = feature_directions(Dictionary.of_regions(centroids), [0, 1])
    torch.testing.assert_close(directions, torch.tensor([[0.0, 1, 0], [0, -1, 0]]).double())
    rows = toy_rows(MODEL, TOKENS, RESID)
    regions = Dictionary.of_regions(rows.x[:4])
    assert len(logit_effects(MODEL, fit_of(regions, NearestEncoder(regions.atoms), rows), [0, 1], k=3)) == 2


def test_more_tokens_than_the_vocabulary_holds() -> None:
    effect = logit_effects(MODEL, random_sae(toy_rows(MODEL, TOKENS, RESID)), [0], k=100)[0]
    assert len(effect.promoted) == len(effect.suppressed) == 12


def test_what_promotes_no_token() -> None:
    rows = toy_rows(MODEL, TOKENS, RESID)
    with pytest.raises(CapabilityError, match="no next-token logits"):
        logit_effects(ToyLM(has_logits=False), random_sae(rows), [0])
    with pytest.raises(CapabilityError, match="read by its layer"):
        logit_effects(MODEL, random_sae(toy_rows(MODEL, TOKENS, "mlp_in.0")), [0])
    with pytest.raises(InputError, match="does not name the one site"):
        logit_effects(MODEL, random_sae(TensorRows(rows.x)), [0])
    with pytest.raises(InputError, match="out of range"):
        logit_effects(MODEL, random_sae(rows), [99])
