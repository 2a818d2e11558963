"""Edits by regions: exact maps of Gaussians, and in a model (experiment 15)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import armillary as arm
from armillary.core.dictionary import Dictionary
from armillary.core.model import At
from armillary.core.site import Source
from armillary.errors import InputError
from armillary.methods.mfa.encoder import MFAEncoder
from armillary.methods.mfa.mixture import Mixture
from armillary.methods.mfa.regions import mixture_of
from mixtures import dense, draw
from support import tiny_lm

SITE = arm.Site("resid_post", 1)
DATA = draw(3000, k=3, d=10, r=2)


def fit_of(mixture: Mixture, site: arm.Site | None = SITE) -> arm.Decomposition:
    layout = ((None if site is None else Source("tiny", "0", site), mixture.d),)
    return arm.Decomposition(Dictionary.of_regions(mixture.centroids, mixture.loadings), MFAEncoder(mixture), layout, layout)


FIT = fit_of(DATA.mixture)
NOISE = DATA.mixture.noise * torch.tensor([[1.0], [3], [0.4]]).double()
OWN_NOISE = fit_of(Mixture(DATA.mixture.log_weight, DATA.mixture.centroids, DATA.mixture.loadings, NOISE))


def at(x: torch.Tensor) -> At:
    """As a model would make it, for rows [n, D] as one sequence."""
    ones = torch.ones(1, len(x), dtype=torch.bool)
    return At(ones, torch.arange(len(x))[None], torch.arange(len(x))[None], ~ones, lambda site: x[None])


def applied(edit: Any, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = edit(x[None].float(), at(x))[0]
    return found


def test_toward_offset_and_both() -> None:
    x, m = DATA.x[:5].float(), DATA.mixture.to(torch.float32)
    torch.testing.assert_close(applied(arm.mfa.toward(FIT, 2, 0.25), x), 0.75 * x + 0.25 * m.centroids[2])
    shift = 2 * m.loadings[1, 0] - m.loadings[1, 1]
    torch.testing.assert_close(applied(arm.mfa.offset(FIT, 1, [2.0, -1.0]), x), x + shift)
    torch.testing.assert_close(applied(arm.mfa.offset(FIT, 1, [2.0]), x), x + 2 * m.loadings[1, 0])
    torch.testing.assert_close(applied(arm.mfa.place(FIT, 1, [2.0, -1.0], 1.0), x), (m.centroids[1] + shift).expand(5, -1))
    none = lambda here: here.position < 0  # noqa: E731
    assert torch.equal(applied(arm.mfa.place(FIT, 1, [2.0], 1.0, where=none), x), x)


@pytest.mark.parametrize("fit", [FIT, OWN_NOISE], ids=["shared noise", "own noise"])
def test_transported_rows_have_the_mean_and_covariance_of_the_other_region(fit: arm.Decomposition) -> None:
    """Exactly: C_t^1/2 C_s^-1/2 C_s C_s^-1/2 C_t^1/2 = C_t."""
    m = mixture_of(fit)
    edit = arm.mfa.transport(fit, 0, 1)
    eye = torch.eye(10)
    origin = edit.moved(m.centroids[:1].float())
    torch.testing.assert_close(origin[0], m.centroids[1].float(), rtol=1e-4, atol=1e-4)
    linear = (edit.moved(m.centroids[:1].float() + eye) - origin).T.double()  # [D, D]
    wanted = dense(m, 1).covariance_matrix
    torch.testing.assert_close(linear @ dense(m, 0).covariance_matrix @ linear.T, wanted, rtol=1e-3, atol=1e-3)
    x = arm.mfa.sample(fit, 400, region=0)[0].float()
    assert (fit.encoder.regions(applied(edit, x)) == 1).double().mean() > 0.99  # type: ignore[attr-defined]
    torch.testing.assert_close(applied(arm.mfa.transport(fit, 1, 0), applied(edit, x)), x, rtol=1e-3, atol=1e-3)
    assert torch.equal(applied(arm.mfa.transport(fit, 0, 1, 0.0), x), x)


def test_a_guard_keeps_rows_typical() -> None:
    low, high = arm.mfa.typical(FIT, DATA.x.float())
    likely = FIT.encoder.log_likelihood(DATA.x)  # type: ignore[attr-defined]
    assert low < high and float((likely < low).double().mean()) == pytest.approx(0.01, abs=0.005)
    x = DATA.x[:300].float()
    edit = arm.mfa.offset(FIT, 0, [25.0, 0.0])
    free, kept = applied(edit, x), applied(arm.mfa.guarded(edit, FIT, low), x)
    before, after = (FIT.encoder.log_likelihood(one) for one in (x, kept))  # type: ignore[attr-defined]
    assert (FIT.encoder.log_likelihood(free) < low).double().mean() > 0.9  # type: ignore[attr-defined]
    assert (after >= before.clamp_max(low) - 1e-4).all()
    share = (kept - x).norm(dim=1) / (free - x).norm(dim=1)
    assert 0 < float(share.mean()) < 0.5
    gentle = arm.mfa.offset(FIT, 0, [0.01])
    torch.testing.assert_close(
        applied(arm.mfa.guarded(gentle, FIT, low), x)[likely[:300] > low + 1], applied(gentle, x)[likely[:300] > low + 1]
    )


# ---------------------------------------------------------------- in a model


@pytest.fixture(scope="module")
def steered() -> tuple[arm.LanguageModel, arm.Decomposition]:
    lm = tiny_lm("llama")
    tokens = lm.tokenize(["The capital is Lisbon and the river", "We went to Porto by the sea", "a fox watched the ships under the moon"])
    x = lm.capture(tokens, [SITE])[SITE].detach().flatten(0, 1)
    x = x.repeat(8, 1) + 0.02 * x.std() * torch.randn(8 * len(x), x.shape[1], generator=torch.Generator().manual_seed(0))
    method = arm.MFA(n_regions=4, rank=2)
    fit = method.fit(x, seed=0)
    layout = ((Source("tiny", "0", SITE), x.shape[1]),)
    return lm, arm.Decomposition(fit.dictionary, fit.encoder, layout, layout)


def test_nothing_leaves_logits_bit_for_bit_and_everything_forgets_the_prompt(steered: tuple[arm.LanguageModel, arm.Decomposition]) -> None:
    lm, fit = steered
    plain = lm.logits("The capital is")
    assert torch.equal(lm.logits("The capital is", edits=[arm.mfa.toward(fit, 1, 0.0)]), plain)
    assert torch.equal(lm.logits("The capital is", edits=[arm.mfa.transport(fit, 0, 1, 0.0)]), plain)
    whole = arm.mfa.toward(fit, 1, 1.0)
    first, second = (lm.logits(text, edits=[whole]) for text in ("The fox is", "The sea is"))
    torch.testing.assert_close(first, second)  # prompts of as many tokens
    assert not torch.allclose(first, lm.logits("The fox is"))


def test_a_steered_token_is_in_the_region_and_the_text_differs(steered: tuple[arm.LanguageModel, arm.Decomposition]) -> None:
    lm, fit = steered
    for strength in (0.8, 1.0):
        edit = arm.mfa.toward(fit, 2, strength)
        x = lm.capture("The capital is", [SITE], edits=[edit])[SITE][0].detach()
        assert (fit.encoder.responsibilities(x)[:, 2] >= 0.9).all()  # type: ignore[attr-defined]
    edit = arm.mfa.place(fit, 2, [3.0], 1.0)
    plain, steered_text = (lm.generate("The capital is", max_new_tokens=6, edits=edits)[0].text for edits in ([], [edit]))
    assert plain != steered_text


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="region 7 is out of range"):
        arm.mfa.toward(FIT, 7)
    with pytest.raises(InputError, match="a region of rank 2 has as many coordinates, got 3"):
        arm.mfa.offset(FIT, 0, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="names no site to edit; pass site="):
        arm.mfa.place(fit_of(DATA.mixture, None), 0, [1.0])
    with pytest.raises(InputError, match="have to differ"):
        arm.mfa.transport(FIT, 1, 1)
    with pytest.raises(InputError, match="mixtures of factor analyzers"):
        arm.mfa.typical(arm.KMeans(n_features=2).fit(DATA.x.float()), DATA.x)
