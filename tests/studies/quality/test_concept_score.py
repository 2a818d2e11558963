"""S_CD and AUROC: invariances, special tokens, and the planted case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tokenizers.normalizers import Strip

import armillary as arm
from armillary.core.tokens import Tokens
from armillary.errors import InputError, ShapeError
from armillary.studies.quality.concept_score import auroc, concept_score, log_ratio, strongest
from support import TEXTS, tiny_lm, tiny_model, tiny_tokenizer

SITE = "resid_post.1"
MANY = [f"{text} {i}" for i, text in enumerate(TEXTS * 2)]


def aligned(lm: arm.LanguageModel, text: str) -> torch.Tensor:
    """The mean of a text's own activations."""
    return lm.capture(text, [SITE])[SITE][0, 1:].mean(0)


def test_the_length_of_the_direction_does_not_matter_and_its_sign_does() -> None:
    """i-16."""
    lm = tiny_lm("gpt2")
    z = aligned(lm, MANY[0])
    one, long, turned = (concept_score(lm, SITE, d, MANY[:3], MANY[3:6]) for d in (z, 1000 * z, -z))
    assert one["s_cd"].value == pytest.approx(long["s_cd"].value, rel=1e-5)
    assert one["auroc"].value == long["auroc"].value
    assert turned["s_cd"].value != one["s_cd"].value


@pytest.mark.parametrize("special", [True, False])
def test_special_tokens_are_left_out_whether_the_tokenizer_adds_them_or_not(special: bool) -> None:
    lm = arm.LanguageModel(tiny_model("llama"), tiny_tokenizer(special))
    tokens = lm.tokenize(MANY[:4])
    assert tokens.is_special.any() == special
    x = lm.capture(tokens, [SITE])[SITE]
    bos = x[0, 0]  # nothing is nearer to this direction than the first token itself
    found = strongest(lm, SITE, bos, MANY[:4])
    cosine = torch.cosine_similarity(x, bos, dim=-1)
    _, mask = tokens.padded()
    counts = torch.from_numpy(mask & tokens.spread(~tokens.is_special, fill=False))
    np.testing.assert_allclose(found, cosine.masked_fill(~counts, -9).amax(1).double(), rtol=1e-6)
    assert (found[0] < 0.999) == special


def test_a_direction_of_one_sides_own_activations_tells_the_sides_apart() -> None:
    lm = tiny_lm("gpt2")
    activating, neutral = ["Lisbon Lisbon Lisbon"] * 2 + ["Lisbon Lisbon"], MANY[3:7]
    found = concept_score(lm, SITE, aligned(lm, activating[0]), activating, neutral)
    assert found["auroc"].value == 1 and found["s_cd"].value > 0
    assert found["s_cd"].low <= found["s_cd"].value <= found["s_cd"].high


def test_the_log_of_a_ratio_that_is_none_is_missing_and_not_zero() -> None:
    assert log_ratio(np.array([-1.0, 0.5]), np.array([1.0])) is None
    assert log_ratio(np.array([2.0]), np.array([1.0])) == pytest.approx(np.log(2))


def test_auroc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.integers(0, 4, 20).astype(float)
    assert auroc(a, b) == pytest.approx(roc_auc_score([1] * 30 + [0] * 20, np.concatenate([a, b])))


def test_sentences_of_special_tokens_only_are_dropped_and_lose_to_nobody() -> None:
    tokenizer = tiny_tokenizer(True)
    tokenizer.backend_tokenizer.normalizer = Strip()
    lm = arm.LanguageModel(tiny_model("llama"), tokenizer)
    z = aligned(lm, MANY[0])
    empty = concept_score(lm, SITE, z, [*MANY[:3], " "], ["\n", *MANY[3:6]])
    assert empty["auroc"].n == 6 and empty["auroc"].value is not None
    plain = concept_score(lm, SITE, z, MANY[:3], MANY[3:6])
    assert empty["auroc"].value == plain["auroc"].value and empty["s_cd"].value == pytest.approx(plain["s_cd"].value, rel=1e-5)
    with pytest.raises(InputError, match="got 1 and 2 once 1 of special tokens only were dropped"):
        concept_score(lm, SITE, z, [" ", MANY[0]], MANY[1:3])


def test_a_perfect_auroc_of_few_sentences_is_not_certain() -> None:
    lm = tiny_lm("gpt2")
    activating = ["Lisbon Lisbon Lisbon"] * 2 + ["Lisbon Lisbon"]
    found = concept_score(lm, SITE, aligned(lm, activating[0]), activating, MANY[3:7])["auroc"]
    assert found.value == 1 == found.high and found.low < 0.8


def test_the_company_of_a_sentence_does_not_matter() -> None:
    lm = tiny_lm("gpt2")
    z, texts = aligned(lm, MANY[0]), [text[: 8 + i % 9] for i, text in enumerate(MANY * 8)]
    assert len(texts) > 32
    np.testing.assert_allclose(strongest(lm, SITE, z, texts), [strongest(lm, SITE, z, [text])[0] for text in texts], rtol=1e-5)


def test_sentences_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sizes = tiny_lm("gpt2"), []
    original = lm.capture

    def counted(tokens: Tokens, *args: object, **more: object) -> object:
        sizes.append(tokens.n_sequences)
        return original(tokens, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(lm, "capture", counted)
    strongest(lm, SITE, torch.ones(lm.width(SITE)), MANY[:5] * 15)
    assert sum(sizes) == 75 and max(sizes) <= 32


def test_bad_input_is_refused() -> None:
    lm = tiny_lm("gpt2")
    with pytest.raises(InputError, match="at least two sentences of each kind are needed, got 1 and 2"):
        concept_score(lm, SITE, aligned(lm, "a"), MANY[:1], MANY[:2])
    with pytest.raises(ShapeError, match=r"the direction has shape \[3\], but resid_post.1 of .* has width \d+; give one of that site"):
        concept_score(lm, SITE, torch.ones(3), MANY[:2], MANY[:2])
    with pytest.raises(InputError, match="got a single text"):
        concept_score(lm, SITE, aligned(lm, "a"), "Lisbon", MANY[:2])
    with pytest.raises(InputError, match="length nan"):
        concept_score(lm, SITE, torch.full((lm.width(SITE),), torch.nan), MANY[:2], MANY[:2])
    with pytest.raises(InputError, match="length inf"):
        concept_score(lm, SITE, torch.full((lm.width(SITE),), torch.inf), MANY[:2], MANY[:2])
    with pytest.raises(InputError, match="length 0"):
        concept_score(lm, SITE, torch.zeros(lm.width(SITE)), MANY[:2], MANY[:2])
